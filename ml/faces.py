"""Finding faces: MTCNN as torch modules, with the weights and the results of the `mtcnn` package.

The package itself needs TensorFlow (about 1.6 GB and seven seconds before the first face). It stays as the
reference, `TensorflowMtcnn`, behind one setting; the port gives the same faces without it.
"""

import hashlib
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

Point = tuple[float, float]

LANDMARKS: Final = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")

# The default parameters of `mtcnn.MTCNN.detect_faces`.
SMALLEST_FACE: Final = 20
CELL: Final = 12
STRIDE: Final = 2
PYRAMID_FACTOR: Final = 0.709
PROPOSAL_THRESHOLD, REFINE_THRESHOLD, OUTPUT_THRESHOLD = 0.6, 0.7, 0.8
OVERLAP_IN_SCALE, OVERLAP = 0.5, 0.7

# At most this many pixels, and this many candidates, go through a network at once: a photo of 40 megapixels
# then needs no more memory for its activations than a small one.
PIXELS_AT_ONCE: Final = 2**18
CANDIDATES_AT_ONCE: Final = 512

# The weight files are joblib pickles: only these very bytes are ever unpickled.
WEIGHTS_SHA256: Final = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}


class DetectorError(ValueError):
    """A detector that cannot be loaded. Its text is a sentence fit for a person."""


@dataclass(frozen=True)
class Face:
    """One face in a photo.

    box: left, top, right, bottom in pixels of the photo, inside it. landmarks: (x, y) in pixels for each of
    `LANDMARKS`, in that order; left is left in the picture, and a point may lie outside the photo.
    confidence: 0..1.
    """

    box: tuple[float, float, float, float]
    landmarks: dict[str, Point]
    confidence: float


class FaceDetector(Protocol):
    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an RGB photo (H, W, 3), the most confident first; none is an empty list."""
        ...


def load_detector(name: str, device: torch.device | str = "cpu") -> FaceDetector:
    """Load "mtcnn" (torch, on `device`) or "mtcnn-tensorflow" (the reference, on the CPU).

    Raises ValueError for another name, and its subclass DetectorError where the weights are not at hand.
    """
    if name == "mtcnn":
        return Mtcnn(device)
    if name == "mtcnn-tensorflow":
        return TensorflowMtcnn()
    raise ValueError(f"Unknown face detector {name!r}: choose mtcnn or mtcnn-tensorflow.")


class Mtcnn:
    """The three networks of MTCNN in torch. One instance may serve several threads."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Load the weights onto `device`; raises DetectorError where they are missing or altered."""
        self._device = torch.device(device)
        self._proposal = self._load(ProposalNet(), "pnet")
        self._refine = self._load(RefineNet(), "rnet")
        self._output = self._load(OutputNet(), "onet")

    def _load(self, net: nn.Module, name: str) -> nn.Module:
        _fill(net, _read_weights(name))
        return net.requires_grad_(False).eval().to(self._device)

    @torch.inference_mode()
    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in `image`, RGB uint8 (H, W, 3), the most confident first.

        The smallest face found is about 20 pixels wide; a photo smaller than that has none. Raises
        ValueError for an array of another shape or type.
        """
        _require_rgb(image)
        pixels = (image - np.float32(127.5)) / np.float32(128)
        photo = self._tensor(pixels)

        boxes = _square(self._propose(pixels))
        if not len(boxes):
            return []

        offsets, scores = self._run(self._refine, _crop(photo, boxes, 24))
        sure = scores > REFINE_THRESHOLD
        boxes, scores = _suppress(_shift(boxes, offsets)[sure], scores[sure], OVERLAP)
        boxes = _square(boxes)
        if not len(boxes):
            return []

        offsets, scores, points = self._run(self._output, _crop(photo, boxes, 48))
        landmarks = _place_landmarks(points, boxes)
        sure = scores > OUTPUT_THRESHOLD
        return _to_faces(_shift(boxes, offsets)[sure], landmarks[sure], scores[sure], image.shape)

    def _propose(self, pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the first network's candidate boxes (N, 4) over all scales of the photo."""
        height, width = pixels.shape[:2]
        found = [(np.empty((0, 4)), np.empty(0))]
        for scale in _pyramid(min(height, width)):
            resized = cv2.resize(
                pixels, (int(width * scale), int(height * scale)), interpolation=cv2.INTER_AREA
            )
            boxes, scores = self._propose_at_scale(self._tensor(np.asarray(resized, np.float32)))
            found.append(_suppress(boxes / scale, scores, OVERLAP_IN_SCALE))
        boxes, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return _suppress(boxes, scores, OVERLAP)[0]

    def _propose_at_scale(self, photo: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return boxes (N, 4) in pixels of `photo` (1, 3, H, W), and scores (N,)."""
        results = [self._proposal(band) for band in _bands(photo)]
        offsets, scores = (torch.cat(parts, dim=1) for parts in zip(*results, strict=True))
        rows, columns = torch.nonzero(scores[0] > PROPOSAL_THRESHOLD, as_tuple=True)
        corner = torch.stack((columns, rows), dim=1).double() * STRIDE
        # The package counts a cell from its second pixel to the one after its last: a side of 11.
        cells = torch.cat((corner + 1, corner + CELL), dim=1)
        boxes = cells + offsets[0, rows, columns].double() * (CELL - 1)
        return boxes.cpu().numpy(), scores[0, rows, columns].double().cpu().numpy()

    def _run(self, net: nn.Module, crops: Tensor) -> list[NDArray[np.float64]]:
        results = [net(part) for part in torch.split(crops, CANDIDATES_AT_ONCE)]
        return [torch.cat(parts).double().cpu().numpy() for parts in zip(*results, strict=True)]

    def _tensor(self, pixels: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).to(self._device)


class TensorflowMtcnn:
    """The `mtcnn` package as it is: the reference that `Mtcnn` is held to."""

    def __init__(self) -> None:
        # Imported here, and after torch (see the top of this file): a process pays for TensorFlow only where
        # the setting asks for it, and TensorFlow before torchvision is a segmentation fault.
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


class ProposalNet(nn.Module):
    """(N, 3, H, W) -> box offsets (N, h, w, 4) and face probabilities (N, h, w), one a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 10, 3), nn.PReLU(10), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(10, 16, 3), nn.PReLU(16)),
            *(nn.Conv2d(16, 32, 3), nn.PReLU(32)),
        )
        self.offsets = nn.Conv2d(32, 4, 1)
        self.classes = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        return self.offsets(x).permute(0, 2, 3, 1), self.classes(x).softmax(dim=1)[:, 1]


