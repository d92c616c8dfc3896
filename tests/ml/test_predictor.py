"""From photo to faces: what is found, what is said of it, and what is left unsaid."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml.checkpoint import BUNDLED, CheckpointError
from ml.expressions import EXPRESSIONS
from ml.predictor import FacePrediction, Predictor, load_predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor(BUNDLED, "mtcnn", "cpu")


@pytest.fixture(scope="module")
def astronaut(photos: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(photos / "astronaut.png").convert("RGB"))


def only_face(predictor: Predictor, image: NDArray[np.uint8]) -> FacePrediction:
    (photo,) = predictor.predict([image])
    (face,) = photo.faces
    return face


def test_a_smile_is_read_as_happiness(predictor: Predictor, astronaut: NDArray[np.uint8]) -> None:
    face = only_face(predictor, astronaut)
    assert face.expression == "happiness"
    assert face.probabilities is not None
    assert tuple(face.probabilities) == EXPRESSIONS
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert face.mask is not None
    assert face.mask.shape == face.crop.shape[:2]
    assert 0 <= face.mask.min() < face.mask.max() <= 1


def test_photos_of_several_sizes_are_read_together_as_they_are_alone(
    predictor: Predictor, astronaut: NDArray[np.uint8]
) -> None:
    images = [astronaut, np.zeros((40, 90, 3), np.uint8), astronaut[:300, 100:400].copy()]
    together = predictor.predict(images)
    assert [(photo.width, photo.height, len(photo.faces)) for photo in together] == [
        (512, 512, 1),
        (90, 40, 0),
        (300, 300, 1),
    ]
    for image, photo in zip(images, together, strict=True):
        (alone,) = predictor.predict([image])
        for one, other in zip(alone.faces, photo.faces, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_a_large_photo_has_its_boxes_in_its_own_pixels(
    predictor: Predictor, astronaut: NDArray[np.uint8]
) -> None:
    small = only_face(predictor, astronaut)
    large = only_face(predictor, cv2.resize(astronaut, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC))  # type: ignore[arg-type]
    assert small.face is not None
    assert large.face is not None
    assert np.allclose(np.asarray(large.face.box) / 5, small.face.box, atol=6)
    assert large.expression == small.expression


def test_a_face_too_small_or_too_blurred_is_not_guessed(
    predictor: Predictor, astronaut: NDArray[np.uint8]
) -> None:
    blurred = only_face(predictor, np.asarray(cv2.GaussianBlur(astronaut, (0, 0), 4), np.uint8))
    assert (blurred.problem, blurred.expression, blurred.mask) == ("too blurred", None, None)
    small = np.asarray(cv2.resize(astronaut[0:200, 130:330], (12, 12)), np.uint8)
    (tiny,) = predictor.predict_crops([small])
    assert (tiny.faces[0].problem, tiny.faces[0].probabilities) == ("too small", None)


def test_a_crop_is_read_without_looking_for_a_face(
    predictor: Predictor, astronaut: NDArray[np.uint8]
) -> None:
    crop = only_face(predictor, astronaut).crop
    (photo,) = predictor.predict_crops([crop])
    assert photo.faces[0].face is None
    assert photo.faces[0].expression == "happiness"
    assert predictor.predict_crops([np.zeros((1, 1, 3), np.uint8)])[0].faces[0].problem == "too small"
    assert predictor.predict([]) == predictor.predict_crops([]) == []


def test_threads_share_a_predictor(predictor: Predictor, astronaut: NDArray[np.uint8]) -> None:
    images = [astronaut, astronaut[:, ::-1].copy()] * 2
    alone = [only_face(predictor, image).probabilities for image in images]
    with ThreadPoolExecutor(4) as threads:
        shared = list(threads.map(lambda image: only_face(predictor, image).probabilities, images))
    for one, other in zip(alone, shared, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_predictor(tmp_path / "none", "mtcnn", "cpu")
    with pytest.raises(ValueError, match="mtcnn"):
        load_predictor(BUNDLED, "haar", "cpu")
    with pytest.raises(ValueError, match="auto, cpu and cuda"):
        load_predictor(BUNDLED, "mtcnn", "tpu")


def test_reading_faces_needs_no_tensorflow(predictor: Predictor, astronaut: NDArray[np.uint8]) -> None:
    only_face(predictor, astronaut)
    assert "tensorflow" not in sys.modules
