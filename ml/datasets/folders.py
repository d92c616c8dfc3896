"""The layout that anyone can make: one folder a class, and a table of who is on the pictures."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ml.datasets.images import SUFFIXES
from ml.datasets.samples import (
    ALL,
    SPLITS,
    DatasetError,
    EmptySplitError,
    Sample,
    certain,
    divide_by_person,
    is_visible,
    keys_of_split,
    same_name,
)
from ml.expressions import EXPRESSIONS, SYNONYMS, expression_index

TABLE: Final = "subjects.csv"
HEADER: Final = ["path", "person"]


def read_folders(root: Path, split: str) -> list[Sample]:
    """Read root/{train,valid,test}/<class>/ or, without split folders, root/<class>/.

    A class folder bears an expression's name or a synonym of it. Hidden names and files that are no pictures
    are passed over. root/subjects.csv, where it is there, tells who is on the pictures: a picture's path in
    root and a person in each line, with or without the header path,person; pictures without a line have
    nobody. Without split folders the people are divided 80/10/10, and of pictures without anybody every class
    by the hash of their relative paths.

    Raises DatasetError for an unknown class folder, for a split folder that is missing, and for a line of
    subjects.csv that is not a path and a person, names no picture of the set, or one that is named already.
    """
    parts = [part for part in SPLITS if (root / part).is_dir()]
    if not parts:
        return _divide(_with_people(_read_classes(root), root), root, split)
    if split not in (*parts, ALL):
        raise EmptySplitError(f"{root} has the split folders {', '.join(parts)}, but no folder {split!r}.")
    # A table is about all pictures, whichever split is asked for.
    read = parts if (root / TABLE).is_file() else [part for part in parts if split in (part, ALL)]
    samples = _with_people([sample for part in read for sample in _read_classes(root / part)], root)
    return [sample for sample in samples if split in (sample.path.parent.parent.name, ALL)]


def _read_classes(folder: Path) -> list[Sample]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and is_visible(path))
    return [
        Sample(path, expression, certain(expression))
        for class_folder in classes
        for expression in [_expression_of(class_folder)]
        for path in sorted(class_folder.iterdir())
        if path.suffix.lower() in SUFFIXES and is_visible(path)
    ]


def _expression_of(class_folder: Path) -> int:
    try:
        return expression_index(class_folder.name)
    except ValueError:
        raise DatasetError(
            f"{class_folder} is no class that is known: folders may be called {', '.join(EXPRESSIONS)}"
            f" (or {', '.join(SYNONYMS)})."
        ) from None


def _with_people(samples: list[Sample], root: Path) -> list[Sample]:
    """The same samples, with the people whom root/subjects.csv names."""
    table = root / TABLE
    if not table.is_file():
        return samples
    pictures = {same_name(_path_in(root, sample)) for sample in samples}
    people: dict[str, str] = {}
    for number, cells in _lines(table):
        where = f"Line {number} of {table}"
        if len(cells) != 2 or not all(cells):
            raise DatasetError(f"{where} is not a path and a person, with a comma between: {cells}.")
        path, person = map(same_name, cells)
        if path not in pictures:
            raise DatasetError(
                f"{where} names {path[:80]!r}, which is no picture of the set: paths are as happiness/a.jpg,"
                f" or train/happiness/a.jpg, seen from {root}."
            )
        if path in people:
            raise DatasetError(f"{where} names {path!r}, which a line above names already.")
        people[path] = person
    return [replace(sample, subject=people.get(same_name(_path_in(root, sample)))) for sample in samples]


def _lines(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line of the table, without its header and empty lines."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for position, row in enumerate(reader):
                cells = [cell.strip() for cell in row]
                if any(cells) and (position or [cell.lower() for cell in cells] != HEADER):
                    yield reader.line_num, cells
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{table} is no table of comma-separated values in UTF-8, after line {reader.line_num}: {error}."
        ) from error


def _path_in(root: Path, sample: Sample) -> str:
    return sample.path.relative_to(root).as_posix()


def _divide(samples: list[Sample], root: Path, split: str) -> list[Sample]:
    """The part of the people, and of each class's pictures of nobody, that falls into `split`."""
    named = [sample for sample in samples if sample.subject]
    chosen = {_path_in(root, sample) for sample in divide_by_person(named, split)}
    for expression in range(len(EXPRESSIONS)):
        of_nobody = (s for s in samples if s.expression == expression and not s.subject)
        chosen |= keys_of_split((_path_in(root, sample) for sample in of_nobody), split)
    return [sample for sample in samples if _path_in(root, sample) in chosen]
