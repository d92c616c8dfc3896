"""From five landmarks to the square crop that the model reads.

Points are (x, y). In a photo, whole numbers are the centres of pixels; in the unit square, 0 and 1 are the
crop's outer edges.
"""

import math
from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ml.faces import LANDMARKS, Face, FaceDetector, Point

TEMPLATE: Final[NDArray[np.float64]] = np.array(
    [(0.3162, 0.3892), (0.6838, 0.3892), (0.5, 0.6033), (0.3468, 0.7786), (0.6532, 0.7786)]
)
"""Where the landmarks lie in a crop: (5, 2) in the unit square, in the order of `LANDMARKS`.

It is the framing of the 48×48 crops of FER+ (median, made symmetric), so that these need no alignment and
every other photo is brought to look like them. `manage.py measure_framing --dataset ferplus --data DIR`
prints this table.
"""

# A face that fills the picture to its edge is found more often with some room around it, and a small one
# when it is enlarged.
CROP_MARGIN: Final = 0.25
CROP_SIDE: Final = 192


def align_face(image: NDArray[np.uint8], landmarks: Mapping[str, Point], size: int) -> NDArray[np.uint8]:
    """Cut a face out of an RGB photo (H, W, 3), upright and to scale: RGB uint8 (size, size, 3).

    A similarity transform (turn, scale, shift) brings the landmarks as near to `TEMPLATE` as it can. What
    lies outside the photo is black. Raises ValueError where all landmarks are one point, or size is below 1.
    """
    return _warp(image, _points(landmarks), size)


def place_crop(landmarks: Mapping[str, Point]) -> NDArray[np.float64]:
    """Where `align_face`'s crop lies in the photo: the matrix (2, 3) from the unit square to the photo.

    (0, 0) and (1, 1) are the crop's outer corners; in the photo, too, 0 is the outer edge of the first pixel,
    as drawings count. Raises ValueError where all landmarks are one point.
    """
    to_crop = similarity(_points(landmarks), TEMPLATE)
    back = np.linalg.inv(to_crop[:, :2])
    return np.column_stack((back, -back @ to_crop[:, 2]))


def frame_photo(
    image: NDArray[np.uint8], detector: FaceDetector, size: int, *, middle: bool = False
) -> NDArray[np.uint8]:
    """Cut one face out of an RGB photo (H, W, 3): RGB uint8 (size, size, 3).

    Of several the surest is taken, as in a photo of one person; with `middle` the one nearest to the photo's
    middle, as in a part cut out around one of many people. Where none is found, the middle square is looked
    at once more with some room around it, and failing that it is taken for the crop.
    """
    height, width = image.shape[:2]
    if faces := detector.detect(image):
        centre = np.array((width, height)) / 2

        def off_centre(face: Face) -> float:
            return float(np.linalg.norm(_points(face.landmarks).mean(axis=0) - centre))

        chosen = min(faces, key=off_centre) if middle else max(faces, key=lambda face: face.confidence)
        return align_face(image, chosen.landmarks, size)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frame_crop(image[top : top + side, left : left + side], detector, size, TEMPLATE)


def frame_crop(
    image: NDArray[np.uint8], detector: FaceDetector, size: int, fallback: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Bring a face that was cut out in another way (H, W, 3) to our framing: RGB uint8 (size, size, 3).

    Where the detector finds no face, the landmarks are taken to be at `fallback`, (5, 2) in the unit
    square: their usual place in crops of that origin.
    """
    found = find_in_crop(image, detector)
    return frame_at(image, fallback if found is None else found, size)


def frame_at(image: NDArray[np.uint8], landmarks: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The same where the landmarks, (5, 2) in the unit square, are known."""
    height, width = image.shape[:2]
    return _warp(image, landmarks * (width, height), size)


def find_in_crop(image: NDArray[np.uint8], detector: FaceDetector) -> NDArray[np.float64] | None:
    """Return the landmarks (5, 2), in the unit square, of the face that a crop (H, W, 3) shows, or None."""
    height, width = image.shape[:2]
    zoom = max(1.0, CROP_SIDE / max(height, width))
    enlarged = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    height, width = enlarged.shape[:2]
    margin = round(CROP_MARGIN * max(height, width))
    padded = cv2.copyMakeBorder(enlarged, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    faces = detector.detect(np.asarray(padded, np.uint8))
    if not faces:
        return None
    surest = max(faces, key=lambda face: face.confidence)
    points: NDArray[np.float64] = (_points(surest.landmarks) - margin) / (width, height)
    return points


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (2, 3) that turns, scales and shifts points (N, 2) onto others, by least squares.

    Raises ValueError where all of `source` are one point.
    """
    # On complex numbers turn and scale are one multiplication, and least squares has a closed form.
    z, w = (points @ (1, 1j) for points in (source, target))
    spread = z - z.mean()
    if not np.any(np.abs(spread) > 1e-6):
        raise ValueError("The landmarks of a face are all one point.")
    turn = np.vdot(spread, w - w.mean()) / np.vdot(spread, spread)
    shift = w.mean() - turn * z.mean()
    return np.array([(turn.real, -turn.imag, shift.real), (turn.imag, turn.real, shift.imag)])


def _warp(image: NDArray[np.uint8], points: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    if size < 1:
        raise ValueError(f"A crop needs at least one pixel a side, not {size}.")
    to_crop = similarity(points, TEMPLATE * size)
    # A large face is drawn at about its own resolution first and averaged down from there: it does not alias.
    finer = max(1, math.ceil(1 / np.hypot(*to_crop[:, 0])))
    to_finer = to_crop * finer
    # From outer edges, which are the same at every resolution, to OpenCV's centres of pixels.
    to_finer[:, 2] += to_finer[:, :2].sum(axis=1) / 2 - 0.5
    drawn = cv2.warpAffine(image, to_finer, (size * finer, size * finer), flags=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _points(landmarks: Mapping[str, Point]) -> NDArray[np.float64]:
    """Return landmarks as (5, 2), measured from the photo's outer edges."""
    return np.array([landmarks[name] for name in LANDMARKS], np.float64) + 0.5
