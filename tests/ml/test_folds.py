"""Folds made anew, read from lists, and refused where they leak."""

import pickle
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.datasets import DatasetError, Sample, load_samples
from ml.folds import (
    Fold,
    LeakError,
    NoFoldListsError,
    clean_folds,
    final_fold,
    find_leaks,
    make_folds,
    read_fold_lists,
    refuse_leaks,
    split_fold,
)
from ml.near_duplicates import near_pairs, prints_of
from tests.figures import Figure

CERTAIN = (1.0,) + (0.0,) * 7
PEOPLE = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
WORDS = {"AN": 1, "DI": 3, "FE": 4}


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def sample(path: Path, expression: int = 0, subject: str | None = None) -> Sample:
    return Sample(path, expression, CERTAIN, subject)


def names(samples: tuple[Sample, ...]) -> list[str]:
    return [one.path.name for one in samples]


def subjects(samples: tuple[Sample, ...]) -> set[str | None]:
    return {one.subject for one in samples}


@pytest.fixture
def people(tmp_path: Path) -> list[Sample]:
    """Twelve people with two faces of each of three expressions."""
    return [
        sample(
            draw(tmp_path / f"{person}_{expression}_{take}.png", 100 * person + 10 * expression + take), *who
        )
        for person in range(12)
        for expression in range(3)
        for take in range(2)
        for who in [(expression, f"person {person}")]
    ]


@pytest.fixture
def nobody(people: list[Sample]) -> list[Sample]:
    """The same faces, but nobody knows whose."""
    return [sample(one.path, one.expression) for one in people]


# --- made anew


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nobody_stands_on_both_sides_of_a_made_fold(people: list[Sample], seed: int) -> None:
    folds = make_folds(people, 4, seed)
    assert [fold.number for fold in folds] == [0, 1, 2, 3]
    assert not any(subjects(fold.train) & subjects(fold.test) for fold in folds)
    assert find_leaks(folds) == []


def test_every_sample_is_held_out_once_and_trained_on_otherwise(people: list[Sample]) -> None:
    folds = make_folds(people, 5, seed=0)
    assert Counter(one for fold in folds for one in fold.test) == Counter(people)
    assert all(Counter(fold.train + fold.test) == Counter(people) for fold in folds)


def test_classes_are_spread_evenly_over_made_folds(people: list[Sample], nobody: list[Sample]) -> None:
    for samples in (people, nobody):
        for fold in make_folds(samples, 4, seed=0):
            assert Counter(one.expression for one in fold.test) == {0: 6, 1: 6, 2: 6}


def test_the_seed_decides_the_folds(people: list[Sample], nobody: list[Sample]) -> None:
    for samples in (people, nobody):
        assert make_folds(samples, 4, seed=7) == make_folds(samples, 4, seed=7)
        assert make_folds(samples, 4, seed=7) != make_folds(samples, 4, seed=8)


def test_copies_of_a_picture_stay_together(people: list[Sample], nobody: list[Sample]) -> None:
    for samples in (people, nobody):
        copies = []
        for one in samples[::5]:
            path = one.path.with_name(f"copy of {one.path.name}")
            path.write_bytes(one.path.read_bytes())
            copies.append(sample(path, one.expression, one.subject))
        assert find_leaks(make_folds([*samples, *copies], 4, seed=0)) == []


def test_nearly_the_same_pictures_stay_together(
    people: list[Sample], nobody: list[Sample], figure: Figure
) -> None:
    for samples in (people, nobody):
        darker = []
        for place, one in enumerate(samples[::5]):
            path = one.path.with_name(f"darker {one.path.name}")
            Image.open(one.path).point(lambda value: 0.9 * value).save(path)
            darker.append(sample(path, one.expression, one.subject and f"somebody {place}"))
        folds = make_folds([*samples, *darker], 4, seed=0)
        assert find_leaks(folds) == []
        for fold in folds:
            sides = [*fold.train, *fold.test]
            pairs = np.concatenate([near for _, near in near_pairs(prints_of([one.path for one in sides]))])
            near = {(first < len(fold.train), second < len(fold.train)) for _, first, second in pairs}
            assert near == {(True, True), (False, False)}
    figure(
        "Folds never share an image, a near-duplicate or a subject",
        f"{len(people)} faces of 12 people and {len(darker)} darker copies under other names, in 4 folds, "
        "with names and without: nothing on both sides of any",
    )


