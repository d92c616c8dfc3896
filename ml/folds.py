"""Folds: what a model is trained on and what it is measured on, with nobody on both sides."""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.datasets import DatasetError, EmptySplitError, Sample, load_samples
from ml.datasets.images import decode, pixel_digests
from ml.datasets.samples import first_few, same_name
from ml.near_duplicates import near_pairs, prints_of

# The old project's lists: trainCK_ids_0.csv, testJA_ids_9.csv, MMI's train_ids_3.csv; nothing with " copy".
LIST_NAME: Final = re.compile(r"(?P<side>train|test)(?P<set>CK|JA|)_ids_(?P<number>[0-9]{1,3})\.csv")
MAX_BYTES: Final = 16 * 1024 * 1024  # the old lists have at most 25 KB

Sides = tuple[NDArray[np.int64], NDArray[np.int64]]  # positions of the train and of the test part


@dataclass(frozen=True)
class Fold:
    """The faces to train on and those held out to measure on; `test` may be empty."""

    number: int
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


@dataclass(frozen=True)
class Leak:
    """What stands on both sides of a fold; its text is a sentence fit for a person.

    images: names of the held-out pictures whose file or whose very pixels are trained on as well.
    subjects: people on both sides. Both are sorted.
    """

    fold: int
    images: tuple[str, ...]
    subjects: tuple[str, ...]

    def __str__(self) -> str:
        found = []
        if self.images:
            found.append(f"{_count(len(self.images), 'picture')} ({first_few(self.images)})")
        if self.subjects:
            people = "person" if len(self.subjects) == 1 else "people"
            found.append(f"{len(self.subjects)} {people} ({first_few(self.subjects)})")
        return f"Fold {self.fold} is trained on what it is tested on: {' and '.join(found)} on both sides."


class NoFoldListsError(DatasetError):
    """The set's folder has no fold lists of its own."""


class LeakError(DatasetError):
    """Folds that must not be used; the text names each of them, `leaks` tells what is on both sides."""

    def __init__(self, leaks: Sequence[Leak]) -> None:
        self.leaks = list(leaks)
        sentences = " ".join(str(leak) for leak in leaks)
        super().__init__(f"{sentences} Leave such folds out, or have new ones made.")


def make_folds(samples: Sequence[Sample], count: int, seed: int) -> list[Fold]:
    """Divide samples into `count` folds, each class spread evenly, each sample held out once.

    The same samples and seed give the same folds. Nobody stands on both sides of a fold, and neither does a
    picture or one that is nearly the same (`ml.near_duplicates`). Raises DatasetError for fewer than two
    folds, fewer people (or, where nobody is named, different pictures) than folds, and a picture that cannot
    be read.
    """
    if count < 2:
        raise DatasetError(f"A set is divided into at least two folds, not {count}.")
    groups = _groups(samples)
    distinct = len(set(groups.tolist()))
    named = any(sample.subject for sample in samples)
    if distinct < count:
        what = "people" if named else "different pictures"
        raise DatasetError(f"{distinct} {what} are too few for {count} folds: ask for {distinct} at most.")
    divide = _split_by_group if named else _split
    try:
        sides = divide(samples, groups, count, seed)
    except ValueError as error:  # scikit-learn's, where no expression has as many pictures as there are folds
        raise DatasetError(f"{count} folds cannot be made: {error}") from error
    folds = []
    for number, held_out in enumerate(sides):
        train, test = (
            tuple(sample for sample, out in zip(samples, held_out, strict=True) if out == side)
            for side in (False, True)
        )
        folds.append(Fold(number, train, test))
    if not all(fold.test for fold in folds):
        raise DatasetError(
            f"The people have too unlike numbers of pictures for {count} folds: ask for fewer."
        )
    return folds


