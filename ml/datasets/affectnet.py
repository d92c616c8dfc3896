"""AffectNet: faces from the web, in the two forms in which it was handed out."""

import csv
import io
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from ml.datasets.images import THREADS
from ml.datasets.samples import (
    ALL,
    DatasetError,
    EmptySplitError,
    Sample,
    check_pictures,
    is_visible,
    labelled,
)
from ml.expressions import EXPRESSIONS

# Beyond these are none, uncertain and no face.
NUMBERS: Final = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
NUMBER: Final = re.compile(r"\s*([0-9]{1,2})\s*")

TABLES: Final = {"train": "training.csv", "valid": "validation.csv"}
COLUMNS: Final = (  # for a table without a first line of names
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
)
FOLDERS: Final = {"train": "train_set", "valid": "val_set"}
MAX_BYTES: Final = 4096  # a label's .npy has about 130


def read_affectnet(root: Path, split: str) -> list[Sample]:
    """Read one of the two forms, told apart by what lies in root.

    2017: training.csv and validation.csv, in root or root/Manually_Annotated_file_lists, with the columns
    subDirectory_filePath, expression, and face_x, face_y, face_width and face_height, within which the face
    is looked for; pictures in root/Manually_Annotated_Images.
    2021: {train,val}_set/images/<id>.jpg and {train,val}_set/annotations/<id>_exp.npy.

    Faces without one of the eight expressions are left out. Its validation set is valid, and there is no
    test: it was never published. Subjects are not known. Raises EmptySplitError for test, DatasetError for
    missing files, a malformed table, and a label that is no number or not to be trusted.
    """
    if split == ALL:
        return [sample for part in TABLES for sample in read_affectnet(root, part)]
    if split not in TABLES:
        raise EmptySplitError(
            "AffectNet's test set was never published: its valid split is what papers report."
        )
    if (root / FOLDERS[split]).is_dir():
        return _read_arrays(root / FOLDERS[split])
    return _read_table(root, TABLES[split])


def read_affectnet7(root: Path, split: str) -> list[Sample]:
    """The same without the faces of contempt: the seven classes of the FMPN paper and of many others."""
    return [sample for sample in read_affectnet(root, split) if EXPRESSIONS[sample.expression] != "contempt"]


def _read_table(root: Path, name: str) -> list[Sample]:
    places = [folder / name for folder in (root, root / "Manually_Annotated_file_lists")]
    table = next((path for path in places if path.is_file()), None)
    if not table:
        raise DatasetError(
            f"AffectNet needs {root / name} beside Manually_Annotated_Images, or the folders "
            f"{', '.join(FOLDERS.values())}: both are missing."
        )
    images = root / "Manually_Annotated_Images"
    samples = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            columns: list[str] | tuple[str, ...] = COLUMNS
            for cells in reader:
                if reader.line_num == 1 and "expression" in cells:
                    columns = cells
                    continue
                row = dict(zip(columns, cells, strict=False))
                where = f"Line {reader.line_num} of {table}"
                path = _inside(images, row.get("subDirectory_filePath", ""), where)
                number = _number(row.get("expression", ""), where)
                if number < len(NUMBERS):
                    sample = labelled(path, NUMBERS[number], photo=True)
                    samples.append(replace(sample, box=_box(row, where)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is no table of comma-separated values: {error}.") from error
    check_pictures(table, (sample.path for sample in samples))
    return samples


def _box(row: dict[str, str], where: str) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the face; None for a table without them."""
    sides = [row.get(name) for name in COLUMNS[1:5]]
    if None in sides:
        return None
    try:
        left, top, width, height = (round(float(side or "")) for side in sides)
    except (ValueError, OverflowError):
        raise DatasetError(f"{where} gives no box of a face: {', '.join(map(str, sides))[:80]!r}.") from None
    if width < 1 or height < 1:
        raise DatasetError(f"{where} has a box without a size.")
    return left, top, left + width, top + height


def _inside(folder: Path, name: str, where: str) -> Path:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{where} names no picture under {folder}: {name[:80]!r}.")
    return folder / path


def _number(text: str, where: str) -> int:
    if match := NUMBER.fullmatch(text):
        return int(match[1])
    raise DatasetError(f"{where} gives no number of an expression but {text[:40]!r}.")


def _read_arrays(folder: Path) -> list[Sample]:
    images, annotations = folder / "images", folder / "annotations"
    for needed in (images, annotations):
        if not needed.is_dir():
            raise DatasetError(f"AffectNet needs the folder {needed}, which is missing.")
    paths = sorted(path for path in images.glob("*.jpg") if is_visible(path))
    with ThreadPoolExecutor(THREADS) as pool:
        numbers = list(pool.map(lambda path: _read_number(annotations / f"{path.stem}_exp.npy"), paths))
    return [
        labelled(path, NUMBERS[number])
        for path, number in zip(paths, numbers, strict=True)
        if number < len(NUMBERS)
    ]


def _read_number(file: Path) -> int:
    """Read an array of one value, a number or its digits; pickled objects are refused."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES)
        value = np.load(io.BytesIO(data), allow_pickle=False).item()
    except Exception as error:  # numpy reads the header as Python, and a broken one raises nearly anything
        raise DatasetError(f"The label {file} cannot be read: {error}.") from error
    whole = isinstance(value, float) and value.is_integer()
    return _number(str(int(value)) if whole else str(value), f"The label {file}")
