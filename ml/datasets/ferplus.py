"""FER+: Microsoft's ten votes an image over the pictures of FER2013."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ml.datasets.images import without_copies
from ml.datasets.samples import ALL, SPLITS, DatasetError, Sample, certain, check_pictures
from ml.expressions import EXPRESSIONS, expression_index

FOLDERS: Final = {"train": "FER2013Train", "valid": "FER2013Valid", "test": "FER2013Test"}
COLUMNS: Final = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
VOTE_COLUMNS: Final = len(COLUMNS) + 2  # after the eight: unknown, and NF (not a face)

Votes = tuple[int, ...]  # ten counts: COLUMNS, unknown, not a face


@dataclass(frozen=True)
class Row:
    """One line of label.csv."""

    path: Path
    votes: Votes


def read_ferplus(root: Path, split: str) -> list[Sample]:
    """Read FER2013Train, FER2013Valid and FER2013Test (or the same under root/data).

    Labels are the plurality of all ten columns. Valid and test: an image is kept where one column alone has
    the most votes and that column is one of the eight expressions; ties, unknown and not-a-face are left
    out. That gives 3,371 of 3,573 test images. Train: ties teach too, so an image is left out only where
    unknown or not-a-face has more votes than every expression.

    Targets are the votes over the eight expressions, normalised. As in Microsoft's own code a single vote
    counts as a slip and is taken out, unless no expression has more than one.

    Pictures that stand in two splits (the same pixels) are kept in the later one only: dropped from train
    if in valid or test, from valid if in test. Subjects are not known.
    """
    if split == ALL:
        return [sample for part in SPLITS for sample in read_ferplus(root, part)]
    return _read(root, split, _train_keeps if split == "train" else _evaluation_keeps)


def read_ferplus_majority(root: Path, split: str) -> list[Sample]:
    """The same folders as published tables count them: the mode "majority" of Microsoft's ferplus.py.

    In all three splits an image is kept where one of the eight expressions has more than half of the votes,
    single ones taken out before: 3,137 of 3,573 test images. Targets are that expression alone. Copies are
    dropped from train and valid as by `read_ferplus`, though published figures have them there.
    """
    if split == ALL:
        return [sample for part in SPLITS for sample in read_ferplus_majority(root, part)]
    samples = _read(root, split, _majority_keeps)
    return [replace(sample, target=certain(sample.expression)) for sample in samples]


def _read(root: Path, split: str, keeps: Callable[[Votes], bool]) -> list[Sample]:
    base = root if (root / FOLDERS["test"]).is_dir() else root / "data"
    rows = _read_rows(base / FOLDERS[split])
    later = [
        row.path for part in SPLITS[SPLITS.index(split) + 1 :] for row in _read_rows(base / FOLDERS[part])
    ]
    return without_copies([_to_sample(row) for row in rows if keeps(row.votes)], later)


def _train_keeps(votes: Votes) -> bool:
    expressions, others = votes[: len(COLUMNS)], votes[len(COLUMNS) :]
    return max(expressions) > 0 and max(expressions) >= max(others)


def _evaluation_keeps(votes: Votes) -> bool:
    most = max(votes)
    return votes.count(most) == 1 and votes.index(most) < len(COLUMNS)


def _majority_keeps(votes: Votes) -> bool:
    agreed = _without_single(votes)
    return max(agreed[: len(COLUMNS)]) * 2 > sum(agreed)


def _without_single(votes: Votes) -> Votes:
    return tuple(count if count > 1 else 0 for count in votes)


def _to_sample(row: Row) -> Sample:
    votes = row.votes[: len(COLUMNS)]
    agreed = _without_single(votes)
    counted = agreed if any(agreed) else votes
    target = [0.0] * len(EXPRESSIONS)
    for name, count in zip(COLUMNS, counted, strict=True):
        target[expression_index(name)] = count / sum(counted)
    return Sample(row.path, target.index(max(target)), tuple(target))


def _read_rows(folder: Path) -> list[Row]:
    table = folder / "label.csv"
    if not table.is_file():
        raise DatasetError(f"FER+ needs the file {table}, which is missing.")
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines)
            rows = [_parse(cells, folder, reader.line_num) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is no table of comma-separated values: {error}.") from error
    check_pictures(table, (row.path for row in rows))
    return rows


def _parse(cells: list[str], folder: Path, line: int) -> Row:
    counts = [int(cell) for cell in cells[2:] if re.fullmatch("[0-9]{1,3}", cell)]
    plain = len(cells) == 2 + VOTE_COLUMNS and Path(cells[0]).name == cells[0]
    if not plain or len(counts) != VOTE_COLUMNS:
        raise DatasetError(
            f"Line {line} of {folder / 'label.csv'} is not a picture, its box and ten vote counts: "
            f"{','.join(cells)[:80]!r}."
        )
    return Row(folder / cells[0], tuple(counts))
