"""FER2013: in class folders, and as Kaggle hands it out, one table with a picture a line, as numbers."""

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.datasets.ferplus import COLUMNS, FOLDERS
from ml.datasets.folders import read_folders
from ml.datasets.images import without_copies
from ml.datasets.samples import ALL, SPLITS, DatasetError, EmptySplitError, Sample

SIDE: Final = 48
# In the order of the table's own numbers.
EXPRESSIONS_OF_KAGGLE: Final = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
SPLIT_OF_USAGE: Final = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
VOTES: Final = (*COLUMNS, "unknown", "NF")

Line = tuple[str, dict[str, str]]  # where it stands, for an error, and its cells by their column
Progress = Callable[[int], object]  # pictures written so far


def read_fer2013(root: Path, split: str) -> list[Sample]:
    """Read as `read_folders` does, but pictures that stand in two splits (the same pixels) in the later one.

    A twelfth of the test pictures are among those of train, and as many of valid: `read_ferplus` drops them
    there likewise. "all" is every picture there is; folds made of them keep copies together. Without split
    folders DatasetError is raised: divided anew, what is test here would be train in FER+, and no model that
    knows the one would be known to know the other.
    """
    if not any((root / part).is_dir() for part in SPLITS):
        raise DatasetError(f"FER2013's own split folders, {', '.join(SPLITS)}, are missing in {root}.")
    samples = read_folders(root, split)
    later = () if split == ALL else SPLITS[SPLITS.index(split) + 1 :]
    others: list[Path] = []
    for part in later:
        with suppress(EmptySplitError):
            others += [sample.path for sample in read_folders(root, part)]
    return without_copies(samples, others)


def unpack_fer2013(table: Path, votes: Path | None, output: Path, on_progress: Progress) -> int:
    """Write the pictures of fer2013.csv, or icml_face_data.csv, to `output` as PNG; return how many.

    votes: Microsoft's fer2013new.csv, whose lines are those of `table`: then `output` is what the kind
    "ferplus" reads, named and laid out as Microsoft's own script does it. Without it, what "fer2013" reads,
    with the seven expressions of FER2013. All is written, or nothing. Raises DatasetError for a table that
    is broken, votes of another one, or an `output` that holds something already.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DatasetError(f"{output} is there already, and not empty: choose another folder.")
    with _whole_or_nothing(output) as folder:
        count = 0
        for count in _write_ferplus(table, votes, folder) if votes else _write_folders(table, folder):
            on_progress(count)
        if not count:
            raise DatasetError(f"{table} has no picture in it.")
    return count


@contextmanager
def _whole_or_nothing(output: Path) -> Iterator[Path]:
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if output.is_dir():
            output.rmdir()  # it is empty, and Windows moves nothing onto a folder
        folder.replace(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_folders(table: Path, folder: Path) -> Iterator[int]:
    for number, (where, cells) in enumerate(_lines(table, ("emotion", "Usage", "pixels"))):
        label = cells["emotion"]
        if label not in map(str, range(len(EXPRESSIONS_OF_KAGGLE))):
            raise DatasetError(f"{where} has an expression from 0 to 6, not {label[:20]!r}.")
        place = folder / _split(where, cells) / EXPRESSIONS_OF_KAGGLE[int(label)]
        place.mkdir(parents=True, exist_ok=True)
        _picture(where, cells).save(place / f"fer{number:07}.png")
        yield number + 1


def _write_ferplus(table: Path, votes: Path, folder: Path) -> Iterator[int]:
    for name in FOLDERS.values():
        (folder / name).mkdir()
    labels = {split: (folder / name / "label.csv").open("w") for split, name in FOLDERS.items()}
    count = 0
    try:
        both = zip_longest(_lines(table, ("Usage", "pixels")), _lines(votes, ("Usage", "Image name", *VOTES)))
        for pictured, voted in both:
            if pictured is None or voted is None or pictured[1]["Usage"] != voted[1]["Usage"]:
                there = voted or pictured
                raise DatasetError(f"{there and there[0]} has no line to match in the other table.")
            (where, cells), (of_votes, counts) = pictured, voted
            if not (name := counts["Image name"]):
                continue  # Microsoft left it out: no picture, or nobody voted
            if Path(name).name != name or not name.endswith(".png"):
                raise DatasetError(f"{of_votes} names a picture that is none: {name[:40]!r}.")
            split = _split(where, cells)
            _picture(where, cells).save(folder / FOLDERS[split] / name)
            row = ",".join(counts[column] for column in VOTES)
            labels[split].write(f'{name},"(0, 0, {SIDE}, {SIDE})",{row}\n')
            count += 1
            yield count
    finally:
        for file in labels.values():
            file.close()


def _lines(table: Path, columns: tuple[str, ...]) -> Iterator[Line]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            heads = [head.strip() for head in reader.fieldnames or ()]
            if absent := set(columns).difference(heads):
                raise DatasetError(f"{table} has no column {', '.join(sorted(absent))}.")
            reader.fieldnames = heads
            for row in reader:
                yield (
                    f"Line {reader.line_num} of {table}",
                    {column: (row[column] or "").strip() for column in columns},
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is no table of comma-separated values: {error}.") from error


def _split(where: str, cells: dict[str, str]) -> str:
    if cells["Usage"] not in SPLIT_OF_USAGE:
        raise DatasetError(
            f"{where} has a Usage of {', '.join(SPLIT_OF_USAGE)}, not {cells['Usage'][:20]!r}."
        )
    return SPLIT_OF_USAGE[cells["Usage"]]


def _picture(where: str, cells: dict[str, str]) -> Image.Image:
    try:
        pixels: NDArray[np.uint8] = np.array([int(value) for value in cells["pixels"].split()], np.uint8)
        return Image.fromarray(pixels.reshape(SIDE, SIDE))
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{where} has no {SIDE} × {SIDE} grey values from 0 to 255.") from error
