"""What the inspection of a data set finds, and its contact sheet."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.datasets import DatasetError, load_samples
from ml.expressions import EXPRESSIONS
from ml.inspection import MOST_PAIRS, contact_sheet, inspect
from tests.ml.test_datasets import FerPlus
from tests.ml.test_folds import make_old_jaffe


def draw(path: Path, seed: int, noise: float = 0, side: int = 48) -> Path:
    """Draw smooth blotches that depend on `seed`, and a little noise over them."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (6, 6), np.uint8))
    pixels = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), float)
    pixels = pixels + np.random.default_rng(seed + 1).normal(0, noise, pixels.shape) if noise else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_faces_are_counted_by_class_and_by_person(tmp_path: Path) -> None:
    found = inspect("jaffe", make_old_jaffe(tmp_path))
    assert found.by_class == dict.fromkeys(EXPRESSIONS, 0) | {"anger": 10, "disgust": 10, "fear": 10}
    assert found.by_subject["KA"] == 3
    assert len(found.by_subject) == 10
    assert found.total == 30


def test_leaking_fold_lists_are_reported_in_sentences(tmp_path: Path) -> None:
    found = inspect("jaffe", make_old_jaffe(tmp_path / "leaking"))
    assert found.fold_lists == 10
    assert [sentence[:7] for sentence in found.leaks] == ["Fold 3 ", "Fold 4 "]
    clean = inspect("jaffe", make_old_jaffe(tmp_path / "clean", leaking=()))
    assert (clean.fold_lists, clean.leaks) == (10, [])


def test_lists_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    (make_old_jaffe(tmp_path) / "testJA_ids_0.csv").unlink()
    found = inspect("jaffe", tmp_path)
    assert found.fold_lists == 0
    assert len(found.leaks) == 1
    assert "its other half is missing" in found.leaks[0]


def test_a_set_without_lists_has_no_leaks(tmp_path: Path) -> None:
    draw(tmp_path / "happy" / "face.png", 1)
    found = inspect("folders", tmp_path)
    assert (found.fold_lists, found.leaks, found.by_subject) == (0, [], {})


def test_unreadable_pictures_are_reported_and_left_out(tmp_path: Path) -> None:
    root = make_old_jaffe(tmp_path)
    (root / "imgs" / "KA_AN_0.png").write_bytes(b"no picture")
    found = inspect("jaffe", root)
    ((name, reason),) = found.unreadable
    assert name == "imgs/KA_AN_0.png"
    assert "cannot identify image file" in reason
    assert (found.total, found.by_class["anger"], found.by_subject["KA"]) == (29, 9, 2)
    assert len(found.leaks) == 2  # the lists are looked at all the same


def test_a_broken_picture_of_ferplus_is_reported_and_the_others_are_looked_at(tmp_path: Path) -> None:
    ferplus = FerPlus(tmp_path)
    for split in ("train", "valid", "test"):
        ferplus.add(split, f"{split}.png", "0,10,0,0,0,0,0,0,0,0")
        ferplus.add(split, f"broken-{split}.png", "0,10,0,0,0,0,0,0,0,0")
        (tmp_path / f"FER2013{split.title()}" / f"broken-{split}.png").write_bytes(b"no picture")
    found = inspect("ferplus", tmp_path)
    assert sorted(name for name, _ in found.unreadable) == [
        f"FER2013{split}/broken-{split.lower()}.png" for split in ("Test", "Train", "Valid")
    ]
    assert (found.total, found.by_class["happiness"]) == (3, 3)


def test_the_very_same_pixels_are_duplicates_however_they_are_stored(tmp_path: Path) -> None:
    face = draw(tmp_path / "happy" / "face.png", 1)
    Image.open(face).save(tmp_path / "happy" / "again.bmp")
    (tmp_path / "sad").mkdir()
    Image.open(face).save(tmp_path / "sad" / "thrice.png", compress_level=0)
    draw(tmp_path / "sad" / "other.png", 2)
    found = inspect("folders", tmp_path)
    assert found.duplicates == [["happy/again.bmp", "happy/face.png", "sad/thrice.png"]]
    assert found.near_duplicates == []


def test_nearly_the_same_pictures_are_found_at_any_size(tmp_path: Path) -> None:
    for seed in range(30):
        draw(tmp_path / "happy" / f"{seed:02}.png", 10 * seed)
    draw(tmp_path / "sad" / "darker.png", 0)
    darker = Image.open(tmp_path / "sad" / "darker.png").point(lambda value: value * 0.8)
    darker.save(tmp_path / "sad" / "darker.png")
    draw(tmp_path / "sad" / "larger.jpg", 10, side=200)
    found = inspect("folders", tmp_path)
    assert sorted(found.near_duplicates) == [
        ("happy/00.png", "sad/darker.png"),
        ("happy/01.png", "sad/larger.jpg"),
    ]
    assert found.near_duplicate_count == 2
    assert found.duplicates == []


