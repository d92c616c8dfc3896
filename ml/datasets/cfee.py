"""Compound Facial Expressions of Emotion (Du, Tao and Martinez, PNAS 111:15, 2014), posed by 230 people."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Final

from ml.datasets.samples import DatasetError, Sample, check_pictures, divide_by_person, labelled

PLACES: Final = (".", "train_set", "data/train_set")
COLUMNS: Final = ("Index", "identity", "emotion_cat")
BASIC: Final = ("neutral", "happy", "sad", "angry", "surprised", "disgusted", "fearful")


def read_cfee(root: Path, split: str) -> list[Sample]:
    """Read label.csv and images/0001.jpg in root, root/train_set or root/data/train_set; divided by person.

    Compound expressions, as "happily surprised", are none of the eight and are passed over. Raises
    DatasetError for a missing table or picture and for a line without a picture's number or a person.
    """
    folder = next((root / place for place in PLACES if (root / place / "label.csv").is_file()), None)
    if folder is None:
        raise DatasetError(f"CFEE needs label.csv beside the folder images: both are missing in {root}.")
    samples = divide_by_person(_read_table(folder), split)
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
                if category.strip().lower() in BASIC:
                    path = folder / "images" / f"{int(index):04}.jpg"
                    samples.append(labelled(path, category, subject, photo=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is no table of comma-separated values: {error}.") from error
    check_pictures(table, (sample.path for sample in samples))
    return samples