def test_pictures_that_are_compared_part_by_part_are_the_same_ones(
    people: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    for one, other in ((0, 40), (30, 31), (70, 71)):
        people[other].path.write_bytes(people[one].path.read_bytes())
    prints = prints_of([one.path for one in people])
    [(done, at_once)] = near_pairs(prints)
    monkeypatch.setattr("ml.near_duplicates.COMPARED_AT_ONCE", 7 * len(prints))
    parts = list(near_pairs(prints))
    assert (done, parts[-1][0], len(parts)) == (72, 72, 11)
    assert np.concatenate([pairs for _, pairs in parts]).tolist() == at_once.tolist()
    assert at_once.tolist() == [[0, 0, 40], [0, 30, 31], [0, 70, 71]]


def test_clean_folds_are_not_trained_on_who_is_held_out_nor_on_what_nearly_is(tmp_path: Path) -> None:
    first, other, third = (draw(tmp_path / f"{number}.png", number) for number in (1, 2, 3))
    train = [sample(other, subject="B"), sample(third, subject="A")]
    for name in ("0 darker.png", "9 darker.png"):
        Image.open(first).point(lambda value: 0.9 * value).save(tmp_path / name)
        train.append(sample(tmp_path / name, subject=name))
    (fold,) = clean_folds([Fold(0, tuple(train), (sample(first, subject="A"),))])
    assert names(fold.train) == ["2.png"]


def test_two_names_for_one_picture_are_kept_together(people: list[Sample]) -> None:
    """Then its two people are held out together, whole."""
    first, last = people[0], people[-1]
    last.path.write_bytes(first.path.read_bytes())
    folds = make_folds(people, 4, seed=0)
    assert find_leaks(folds) == []
    assert [{first.subject, last.subject} <= subjects(fold.test) for fold in folds].count(True) == 1


def test_too_many_folds_for_the_people_are_refused(people: list[Sample], nobody: list[Sample]) -> None:
    with pytest.raises(DatasetError, match="12 people are too few for 13 folds: ask for 12 at most"):
        make_folds(people, 13, seed=0)
    with pytest.raises(DatasetError, match="72 different pictures are too few for 73 folds"):
        make_folds(nobody, 73, seed=0)
    with pytest.raises(DatasetError, match="at least two folds, not 1"):
        make_folds(people, 1, seed=0)
    # Two pictures of each expression are no three folds, though there are six pictures.
    for samples in (people[:6], nobody[:6]):
        apart = [replace(one, subject=one.subject and f"{n}") for n, one in enumerate(samples)]
        with pytest.raises(DatasetError, match=r"3 folds cannot be made: .* number of members in each class"):
            make_folds(apart, 3, seed=0)


def test_a_picture_that_cannot_be_read_is_named(people: list[Sample]) -> None:
    people[3].path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"0_1_1\.png cannot be read"):
        make_folds(people, 4, seed=0)


# --- read from lists


def make_old_jaffe(root: Path, leaking: tuple[int, ...] = (3, 4)) -> Path:
    """The old JAFFE folder in small: a person a fold; in `leaking` ones the person is trained on as well."""
    pictures: dict[str, list[str]] = {person: [] for person in PEOPLE}
    for person in PEOPLE:
        for word in WORDS:
            name = f"{person}_{word}_{len(pictures[person])}.png"
            draw(root / "imgs" / name, PEOPLE.index(person) * 100 + len(pictures[person]))
            pictures[person].append(name)
    labels = {f"{person}_{word}": number for person in PEOPLE for word, number in WORDS.items()}
    (root / "emotion_labels.pkl").write_bytes(pickle.dumps(labels))
    for number, person in enumerate(PEOPLE):
        trained = [
            name for other in PEOPLE if other != person or number in leaking for name in pictures[other]
        ]
        (root / f"trainJA_ids_{number}.csv").write_text("\n".join(trained))
        (root / f"testJA_ids_{number}.csv").write_text("\n".join(pictures[person]) + "\n")
    (root / "trainJA_ids_0 copy.csv").write_text("KA_AN_0.png\n")
    return root


