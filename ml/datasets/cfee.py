"""Compound Facial Expressions of Emotion (Du, Tao and Martinez, PNAS 111:15, 2014), posed by 230 people."""

import csv
from pathlib import Path
from typing import Final

from ml.datasets.samples import ALL, SPLITS, DatasetError, Sample, certain, divide_by_person
from ml.expressions import expression_index

PLACES: Final = (".", "train_set", "data/train_set")
# What is shown at once, the expression that is stressed last.
COMPOUND: Final = {
    "happily surprised": ("happiness", "surprise"),
    "happily disgusted": ("happiness", "disgust"),
    "sadly angry": ("sadness", "anger"),
    "angrily disgusted": ("anger", "disgust"),
    "appalled": ("anger", "disgust"),
    "hatred": ("disgust", "anger"),
    "angrily surprised": ("anger", "surprise"),
    "sadly surprised": ("sadness", "surprise"),
    "disgustedly surprised": ("disgust", "surprise"),
    "fearfully surprised": ("fear", "surprise"),
    "awed": ("fear", "surprise"),
    "sadly fearful": ("sadness", "fear"),
    "fearfully disgusted": ("fear", "disgust"),
    "fearfully angry": ("fear", "anger"),
    "sadly disgusted": ("sadness", "disgust"),
}


def read_cfee(root: Path, split: str) -> list[Sample]:
    """Read label.csv and images/0001.jpg in root, root/train_set or root/data/train_set; divided by person.

    A compound expression, as "happily surprised", is half of either, and its label is the one stressed, here
    surprise. They teach and are no test: they stand in train alone. Raises DatasetError for a missing table
    or picture, a column that is missing and a category that is not known.
    """
    if split == ALL:
        return [sample for part in SPLITS for sample in read_cfee(root, part)]
    folder = next((root / place for place in PLACES if (root / place / "label.csv").is_file()), None)
    if folder is None:
        raise DatasetError(f"CFEE needs label.csv beside the folder images: both are missing in {root}.")
    samples = divide_by_person(_read_table(folder), split)
    return [sample for sample in samples if split == "train" or max(sample.target) == 1]


def _read_table(folder: Path) -> list[Sample]:
    table, samples = folder / "label.csv", []
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            for row in reader:
                where = f"Line {reader.line_num} of {table}"
                index, subject, category = (
                    row.get(name) or "" for name in ("Index", "identity", "emotion_cat")
                )
                if not index.isdecimal() or not subject:
                    raise DatasetError(f"{where} tells no picture (Index) or no person (identity).")
                path = folder / "images" / f"{int(index):04}.jpg"
                samples.append(Sample(path, *_labels(category, where), subject, photo=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is no table of comma-separated values: {error}.") from error
    missing = [sample.path for sample in samples if not sample.path.is_file()]
    if missing:
        raise DatasetError(
            f"{table} names {len(samples)} photos, but {len(missing)} are missing, first {missing[0]}."
        )
    return samples


def _labels(category: str, where: str) -> tuple[int, tuple[float, ...]]:
    """The expression of a category, the stressed one where it is a compound, and the target."""
    word = category.strip().lower()
    try:
        parts = [expression_index(name) for name in COMPOUND.get(word, (word,))]
    except ValueError:
        raise DatasetError(f"{where} gives no expression (emotion_cat) that is known: {word!r}.") from None
    targets = [certain(part) for part in parts]
    return parts[-1], tuple(sum(shares) / len(parts) for shares in zip(*targets, strict=True))