def test_one_persons_frames_are_no_near_duplicates(tmp_path: Path) -> None:
    for name, noise in (("KA_AN_1", 0), ("KA_AN_2", 1), ("KL_AN_3", 2)):
        draw(tmp_path / "imgs" / f"{name}.png", 1, noise)
    (tmp_path / "emotion_labels.pkl").write_bytes(b"\x80\x04}(\x8c\x05KA_ANK\x01\x8c\x05KL_ANK\x01u.")
    found = inspect("jaffe", tmp_path)
    assert sorted(found.near_duplicates) == [
        ("imgs/KA_AN_1.png", "imgs/KL_AN_3.png"),
        ("imgs/KA_AN_2.png", "imgs/KL_AN_3.png"),
    ]


def test_a_photo_of_several_faces_is_one_picture_among_near_duplicates(tmp_path: Path) -> None:
    draw(tmp_path / "origin" / "one.png", 1)
    draw(tmp_path / "origin" / "two.png", 1, noise=1)
    lines = [f"{name}.png {face} 0 0 40 40 50.0 3" for name in ("one", "two") for face in range(2)]
    (tmp_path / "label.lst").write_text("\n".join(lines))
    found = inspect("expw", tmp_path)
    assert found.total == 4
    assert (found.near_duplicates, found.near_duplicate_count) == ([("origin/one.png", "origin/two.png")], 1)


def test_near_duplicates_beyond_measure_are_counted_but_not_listed(tmp_path: Path) -> None:
    for number in range(35):  # 595 pairs
        draw(tmp_path / "happy" / f"{number}.png", 1)
        picture = np.array(Image.open(tmp_path / "happy" / f"{number}.png"))
        picture[0, 0] = number
        Image.fromarray(picture).save(tmp_path / "happy" / f"{number}.png")
    found = inspect("folders", tmp_path)
    assert (len(found.near_duplicates), found.near_duplicate_count) == (MOST_PAIRS, 595)


@pytest.mark.parametrize("at_once", [1, 2**23], ids=["picture by picture", "together"])
def test_the_nearest_are_listed_wherever_in_the_set_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("ml.near_duplicates.COMPARED_AT_ONCE", at_once)  # of a large set: few at a time
    monkeypatch.setattr("ml.inspection.MOST_PAIRS", 1)
    for name, seed, noise in (
        ("a", 1, 0),
        ("b", 1, 4),
        ("c", 7, 0),
        ("d", 7, 0.5),
        ("e", 30, 0),
        ("f", 30, 4),
    ):
        draw(tmp_path / "happy" / f"{name}.png", seed, noise)
    found = inspect("folders", tmp_path)
    assert found.near_duplicate_count == 3
    assert found.near_duplicates == [("happy/c.png", "happy/d.png")]


def test_an_inspection_is_plain_json(tmp_path: Path) -> None:
    root = make_old_jaffe(tmp_path)
    (root / "imgs" / "KA_AN_0.png").write_bytes(b"")
    found = inspect("jaffe", root)
    again = json.loads(json.dumps(found.to_dict()))
    assert again["total"] == 29
    assert again["by_class"] == found.by_class
    assert again["unreadable"][0][0] == "imgs/KA_AN_0.png"
    assert again["leaks"] == found.leaks


def test_progress_tells_what_is_done(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    inspect("jaffe", make_old_jaffe(tmp_path), lambda *progress: told.append(progress))
    assert [(done, total) for doing, done, total in told if doing == "Reading the pictures"] == [
        (done, 30) for done in range(1, 31)
    ]
    assert told[-1] == ("Comparing the pictures", 30, 30)


def test_a_set_that_cannot_be_read_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no folder"):
        inspect("jaffe", tmp_path / "nowhere")


def test_the_contact_sheet_has_a_row_for_each_expression_that_occurs(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "set" / "happy" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (12 * number, 0, 200)).save(path)
    draw(tmp_path / "set" / "sad" / "face.png", 1)
    (tmp_path / "set" / "sad" / "broken.png").write_bytes(b"no picture")
    path = tmp_path / "sheets" / "contact.jpg"
    contact_sheet(load_samples("folders", tmp_path / "set", "all"), path)
    sheet = Image.open(path)
    assert sheet.format == "JPEG"
    assert sheet.height == pytest.approx(200, abs=10)
    pixels = np.asarray(sheet).astype(int)
    faces = pixels[52, 198::100]
    assert len(faces) == 10
    assert (faces[:, 2] > 150).all()
    assert (np.diff(faces[:, 0]) > 5).all()  # taken evenly, from the first to the last
    assert faces[0, 0] < 20
    assert faces[-1, 0] > 200
    words = np.asarray(sheet.convert("L"))[:, :140]
    assert words[:100].min() < 80  # each row has its word
    assert words[100:].min() < 80


def test_the_contact_sheet_of_nothing_is_empty(tmp_path: Path) -> None:
    contact_sheet([], tmp_path / "contact.jpg")
    assert np.asarray(Image.open(tmp_path / "contact.jpg")).min() > 250
