"""Reading the frames of a camera as they come. Nothing of a frame is kept: no row, no file, no log of it."""

import time
from typing import TYPE_CHECKING, Final, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from ml.alignment import place_crop
from recognition.admission import places
from recognition.counters import count_faces
from recognition.pictures import data_url, encode_mask
from recognition.services import get_predictor
from recognition.uploads import Limits, decode_photo

if TYPE_CHECKING:
    from ml.predictor import FacePrediction

# The page sends 640 pixels a side at most, about 60 kB.
LIMITS: Final = Limits(megabytes=0.5, megapixels=1.0)
MASK_SIDE: Final = 96  # pixels: a mask is smooth, and this is sent many times a second


class FaceNow(TypedDict):
    """A face in a frame; places in pixels of the frame.

    place: the six numbers of an SVG matrix from the unit square to where the aligned face, and so its mask,
    lies. sure: whether the expression is more than a guess. mask: a PNG as a data URL, None unless asked for.
    Probabilities, expression and mask are None beside a `problem`.
    """

    box: list[float]
    landmarks: dict[str, list[float]]
    place: list[float]
    expression: str | None
    sure: bool
    probabilities: dict[str, float] | None
    problem: str | None
    mask: str | None


class Frame(TypedDict):
    """What was read in a frame of `width` × `height` pixels, in how many milliseconds and by which model."""

    width: int
    height: int
    faces: list[FaceNow]
    milliseconds: float
    model: str


def read_frame(data: bytes, *, masks: bool) -> Frame:
    """Decode a frame and read every face in it, with their motion masks where asked.

    Raises PhotoError for what is no picture or a larger one than LIMITS, PredictorError without a model, Busy
    where other photos take all places.
    """
    begin = time.perf_counter()
    places.require()
    predictor = get_predictor()
    with places.take():
        image = decode_photo(data, LIMITS)
        faces = [_report(face, masks) for face in predictor.predict([image])[0].faces]
    count_faces(len(faces))
    return {
        "width": image.shape[1],
        "height": image.shape[0],
        "faces": faces,
        "milliseconds": round((time.perf_counter() - begin) * 1000, 1),
        "model": predictor.name,
    }


def _report(found: "FacePrediction", masks: bool) -> FaceNow:
    face = found.face
    assert face is not None, "a face in a frame has its place there"
    return {
        "box": [round(side, 1) for side in face.box],
        "landmarks": {name: [round(x, 1), round(y, 1)] for name, (x, y) in face.landmarks.items()},
        "place": [round(float(number), 2) for number in place_crop(face.landmarks).T.ravel()],
        "expression": found.expression,
        "sure": found.sure,
        "probabilities": found.probabilities
        and {name: round(share, 4) for name, share in found.probabilities.items()},
        "problem": found.problem,
        "mask": None if found.mask is None or not masks else _draw(found.mask),
    }


def _draw(mask: NDArray[np.float32]) -> str:
    small = cv2.resize(mask, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)
    return data_url(encode_mask(np.asarray(small, np.float32)))
