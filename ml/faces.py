"""Finding faces: MTCNN, with the weights and the results of the `mtcnn` package.

The networks are `ml.mtcnn`'s, run by `ml.runtime`; what lies between them is numpy and OpenCV. The package
itself needs TensorFlow (about 1.6 GB and seven seconds before the first face). It stays as the reference,
`TensorflowMtcnn`, behind one setting; ours gives the same faces without it.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ml.mtcnn_weights import WEIGHTS_SHA256
from ml.runtime import Network, available_cores, open_network
from ml.sheets import Piece, pack

if TYPE_CHECKING:
    from torch import nn

Point = tuple[float, float]

LANDMARKS: Final = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")

# The default parameters of `mtcnn.MTCNN.detect_faces`.
SMALLEST_FACE: Final = 20
CELL: Final = 12
STRIDE: Final = 2
PYRAMID_FACTOR: Final = 0.709
PROPOSAL_THRESHOLD, REFINE_THRESHOLD, OUTPUT_THRESHOLD = 0.6, 0.7, 0.8
LOGIT_OF_PROPOSAL: Final = float(np.log(PROPOSAL_THRESHOLD / (1 - PROPOSAL_THRESHOLD)))
OVERLAP_IN_SCALE, OVERLAP = 0.5, 0.7

# The first network sees sheets of one size, into which all scales of a photo are cut and packed; the others
# this many candidates at once (`make bench`: fewer cost more each, more leave larger remainders).
SHEET_CELLS: Final = 64  # along a side
SHEET_MARGIN: Final = (CELL - STRIDE) // STRIDE  # what the last cell reaches beyond its own stride
REFINED_AT_ONCE, OUTPUT_AT_ONCE = 16, 4
CANDIDATES_AT_ONCE: Final = 512  # bounds the memory that a group photo of 40 megapixels needs

# How a found box is moved to be looked at once more: right, left, down and up by this share of its side.
NUDGES: Final = 0.08 * np.array([(1, 0, 1, 0), (-1, 0, -1, 0), (0, 1, 0, 1), (0, -1, 0, -1)])


@dataclass(frozen=True)
class Face:
    """One face in a photo.

    box: left, top, right, bottom in pixels of the photo, inside it. landmarks: (x, y) in pixels for each of
    `LANDMARKS`, in that order; left is left in the picture, and a point may lie outside the photo.
    confidence: 0..1. steadiness: how sure the detector stays on average, 0..1, where the box is moved a
    little and mirrored: a face stays one, a pattern that happened to look like a face does not.
    """

    box: tuple[float, float, float, float]
    landmarks: dict[str, Point]
    confidence: float
    steadiness: float = 1.0


class FaceDetector(Protocol):
    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an RGB photo (H, W, 3), the most confident first; none is an empty list."""
        ...


def load_detector(name: str, device: str = "cpu") -> FaceDetector:
    """Load "mtcnn" (on `device`, "cpu" or "cuda") or "mtcnn-tensorflow" (the reference, on the CPU).

    Raises ValueError for another name, and its subclass DetectorError where the weights are not at hand.
    """
    if name == "mtcnn":
        return Mtcnn(device)
    if name == "mtcnn-tensorflow":
        return TensorflowMtcnn()
    raise ValueError(f"Unknown face detector {name!r}: choose mtcnn or mtcnn-tensorflow.")


