import os
import pickle
import struct
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml.datasets import KINDS, DatasetError, EmptySplitError, Sample, load_faces, load_samples
from ml.datasets.images import decode
from ml.expressions import EXPRESSIONS

SPLITS = ("train", "valid", "test")


def save_picture(path: Path, grey: int = 128, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (48, 48), grey).save(path, **options)
    return path


def names(samples: list[Sample]) -> list[str]:
    return [sample.path.name for sample in samples]


def shown(samples: list[Sample]) -> dict[str, str]:
    return {sample.path.name: EXPRESSIONS[sample.expression] for sample in samples}


def target_of(sample: Sample) -> dict[str, float]:
    return {name: share for name, share in zip(EXPRESSIONS, sample.target, strict=True) if share}


def one_face(path: Path) -> list[Sample]:
    return [Sample(path, 0, (1.0,) + (0.0,) * 7)]


# --- what holds for every kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_not_there_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"There is no folder .*nowhere"):
        load_samples(kind, tmp_path / "nowhere", "train")


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no labelled picture|missing"):
        load_samples(kind, tmp_path, "train")


def test_an_unknown_kind_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'mnist': known are ckplus, ckplus48, jaffe, yale, tcce, kdef,"):
        load_samples("mnist", tmp_path, "train")


def test_an_unknown_split_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'dev': known are train, valid, test, all"):
        load_samples("folders", tmp_path, "dev")


# --- FER+


NOBODY = "0,0,0,0,0,0,0,0,0,0"