class RefineNet(nn.Module):
    """(N, 3, 24, 24) -> box offsets (N, 4) and face probabilities (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 28, 3), nn.PReLU(28), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(28, 48, 3), nn.PReLU(48), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(48, 64, 2), nn.PReLU(64)),
            *(FlattenByColumn(), nn.Linear(576, 128), nn.PReLU(128)),
        )
        self.offsets = nn.Linear(128, 4)
        self.classes = nn.Linear(128, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        return self.offsets(x), self.classes(x).softmax(dim=1)[:, 1]


class OutputNet(nn.Module):
    """(N, 3, 48, 48) -> box offsets (N, 4), face probabilities (N,) and five x, then five y (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 3), nn.PReLU(32), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 64, 3), nn.PReLU(64), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 64, 3), nn.PReLU(64), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(64, 128, 2), nn.PReLU(128)),
            *(FlattenByColumn(), nn.Linear(1152, 256), nn.PReLU(256)),
        )
        self.offsets = nn.Linear(256, 4)
        self.landmarks = nn.Linear(256, 10)
        self.classes = nn.Linear(256, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.features(x)
        return self.offsets(x), self.classes(x).softmax(dim=1)[:, 1], self.landmarks(x)


class FlattenByColumn(nn.Module):
    """(N, C, H, W) -> (N, W * H * C): the order the dense weights were trained in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 2, 1).flatten(1)


def _read_weights(name: str) -> list[NDArray[np.float32]]:
    """Return one network's arrays, in Keras's order and layout, from the installed `mtcnn` package."""
    # The package's own loader would take a file of that name from the working directory first.
    spec = importlib.util.find_spec("mtcnn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "assets" / "weights" / f"{name}.lz4"
        if path.is_file():
            break
    else:
        raise DetectorError(
            f"The face detector's weights ({name}.lz4) are missing: "
            "install the requirements again, the mtcnn package carries them."
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256[name]:
        raise DetectorError(
            f"The face detector's weights {path} are not the known ones and were not opened: "
            "install the requirements again, with the locked version of mtcnn."
        )
    weights: list[NDArray[np.float32]] = joblib.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return weights


@torch.no_grad()
def _fill(net: nn.Module, weights: list[NDArray[np.float32]]) -> None:
    """Copy Keras weights into a network whose layers are declared in the same order."""
    for parameter, array in zip(net.parameters(), weights, strict=True):
        if array.ndim == 4:  # a kernel: height, width, in, out -> out, in, height, width
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:  # a dense layer: in, out -> out, in
            array = array.T
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(parameter.shape))


def _require_rgb(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"Not an RGB image of bytes: {image.dtype} array of shape {image.shape}.")


def _pyramid(shorter_side: int) -> NDArray[np.float64]:
    """Return the scales at which the first network looks: none for a photo too small to hold a face."""
    levels = round(-(np.log(max(shorter_side, 1) / CELL) / np.log(PYRAMID_FACTOR) + 1))
    scales: NDArray[np.float64] = CELL / SMALLEST_FACE * PYRAMID_FACTOR ** np.arange(levels)
    return scales


def _bands(photo: Tensor) -> Iterator[Tensor]:
    """Cut (1, 3, H, W) into overlapping bands whose cells, one below the other, are those of the whole."""
    height, width = photo.shape[2:]
    rows_of_cells = (height - CELL + 1) // STRIDE + 1
    step = max(PIXELS_AT_ONCE // (width * STRIDE), 8)
    for top in range(0, rows_of_cells, step):
        yield photo[:, :, top * STRIDE : (top + step) * STRIDE + CELL - STRIDE]


def _crop(photo: Tensor, boxes: NDArray[np.float64], size: int) -> Tensor:
    """Sample square crops (N, 3, size, size) from (1, 3, H, W): bilinear, mid grey (0) outside the photo."""
    height, width = photo.shape[2:]
    steps = torch.linspace(0, 1, size, dtype=torch.float64)
    left, top, right, bottom = torch.from_numpy(boxes).unsqueeze(2).unbind(1)
    # Corner to corner, after TensorFlow's `crop_and_resize`: 0 is the first pixel's centre, 1 the last one's.
    x = (left + (right - left) * steps) / width
    y = (top + (bottom - top) * steps) / height
    grid = torch.stack(
        (x[:, None, :].expand(-1, size, size), y[:, :, None].expand(-1, size, size)), dim=-1
    ).to(photo)
    inside = ((grid >= 0) & (grid <= 1)).all(dim=-1)
    crops = F.grid_sample(photo, grid.view(1, -1, size, 2) * 2 - 1, padding_mode="border", align_corners=True)
    return crops.view(3, -1, size, size).transpose(0, 1) * inside.unsqueeze(1)


def _suppress(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keep, best score first, the boxes that overlap (IoU above `threshold`) no better one.

    That is the package's rule, and stricter than the usual one: a box that is itself dropped still drops
    others. What it keeps is part of what the usual rule keeps, so the fast usual one goes first.
    """
    order = np.argsort(scores)[::-1]
    boxes, scores = boxes[order], scores[order]
    rank = torch.arange(len(boxes), 0, -1, dtype=torch.float64)
    kept = np.sort(nms(torch.from_numpy(boxes), rank, threshold).numpy())
    dropped = np.setdiff1d(np.arange(len(boxes)), kept)

    def undisturbed(part: NDArray[np.int64]) -> NDArray[np.int64]:
        overlaps = _overlap(boxes[part], boxes[dropped]) > threshold
        return part[~(overlaps & (dropped < part[:, None])).any(axis=1)]

    # In parts: a group photo of 40 megapixels has thousands of boxes on either side.
    parts = np.split(kept, range(CANDIDATES_AT_ONCE, len(kept), CANDIDATES_AT_ONCE))
    kept = np.concatenate([undisturbed(part) for part in parts])
    return boxes[kept], scores[kept]


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