def test_fold_lists_are_read_by_their_numbers(tmp_path: Path) -> None:
    folds = read_fold_lists("jaffe", make_old_jaffe(tmp_path))
    assert [fold.number for fold in folds] == list(range(10))
    assert names(folds[1].test) == ["KL_AN_0.png", "KL_DI_1.png", "KL_FE_2.png"]
    assert len(folds[0].train) == 27  # the copy of its list counts for nothing
    assert subjects(folds[0].train) == set(PEOPLE[1:])


def test_the_old_jaffe_lists_leak_in_folds_three_and_four(tmp_path: Path) -> None:
    folds = read_fold_lists("jaffe", make_old_jaffe(tmp_path))
    leaks = find_leaks(folds)
    assert [(leak.fold, leak.subjects) for leak in leaks] == [(3, ("KR",)), (4, ("MK",))]
    assert leaks[0].images == ("KR_AN_0.png", "KR_DI_1.png", "KR_FE_2.png")
    with pytest.raises(LeakError, match=r"Fold 3 is trained on .*KR.* Fold 4 is trained on .*MK") as caught:
        refuse_leaks(folds)
    assert caught.value.leaks == leaks
    refuse_leaks([fold for fold in folds if fold.number not in (3, 4)])


def test_lists_of_the_other_sets_are_read_too(tmp_path: Path) -> None:
    for tag, kind, name in (
        ("CK", "ckplus48", "S005_001_00000011.png"),
        ("", "mmi", "S001_100_040.png"),
    ):
        root = tmp_path / kind
        draw(root / "imgs" / name, 1)
        (root / "emotion_labels.pkl").write_bytes(pickle.dumps({name.rsplit("_", 1)[0]: 1}))
        for side in ("train", "test"):
            (root / f"{side}{tag}_ids_2.csv").write_text(f"\r\n{name}\r\n\r\n")
        (fold,) = read_fold_lists(kind, root)
        assert (fold.number, names(fold.train), names(fold.test)) == (2, [name], [name])


def test_a_set_without_lists_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoFoldListsError, match=r"has no fold lists .*\. New folds can be made"):
        read_fold_lists("jaffe", tmp_path)