def read_fold_lists(kind: str, root: Path) -> list[Fold]:
    """Read the old project's lists in `root`, a pair for each fold: trainCK_ids_0.csv and testCK_ids_0.csv.

    A list names one picture a line, by its file name or its path under `root`; a line's first comma ends it.
    Raises NoFoldListsError where there are no lists; DatasetError where one of a pair is missing, a list
    cannot be read, or it names a picture that the set does not have or has twice.
    """
    lists: defaultdict[int, dict[str, Path]] = defaultdict(dict)
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if match := LIST_NAME.fullmatch(path.name):
            other = lists[int(match["number"])].setdefault(match["side"], path)
            if other != path:
                raise DatasetError(f"{root} has two lists for one side of a fold: {other.name}, {path.name}.")
    if not lists:
        raise NoFoldListsError(
            f"{root} has no fold lists such as trainCK_ids_0.csv and testCK_ids_0.csv. "
            "New folds can be made instead."
        )
    samples = load_samples(kind, root, "all")
    folds = []
    for number, pair in sorted(lists.items()):
        if len(pair) < 2:
            (path,) = pair.values()
            raise DatasetError(
                f"Fold {number} of {root} has the list {path.name} alone: its other half is missing."
            )
        train, test = (tuple(read_list(pair[side], samples, root)) for side in ("train", "test"))
        folds.append(Fold(number, train, test))
    return folds