class FerPlus:
    """A small FER+ in the original layout: votes are neutral, happiness, surprise, sadness, anger, ..."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("FER2013Train", "FER2013Valid", "FER2013Test"):
            (root / folder).mkdir(parents=True)
            (root / folder / "label.csv").touch()
        self._greys = iter(range(256))

    def add(self, split: str, name: str, votes: str, grey: int | None = None) -> None:
        folder = self.root / f"FER2013{split.title()}"
        save_picture(folder / name, next(self._greys) if grey is None else grey)
        self.write(split, f'{name},"(0, 0, 48, 48)",{votes}')

    def write(self, split: str, line: str) -> None:
        with (self.root / f"FER2013{split.title()}" / "label.csv").open("a") as table:
            table.write(line + "\n")

    def load(self, split: str, kind: str = "ferplus") -> list[Sample]:
        return load_samples(kind, self.root, split)


@pytest.fixture
def ferplus(tmp_path: Path) -> FerPlus:
    return FerPlus(tmp_path / "ferplus")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_ferplus_evaluates_on_a_plurality_of_all_ten_columns(ferplus: FerPlus, split: str) -> None:
    ferplus.add(split, "contempt.png", "2,0,0,0,0,0,0,5,3,0")
    ferplus.add(split, "tie.png", "5,5,0,0,0,0,0,0,0,0")
    ferplus.add(split, "tie_with_unknown.png", "0,5,0,0,0,0,0,0,5,0")
    ferplus.add(split, "unknown.png", "2,2,0,0,0,0,0,0,6,0")
    ferplus.add(split, "no_face.png", "0,0,0,0,0,0,0,0,0,10")
    ferplus.add(split, "nobody_voted.png", NOBODY)
    assert shown(ferplus.load(split)) == {"contempt.png": "contempt"}


def test_ferplus_trains_on_ties_but_not_on_unknown_or_no_face(ferplus: FerPlus) -> None:
    ferplus.add("train", "tie.png", "5,5,0,0,0,0,0,0,0,0")
    ferplus.add("train", "unknown.png", "2,2,0,0,0,0,0,0,6,0")
    ferplus.add("train", "no_face.png", "0,0,0,0,0,0,0,0,0,10")
    ferplus.add("train", "nobody_voted.png", NOBODY)
    assert names(ferplus.load("train")) == ["tie.png"]


def test_ferplus_targets_are_the_shares_of_votes_without_single_ones(ferplus: FerPlus) -> None:
    ferplus.add("train", "face.png", "2,0,0,6,1,0,0,0,1,0")
    (sample,) = ferplus.load("train")
    assert target_of(sample) == {"neutral": 0.25, "sadness": 0.75}
    assert EXPRESSIONS[sample.expression] == "sadness"


def test_ferplus_keeps_single_votes_where_there_are_no_others(ferplus: FerPlus) -> None:
    ferplus.add("train", "face.png", "1,1,0,0,0,1,1,0,1,0")
    (sample,) = ferplus.load("train")
    assert target_of(sample) == {"neutral": 0.25, "happiness": 0.25, "disgust": 0.25, "fear": 0.25}


@pytest.mark.parametrize("split", SPLITS)
def test_ferplus_majority_asks_for_more_than_half_of_the_votes(ferplus: FerPlus, split: str) -> None:
    ferplus.add(split, "most.png", "0,0,6,4,0,0,0,0,0,0")
    ferplus.add(split, "half.png", "0,0,5,3,2,0,0,0,0,0")
    ferplus.add(split, "half_with_unknown.png", "0,0,5,0,0,0,0,0,5,0")
    ferplus.add(split, "more_than_half_of_what_no_single_voter_said.png", "1,1,1,1,0,0,0,4,2,0")
    ferplus.add(split, "plurality.png", "4,3,3,0,0,0,0,0,0,0")
    ferplus.add(split, "unknown.png", "2,0,0,0,0,0,0,0,8,0")
    ferplus.add(split, "single_votes.png", "0,1,0,0,0,0,0,0,0,0")
    samples = ferplus.load(split, "ferplus-majority")
    assert shown(samples) == {
        "most.png": "surprise",
        "more_than_half_of_what_no_single_voter_said.png": "contempt",
    }
    assert all(sorted(sample.target) == [0] * 7 + [1] for sample in samples)


def test_ferplus_majority_has_all_its_splits_and_no_copies(ferplus: FerPlus) -> None:
    happy = "0,10,0,0,0,0,0,0,0,0"
    ferplus.add("train", "train.png", happy, grey=1)
    ferplus.add("train", "again_in_test.png", happy, grey=3)
    ferplus.add("valid", "valid.png", happy, grey=2)
    # What is left out of test is a copy all the same.
    ferplus.add("test", "tie.png", "5,5,0,0,0,0,0,0,0,0", grey=3)
    ferplus.add("test", "test.png", happy, grey=4)
    assert names(ferplus.load("all", "ferplus-majority")) == ["train.png", "valid.png", "test.png"]


def test_ferplus_keeps_a_repeated_picture_in_the_latest_split_only(ferplus: FerPlus) -> None:
    happy = "0,10,0,0,0,0,0,0,0,0"
    ferplus.add("train", "alone.png", happy, grey=1)
    ferplus.add("train", "again_in_valid.png", happy, grey=2)
    ferplus.add("train", "again_in_test.png", happy, grey=3)
    ferplus.add("valid", "valid.png", happy, grey=2)
    ferplus.add("valid", "valid_again_in_test.png", happy, grey=4)
    ferplus.add("test", "test.png", happy, grey=3)
    ferplus.add("test", "test_too.png", happy, grey=4)
    assert {split: names(ferplus.load(split)) for split in SPLITS} == {
        "train": ["alone.png"],
        "valid": ["valid.png"],
        "test": ["test.png", "test_too.png"],
    }
    assert names(ferplus.load("all")) == ["alone.png", "valid.png", "test.png", "test_too.png"]


def test_ferplus_compares_pixels_and_not_files(ferplus: FerPlus) -> None:
    happy = "0,10,0,0,0,0,0,0,0,0"
    ferplus.add("test", "test.png", happy, grey=7)
    ferplus.add("train", "other.png", happy, grey=8)
    ferplus.add("train", "same.png", happy, grey=7)
    save_picture(ferplus.root / "FER2013Train" / "same.png", 7, compress_level=0)
    assert names(ferplus.load("train")) == ["other.png"]


def test_ferplus_may_lie_in_a_data_folder(tmp_path: Path) -> None:
    ferplus = FerPlus(tmp_path / "data")
    ferplus.add("test", "face.png", "0,10,0,0,0,0,0,0,0,0")
    assert names(load_samples("ferplus", tmp_path, "test")) == ["face.png"]


def test_ferplus_without_its_label_file_says_which_is_missing(ferplus: FerPlus) -> None:
    (ferplus.root / "FER2013Test" / "label.csv").unlink()
    with pytest.raises(DatasetError, match=r"FER2013Test.label\.csv, which is missing"):
        ferplus.load("test")


def test_ferplus_counts_missing_pictures_and_names_the_first(ferplus: FerPlus) -> None:
    for name in ("here.png", "gone.png", "gone_too.png"):
        ferplus.add("test", name, "0,10,0,0,0,0,0,0,0,0")
    for path in (ferplus.root / "FER2013Test").glob("gone*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"names 3 pictures, but 2 are missing, first .*gone\.png"):
        ferplus.load("test")


def test_ferplus_does_not_leave_its_folder(ferplus: FerPlus) -> None:
    save_picture(ferplus.root / "outside.png")
    ferplus.write("test", '../outside.png,"(0, 0, 48, 48)",0,10,0,0,0,0,0,0,0,0')
    with pytest.raises(DatasetError, match=r"Line 1 of .* is not a picture, .*outside\.png"):
        ferplus.load("test")


@pytest.mark.parametrize(
    "line",
    [
        'a.png,"(0, 0, 48, 48)",0,10,0',
        'a.png,"(0, 0, 48, 48)",0,ten,0,0,0,0,0,0,0,0',
        'a.png,"(0, 0, 48, 48)",0,-1,0,0,0,0,0,0,0,0',
        "",
    ],
)
def test_ferplus_names_the_line_that_is_malformed(ferplus: FerPlus, line: str) -> None:
    ferplus.add("test", "face.png", "0,10,0,0,0,0,0,0,0,0")
    ferplus.write("test", line)
    with pytest.raises(DatasetError, match=r"Line 2 of .*label\.csv"):
        ferplus.load("test")


def test_ferplus_refuses_a_label_file_that_is_no_text(ferplus: FerPlus) -> None:
    (ferplus.root / "FER2013Test" / "label.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DatasetError, match="no table of comma-separated values"):
        ferplus.load("test")


# --- one folder a class


def test_class_folders_may_bear_synonyms_in_any_case(tmp_path: Path) -> None:
    for folder in ("Happy", "angry", "neutral"):
        save_picture(tmp_path / folder / f"{folder}.png")
    found = load_samples("folders", tmp_path, "all")
    assert shown(found) == {"Happy.png": "happiness", "angry.png": "anger", "neutral.png": "neutral"}
    assert all(target_of(sample) == {EXPRESSIONS[sample.expression]: 1.0} for sample in found)


def test_hidden_names_and_files_that_are_no_pictures_are_passed_over(tmp_path: Path) -> None:
    save_picture(tmp_path / "fear" / "face.PNG")
    save_picture(tmp_path / "fear" / ".hidden.png")
    save_picture(tmp_path / ".thumbnails" / "face.png")
    (tmp_path / "fear" / "notes.txt").touch()
    (tmp_path / "README").touch()
    assert names(load_samples("folders", tmp_path, "all")) == ["face.PNG"]


def test_an_unknown_class_folder_is_named_with_the_known_ones(tmp_path: Path) -> None:
    save_picture(tmp_path / "smirk" / "face.png")
    with pytest.raises(DatasetError, match=r"smirk is no class .*: folders may be called anger, contempt"):
        load_samples("folders", tmp_path, "train")


def test_split_folders_are_used_where_they_stand(tmp_path: Path) -> None:
    for split in SPLITS:
        save_picture(tmp_path / split / "sad" / f"{split}.png")
    assert {split: names(load_samples("folders", tmp_path, split)) for split in SPLITS} == {
        split: [f"{split}.png"] for split in SPLITS
    }
    assert names(load_samples("folders", tmp_path, "all")) == ["train.png", "valid.png", "test.png"]


def test_a_split_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    save_picture(tmp_path / "train" / "sad" / "face.png")
    with pytest.raises(DatasetError, match="but no folder 'valid'"):
        load_samples("folders", tmp_path, "valid")


def test_without_split_folders_every_class_is_divided_eight_to_one_to_one(tmp_path: Path) -> None:
    for folder, count in (("fear", 10), ("happy", 20)):
        for number in range(count):
            save_picture(tmp_path / folder / f"{folder}{number}.png")
    parts = {split: load_samples("folders", tmp_path, split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 24, "valid": 3, "test": 3}
    assert list(shown(parts["test"]).values()) == ["fear", "happiness", "happiness"]
    assert sorted(name for part in parts.values() for name in names(part)) == sorted(
        names(load_samples("folders", tmp_path, "all"))
    )
    assert parts["train"] == load_samples("folders", tmp_path, "train")


def test_the_division_does_not_depend_on_where_the_set_lies(tmp_path: Path) -> None:
    for root in (tmp_path / "here", tmp_path / "there"):
        for number in range(10):
            save_picture(root / "fear" / f"{number}.png")
    here, there = (load_samples("folders", tmp_path / root, "test") for root in ("here", "there"))
    assert names(here) == names(there)


def test_a_table_tells_who_is_on_the_pictures_of_plain_folders(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save_picture(tmp_path / "fear" / f"{name}.png")
    (tmp_path / "subjects.csv").write_text('path,person\nfear/a.png, Anna \n\n"fear/b.png","Bo, ""B"""\n')
    found = load_samples("folders", tmp_path, "all")
    assert [sample.subject for sample in found] == ["Anna", 'Bo, "B"', None]


def test_a_table_of_people_needs_no_header_and_serves_split_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_picture(tmp_path / split / "sad" / "a.png")
    (tmp_path / "subjects.csv").write_bytes(b"\xef\xbb\xbftrain/sad/a.png,1\r\ntest/sad/a.png,2\r\n")
    for split, person in (("train", "1"), ("test", "2")):
        assert [sample.subject for sample in load_samples("folders", tmp_path, split)] == [person]