def test_half_a_pair_of_lists_is_refused(tmp_path: Path) -> None:
    (make_old_jaffe(tmp_path) / "testJA_ids_6.csv").unlink()
    with pytest.raises(DatasetError, match=r"Fold 6 .* has the list trainJA_ids_6\.csv alone"):
        read_fold_lists("jaffe", tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"KA_AN_0.png\nZZ_AN_9.png\n", r"names 'ZZ_AN_9\.png', which the set does not have"),
        (b"../imgs/KA_AN_0.png\n", "names '../imgs/KA_AN_0.png', which the set does not have"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"\n\n", "is empty"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (make_old_jaffe(tmp_path) / "testJA_ids_6.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"testJA_ids_6\.csv {reason}"):
        read_fold_lists("jaffe", tmp_path)


def test_a_list_may_name_a_picture_with_its_accents_apart_or_not(tmp_path: Path) -> None:
    apart, together = (unicodedata.normalize(form, "happy/Hân.png") for form in ("NFD", "NFC"))
    sample_of = {apart: draw(tmp_path / apart, 1), "happy/b.png": draw(tmp_path / "happy" / "b.png", 2)}
    (tmp_path / "train_ids_0.csv").write_text(together, encoding="utf-8")
    (tmp_path / "test_ids_0.csv").write_text("b.png")
    [fold] = read_fold_lists("folders", tmp_path)
    assert [sample.path for sample in (*fold.train, *fold.test)] == list(sample_of.values())


def test_where_two_pictures_share_a_name_a_list_says_which_is_meant(tmp_path: Path) -> None:
    for number, word in enumerate(("happy", "sad", "anger")):
        draw(tmp_path / word / "1.png", number)
    (tmp_path / "train_ids_0.csv").write_text("happy/1.png\nsad/1.png,sad\n")
    (tmp_path / "test_ids_0.csv").write_text("anger/1.png\n")
    [fold] = read_fold_lists("folders", tmp_path)
    assert [sample.path.parent.name for sample in (*fold.train, *fold.test)] == ["happy", "sad", "anger"]
    (tmp_path / "test_ids_0.csv").write_text("1.png\n")
    with pytest.raises(DatasetError, match=r"names '1\.png', of which the set has 3"):
        read_fold_lists("folders", tmp_path)


# --- the set's own split


def test_the_split_fold_is_train_and_valid(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        draw(tmp_path / split / "happy" / f"{split}.png", 1)
    fold = split_fold("folders", tmp_path)
    assert (fold.number, names(fold.train), names(fold.test)) == (0, ["train.png"], ["valid.png"])


def test_the_final_fold_is_all_but_the_test_split(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        draw(tmp_path / split / "happy" / f"{split}.png", 1)
    fold = final_fold("folders", tmp_path)
    assert (fold.number, names(fold.train), names(fold.test)) == (0, ["train.png", "valid.png"], ["test.png"])
    (tmp_path / "test" / "happy" / "test.png").unlink()
    with pytest.raises(DatasetError, match="test"):
        final_fold("folders", tmp_path)


def test_a_set_without_a_validation_split_holds_nothing_out(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "happy" / "train.png", 1)
    assert split_fold("folders", tmp_path).test == ()
    draw(tmp_path / "few" / "happy" / "one.png", 1)
    assert split_fold("folders", tmp_path / "few") == Fold(
        0, tuple(load_samples("folders", tmp_path / "few", "train")), ()
    )


def test_a_set_that_is_broken_is_not_taken_for_one_without_a_validation_split(tmp_path: Path) -> None:
    for part in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        (tmp_path / part).mkdir()
    draw(tmp_path / "FER2013Train" / "face.png", 1)
    (tmp_path / "FER2013Train" / "label.csv").write_text('face.png,"(0, 0, 48, 48)",0,10,0,0,0,0,0,0,0,0\n')
    with pytest.raises(DatasetError, match=r"label\.csv, which is missing"):
        split_fold("ferplus", tmp_path)


# --- leaks


def test_people_named_for_plain_folders_are_kept_apart(tmp_path: Path) -> None:
    lines = []
    for number in range(8):
        path = Path("train" if number < 6 else "valid") / ("happy", "sad")[number % 2] / f"{number}.png"
        draw(tmp_path / path, number)
        lines.append(f"{path.as_posix()},person {number // 2 % 3}")
    (tmp_path / "subjects.csv").write_text("\n".join(lines))
    with pytest.raises(LeakError, match=r"1 person \(person 0\) on both sides"):
        refuse_leaks([split_fold("folders", tmp_path)])
    folds = make_folds(load_samples("folders", tmp_path, "all"), 3, seed=0)
    assert sorted(str(who) for fold in folds for who in subjects(fold.test)) == [
        "person 0",
        "person 1",
        "person 2",
    ]
    assert not find_leaks(folds)


def test_the_same_file_and_the_same_pixels_leak(tmp_path: Path) -> None:
    face = draw(tmp_path / "face.png", 1)
    other = draw(tmp_path / "other.png", 2)
    again = tmp_path / "again.png"
    Image.open(face).save(again, compress_level=0)
    assert again.read_bytes() != face.read_bytes()
    leaks = find_leaks(
        [
            Fold(0, (sample(face), sample(other)), (sample(face),)),
            Fold(1, (sample(face), sample(other)), (sample(again),)),
            Fold(2, (sample(face),), (sample(other),)),
        ]
    )
    assert [(leak.fold, leak.images, leak.subjects) for leak in leaks] == [
        (0, ("face.png",), ()),
        (1, ("again.png",), ()),
    ]
    assert str(leaks[0]).startswith("Fold 0 is trained on what it is tested on: 1 picture (face.png) on both")


def test_the_same_person_leaks_and_unnamed_people_do_not(tmp_path: Path) -> None:
    first, second = draw(tmp_path / "1.png", 1), draw(tmp_path / "2.png", 2)
    same = Fold(5, (sample(first, subject="A"),), (sample(second, subject="A"),))
    unnamed = Fold(6, (sample(first),), (sample(second),))
    (leak,) = find_leaks([same, unnamed])
    assert (leak.fold, leak.images, leak.subjects) == (5, (), ("A",))
    assert "1 person (A) on both sides" in str(leak)


def test_a_sentence_names_a_few_and_counts_all(tmp_path: Path) -> None:
    faces = tuple(sample(draw(tmp_path / f"{number}.png", number)) for number in range(5))
    (leak,) = find_leaks([Fold(0, faces, faces)])
    assert len(leak.images) == 5
    assert "5 pictures (0.png, 1.png, 2.png, …)" in str(leak)
