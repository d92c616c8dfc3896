"""Compound Facial Expressions of Emotion (Du, Tao and Martinez, PNAS 111:15, 2014), posed by 230 people."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from ml.datasets.samples import DatasetError, Sample, check_pictures, divide_by_person, labelled

PLACES: Final = (".", "train_set", "data/train_set")
COLUMNS: Final = ("Index", "identity", "emotion_cat")
BASIC: Final = ("neutral", "happy", "sad", "angry", "surprised", "disgusted", "fearful")
ADVERBS: Final = {
    "happily": "happy",
    "sadly": "sad",
    "angrily": "angry",
    "fearfully": "fearful",
    "disgustedly": "disgusted",
}
# What the compounds of one word are made of, the stronger half last, by the paper.
OF_ONE_WORD: Final = {
    "appalled": ("angry", "disgusted"),
    "hatred": ("disgusted", "angry"),
    "awed": ("fearful", "surprised"),
}


def read_cfee(root: Path, split: str) -> list[Sample]:
    """Read label.csv and images/0001.jpg in root, root/train_set or root/data/train_set; divided by person.

    Compound expressions, as "happily surprised", are half the one and half the other. They teach, as FER+'s
    ties do, so they stand in train alone: in valid, test and "all" they are left out. Raises DatasetError
    for a missing table or picture and for a line without a picture's number or a person.
    """
    folder = next((root / place for place in PLACES if (root / place / "label.csv").is_file()), None)
    if folder is None:
        raise DatasetError(f"CFEE needs label.csv beside the folder images: both are missing in {root}.")
    samples = divide_by_person(_read_table(folder), split)
    if split != "train":
        samples = [sample for sample in samples if max(sample.target) == 1]
    # People of other sets are numbers as well.
    return [replace(sample, subject=f"CFEE {sample.subject}") for sample in samples]


def _read_table(folder: Path) -> list[Sample]:
    table, samples = folder / "label.csv", []
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            if absent := set(COLUMNS).difference(reader.fieldnames or ()):
                raise DatasetError(f"{table} has no column {', '.join(sorted(absent))}.")
            for row in reader:
                where = f"Line {reader.line_num} of {table}"
                index, subject, category = (row[name] or "" for name in COLUMNS)
                if not (index.isdecimal() and len(index) < 6 and subject):
                    raise DatasetError(f"{where} tells no picture (Index) or no person (identity).")
                parts = _parts(category.strip().lower())
                if not all(part in BASIC for part in parts):
                    continue
                path = folder / "images" / f"{int(index):04}.jpg"
                halves = [labelled(path, part, subject, photo=True) for part in parts]
                targets = np.mean([half.target for half in halves], axis=0).tolist()
                samples.append(replace(halves[-1], target=tuple(targets)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is no table of comma-separated values: {error}.") from error
    check_pictures(table, (sample.path for sample in samples))
    return samples


def _parts(category: str) -> tuple[str, ...]:
    """What an expression is made of, what it is called by last: itself, where it is no compound."""
    first, _, second = category.partition(" ")
    return OF_ONE_WORD.get(category) or ((ADVERBS.get(first, first), second) if second else (category,))
