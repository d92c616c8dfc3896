"""From photos to what their faces show: detection, alignment, the model; loaded once a process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ml.alignment import TEMPLATE, align_face
from ml.checkpoint import Checkpoint, load_checkpoint
from ml.config import ModelConfig
from ml.expressions import EXPRESSIONS, is_sure
from ml.faces import Face, FaceDetector, load_detector
from ml.runtime import Network, choose_device, open_network

if TYPE_CHECKING:
    from torch import nn

Image = NDArray[np.uint8]
Problem = Literal["too small", "too blurred", "unknown face"]

# Photos are searched for faces at this length of their longer side at most: a photo of 12 megapixels takes
# seconds otherwise. What is lost are faces below 20 pixels at that size, a seventieth of the longer side.
SEARCH_SIDE: Final = 1400
# Eyes nearer to each other than this many pixels leave about half the detail of a FER+ face (17.6), or less.
SMALLEST_EYES: Final = 9.0
EYES_SHARE: Final = float(TEMPLATE[1, 0] - TEMPLATE[0, 0])  # the eyes' distance in a crop of side 1
# What `sharpness` gives at most for a face too blurred to tell: about half of the least among 1,500 faces of
# FER+ train (0.085), that is less detail than the model was ever shown.
SHARPEST_BLUR: Final = 0.045
# A find of this `Face.steadiness` is a face; of less, if it is found again in its own crop, as that is and
# mirrored. Chosen once on pieces of pictures without a face, on photos, and on crops of FER+, of which two
# in a hundred are lost: turned, covered or half outside. tests/reliability/test_recognition.py holds it to
# others.
STEADY: Final = 0.9
SIDE_TO_FIND_AGAIN: Final = 96
# The side of what is kept to be looked at; the model reads its own size of it. One that reads more than that
# has it larger, since what was not cut out of the photo cannot be made up.
CROP_SIZE: Final = 192


@dataclass(frozen=True, eq=False)
class FacePrediction:
    """One face and what it shows.

    face: where it is, None for a picture given as a crop. crop: uint8 RGB (S, S, 3), aligned; S is CROP_SIZE,
    or the model's own side where that is larger. mask: float32 (S, S) in 0..1, where the expression moves the
    face. probabilities: the eight names, sum 1.
    problem: why nothing is said of the face; mask and probabilities are None then. An "unknown face" is
    hardly one, or too strange or too covered. sure_from: the least probability, 0..1, of an answer that the
    model is sure of.
    """

    face: Face | None
    crop: Image
    mask: NDArray[np.float32] | None
    probabilities: dict[str, float] | None
    problem: Problem | None
    sure_from: float = 0.0

    @property
    def sure(self) -> bool:
        """Whether the most probable expression is more than a guess; never where there is a problem."""
        return self.probabilities is not None and is_sure(self.probabilities, self.sure_from)

    @property
    def expression(self) -> str | None:
        """The most probable expression, None where there is a problem."""
        probabilities = self.probabilities
        return max(probabilities, key=probabilities.__getitem__) if probabilities else None


@dataclass(frozen=True, eq=False)
class PhotoPrediction:
    """A photo's size in pixels and its faces, the surest first."""

    width: int
    height: int
    faces: tuple[FacePrediction, ...]


class Predictor:
    """A detector and a model; threads may share it.

    name: the model's name for people. sure_from: as in FacePrediction. Images are uint8 RGB (H, W, 3).
    """

    def __init__(self, checkpoint: Checkpoint, detector: FaceDetector, device: str) -> None:
        self.name, self.sure_from = checkpoint.name, checkpoint.sure_from
        self._config = checkpoint.model_config
        self._side = max(CROP_SIZE, self._config.image_size)
        self._network = open_model(checkpoint, device)
        self._detector = detector

    def predict(self, images: Sequence[Image]) -> list[PhotoPrediction]:
        """Find and read every face of every photo."""
        found = [self._detect(image) for image in images]
        crops = [
            align_face(image, face.landmarks, self._side)
            for image, faces in zip(images, found, strict=True)
            for face in faces
        ]
        everyone = [face for faces in found for face in faces]
        problems = [self._problem_of(face, crop) for face, crop in zip(everyone, crops, strict=True)]
        read = iter(self._read(crops, problems))
        return [
            PhotoPrediction(
                image.shape[1],
                image.shape[0],
                tuple(_with_face(next(read), face) for face in faces),
            )
            for image, faces in zip(images, found, strict=True)
        ]

    def predict_crops(self, images: Sequence[Image]) -> list[PhotoPrediction]:
        """Read pictures that are each one face, already cut out; the middle square of each is taken."""
        small: list[Problem | None] = [
            "too small" if min(image.shape[:2]) * EYES_SHARE < SMALLEST_EYES else None for image in images
        ]
        read = self._read([_middle_square(image, self._side) for image in images], small)
        return [
            PhotoPrediction(image.shape[1], image.shape[0], (face,))
            for image, face in zip(images, read, strict=True)
        ]

    def _detect(self, image: Image) -> list[Face]:
        longer = max(image.shape[:2])
        if longer <= SEARCH_SIDE:
            return self._detector.detect(image)
        ratio = SEARCH_SIDE / longer
        size = (max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio)))
        shrunk = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        scale_x, scale_y = image.shape[1] / size[0], image.shape[0] / size[1]
        return [_scaled(face, scale_x, scale_y) for face in self._detector.detect(shrunk)]

    def _problem_of(self, face: Face, crop: Image) -> Problem | None:
        if _is_small(face):
            return "too small"
        return None if face.steadiness >= STEADY or self._finds_again(crop) else "unknown face"

    def _finds_again(self, crop: Image) -> bool:
        size = (SIDE_TO_FIND_AGAIN, SIDE_TO_FIND_AGAIN)
        small = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)
        return all(self._detector.detect(one) for one in (small, small[:, ::-1].copy()))

    def _read(self, crops: Sequence[Image], problems: Sequence[Problem | None]) -> list[FacePrediction]:
        if not crops:
            return []
        probabilities, masks = self._network(prepare_crops(crops, self._config))
        results = []
        for index, crop in enumerate(crops):
            problem = problems[index]
            if problem != "too small" and sharpness(crop) < SHARPEST_BLUR:
                problem = "too blurred"
            if problem:
                results.append(FacePrediction(None, crop, None, None, problem, self.sure_from))
                continue
            mask = cv2.resize(masks[index], crop.shape[:2], interpolation=cv2.INTER_LINEAR)
            named = dict(zip(EXPRESSIONS, map(float, probabilities[index]), strict=True))
            drawn = np.asarray(mask, np.float32)
            results.append(FacePrediction(None, crop, drawn, named, None, self.sure_from))
        return results