class Mtcnn:
    """MTCNN: three networks, each surer and slower than the one before. Threads may share an instance."""

    def __init__(self, device: str = "cpu") -> None:
        """Open the networks on "cpu" or "cuda"; raises DetectorError where weights are missing or altered."""
        sheet = SHEET_CELLS * STRIDE + CELL - STRIDE  # pixels
        self._proposal = _open("pnet", (1, sheet, sheet, 3), device)
        self._refine = _open("rnet", (REFINED_AT_ONCE, 24, 24, 3), device)
        self._output = _open("onet", (OUTPUT_AT_ONCE, 48, 48, 3), device)
        # OpenCV leaves a small level to one core, and reads the whole photo for it: levels beside each other.
        self._scaling = ThreadPoolExecutor(available_cores(), "scaling")

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in `image`, RGB uint8 (H, W, 3), the most confident first.

        The smallest face found is about 20 pixels wide; a photo smaller than that has none. Raises
        ValueError for an array of another shape or type.
        """
        _require_rgb(image)
        photo = image.astype(np.float32)
        boxes = _square(self._propose(photo))
        if not len(boxes):
            return []

        offsets, scores = _run(self._refine, _crop(photo, boxes, 24))
        sure = scores > REFINE_THRESHOLD
        boxes = _shift(boxes, offsets)[sure]
        boxes = _square(boxes[_suppress(boxes, scores[sure], OVERLAP)])
        if not len(boxes):
            return []

        offsets, scores, points = _run(self._output, _crop(photo, boxes, 48))
        landmarks = _place_landmarks(points, boxes)
        sure = scores > OUTPUT_THRESHOLD
        faces = _to_faces(_shift(boxes, offsets)[sure], landmarks[sure], scores[sure], image.shape)
        return self._look_again(photo, faces)

    def _look_again(self, photo: NDArray[np.float32], faces: list[Face]) -> list[Face]:
        """Return the faces with their steadiness."""
        if not faces:
            return []
        boxes = _square(np.array([face.box for face in faces]))
        sides = boxes[:, 2] - boxes[:, 0]
        nudged = boxes[:, None] + sides[:, None, None] * NUDGES
        crops = _crop(photo, nudged.reshape(-1, 4), 48)
        _, scores, _ = _run(self._output, np.concatenate((crops, crops[:, :, ::-1])))
        means = scores.reshape(2, len(faces), len(NUDGES)).mean(axis=(0, 2))
        return [replace(face, steadiness=float(mean)) for face, mean in zip(faces, means, strict=True)]

    def _propose(self, photo: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the first network's candidate boxes (N, 4) over all scales of the photo."""
        height, width = photo.shape[:2]
        scales = _pyramid(min(height, width))
        if not len(scales):
            return np.empty((0, 4))
        sizes = [(int(height * scale), int(width * scale)) for scale in scales]
        pieces = pack([_cells(size) for size in sizes], SHEET_CELLS, SHEET_MARGIN)
        (cells,) = self._proposal(self._sheets(photo, sizes, pieces))
        boxes, scores, of_level = _boxes_of_cells(cells, pieces)
        boxes /= scales[of_level, None]
        # Each level among its own first: all in one go, far away from one another.
        apart = of_level[:, None] * 2.0 * max(height, width)
        kept = _suppress(boxes + apart, scores, OVERLAP_IN_SCALE)
        boxes, scores = boxes[kept], scores[kept]
        return boxes[_suppress(boxes, scores, OVERLAP)]

    def _sheets(
        self, photo: NDArray[np.float32], sizes: Sequence[tuple[int, int]], pieces: Sequence[Piece]
    ) -> Iterator[NDArray[np.float32]]:
        """Give the sheets (S, S, 3) with the pixels of every piece, each in its place.

        The levels, (height, width) in `sizes`, are made the largest first: these fill the first sheets, and
        the network is at work on them meanwhile.
        """
        side = SHEET_CELLS * STRIDE + CELL - STRIDE
        levels = [self._scaling.submit(_resize, photo, *size) for size in sizes]
        for _, on_sheet in groupby(pieces, key=lambda piece: piece.sheet):
            sheet = np.zeros((side, side, 3), np.float32)
            for piece in on_sheet:
                height, width = (cells * STRIDE + CELL - STRIDE for cells in (piece.rows, piece.columns))
                top, left = piece.top * STRIDE, piece.left * STRIDE
                sheet_top, sheet_left = piece.sheet_top * STRIDE, piece.sheet_left * STRIDE
                level = levels[piece.rectangle].result()[top : top + height, left : left + width]
                sheet[sheet_top : sheet_top + height, sheet_left : sheet_left + width] = level
            yield sheet


class TensorflowMtcnn:
    """The `mtcnn` package as it is: the reference that `Mtcnn` is held to. It does not tell steadiness."""

    def __init__(self) -> None:
        # Imported here: a process pays for TensorFlow only where the setting asks for it. And after
        # torchvision, which a model that is not exported yet needs: the other way round is a segmentation
        # fault.
        import torchvision  # noqa: F401
        from mtcnn import MTCNN

        self._mtcnn: Any = MTCNN()  # type: ignore[no-untyped-call]

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """As `Mtcnn.detect`."""
        _require_rgb(image)
        if not len(_pyramid(min(image.shape[:2]))):
            return []
        # Rows of image number, box, confidence, five x and five y: not rounded, as the package's JSON is.
        rows = self._mtcnn.detect_faces(image, box_format="xyxy", output_type="numpy")
        return [_to_face(row[1:5], row[6:16].reshape(2, 5).T, row[5]) for row in rows]


