"""Measuring how crops are framed, and bringing a folder of them to our framing."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml.alignment import TEMPLATE
from ml.datasets import DatasetError
from ml.faces import LANDMARKS, Face
from ml.framing import frame_folder, measure_framing


class ByBrightness:
    """A detector for plain squares on a margin: the brighter, the further right it says the face is.

    In a black one it finds none.
    """

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        brightness = int(image[0, 0, 0])
        side = image.shape[0] / 1.5
        points = TEMPLATE * side + image.shape[0] / 6 - 0.5 + (brightness / 1000 * side, 0)
        landmarks = {name: (float(x), float(y)) for name, (x, y) in zip(LANDMARKS, points, strict=True)}
        return [Face((0, 0, 1, 1), landmarks, 0.9)] if brightness else []


def crops(folder: Path, brightnesses: list[int]) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.png" for number in range(len(brightnesses))]
    for path, brightness in zip(paths, brightnesses, strict=True):
        Image.new("RGB", (200, 200), (brightness,) * 3).save(path)
    return paths


def test_framing_is_the_median_of_the_faces_that_are_found(tmp_path: Path) -> None:
    framing = measure_framing(crops(tmp_path / "a", [10, 30, 0, 250]), ByBrightness())
    assert (framing.found, framing.total) == (3, 4)
    assert framing.centre == pytest.approx(TEMPLATE + np.array((0.03, 0)), abs=1e-6)
    assert framing.spread[:, 1] == pytest.approx(0, abs=1e-6)


def test_the_template_of_a_framing_is_made_the_same_left_and_right(tmp_path: Path) -> None:
    framing = measure_framing(crops(tmp_path / "a", [20, 20]), ByBrightness())
    assert framing.template == pytest.approx(TEMPLATE, abs=1e-6)


def test_a_folder_is_framed_class_by_class_without_the_excluded(tmp_path: Path) -> None:
    for name in ("happy", "sad"):
        crops(tmp_path / "in" / name, [40, 80, 120])
    told: list[tuple[int, int]] = []
    framed = frame_folder(
        tmp_path / "in",
        tmp_path / "out",
        ByBrightness(),
        48,
        colour=False,
        excluded={"sad/1.png"},
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert (framed.total, framed.without_face, str(framed.passed_over)) == (5, (), "")
    assert told[-1] == (5, 5)
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/*"))
    assert written == ["happy/0.png", "happy/1.png", "happy/2.png", "sad/0.png", "sad/2.png"]
    with Image.open(tmp_path / "out" / "happy" / "2.png") as image:
        assert (image.mode, image.size) == ("L", (48, 48))


def test_a_crop_without_a_found_face_is_framed_like_the_others(tmp_path: Path) -> None:
    # The others lie a fifth of the side to the right: from there on the black picture is outside, and so is
    # the last fifth of the white ones.
    crops(tmp_path / "in" / "happy", [200, 200, 200])
    path = tmp_path / "in" / "happy" / "dark.png"
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[:, 100:] = 255
    picture[:, :1] = 0
    Image.fromarray(picture).save(path)
    framed = frame_folder(tmp_path / "in", tmp_path / "out", ByBrightness(), 50, colour=True)
    assert (framed.total, framed.without_face) == (4, ("happy/dark.png",))
    with Image.open(tmp_path / "out" / "happy" / "dark.png") as image:
        row = np.asarray(image)[25, :, 0]
    assert (row[17:38] == 255).all()
    assert not row[:13].any()
    assert not row[42:].any()


def test_empty_missing_and_unreadable_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folder"):
        frame_folder(tmp_path / "none", tmp_path / "out", ByBrightness(), 48, colour=True)
    with pytest.raises(DatasetError, match="holds no class folder with pictures"):
        frame_folder(tmp_path, tmp_path / "out", ByBrightness(), 48, colour=True)
    broken = crops(tmp_path / "in" / "happy", [40])[0]
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"0\.png cannot be read"):
        frame_folder(tmp_path / "in", tmp_path / "out", ByBrightness(), 48, colour=True)


def test_pictures_that_would_become_one_file_are_refused_and_hidden_files_left_out(
    tmp_path: Path,
) -> None:
    first = crops(tmp_path / "in" / "happy", [40])[0]
    (first.parent / "._0.png").write_bytes(b"what macOS lays beside a file")
    framed = frame_folder(tmp_path / "in", tmp_path / "out", ByBrightness(), 48, colour=True)
    assert (framed.total, str(framed.passed_over)) == (1, "")
    Image.open(first).save(first.with_suffix(".jpg"))
    with pytest.raises(DatasetError, match=r"2 pictures would become .*happy/0\.png: rename one"):
        frame_folder(tmp_path / "in", tmp_path / "out", ByBrightness(), 48, colour=True)


def test_a_folder_is_not_replaced_by_its_own_crops(tmp_path: Path) -> None:
    first = crops(tmp_path / "in" / "happy", [40])[0]
    before = first.read_bytes()
    with pytest.raises(DatasetError, match=r"would replace the pictures of .*: choose another folder"):
        frame_folder(tmp_path / "in", tmp_path / "in" / "happy" / "..", ByBrightness(), 48, colour=True)
    assert first.read_bytes() == before


def test_a_name_that_is_no_utf8_is_refused_before_the_work(tmp_path: Path) -> None:
    first = crops(tmp_path / "in" / "happy", [40])[0]
    try:
        first.rename(first.with_name(os.fsdecode(b"caf\xe9.png")))
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(DatasetError, match="is no UTF-8: rename the file"):
        frame_folder(tmp_path / "in", tmp_path / "out", ByBrightness(), 48, colour=True)


def test_split_folders_above_the_classes_stay(tmp_path: Path) -> None:
    for split, name in (("train", "happy"), ("train", "sad"), ("test", "happy")):
        crops(tmp_path / "in" / split / name, [40])
    framed = frame_folder(tmp_path / "in", tmp_path / "out", ByBrightness(), 48, colour=True)
    assert framed.total == 3
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert written == {"train/happy/0.png", "train/sad/0.png", "test/happy/0.png"}


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    first = crops(tmp_path / "in" / "happy", [40])[0]
    for name in ("1.HEIC", "2.heic", "notes.txt", ".DS_Store"):
        (first.parent / name).touch()
    crops(tmp_path / "in" / "happy" / "more", [40])
    Image.open(first).save(tmp_path / "in" / "loose.jpg")
    framed = frame_folder(tmp_path / "in", tmp_path / "out", ByBrightness(), 48, colour=True)
    assert framed.total == 1
    assert "by their endings: 2 .heic, 1 .txt. Save photos" in str(framed.passed_over)
    assert "in no class folder: 2 pictures (happy/more/0.png, loose.jpg)." in str(framed.passed_over)


def test_a_folder_that_holds_nothing_to_read_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "phone" / "happy").mkdir(parents=True)
    (tmp_path / "phone" / "happy" / "IMG_1.HEIC").touch()
    with pytest.raises(DatasetError, match=r"1 \.heic\. Save photos among them as JPEG or PNG"):
        frame_folder(tmp_path / "phone", tmp_path / "out", ByBrightness(), 48, colour=True)
    crops(tmp_path / "deep" / "monday" / "happy", [40])
    with pytest.raises(DatasetError, match=r"no class folder: 1 picture \(monday/happy/0\.png\)"):
        frame_folder(tmp_path / "deep", tmp_path / "out", ByBrightness(), 48, colour=True)


def test_crops_without_any_face_have_no_framing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No face was found in any of 2 pictures"):
        measure_framing(crops(tmp_path / "a", [0, 0]), ByBrightness())
