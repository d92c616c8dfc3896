import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml.datasets import KINDS, DatasetError, Sample, load_faces, load_samples
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
    with pytest.raises(DatasetError, match=r"'mnist': known are ferplus, folders, jaffe, yale, ckplus48"):
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

    def load(self, split: str) -> list[Sample]:
        return load_samples("ferplus", self.root, split)


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
    with pytest.raises(DatasetError, match=r"names 3 images, but 2 are missing, first gone\.png"):
        ferplus.load("test")


def test_ferplus_does_not_leave_its_folder(ferplus: FerPlus) -> None:
    save_picture(ferplus.root / "outside.png")
    ferplus.write("test", '../outside.png,"(0, 0, 48, 48)",0,10,0,0,0,0,0,0,0,0')
    with pytest.raises(DatasetError, match="1 are missing"):
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
    assert found == load_samples("jaffe", tmp_path / "jaffe_db", "all")


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
    assert load_faces(found, 8, colour=False).shape == (4, 8, 8, 1)


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
        ({}, r"no class of CK\+ for S005_001_00000011\.png"),
        ({"S005_001": 9}, r"no class of CK\+ for S005_001_00000011\.png: its label is 9"),
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
    ],
)
def test_a_broken_label_file_is_refused(tmp_path: Path, content: bytes) -> None:
    root = make_ckplus(tmp_path, {}, "S005_001_00000011.png")
    (root / "emotion_labels.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match=r"emotion_labels\.pkl is no sound pickle"):
        load_samples("ckplus48", root, "all")


def test_a_label_file_of_unlikely_size_is_not_read(tmp_path: Path) -> None:
    root = make_ckplus(tmp_path, {"S005_001": "x" * 5_000_000}, "S005_001_00000011.png")
    with pytest.raises(DatasetError, match="is longer than"):
        load_samples("ckplus48", root, "all")


def test_ckplus48_without_its_label_file_says_so(tmp_path: Path) -> None:
    save_picture(tmp_path / "imgs" / "S005_001_00000011.png")
    with pytest.raises(DatasetError, match=r"emotion_labels\.pkl cannot be read: No such file"):
        load_samples("ckplus48", tmp_path, "all")


# --- decoding


def decode_one(path: Path, size: int = 4, colour: bool = True) -> Any:
    return load_faces(one_face(path), size, colour)[0]


def test_faces_come_as_one_array_in_the_order_of_the_samples(tmp_path: Path) -> None:
    samples = [one_face(save_picture(tmp_path / f"{grey}.png", grey))[0] for grey in range(50)]
    faces = load_faces(samples, 32, colour=False)
    assert faces.dtype == np.uint8
    assert faces.shape == (50, 32, 32, 1)
    assert faces.mean(axis=(1, 2, 3)).tolist() == list(range(50))


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


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16] = 255  # bright above, in a camera that was held upside down
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    face = decode_one(tmp_path / "turned.png", 8)
    assert face[:2].max() < 10
    assert face[-2:].min() > 245


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