def _open(name: str, shape: tuple[int, ...], device: str) -> Network:
    def make() -> "nn.Module":
        from ml.mtcnn import load_net  # torch

        return load_net(name)

    weights = f"{name}-{WEIGHTS_SHA256[name][:8]}"
    return open_network(weights, "ml.mtcnn", make, np.zeros(shape, np.float32), device)


def _run(network: Network, crops: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    return [output.astype(np.float64) for output in network(crops)]


def _require_rgb(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"Not an RGB image of bytes: {image.dtype} array of shape {image.shape}.")


def _pyramid(shorter_side: int) -> NDArray[np.float64]:
    """Return the scales at which the first network looks: none for a photo too small to hold a face."""
    levels = round(-(np.log(max(shorter_side, 1) / CELL) / np.log(PYRAMID_FACTOR) + 1))
    scales: NDArray[np.float64] = CELL / SMALLEST_FACE * PYRAMID_FACTOR ** np.arange(levels)
    return scales


def _resize(photo: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Shrink (H, W, 3) to (height, width), with one row and one column more that repeat the last ones."""
    level = np.empty((height + 1, width + 1, 3), np.float32)
    cv2.resize(photo, (width, height), dst=level[:-1, :-1], interpolation=cv2.INTER_AREA)
    level[-1] = level[-2]
    level[:, -1] = level[:, -2]
    return level


def _cells(size: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns of cells a level of (height, width) has; the last of an odd side needs what
    was repeated."""
    height, width = ((side - CELL + 1) // STRIDE + 1 for side in size)
    return height, width


def _boxes_of_cells(
    cells: NDArray[np.float32], pieces: Sequence[Piece]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the cells of all sheets that may hold a face: boxes (N, 4) in pixels of their level, scores (N,)
    and levels (N,)."""
    owner = np.full(cells.shape[:3], -1)
    for number, piece in enumerate(pieces):
        rows = slice(piece.sheet_top, piece.sheet_top + piece.rows)
        columns = slice(piece.sheet_left, piece.sheet_left + piece.columns)
        owner[piece.sheet, rows, columns] = number
    logits = cells[..., 5] - cells[..., 4]
    found = np.nonzero((logits > LOGIT_OF_PROPOSAL) & (owner >= 0))
    scores = 1 / (1 + np.exp(-logits[found].astype(np.float64)))
    facts = [(p.rectangle, p.left - p.sheet_left, p.top - p.sheet_top) for p in pieces]
    level, right, down = np.array(facts)[owner[found]].T
    _, row, column = found
    corner = np.stack((column + right, row + down), axis=1).astype(np.float64) * STRIDE
    # The package counts a cell from its second pixel to the one after its last: a side of 11.
    boxes = np.concatenate((corner + 1, corner + CELL), axis=1)
    return boxes + cells[found][:, :4] * np.float64(CELL - 1), scores, level


def _crop(photo: NDArray[np.float32], boxes: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Sample square crops (N, size, size, 3) from (H, W, 3): bilinear, mid grey (127.5) outside the photo."""
    height, width = photo.shape[:2]
    steps = np.linspace(0, 1, size)
    left, top, right, bottom = boxes[:, :, None].transpose(1, 0, 2)
    # Corner to corner, after TensorFlow's `crop_and_resize`: 0 is the first pixel's centre, 1 the last one's.
    x = (left + (right - left) * steps) / width
    y = (top + (bottom - top) * steps) / height
    map_x = np.repeat((x * (width - 1)).astype(np.float32), size, axis=0)
    map_y = np.repeat((y * (height - 1)).astype(np.float32).reshape(-1, 1), size, axis=1)
    rows = np.empty((*map_x.shape, 3), np.float32)
    step = CANDIDATES_AT_ONCE * size  # OpenCV takes pictures of at most 32,767 rows
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        cv2.remap(
            photo,
            map_x[part],
            map_y[part],
            cv2.INTER_LINEAR,
            dst=rows[part],
            borderMode=cv2.BORDER_REPLICATE,
        )
    crops = rows.reshape(len(boxes), size, size, 3)
    beside, above = (x < 0) | (x > 1), (y < 0) | (y > 1)
    reaching_out = np.flatnonzero(beside.any(axis=1) | above.any(axis=1))
    outside = beside[reaching_out, None, :] | above[reaching_out, :, None]
    crops[reaching_out] = np.where(outside[..., None], np.float32(127.5), crops[reaching_out])
    return crops


def _suppress(boxes: NDArray[np.float64], scores: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Return which boxes overlap (IoU above `threshold`) no better one, best score first.

    That is the package's rule, and stricter than the usual one: a box that is itself dropped still drops
    others. What it keeps is part of what the usual rule keeps, so the fast usual one goes first.
    """
    order = np.argsort(scores)[::-1]
    boxes = boxes[order]
    usual = _usual_suppression(boxes, threshold)
    kept, dropped = np.flatnonzero(usual), np.flatnonzero(~usual)
    disturbed = np.zeros(len(kept), bool)
    # In parts: a group photo of 40 megapixels has thousands of boxes on either side.
    for first in range(0, len(kept) if len(dropped) else 0, CANDIDATES_AT_ONCE):
        part = kept[first : first + CANDIDATES_AT_ONCE]
        overlaps = _overlap(boxes[part], boxes[dropped]) > threshold
        disturbed[first : first + len(part)] = (overlaps & (dropped < part[:, None])).any(axis=1)
    return order[kept[~disturbed]]


def _usual_suppression(boxes: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Which of the boxes, sorted best first, overlap no better one that is itself kept."""
    kept = np.zeros(len(boxes), bool)
    if len(boxes):
        sizes = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
        rank = np.arange(len(boxes), 0, -1, dtype=np.float32)
        kept[cv2.dnn.NMSBoxes(sizes, rank, 0.0, threshold)] = True  # type: ignore[arg-type]
    return kept


def _overlap(
    first: NDArray[np.float64], second: NDArray[np.float64], *, of_smaller: bool = False
) -> NDArray[np.float64]:
    """Return (N, M): the intersection as a share of the union, or of the smaller box's area."""
    a, b = first.T[:, :, None], second.T[:, None, :]
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    whole = np.minimum(*areas) if of_smaller else areas[0] + areas[1] - shared
    overlap: NDArray[np.float64] = shared / whole
    return overlap


def _square(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Grow the shorter side of each box (N, 4) to the longer, around the same centre."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (size - side) / 2
    return np.concatenate((corner, corner + side), axis=1)


def _shift(boxes: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move the sides of each box by a network's offsets, which are shares of its size."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + offsets * np.tile(size, 2)


def _place_landmarks(points: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn five x and five y in shares of each box (N, 10) into points (N, 5, 2) in pixels."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    shares = points.reshape(-1, 2, 5).transpose(0, 2, 1)
    return shares * size[:, None] + boxes[:, None, :2] - 1


def _to_faces(
    boxes: NDArray[np.float64],
    landmarks: NDArray[np.float64],
    scores: NDArray[np.float64],
    shape: tuple[int, ...],
) -> list[Face]:
    """Drop faces that overlap a better one, and fit the boxes into the photo."""
    order = np.argsort(scores)[::-1]
    boxes, landmarks, scores = boxes[order], landmarks[order], scores[order]
    overlaps = np.triu(_overlap(boxes, boxes, of_smaller=True) > OVERLAP, k=1).any(axis=0)
    height, width = shape[:2]
    boxes = boxes.clip(0, np.tile((width - 1, height - 1), 2))
    return [
        _to_face(box, points, score)
        for box, points, score in zip(boxes[~overlaps], landmarks[~overlaps], scores[~overlaps], strict=True)
    ]


def _to_face(box: NDArray[np.float64], points: NDArray[np.float64], score: float) -> Face:
    left, top, right, bottom = (float(side) for side in box)
    landmarks = {name: (float(x), float(y)) for name, (x, y) in zip(LANDMARKS, points, strict=True)}
    return Face((left, top, right, bottom), landmarks, float(score))
