"""The commands that measure framing, align crops and make motion masks: on the real detector, small data."""

from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from django.core.management import CommandError, call_command
from PIL import Image

OVAL, EYE, LIPS = (205, 170, 150), (40, 30, 30), (150, 70, 70)


def drawn_face(happy: bool) -> Image.Image:
    """A face simple enough to draw, and enough of one for the detector."""
    image = np.full((240, 240, 3), 110, np.uint8)
    cv2.ellipse(image, (120, 122), (70, 92), 0, 0, 360, OVAL, -1, cv2.LINE_AA)
    cv2.ellipse(image, (120, 62), (76, 50), 0, 180, 360, (50, 35, 25), -1, cv2.LINE_AA)
    for x in (92, 148):
        cv2.ellipse(image, (x, 88), (17, 3), 0, 180, 360, EYE, 4, cv2.LINE_AA)
        cv2.ellipse(image, (x, 104), (13, 7), 0, 0, 360, (235, 235, 235), -1, cv2.LINE_AA)
        cv2.circle(image, (x, 104), 6, EYE, -1, cv2.LINE_AA)
    cv2.ellipse(image, (120, 140), (14, 6), 0, 0, 180, (150, 110, 95), 3, cv2.LINE_AA)
    cv2.ellipse(
        image, (120, 169 if happy else 172), (30, 9 if happy else 3), 0, 0, 180, LIPS, -1, cv2.LINE_AA
    )
    return Image.fromarray(cv2.GaussianBlur(image, (0, 0), 1.5))


def jaffe(folder: Path) -> Path:
    for name, happy in (("KA.NE1.26.tiff", False), ("KA.HA1.29.tiff", True), ("KL.NE1.155.tiff", False)):
        drawn_face(happy).save(folder / name)
    return folder


def test_masks_are_built_from_a_set_with_pairs(tmp_path: Path) -> None:
    out = StringIO()
    (tmp_path / "set").mkdir()
    data = jaffe(tmp_path / "set")
    call_command(
        "build_motion_masks", "--data", f"jaffe={data}", "--output", str(tmp_path / "masks"), stdout=out
    )
    assert "happiness.png: 1 pairs of 1 people" in out.getvalue()
    with Image.open(tmp_path / "masks" / "happiness.png") as mask:
        assert (mask.mode, mask.size) == ("L", (128, 128))
        assert "build_motion_masks --data jaffe=DIR" in mask.info["Source"]


def test_framing_is_printed_as_a_table(tmp_path: Path) -> None:
    out = StringIO()
    call_command("measure_framing", dataset="jaffe", data=jaffe(tmp_path), stdout=out)
    assert "A face was found in" in out.getvalue()
    assert "mouth_right" in out.getvalue()


def test_crops_are_aligned_into_the_same_classes_without_the_excluded(tmp_path: Path) -> None:
    (tmp_path / "in" / "neutral").mkdir(parents=True)
    for number in range(3):
        drawn_face(happy=False).save(tmp_path / "in" / "neutral" / f"{number}.jpg")
    Image.new("RGB", (240, 240), "grey").save(tmp_path / "in" / "neutral" / "wall.jpg")
    (tmp_path / "in" / "neutral" / "IMG_1.heic").touch()
    (tmp_path / "exclude.txt").write_text("train/neutral/1.jpg\n")
    out = StringIO()
    call_command(
        "align_faces",
        data=tmp_path / "in",
        output=tmp_path / "out",
        exclude=tmp_path / "exclude.txt",
        stdout=out,
    )
    assert "Aligned 2 faces" in out.getvalue()
    assert "No face was found in 1 more" in out.getvalue()
    assert ": neutral/wall.jpg." in out.getvalue()
    assert "1 .heic" in out.getvalue()
    written = sorted(path.name for path in (tmp_path / "out" / "neutral").iterdir())
    assert written == ["0.png", "2.png", "wall.png"]


def test_missing_data_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(CommandError, match="no folder"):
        call_command("measure_framing", dataset="jaffe", data=nowhere)
    with pytest.raises(CommandError, match="no folder"):
        call_command("align_faces", data=nowhere, output=tmp_path)
    with pytest.raises(CommandError, match=r"exclude\.txt"):
        call_command("align_faces", data=nowhere, output=tmp_path, exclude=tmp_path / "exclude.txt")
    with pytest.raises(CommandError, match="no folder"):
        call_command("build_motion_masks", "--data", f"jaffe={nowhere}", "--output", str(tmp_path))
    with pytest.raises(CommandError, match="KIND=DIR"):
        call_command("build_motion_masks", "--data", "jaffe", "--output", str(tmp_path))


def test_kaggle_s_table_becomes_a_set_to_train_on(tmp_path: Path) -> None:
    grey = " ".join(["128"] * 48 * 48)
    table = tmp_path / "fer2013.csv"
    table.write_text(f"emotion,pixels,Usage\n3,{grey},Training\n")
    out = StringIO()
    asked = ["unpack_fer2013", "--table", str(table), "--output", str(tmp_path / "out")]
    call_command(*asked, stdout=out)
    assert (
        f"Wrote 1 pictures. Train on them by `manage.py train_fmpn --dataset fer2013 --data {tmp_path}"
        in (out.getvalue())
    )
    assert (tmp_path / "out" / "train" / "happiness" / "fer0000000.png").is_file()
    with pytest.raises(CommandError, match="choose another folder"):
        call_command(*asked)