def read_list(path: Path, samples: Sequence[Sample], root: Path) -> list[Sample]:
    """The samples that a list names, one a line: by file name, or by path under the set's folder `root`.

    A line's first comma ends the name, so a table with the picture first will do. Raises DatasetError for a
    list that cannot be read, is empty, or names a picture that the set does not have or has twice.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DatasetError(f"The list {path} is longer than {MAX_BYTES} bytes.")
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The list {path} cannot be read: {error}.") from error
    by_name: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        for name in {sample.path.name, sample.path.relative_to(root).as_posix()}:
            by_name[same_name(name)].append(sample)
    names = [same_name(name) for line in lines if (name := line.partition(",")[0].strip())]
    for name in names:
        found = len(by_name[name]) if name in by_name else 0
        if found != 1:
            what = "which the set does not have" if not found else f"of which the set has {found}"
            raise DatasetError(f"The list {path} names {name[:80]!r}, {what}.")
    if not names:
        raise DatasetError(f"The list {path} is empty.")
    return [by_name[name][0] for name in names]


def clean_folds(folds: Sequence[Fold]) -> list[Fold]:
    """The same held-out faces, each fold trained on all others that any of the lists names.

    What is trained on is neither one of the fold's held-out pictures, nor nearly one, nor shows one of its
    people: so the old lists of JAFFE, two of which leak, can be compared with. Raises DatasetError for a
    picture that cannot be read.
    """
    named = sorted(
        {sample.path: sample for fold in folds for sample in (*fold.train, *fold.test)}.items(),
    )
    samples = [sample for _, sample in named]
    alike: defaultdict[Path, set[Path]] = defaultdict(set)  # of each picture, those that are nearly the same
    for _, pairs in near_pairs(prints_of([path for path, _ in named])):
        for _, first, second in pairs:
            alike[named[first][0]].add(named[second][0])
            alike[named[second][0]].add(named[first][0])
    cleaned = []
    for fold in folds:
        people, held_out = _subjects(fold.test), {sample.path for sample in fold.test}
        train = (
            sample
            for sample in samples
            if sample.subject not in people and not held_out & {sample.path, *alike[sample.path]}
        )
        cleaned.append(Fold(fold.number, tuple(train), fold.test))
    return cleaned


def split_fold(kind: str, root: Path) -> Fold:
    """Make one fold, number 0, of the set's own train and validation splits.

    Nothing is held out where the set has no validation split. Raises DatasetError as `load_samples` does.
    """
    try:
        held_out = load_samples(kind, root, "valid")
    except EmptySplitError:
        held_out = []
    return Fold(0, tuple(load_samples(kind, root, "train")), tuple(held_out))


def final_fold(kind: str, root: Path) -> Fold:
    """Make one fold, number 0: trained on the set's train and validation splits, measured on its test split.

    That is how a set's published figures are made, RAF-DB's for one: its table has no validation split, and
    a model that did without a tenth of its train split does not compare. Raises DatasetError as
    `load_samples` does, also where the set has no test split.
    """
    test, own = load_samples(kind, root, "test"), split_fold(kind, root)
    return Fold(0, own.train + own.test, tuple(test))


def find_leaks(folds: Sequence[Fold]) -> list[Leak]:
    """Return what stands on both sides, a Leak for each fold that has any.

    Looked for are the same file, the same decoded pixels (SHA-256) and the same person. Raises DatasetError
    for a picture that cannot be read.
    """
    paths = sorted({sample.path for fold in folds for sample in (*fold.train, *fold.test)})
    digests = dict(zip(paths, pixel_digests(paths), strict=True))
    for path, digest in digests.items():
        if digest is None:
            decode(path, colour=False)  # says what is wrong with it
    leaks = []
    for fold in folds:
        trained = {digests[sample.path] for sample in fold.train}
        images = {sample.path.name for sample in fold.test if digests[sample.path] in trained}
        subjects = _subjects(fold.train) & _subjects(fold.test)
        if images or subjects:
            leaks.append(Leak(fold.number, tuple(sorted(images)), tuple(sorted(subjects))))
    return leaks


def refuse_leaks(folds: Sequence[Fold]) -> None:
    """Raise LeakError, which names every leaking fold, where anything stands on both sides of one."""
    if leaks := find_leaks(folds):
        raise LeakError(leaks)


def refuse_shared_people(fold: Fold) -> None:
    """The same for people alone, without looking at any picture."""
    if people := _subjects(fold.train) & _subjects(fold.test):
        raise LeakError([Leak(fold.number, (), tuple(sorted(people)))])


def _subjects(samples: Sequence[Sample]) -> set[str]:
    return {sample.subject for sample in samples if sample.subject}


def _groups(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Number the groups that must stay together, (N,): a person's pictures, and pictures nearly the same."""
    groups = np.arange(len(samples))

    def join(one: int, other: int) -> None:
        if groups[one] != groups[other]:
            groups[groups == groups[one]] = groups[other]

    first_of: dict[str, int] = {}
    for index, sample in enumerate(samples):
        if sample.subject:
            join(index, first_of.setdefault(sample.subject, index))
    for _, pairs in near_pairs(prints_of([sample.path for sample in samples])):
        apart = pairs[groups[pairs[:, 1]] != groups[pairs[:, 2]]]  # most are one person's anyway
        for _, first, second in apart.tolist():
            join(second, first)
    return groups


def _split_by_group(
    samples: Sequence[Sample], groups: NDArray[np.int64], count: int, seed: int
) -> list[NDArray[np.bool_]]:
    # Here and not above: slow to import, and the web process makes no folds.
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)  # type: ignore[no-untyped-call]
    labels = [sample.expression for sample in samples]
    parts = [test for _, test in _quietly(splitter.split, groups, labels, groups)]
    return [np.isin(np.arange(len(samples)), test) for test in parts]


def _split(
    samples: Sequence[Sample], groups: NDArray[np.int64], count: int, seed: int
) -> list[NDArray[np.bool_]]:
    """Divide where only copies stay together: their first one decides, which is quick for many pictures."""
    first = np.unique(groups, return_index=True)[1]
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)  # type: ignore[no-untyped-call]
    labels = [samples[index].expression for index in first]
    parts = [groups[first[test]] for _, test in _quietly(splitter.split, first, labels)]
    return [np.isin(groups, held_out) for held_out in parts]


def _quietly(split: Callable[..., Iterable[Sides]], *arguments: object) -> list[Sides]:
    """Split without scikit-learn's warning that a class has fewer faces than there are folds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(split(*arguments))


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