def test_people_of_plain_folders_are_divided_and_the_pictures_of_nobody_by_class(tmp_path: Path) -> None:
    lines = []
    for person in range(10):
        for expression in ("fear", "happy"):
            save_picture(tmp_path / expression / f"{person}.png")
            save_picture(tmp_path / expression / f"nobody{person}.png")
            lines.append(f"{expression}/{person}.png,person {person}")
    (tmp_path / "subjects.csv").write_text("\n".join(lines))
    parts = {split: load_samples("folders", tmp_path, split) for split in SPLITS}
    people = {split: {sample.subject for sample in part} - {None} for split, part in parts.items()}
    assert {split: len(part) for split, part in parts.items()} == {"train": 32, "valid": 4, "test": 4}
    assert {split: len(of_part) for split, of_part in people.items()} == {"train": 8, "valid": 1, "test": 1}
    assert len(set().union(*people.values())) == 10
    assert sum(sample.subject is None for sample in parts["test"]) == 2


def test_names_are_the_same_with_accents_taken_apart(tmp_path: Path) -> None:
    apart, together = (unicodedata.normalize(form, "Hân") for form in ("NFD", "NFC"))
    for name in (apart, "b"):  # as macOS writes them
        save_picture(tmp_path / "fear" / f"{name}.png")
    text = f"fear/{together}.png,{together}\nfear/b.png,{apart}\n"
    (tmp_path / "subjects.csv").write_text(text, encoding="utf-8")
    assert {sample.subject for sample in load_samples("folders", tmp_path, "all")} == {together}


@pytest.mark.parametrize("split", ["", "train"])
def test_a_name_that_is_no_utf8_is_refused_in_a_sentence(tmp_path: Path, split: str) -> None:
    try:
        save_picture(tmp_path / split / "happy" / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(DatasetError, match=r"The name .*caf\\udce9\.png' is no UTF-8: rename") as refused:
        load_samples("folders", tmp_path, "train")
    assert str(refused.value).isascii()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fear/a.png;Anna", r"^Line 2 of .*subjects\.csv is not a path and a person"),
        ("fear/b.png,Anna,Bo", "^Line 2 of .* is not a path and a person"),
        ("fear/b.png, ", "^Line 2 of .* is not a path and a person"),
        ("fear/../fear/b.png,Anna", "^Line 2 of .* is no picture of the set: paths are as happiness/a.jpg"),
        ("fear/a.png,Bo", "^Line 2 of .* names 'fear/a.png', which a line above names already"),
        ('fear/b.png,"Anna', "is no table of comma-separated values in UTF-8, after line 2"),
        ("fear/b.png,\udcff", "is no table of comma-separated values in UTF-8"),
    ],
)
def test_a_table_of_people_that_cannot_be_used_is_refused(line: str, reason: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_picture(tmp_path / "fear" / f"{name}.png")
    text = f"fear/a.png,Anna\n{line}\n"
    (tmp_path / "subjects.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=reason):
        load_samples("folders", tmp_path, "train")


# --- sets that name their people


def test_jaffe_is_read_from_its_tiff_names(tmp_path: Path) -> None:
    letters = {"AN": "anger", "DI": "disgust", "FE": "fear", "HA": "happiness", "SA": "sadness"}
    letters |= {"SU": "surprise", "NE": "neutral"}
    for number, word in enumerate(letters, start=39):
        save_picture(tmp_path / "jaffe_db" / f"KA.{word}1.{number}.tiff")
    (tmp_path / "jaffe_db" / "README").touch()
    found = load_samples("jaffe", tmp_path, "all")
    assert shown(found)["KA.AN1.39.tiff"] == "anger"
    assert sorted(shown(found).values()) == sorted(letters.values())
    assert {sample.subject for sample in found} == {"KA"}
    assert all(sample.photo for sample in found)
    assert found == load_samples("jaffe", tmp_path / "jaffe_db", "all")


def test_jaffe_is_read_from_the_old_folder_where_that_lies_there(tmp_path: Path) -> None:
    for name in ("KA_AN_39.png", "KA_NE_26.png", "KL_SU_164.png", "S005_001_00000011.png"):
        save_picture(tmp_path / "imgs" / name)
    labels = {"KA_AN": 1, "KA_NE": -1, "KL_SU": 7.0}
    (tmp_path / "emotion_labels.pkl").write_bytes(pickle.dumps(labels))
    found = load_samples("jaffe", tmp_path, "all")
    assert shown(found) == {"KA_AN_39.png": "anger", "KA_NE_26.png": "neutral", "KL_SU_164.png": "surprise"}
    assert [sample.subject for sample in found] == ["KA", "KA", "KL"]
    assert not any(sample.photo for sample in found)


def test_yale_keeps_the_four_conditions_that_are_expressions(tmp_path: Path) -> None:
    for condition in ("normal", "happy", "sad", "surprised", "wink", "sleepy", "leftlight"):
        save_picture(tmp_path / f"subject07.{condition}", format="GIF")
    found = load_samples("yale", tmp_path, "all")
    assert shown(found) == {
        "subject07.normal": "neutral",
        "subject07.happy": "happiness",
        "subject07.sad": "sadness",
        "subject07.surprised": "surprise",
    }
    assert {sample.subject for sample in found} == {"subject07"}
    assert {decode(sample.path, colour=False).size for sample in found} == {(48, 48)}


def test_tcce_is_read_by_the_letter_in_its_names(tmp_path: Path) -> None:
    folder = tmp_path / "faces_256x256"
    folder.mkdir()
    for name in ("0101a02", "0111b02", "0721c05", "0731d20", "3021e10", "3021f11", "3031g01", "0122b03"):
        save_picture(folder / f"{name}.jpg", format="JPEG")
    found = load_samples("tcce", tmp_path, "all")
    assert shown(found) == {
        "0101a02.jpg": "neutral",
        "0111b02.jpg": "happiness",
        "0721c05.jpg": "sadness",
        "0731d20.jpg": "anger",
        "3021e10.jpg": "disgust",
        "3031g01.jpg": "surprise",
    }
    assert {sample.subject for sample in found} == {"01", "07", "30"}
    assert all(sample.photo for sample in found)


def test_kdef_is_read_from_any_folder_by_the_codes_in_its_names(tmp_path: Path) -> None:
    # As handed out, a folder a person; side views, other names and hidden files are passed over.
    for name in ("AF01ANS", "AF01AFS", "BF01DIS", "AM35HAS", "AM35NES", "BM07SAS", "BM07SUS"):
        folder = tmp_path / "KDEF" / name[:4]
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(folder / f"{name}.JPG", format="JPEG")
    for name in ("AF01ANHL", "AF01ANFR", "AF01XXS", "S005_001_00000011", "._AF01HAS"):
        save_picture(tmp_path / "KDEF" / "AF01" / f"{name}.JPG", format="JPEG")
    found = load_samples("kdef", tmp_path, "all")
    assert shown(found) == {
        "AF01ANS.JPG": "anger",
        "AF01AFS.JPG": "fear",
        "BF01DIS.JPG": "disgust",
        "AM35HAS.JPG": "happiness",
        "AM35NES.JPG": "neutral",
        "BM07SAS.JPG": "sadness",
        "BM07SUS.JPG": "surprise",
    }
    assert {sample.subject for sample in found} == {"F01", "M35", "M07"}
    assert all(sample.photo for sample in found)


def made_cfee(folder: Path, rows: list[tuple[int, str, str]]) -> Path:
    folder.mkdir(parents=True)
    lines = [f'"{n}",{n},{person},"1","{word}","simple"' for n, person, word in rows]
    (folder / "label.csv").write_text(
        "\n".join(['"","Index","identity","emotion_idx","emotion_cat","type"', *lines])
    )
    for number, _, _ in rows:
        save_picture(folder / "images" / f"{number:04}.jpg")
    return folder


def test_cfee_is_read_from_its_table(tmp_path: Path) -> None:
    words = ("Neutral", "Happy", "Sad", "Angry", "Surprised", "Disgusted", "Fearful", "Thoughtful")
    made_cfee(tmp_path / "data" / "train_set", [(n, "114", word) for n, word in enumerate(words, 1)])
    found = load_samples("cfee", tmp_path, "train")
    assert shown(found) == {
        "0001.jpg": "neutral",
        "0002.jpg": "happiness",
        "0003.jpg": "sadness",
        "0004.jpg": "anger",
        "0005.jpg": "surprise",
        "0006.jpg": "disgust",
        "0007.jpg": "fear",
    }
    assert {sample.subject for sample in found} == {"CFEE 114"}
    assert all(sample.photo for sample in found)
    assert {max(sample.target) for sample in found} == {1}


def test_compound_expressions_of_cfee_are_halves_to_train_on_and_nowhere_else(tmp_path: Path) -> None:
    words = ("Sadly angry", "Happily surprised", "Awed", "Hatred", "Appalled", "Disgustedly surprised")
    rows = [(n, "1", word) for n, word in enumerate((*words, "Quietly happy"), 1)]
    others = [(10 * n + m, f"{n}", word) for n in range(2, 21) for m, word in enumerate(("Happy", words[0]))]
    folder = made_cfee(tmp_path / "CFEE", rows + others)
    splits = {split: load_samples("cfee", folder, split) for split in (*SPLITS, "all")}
    assert [len({sample.subject for sample in splits[split]}) for split in SPLITS] == [16, 2, 2]
    for split in ("valid", "test", "all"):
        assert {max(sample.target) for sample in splits[split]} == {1}
    assert len(splits["valid"]) == len(splits["test"]) == 2

    halves = {
        sample.path.name: tuple(EXPRESSIONS[i] for i, share in enumerate(sample.target) if share == 0.5)
        for sample in splits["train"]
        if sample.subject == "CFEE 1"
    }
    assert halves == {
        "0001.jpg": ("anger", "sadness"),
        "0002.jpg": ("happiness", "surprise"),
        "0003.jpg": ("fear", "surprise"),
        "0004.jpg": ("anger", "disgust"),
        "0005.jpg": ("anger", "disgust"),
        "0006.jpg": ("disgust", "surprise"),
    }
    named = {sample.path.name: EXPRESSIONS[sample.expression] for sample in splits["train"]}
    assert [named[f"000{n}.jpg"] for n in range(1, 7)] == (
        ["anger", "surprise", "surprise", "anger", "disgust", "surprise"]
    ), "what it is called by last"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('"1",one,114,"1","Sad","simple"', r"Line 2 of .* no picture \(Index\)"),
        ('"1",123456,114,"1","Sad","simple"', r"Line 2 of .* no picture \(Index\)"),
        ('"1",1,,"1","Sad","simple"', r"no person \(identity\)"),
        ('"1",7,114,"1","Sad","simple"', r"names 1 pictures, but 1 are missing, first .*0007\.jpg"),
    ],
)
def test_a_broken_table_of_cfee_is_refused(broken: str, reason: str, tmp_path: Path) -> None:
    folder = made_cfee(tmp_path / "CFEE", [(1, "114", "Sad")])
    table = folder / "label.csv"
    table.write_text(f"{table.read_text().splitlines()[0]}\n{broken}\n")
    with pytest.raises(DatasetError, match=reason):
        load_samples("cfee", folder, "train")