def load_predictor(checkpoint: Path, detector: str, device: str, sha256: str | None = None) -> Predictor:
    """Load a checkpoint and a detector ("mtcnn" or "mtcnn-tensorflow") on a device ("auto", "cpu", "cuda").

    sha256: the one the checkpoint has to state, if that is known. Raises CheckpointError for a checkpoint
    that is missing, broken or another one, and ValueError for a detector or a device that is not to be had,
    both with a sentence.
    """
    chosen = choose_device(device)
    return Predictor(load_checkpoint(checkpoint, sha256), load_detector(detector, chosen), chosen)


def prepare_crops(crops: Sequence[Image], config: ModelConfig) -> NDArray[np.uint8]:
    """Aligned faces, RGB, as the model takes them: uint8 (N, 3, S, S), (N, 1, S, S) where it reads grey."""
    side = config.image_size
    faces = np.stack([cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in crops])
    if config.colour:
        return np.asarray(faces.transpose(0, 3, 1, 2), np.uint8)
    # Rounded to whole grey values, as the training faces were.
    return np.stack([np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), np.uint8) for face in faces])[:, None]


def open_model(checkpoint: Checkpoint, device: str) -> Network:
    def make() -> "nn.Module":
        from ml.fmpn import Served  # torch

        return Served(checkpoint.build(), checkpoint.temperature).eval()

    config = checkpoint.model_config
    channels, side = 3 if config.colour else 1, config.image_size
    # Most photos have one face, and four at once cost each of them but a fifth less.
    example = np.zeros((1, channels, side, side), np.uint8)
    return open_network(f"fmpn-{checkpoint.sha256[:16]}", "ml.fmpn", make, example, device)


def sharpness(crop: Image) -> float:
    """Fine detail of a crop at 48 pixels: the variance of its standardised luminance's Laplacian."""
    small = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (48, 48), interpolation=cv2.INTER_AREA)
    grey = np.asarray(small, np.float64)
    return float(cv2.Laplacian((grey - grey.mean()) / max(grey.std(), 1.0), cv2.CV_64F).var())


def _is_small(face: Face) -> bool:
    left, right = np.asarray(face.landmarks["left_eye"]), np.asarray(face.landmarks["right_eye"])
    left_mouth, right_mouth = (
        np.asarray(face.landmarks["mouth_left"]),
        np.asarray(face.landmarks["mouth_right"]),
    )
    # A face in profile has its eyes close together and still enough pixels: its height tells then.
    height = float(np.linalg.norm((left_mouth + right_mouth - left - right) / 2))
    return max(float(np.linalg.norm(right - left)), height) < SMALLEST_EYES


def _with_face(read: FacePrediction, face: Face) -> FacePrediction:
    return replace(read, face=face)


def _scaled(face: Face, x: float, y: float) -> Face:
    left, top, right, bottom = face.box
    landmarks = {
        name: ((px + 0.5) * x - 0.5, (py + 0.5) * y - 0.5) for name, (px, py) in face.landmarks.items()
    }
    return replace(face, box=(left * x, top * y, right * x, bottom * y), landmarks=landmarks)


def _middle_square(image: Image, side: int) -> Image:
    height, width = image.shape[:2]
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = image[top : top + shorter, left : left + shorter]
    method = cv2.INTER_AREA if shorter > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (side, side), interpolation=method), np.uint8)
