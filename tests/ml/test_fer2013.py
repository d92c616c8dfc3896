"""FER2013 from Kaggle's table, and the votes over it from Microsoft's."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.datasets import DatasetError, load_samples
from ml.datasets.fer2013 import unpack_fer2013
from ml.expressions import EXPRESSIONS

USAGES = ("Training", "Training", "PublicTest", "PrivateTest", "PrivateTest")
VOTES = ("0,9,0,0,0,0,0,0,1,0", "5,5,0,0,0,0,0,0,0,0", "0,0,10,0,0,0,0,0,0,0", "", "0,0,0,0,0,0,0,10,0,0")


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (48, 48), np.uint8)


def table(folder: Path, heads: str = "emotion,pixels,Usage") -> Path:
    lines = [heads]
    for number, usage in enumerate(USAGES):
        cells = {"emotion": str(number), "pixels": " ".join(map(str, pixels(number).ravel())), "Usage": usage}
        lines.append(",".join(cells[head.strip()] for head in heads.split(",")))
    path = folder / "fer2013.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def votes(folder: Path) -> Path:
    lines = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for number, (usage, counts) in enumerate(zip(USAGES, VOTES, strict=True)):
        name = f"fer{number:07}.png" if counts else ""
        lines.append(f"{usage},{name},{counts or '0,0,0,0,0,0,0,0,0,10'}")
    path = folder / "fer2013new.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def found(kind: str, folder: Path, split: str) -> dict[str, str]:
    return {s.path.name: EXPRESSIONS[s.expression] for s in load_samples(kind, folder, split)}


@pytest.mark.parametrize("heads", ["emotion,pixels,Usage", "emotion, Usage, pixels"])
def test_the_table_alone_becomes_folders_by_expression(tmp_path: Path, heads: str) -> None:
    told: list[int] = []
    assert unpack_fer2013(table(tmp_path, heads), None, tmp_path / "out", told.append) == 5
    assert told == [1, 2, 3, 4, 5]
    assert found("fer2013", tmp_path / "out", "train") == {
        "fer0000000.png": "anger",
        "fer0000001.png": "disgust",
    }
    assert found("fer2013", tmp_path / "out", "valid") == {"fer0000002.png": "fear"}
    assert found("fer2013", tmp_path / "out", "test") == {
        "fer0000003.png": "happiness",
        "fer0000004.png": "sadness",
    }
    for sample in load_samples("fer2013", tmp_path / "out", "all"):
        with Image.open(sample.path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), pixels(int(sample.path.stem[3:])))


def test_a_picture_that_stands_in_two_splits_is_read_in_the_later_one_alone(tmp_path: Path) -> None:
    for number, split in ((0, "train"), (1, "train"), (2, "train"), (1, "valid"), (3, "valid"), (2, "test")):
        folder = tmp_path / split / "happy"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(folder / f"{number}.png")
    assert set(found("fer2013", tmp_path, "train")) == {"0.png"}
    assert set(found("fer2013", tmp_path, "valid")) == {"1.png", "3.png"}
    assert set(found("fer2013", tmp_path, "test")) == {"2.png"}
    assert len(load_samples("fer2013", tmp_path, "all")) == 6
    shutil.rmtree(tmp_path / "valid")  # as in the copies with train and test alone
    assert set(found("fer2013", tmp_path, "train")) == {"0.png", "1.png"}
    with pytest.raises(DatasetError, match="own split folders, train, valid, test, are missing"):
        load_samples("fer2013", tmp_path / "train", "test")  # divided anew, a model could know its faces


def test_with_the_votes_it_becomes_ferplus(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()  # an empty folder is as good as none
    count = unpack_fer2013(table(tmp_path), votes(tmp_path), tmp_path / "out", lambda _: None)
    assert count == 4, "one has no picture"
    assert found("ferplus", tmp_path / "out", "train") == {
        "fer0000000.png": "happiness",
        "fer0000001.png": "happiness",
    }
    assert found("ferplus", tmp_path / "out", "valid") == {"fer0000002.png": "surprise"}
    assert found("ferplus", tmp_path / "out", "test") == {"fer0000004.png": "contempt"}
    line = (tmp_path / "out" / "FER2013Train" / "label.csv").read_text().splitlines()[0]
    assert line == 'fer0000000.png,"(0, 0, 48, 48)",0,9,0,0,0,0,0,0,1,0'


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("emotion,pixels\n0,1", "has no column Usage"),
        ("emotion,pixels,Usage\n", "has no picture in it"),
        ("emotion,pixels,Usage\n7,1 2,Training", "Line 2 of .* expression from 0 to 6, not '7'"),
        ("emotion,pixels,Usage\n0,1 2,Training", "Line 2 of .* no 48 × 48 grey values"),
        (f"emotion,pixels,Usage\n0,{'300 ' * 48**2},Training", "Line 2 of .* no 48 × 48 grey values"),
        ("emotion,pixels,Usage\n0,1 2,Else", "Line 2 of .* Usage of Training, PublicTest, PrivateTest"),
        ("emotion,pixels,Usage\n0", "Line 2 of .* Usage"),
        (f"emotion,pixels,Usage\n0,{'1' * 200_000},Training", "no table of comma-separated values"),
    ],
)
def test_a_broken_table_is_refused_and_leaves_nothing(tmp_path: Path, broken: str, reason: str) -> None:
    (tmp_path / "broken.csv").write_text(broken)
    with pytest.raises(DatasetError, match=reason):
        unpack_fer2013(tmp_path / "broken.csv", None, tmp_path / "out", lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.csv"]


def test_votes_of_another_table_are_refused(tmp_path: Path) -> None:
    pictures, counts = table(tmp_path), votes(tmp_path)
    lines = counts.read_text().splitlines()
    for changed in (lines[:-1], [lines[0], *lines[2:]], [*lines, lines[-1]]):
        counts.write_text("\n".join(changed) + "\n")
        with pytest.raises(DatasetError, match="no line to match"):
            unpack_fer2013(pictures, counts, tmp_path / "out", lambda _: None)
        assert not (tmp_path / "out").exists()
    counts.write_text("\n".join(lines).replace("fer0000000.png", "../fer0000000.png"))
    with pytest.raises(DatasetError, match="names a picture that is none"):
        unpack_fer2013(pictures, counts, tmp_path / "out", lambda _: None)


def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(DatasetError, match="choose another folder"):
        unpack_fer2013(table(tmp_path), None, tmp_path / "out", lambda _: None)
    assert (tmp_path / "out" / "mine.txt").exists()