def test_a_table_of_cfee_without_its_expressions_is_refused(tmp_path: Path) -> None:
    folder = made_cfee(tmp_path / "CFEE", [(1, "114", "Sad")])
    table = folder / "label.csv"
    table.write_text(table.read_text().replace("emotion_cat", "feeling"))
    with pytest.raises(DatasetError, match=r"label\.csv has no column emotion_cat"):
        load_samples("cfee", folder, "train")


def test_nobody_stands_in_two_splits(tmp_path: Path) -> None:
    for person in range(20):
        for word in ("happy", "sad"):
            save_picture(tmp_path / f"subject{person:02}.{word}", format="GIF")
    people = {split: {s.subject for s in load_samples("yale", tmp_path, split)} for split in SPLITS}
    assert {split: len(part) for split, part in people.items()} == {"train": 16, "valid": 2, "test": 2}
    assert len(set.union(*people.values())) == 20


def make_ckplus(root: Path, labels: object, *frames: str) -> Path:
    for frame in frames:
        save_picture(root / "imgs" / frame)
    (root / "emotion_labels.pkl").write_bytes(pickle.dumps(labels, protocol=3))
    return root


def test_ckplus48_gives_each_frame_its_sequence_label(tmp_path: Path) -> None:
    numbers = {1: "anger", 2: "contempt", 3: "disgust", 4: "fear", 5: "happiness", 6: "sadness"}
    numbers |= {7: "surprise", -1: "neutral"}
    labels = {f"S005_{index:03}": float(number) for index, number in enumerate(numbers)}
    frames = [f"{sequence}_00000011.png" for sequence in labels]
    root = make_ckplus(tmp_path, labels, *frames, "KA_AN_39.png")
    found = load_samples("ckplus48", root, "all")
    assert shown(found) == dict(zip(frames, numbers.values(), strict=True))
    assert {sample.subject for sample in found} == {"S005"}


@pytest.mark.parametrize("label", [np.float64(5), np.int64(5), np.array([5]), np.array(5.0, np.float32)])
def test_ckplus48_labels_may_be_numpy_numbers(tmp_path: Path, label: object) -> None:
    root = make_ckplus(tmp_path, {"S005_001": label}, "S005_001_00000011.png")
    assert shown(load_samples("ckplus48", root, "all")) == {"S005_001_00000011.png": "happiness"}


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({}, r"no class for S005_001_00000011\.png"),
        ({"S005_001": 9}, r"no class for S005_001_00000011\.png: its label is 9"),
        ({"S005_001": 1.5}, "'S005_001' with 1.5, which is no whole number"),
        ({"S005_001": float("nan")}, "which is no whole number"),
        ({"S005_001": "happy"}, "which is no whole number"),
        ([5], "does not hold a mapping"),
        ({"S005_001": np.array([None])}, "asks for a numpy array of type"),
    ],
)
def test_ckplus48_refuses_labels_it_cannot_use(tmp_path: Path, labels: object, reason: str) -> None:
    root = make_ckplus(tmp_path, labels, "S005_001_00000011.png")
    with pytest.raises(DatasetError, match=reason):
        load_samples("ckplus48", root, "all")


