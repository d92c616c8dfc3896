"""Our MTCNN beside the `mtcnn` package whose weights it has."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml import runtime
from ml.faces import LANDMARKS, Mtcnn, load_detector
from ml.mtcnn_weights import DetectorError

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT.parent / "shared" / "photos"
HALF_A_PIXEL = 0.5

# Each in a process of its own: TensorFlow must not be in that of the tests.
REFERENCE = """
import dataclasses, json, sys
import numpy as np
from ml.faces import load_detector
detector = load_detector("mtcnn-tensorflow")
faces = [detector.detect(np.load(path)) for path in sys.argv[1:]]
print(json.dumps([[dataclasses.asdict(face) for face in photo] for photo in faces]))
"""
PORT = """
import json, sys
import numpy as np
from ml.faces import load_detector
load_detector("mtcnn").detect(np.load(sys.argv[1]))
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""

Photos = dict[str, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def photos() -> Photos:
    """Real photos with faces, and three pictures without any."""
    if PHOTOS.is_dir():
        paths = [path for path in sorted(PHOTOS.iterdir()) if path.suffix in {".jpg", ".png"}]
        real = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in paths}
    else:
        reason = f"neither the photos in {PHOTOS} nor scikit-image's astronaut are here"
        real = {"astronaut": pytest.importorskip("skimage.data", reason=reason).astronaut()}
    return real | {
        "blank": np.full((90, 120, 3), 127, np.uint8),
        "one pixel": np.zeros((1, 1, 3), np.uint8),
        "a strip": np.zeros((400, 15, 3), np.uint8),
    }


@pytest.fixture(scope="module")
def detector() -> Mtcnn:
    return Mtcnn("cpu")


def run(script: str, photos: list[NDArray[np.uint8]], folder: Path) -> Any:
    """Run a script in a fresh interpreter on photos laid in a folder; return what it prints as JSON."""
    paths = [folder / f"{number}.npy" for number in range(len(photos))]
    for path, photo in zip(paths, photos, strict=True):
        np.save(path, photo)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_finds_the_faces_that_the_package_finds(detector: Mtcnn, photos: Photos, tmp_path: Path) -> None:
    expected = run(REFERENCE, list(photos.values()), tmp_path)
    assert any(expected)
    for name, photo, theirs in zip(photos, photos.values(), expected, strict=True):
        ours = detector.detect(photo)
        assert len(ours) == len(theirs), name
        for face, reference in zip(ours, theirs, strict=True):
            assert face.box == pytest.approx(reference["box"], abs=HALF_A_PIXEL), name
            assert tuple(face.landmarks) == LANDMARKS == tuple(reference["landmarks"])
            for point, other in zip(face.landmarks.values(), reference["landmarks"].values(), strict=True):
                assert point == pytest.approx(other, abs=HALF_A_PIXEL), name
            assert face.confidence == pytest.approx(reference["confidence"], abs=1e-3), name


def test_it_leaves_tensorflow_alone_and_needs_torch_once(photos: Photos, tmp_path: Path) -> None:
    photo = list(photos.values())[:1]
    assert {"torch", "tensorflow"}.intersection(run(PORT, photo, tmp_path)) == {"torch"}
    assert {"torch", "tensorflow"}.isdisjoint(run(PORT, photo, tmp_path))


def test_boxes_lie_inside_the_photo_and_landmarks_inside_their_box(detector: Mtcnn, photos: Photos) -> None:
    photo = next(iter(photos.values()))
    height, width = photo.shape[:2]
    faces = detector.detect(photo)
    assert faces
    for face in faces:
        left, top, right, bottom = face.box
        assert 0 <= left < right <= width - 1
        assert 0 <= top < bottom <= height - 1
        assert all(left < x < right and top < y < bottom for x, y in face.landmarks.values())
        assert face.landmarks["left_eye"][0] < face.landmarks["right_eye"][0]
        assert 0.8 < face.confidence <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (19, 19), (24, 24)])
def test_a_picture_too_small_for_a_face_has_none(detector: Mtcnn, shape: tuple[int, int]) -> None:
    assert detector.detect(np.zeros((*shape, 3), np.uint8)) == []


def test_it_refuses_what_is_not_an_rgb_image_of_bytes(detector: Mtcnn) -> None:
    with pytest.raises(ValueError, match="Not an RGB image"):
        detector.detect(np.zeros((80, 80), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        detector.detect(np.zeros((80, 80, 3), np.float32))


def test_one_detector_serves_several_threads(detector: Mtcnn, photos: Photos) -> None:
    photo = next(iter(photos.values()))[::2, ::2].copy()
    alone = detector.detect(photo)
    with ThreadPoolExecutor(4) as pool:
        assert all(faces == alone for faces in pool.map(detector.detect, [photo] * 8))


def test_an_unknown_detector_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'dlib'.*mtcnn or mtcnn-tensorflow"):
        load_detector("dlib")


@pytest.fixture
def no_exports(tmp_path: Path) -> Iterator[None]:
    """An empty folder of exports: the networks have to be built from the weights."""
    before = runtime.exports_folder()
    runtime.set_exports_folder(tmp_path / "exports")
    yield
    runtime.set_exports_folder(before)


@pytest.mark.usefixtures("no_exports")
def test_altered_weights_are_never_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = fake_package(tmp_path) / "pnet.lz4"
    weights.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DetectorError, match=r"pnet\.lz4 are not the known ones"):
        Mtcnn("cpu")


@pytest.mark.usefixtures("no_exports")
def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DetectorError, match=r"pnet\.lz4.*missing"):
        Mtcnn("cpu")


@pytest.mark.usefixtures("no_exports")
def test_weights_in_the_working_directory_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(__file__, tmp_path / "pnet.lz4")
    monkeypatch.chdir(tmp_path)
    Mtcnn("cpu")


def fake_package(folder: Path) -> Path:
    """Lay an empty `mtcnn` package into a folder; return where its weights would be."""
    weights = folder / "mtcnn" / "assets" / "weights"
    weights.mkdir(parents=True)
    (folder / "mtcnn" / "__init__.py").touch()
    return weights