class Trap:
    """Unpickled by an ordinary unpickler, this makes a folder."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


def test_a_label_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    labels = {"S005_001": Trap(os.mkdir, str(sprung))}
    root = make_ckplus(tmp_path, labels, "S005_001_00000011.png")
    with pytest.raises(DatasetError, match=rf"asks for {os.name}\.mkdir, which labels never need"):
        load_samples("ckplus48", root, "all")
    assert not sprung.exists()


@pytest.mark.parametrize("call", [eval, getattr, print, np.load, np.ndarray])
def test_no_other_function_is_called_from_a_label_file(tmp_path: Path, call: Callable[..., object]) -> None:
    root = make_ckplus(tmp_path, {"S005_001": Trap(call, "1")}, "S005_001_00000011.png")
    with pytest.raises(DatasetError, match=r"emotion_labels\.pkl"):
        load_samples("ckplus48", root, "all")


class ForgedType:
    """A numpy type of whole numbers that claims to hold references: reading it with numpy itself crashes."""

    def __reduce__(self) -> tuple[object, ...]:
        return np.dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, 63)


def test_a_forged_numpy_type_does_not_reach_numpy(tmp_path: Path) -> None:
    make_number = np.int64(5).__reduce__()[0]
    assert callable(make_number)
    forged = Trap(make_number, ForgedType(), (5).to_bytes(8, "little"))
    root = make_ckplus(tmp_path, {"S005_001": forged}, "S005_001_00000011.png")
    assert shown(load_samples("ckplus48", root, "all")) == {"S005_001_00000011.png": "happiness"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle at all",
        pickle.dumps({"S005_001": 5.0})[:-4],
        b"\x80\x03}r\xff\xff\xff\x7f.",  # a memo position of two thousand million
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",  # a byte array of an exabyte
        b"\x80\x02}K\x01\x85"
        + b"q\x01h\x01\x86" * 40
        + b"K\x01s.",  # a tuple, forty times in each other twice
        b"\x80\x02}K\x01\x85" + b"2\x86" * 40 + b"K\x01s.",
    ],
)
def test_a_broken_label_file_is_refused(tmp_path: Path, content: bytes) -> None:
    root = make_ckplus(tmp_path, {}, "S005_001_00000011.png")
    (root / "emotion_labels.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match=r"emotion_labels\.pkl is no sound pickle"):
        load_samples("ckplus48", root, "all")


def test_a_label_that_is_endless_to_print_is_refused_in_a_sentence(tmp_path: Path) -> None:
    lists: list[object] = []
    for _ in range(40):
        lists = [lists, lists]
    root = make_ckplus(tmp_path, {"S005_001": lists}, "S005_001_00000011.png")
    with pytest.raises(DatasetError, match="which is no whole number") as refused:
        load_samples("ckplus48", root, "all")
    assert len(str(refused.value)) < 1000


def test_a_label_file_of_unlikely_size_is_not_read(tmp_path: Path) -> None:
    root = make_ckplus(tmp_path, {"S005_001": "x" * 5_000_000}, "S005_001_00000011.png")
    with pytest.raises(DatasetError, match="is longer than"):
        load_samples("ckplus48", root, "all")


def test_ckplus48_without_its_label_file_says_so(tmp_path: Path) -> None:
    save_picture(tmp_path / "imgs" / "S005_001_00000011.png")
    with pytest.raises(DatasetError, match=r"emotion_labels\.pkl cannot be read: No such file"):
        load_samples("ckplus48", tmp_path, "all")


# --- CK+ as it is handed out


def make_sequence(root: Path, sequence: str, frames: int, emotion: str | None = None) -> None:
    """Make S005/001, say, of so many frames; `emotion` is what its emotion file holds."""
    name = sequence.replace("/", "_")
    for number in range(1, frames + 1):
        save_picture(root / "cohn-kanade-images" / sequence / f"{name}_{number:08}.png")
    (root / "cohn-kanade-images" / sequence / ".DS_Store").touch()
    folder = root / "Emotion" / sequence
    folder.mkdir(parents=True)
    if emotion is not None:
        (folder / f"{name}_{frames:08}_emotion.txt").write_text(emotion)


def test_ckplus_labels_the_peak_and_takes_the_first_frame_as_neutral(tmp_path: Path) -> None:
    make_sequence(tmp_path, "S005/001", 11, "   3.0000000e+00\n")
    make_sequence(tmp_path, "S005/002", 6)  # without an emotion, as most are
    make_sequence(tmp_path, "S010/002", 4, "   7.0000000e+00\n")
    found = load_samples("ckplus", tmp_path, "all")
    assert shown(found) == {
        "S005_001_00000001.png": "neutral",
        "S005_001_00000009.png": "disgust",
        "S005_001_00000010.png": "disgust",
        "S005_001_00000011.png": "disgust",
        "S010_002_00000001.png": "neutral",
        "S010_002_00000002.png": "surprise",
        "S010_002_00000003.png": "surprise",
        "S010_002_00000004.png": "surprise",
    }
    assert [sample.subject for sample in found] == ["S005"] * 4 + ["S010"] * 4
    assert all(sample.photo for sample in found)


def test_ckplus_knows_all_seven_emotions(tmp_path: Path) -> None:
    words = ["anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"]
    for number in range(1, 8):
        make_sequence(tmp_path, f"S005/00{number}", 4, f"   {number}.0000000e+00\n")
    labels = shown(load_samples("ckplus", tmp_path, "all"))
    assert [labels[f"S005_00{number}_00000004.png"] for number in range(1, 8)] == words


@pytest.mark.parametrize("emotion", ["", "happy", "   8.0000000e+00\n", "   1.5000000e+00\n", "1.0e+01"])
def test_ckplus_refuses_an_emotion_file_without_a_class(tmp_path: Path, emotion: str) -> None:
    make_sequence(tmp_path, "S005/001", 11, emotion)
    with pytest.raises(DatasetError, match=r"S005_001_00000011_emotion\.txt holds no number of an emotion"):
        load_samples("ckplus", tmp_path, "all")


def test_ckplus_names_a_labelled_sequence_without_frames(tmp_path: Path) -> None:
    make_sequence(tmp_path, "S005/001", 3, "   3.0000000e+00\n")
    with pytest.raises(DatasetError, match=r"S005.001 is labelled disgust but holds 3 frames"):
        load_samples("ckplus", tmp_path, "all")


def test_ckplus_names_the_folder_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "cohn-kanade-images").mkdir()
    with pytest.raises(DatasetError, match=r"Emotion, which is missing"):
        load_samples("ckplus", tmp_path, "all")


# --- ExpW


def made_expw(root: Path, *lines: str) -> Path:
    (root / "label").mkdir(parents=True)
    (root / "label" / "label.lst").write_text("".join(f"{line}\n" for line in lines))
    for line in lines:
        save_picture(root / "image" / "origin" / line.split()[0])
    return root


def test_expw_tells_faces_of_one_photo_apart_by_their_boxes(tmp_path: Path) -> None:
    root = made_expw(tmp_path, "awe_35.jpg 0 28 113 226 141 22.9362 5", "awe_35.jpg 1 53 51 372 373 13.9 2")
    first, second = load_samples("expw", root, "all")
    assert [EXPRESSIONS[sample.expression] for sample in (first, second)] == ["surprise", "fear"]
    assert first.path == second.path
    assert first.box == (113, 28, 226, 141)  # left, top, right, bottom
    assert second.box == (51, 53, 372, 373)
    assert first.photo


def test_expw_keeps_the_faces_of_one_photo_in_one_split(tmp_path: Path) -> None:
    lines = [f"p{n}.jpg {face} 0 0 40 40 50.0 {n % 7}" for n in range(30) for face in (0, 1)]
    root = made_expw(tmp_path, *lines)
    pictures = [set(names(load_samples("expw", root, split))) for split in SPLITS]
    assert [len(part) for part in pictures] == [24, 3, 3]
    assert len(set.union(*pictures)) == 30


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("face.jpg 0 28 113 226 141 22.9 7", r"Line 1 of .*label\.lst is not a picture, .*22\.9 7'"),
        ("face.jpg 0 28 113 226 141 22.9", r"Line 1 of .* is not a picture"),
        ("face.jpg 0 -8 113 226 141 22.9 1", r"Line 1 of .* is not a picture"),
        ("face.jpg 0 28 113 113 141 22.9 1", r"Line 1 of .* has a box without a size"),
    ],
)
def test_expw_refuses_a_line_that_tells_no_face(line: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=reason):
        load_samples("expw", made_expw(tmp_path, line), "all")


def test_expw_names_the_picture_that_is_missing(tmp_path: Path) -> None:
    root = made_expw(tmp_path, "face.jpg 0 28 113 226 141 22.9 1")
    (root / "image" / "origin" / "face.jpg").unlink()
    with pytest.raises(DatasetError, match=r"Line 1 of .* names the picture 'face\.jpg', which is missing"):
        load_samples("expw", root, "all")


# --- MMI


def make_session(root: Path, number: int, film: str, metadata: str, frames: int, view: int = 0) -> Path:
    folder = root / "Sessions" / str(number)
    folder.mkdir(parents=True)
    (folder / "session.xml").write_text(f'<session sessionId="{number}" view="{view}"/>')
    (folder / f"{film}.xml").write_text(metadata)
    (folder / f"{film}.avi").write_bytes(b"a film")
    for frame in range(1, frames + 1):
        save_picture(folder / film / f"{frame:05}.png")
    return folder


def emotion_metadata(value: str) -> str:
    return f'<annotation><Metatag Name="Emotion" Value="{value}"/></annotation>'


def test_mmi_labels_the_middle_of_a_film_and_takes_its_first_frame_as_neutral(tmp_path: Path) -> None:
    make_session(tmp_path, 3, "S001-108", emotion_metadata("4"), frames=9)
    (found_neutral, *found_apex) = load_samples("mmi", tmp_path, "all")
    assert shown([found_neutral]) == {"00001.png": "neutral"}
    assert shown(found_apex) == dict.fromkeys(("00004.png", "00005.png", "00006.png"), "happiness")
    assert {sample.subject for sample in (found_neutral, *found_apex)} == {"MMI S001"}
    assert found_neutral.photo


def test_mmi_knows_six_emotions_and_passes_the_others_over(tmp_path: Path) -> None:
    for number in range(1, 10):
        make_session(tmp_path, number, f"S00{number}-100", emotion_metadata(str(number)), frames=4)
    (make_session(tmp_path, 10, "S010-001", "<ActionUnit/>", frames=4) / "S010-001-oao_aucs.xml").touch()
    make_session(tmp_path, 11, "S021-100", emotion_metadata("4"), frames=4, view=1)
    by_person = {
        sample.subject: EXPRESSIONS[sample.expression]
        for sample in load_samples("mmi", tmp_path, "all")
        if EXPRESSIONS[sample.expression] != "neutral"
    }
    words = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    assert by_person == {f"MMI S00{number}": word for number, word in enumerate(words, start=1)}


def test_mmi_frames_may_lie_beside_the_film(tmp_path: Path) -> None:
    folder = make_session(tmp_path, 3, "S001-108", emotion_metadata("4"), frames=0)
    for frame in range(1, 6):
        save_picture(folder / f"S001-108_{frame:05}.jpg")
    assert names(load_samples("mmi", tmp_path, "all")) == [f"S001-108_0000{n}.jpg" for n in (1, 2, 3, 4)]


def test_mmi_says_how_to_take_a_film_apart(tmp_path: Path) -> None:
    make_session(tmp_path, 3, "S001-108", emotion_metadata("4"), frames=0)
    with pytest.raises(DatasetError, match=r"S001-108\.avi must be taken apart .*ffmpeg -i S001-108\.avi"):
        load_samples("mmi", tmp_path, "all")


def test_mmi_names_a_session_with_too_few_frames(tmp_path: Path) -> None:
    make_session(tmp_path, 3, "S001-108", emotion_metadata("4"), frames=3)
    with pytest.raises(DatasetError, match=r"Sessions.3 holds 3 frames: 4 are needed"):
        load_samples("mmi", tmp_path, "all")


def test_mmi_is_read_from_the_old_folder_with_its_own_numbers(tmp_path: Path) -> None:
    words = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    for number in range(6):
        save_picture(tmp_path / "imgs" / f"S001_10{number}_040.png")
    labels = {f"S001_10{number}": number for number in range(6)}
    (tmp_path / "emotion_labels.pkl").write_bytes(pickle.dumps(labels))
    assert tuple(shown(load_samples("mmi", tmp_path, "all")).values()) == words


# --- AffectNet


AFFECTNET_WORDS = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
AFFECTNET_COLUMNS = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression"


def make_affectnet_table(root: Path, name: str, rows: list[tuple[str, object]], head: bool = True) -> None:
    lines = [f"{AFFECTNET_COLUMNS},valence,arousal"] if head else []
    lines += [f"{picture},1,1,9,9,3.5;4.5,{number},-0.1,0.2" for picture, number in rows]
    table = root / name
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("inner", ["", "Manually_Annotated_file_lists/"])
def test_affectnet_is_read_by_its_tables(tmp_path: Path, head: bool, inner: str) -> None:
    images = tmp_path / "Manually_Annotated_Images"
    for number in range(8):
        save_picture(images / "103" / f"{number}.jpg")
    save_picture(images / "7" / "valid.jpg")
    rows: list[tuple[str, object]] = [(f"103/{number}.jpg", number) for number in range(8)]
    left_out: list[tuple[str, object]] = [("103/none.jpg", 8), ("103/unsure.jpg", 9), ("103/no_face.jpg", 10)]
    make_affectnet_table(tmp_path, f"{inner}training.csv", rows + left_out, head)
    make_affectnet_table(tmp_path, f"{inner}validation.csv", [("7/valid.jpg", 1)], head)
    assert list(shown(load_samples("affectnet", tmp_path, "train")).values()) == AFFECTNET_WORDS
    assert shown(load_samples("affectnet", tmp_path, "valid")) == {"valid.jpg": "happiness"}
    assert len(load_samples("affectnet", tmp_path, "all")) == 9
    assert {(sample.photo, sample.box) for sample in load_samples("affectnet", tmp_path, "all")} == {
        (True, (1, 1, 10, 10))
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("1/gone.jpg", 1), r"names 2 pictures, but 1 are missing, first .*gone\.jpg"),
        (("1/here.jpg", "happy"), r"Line 3 of .*training\.csv gives no number of an expression but 'happy'"),
        (("1/here.jpg", ""), "Line 3 of .*gives no number"),
        (("../here.jpg", 1), "Line 3 of .*names no picture under"),
        (("/here.jpg", 1), "Line 3 of .*names no picture under"),
        (("", 1), "Line 3 of .*names no picture under"),
    ],
)
def test_affectnet_names_the_row_it_cannot_use(tmp_path: Path, row: tuple[str, object], reason: str) -> None:
    save_picture(tmp_path / "Manually_Annotated_Images" / "1" / "here.jpg")
    save_picture(tmp_path / "here.jpg")
    make_affectnet_table(tmp_path, "training.csv", [("1/here.jpg", 1), row])
    with pytest.raises(DatasetError, match=reason):
        load_samples("affectnet", tmp_path, "train")


@pytest.mark.parametrize(
    ("box", "reason"),
    [("1,one,9,9", "Line 2 of .*gives no box of a face: '1, one"), ("1,1,0,9", "has a box without a size")],
)
def test_affectnet_names_the_box_it_cannot_use(tmp_path: Path, box: str, reason: str) -> None:
    save_picture(tmp_path / "Manually_Annotated_Images" / "1" / "here.jpg")
    (tmp_path / "training.csv").write_text(f"{AFFECTNET_COLUMNS}\n1/here.jpg,{box},3.5;4.5,1\n")
    with pytest.raises(DatasetError, match=reason):
        load_samples("affectnet", tmp_path, "train")


def make_affectnet_arrays(folder: Path, numbers: list[object]) -> None:
    (folder / "annotations").mkdir(parents=True)
    for index, number in enumerate(numbers):
        save_picture(folder / "images" / f"{index}.jpg")
        np.save(folder / "annotations" / f"{index}_exp.npy", np.array(number))
        np.save(folder / "annotations" / f"{index}_val.npy", np.array("0.5"))


def test_affectnet_is_read_by_its_arrays(tmp_path: Path) -> None:
    make_affectnet_arrays(tmp_path / "train_set", ["0", "1", "2", "3", "4", "5", "6", "7", "8", 4, 2.0])
    make_affectnet_arrays(tmp_path / "val_set", ["1"])
    labels = shown(load_samples("affectnet", tmp_path, "train"))
    assert [labels[f"{number}.jpg"] for number in range(8)] == AFFECTNET_WORDS
    assert "8.jpg" not in labels
    assert (labels["9.jpg"], labels["10.jpg"]) == ("fear", "sadness")
    assert shown(load_samples("affectnet", tmp_path, "valid")) == {"0.jpg": "happiness"}


def test_affectnet7_is_affectnet_without_contempt(tmp_path: Path) -> None:
    make_affectnet_arrays(tmp_path / "train_set", ["0", "1", "2", "3", "4", "5", "6", "7"])
    words = list(shown(load_samples("affectnet7", tmp_path, "train")).values())
    assert sorted(words) == sorted(set(AFFECTNET_WORDS) - {"contempt"})


def test_affectnet_has_no_test_split(tmp_path: Path) -> None:
    make_affectnet_arrays(tmp_path / "train_set", ["0"])
    with pytest.raises(EmptySplitError, match="was never published"):
        load_samples("affectnet", tmp_path, "test")


def test_affectnet_refuses_a_label_that_would_run_code(tmp_path: Path) -> None:
    make_affectnet_arrays(tmp_path / "train_set", ["0"])
    sprung = tmp_path / "sprung"
    label = tmp_path / "train_set" / "annotations" / "0_exp.npy"
    np.save(label, np.array([Trap(os.mkdir, str(sprung))], object), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"0_exp\.npy cannot be read"):
        load_samples("affectnet", tmp_path, "train")
    assert not sprung.exists()


@pytest.mark.parametrize("content", [None, b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_affectnet_names_a_label_that_is_missing_or_broken(tmp_path: Path, content: bytes | None) -> None:
    make_affectnet_arrays(tmp_path / "train_set", ["0"])
    label = tmp_path / "train_set" / "annotations" / "0_exp.npy"
    label.unlink()
    if content is not None:
        label.write_bytes(content)
    with pytest.raises(DatasetError, match=r"0_exp\.npy cannot be read"):
        load_samples("affectnet", tmp_path, "train")


@pytest.mark.parametrize("number", [["1", "2"], "happy", float("nan"), -1])
def test_affectnet_names_a_label_that_is_no_number(tmp_path: Path, number: object) -> None:
    make_affectnet_arrays(tmp_path / "train_set", [number])
    with pytest.raises(DatasetError, match=r"0_exp\.npy (cannot be read|gives no number)"):
        load_samples("affectnet", tmp_path, "train")


def test_affectnet_without_either_form_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"training\.csv beside Manually_Annotated_Images"):
        load_samples("affectnet", tmp_path, "train")


# --- RAF-DB


def make_rafdb(base: Path, lines: list[str]) -> None:
    (base / "EmoLabel").mkdir(parents=True)
    (base / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    for line in lines:
        save_picture(base / "Image" / "aligned" / f"{line.split('.')[0]}_aligned.jpg")


@pytest.mark.parametrize("inner", ["", "basic"])
def test_rafdb_is_read_by_its_list(tmp_path: Path, inner: str) -> None:
    words = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    make_rafdb(tmp_path / inner, [f"test_000{number}.jpg {number}" for number in range(1, 8)])
    found = load_samples("rafdb", tmp_path, "test")
    assert shown(found) == {f"test_000{n}_aligned.jpg": word for n, word in enumerate(words, start=1)}


def test_rafdb_keeps_a_tenth_of_train_for_validation(tmp_path: Path) -> None:
    make_rafdb(tmp_path, [f"train_{number:05}.jpg 5" for number in range(30)] + ["test_0001.jpg 4"])
    parts = {split: names(load_samples("rafdb", tmp_path, split)) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 27, "valid": 3, "test": 1}
    assert len({name for part in parts.values() for name in part}) == 31
    assert len(load_samples("rafdb", tmp_path, "all")) == 31


@pytest.mark.parametrize("line", ["train_00001.jpg", "train_00001.jpg 8", "../x.jpg 1", "train_00001.png 1"])
def test_rafdb_names_the_line_that_is_malformed(tmp_path: Path, line: str) -> None:
    make_rafdb(tmp_path, ["train_00000.jpg 5", line])
    with pytest.raises(DatasetError, match=r"Line 2 of .*list_patition_label\.txt is no picture and class"):
        load_samples("rafdb", tmp_path, "train")


def test_rafdb_counts_missing_pictures_and_names_the_first(tmp_path: Path) -> None:
    make_rafdb(tmp_path, ["train_00000.jpg 5", "train_00001.jpg 5"])
    (tmp_path / "Image" / "aligned" / "train_00001_aligned.jpg").unlink()
    with pytest.raises(
        DatasetError, match=r"names 2 pictures, but 1 are missing, first .*train_00001_aligned"
    ):
        load_samples("rafdb", tmp_path, "train")


# --- decoding


def decode_one(path: Path, size: int = 4, colour: bool = True) -> Any:
    return load_faces(one_face(path), size, colour)[0]


def test_faces_come_as_one_array_in_the_order_of_the_samples(tmp_path: Path) -> None:
    samples = [one_face(save_picture(tmp_path / f"{grey}.png", grey))[0] for grey in range(50)]
    faces = load_faces(samples, 32, colour=False)
    assert faces.dtype == np.uint8
    assert faces.shape == (50, 32, 32, 1)
    assert faces.mean(axis=(1, 2, 3)).tolist() == list(range(50))


def test_the_face_is_cut_out_of_a_whole_photo(tmp_path: Path, photos: Path) -> None:
    photo = Image.open(photos / "astronaut.png")
    photo.save(tmp_path / "photo.png")
    photo.crop((60, 0, 400, 300)).save(tmp_path / "nearer.png")
    samples = [replace(one_face(tmp_path / name)[0], photo=True) for name in ("photo.png", "nearer.png")]
    far, near = load_faces(samples, 32, colour=True).astype(int)
    assert np.abs(far - near).mean() < 10  # the same face, wherever it was in the picture
    assert np.abs(far - decode_one(tmp_path / "photo.png", 32)).mean() > 30
    assert load_faces(samples, 32, colour=False).shape == (2, 32, 32, 1)


def test_of_several_faces_the_one_in_the_box_is_cut_out(tmp_path: Path, photos: Path) -> None:
    face = Image.open(photos / "astronaut.png").convert("RGB").crop((130, 20, 330, 220))
    pair = Image.new("RGB", (520, 240), (120, 120, 120))
    pair.paste(face, (20, 20))
    pair.paste(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (300, 20))
    pair.save(tmp_path / "pair.png")
    (sample,) = one_face(tmp_path / "pair.png")
    boxes = [(60, 50, 170, 190), (350, 50, 460, 190)]
    left, right = load_faces([replace(sample, photo=True, box=box) for box in boxes], 32, colour=True).astype(
        int
    )
    assert np.abs(left - right[:, ::-1]).mean() < 10  # the same face, mirrored
    assert np.abs(left - right).mean() > 15


@pytest.mark.parametrize(
    "box",
    [(48, 0, 60, 9), (0, 48, 9, 60), (-9, 0, 0, 9), (0, -9, 9, 0), (0, 0, 10**6, 9), (0, 0, 9, 10**300)],
)
def test_a_box_that_is_not_in_its_photo_is_named_and_no_black_picture(
    tmp_path: Path, box: tuple[int, int, int, int]
) -> None:
    (face,) = one_face(save_picture(tmp_path / "photo.png"))
    with pytest.raises(DatasetError, match=r"photo\.png, 48 × 48 pixels, has no face at"):
        load_faces([replace(face, photo=True, box=box)], 16, True)


def test_progress_is_reported_for_every_face(tmp_path: Path) -> None:
    samples = one_face(save_picture(tmp_path / "face.png")) * 3
    seen: list[tuple[int, int]] = []
    load_faces(samples, 8, False, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_grey_pictures_have_three_equal_channels_in_colour(tmp_path: Path) -> None:
    assert (decode_one(save_picture(tmp_path / "face.png", 90)) == 90).all()


def test_colour_becomes_luminance_when_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "red.png")
    assert (decode_one(tmp_path / "red.png") == (255, 0, 0)).all()
    assert (decode_one(tmp_path / "red.png", colour=False) == 76).all()


@pytest.mark.parametrize("alpha", [0, 128, 255])
@pytest.mark.parametrize("colour", [True, False])
def test_alpha_is_dropped_and_changes_no_colour(tmp_path: Path, alpha: int, colour: bool) -> None:
    Image.new("RGBA", (48, 48), (90, 90, 90, alpha)).save(tmp_path / "face.png")
    assert (decode_one(tmp_path / "face.png", colour=colour) == 90).all()


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    picture = Image.new("RGB", (9, 9), (200, 100, 50)).convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(tmp_path / "palette.png", transparency=0)
    assert (decode_one(tmp_path / "palette.png") == (200, 100, 50)).all()


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 100 * 256, np.uint16)).save(tmp_path / "deep.png")
    assert (decode_one(tmp_path / "deep.png") == 100).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_grey_of_thirty_two_bits_is_refused_and_not_taken_for_white(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.full((9, 9), 1000, kind)).save(tmp_path / "face.tif")
    with pytest.raises(DatasetError, match=r"face\.tif cannot be read: of grey values of 32 bits"):
        decode(tmp_path / "face.tif", colour=False)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "RGBX"])
def test_a_picture_of_other_colours_is_read_or_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (9, 9)).save(tmp_path / "face.tif")
    for colour in (True, False):
        with suppress(DatasetError):
            assert decode(tmp_path / "face.tif", colour).mode == ("RGB" if colour else "L")


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16] = 255  # bright above, in a camera that was held upside down
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    face = decode_one(tmp_path / "turned.png", 8)
    assert face[:2].max() < 10
    assert face[-2:].min() > 245


def test_a_picture_with_odd_notes_is_turned_all_the_same(tmp_path: Path) -> None:
    pixels = np.zeros((32, 16), np.uint8)
    pixels[:16] = 255
    # Two entries: to be turned to the right, and the software's name, which is a fraction here.
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x0131, 5, 1, 38)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<III", 0, 1, 3)
    Image.fromarray(pixels).save(tmp_path / "odd.jpg", exif=exif)
    assert decode_one(tmp_path / "odd.jpg", 8)[:, -2:].min() > 245


def test_a_picture_that_is_not_square_keeps_its_middle_and_is_not_stretched(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (decode_one(tmp_path / "wide.png", 10) == 200).all()


def test_shrinking_averages_over_the_area(tmp_path: Path) -> None:
    chequered = (np.indices((64, 64)).sum(axis=0) % 2 * 200).astype(np.uint8)
    Image.fromarray(chequered).save(tmp_path / "chequered.png")
    assert np.abs(decode_one(tmp_path / "chequered.png", 8).astype(int) - 100).max() < 8


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:600])
    good = one_face(save_picture(tmp_path / "good.png"))
    with pytest.raises(DatasetError, match=rf"cut\.{suffix} cannot be read"):
        load_faces([*good, *one_face(path), *good], 8, colour=True)


@pytest.mark.parametrize(
    "content", [b"", b"text by the name of png", b"<svg xmlns='x'/>", b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "face.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"face\.png cannot be read"):
        load_faces(one_face(tmp_path / "face.png"), 8, colour=True)


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.png cannot be read"):
        load_faces(one_face(tmp_path / "gone.png"), 8, colour=True)
