"""RAF-DB: 15,339 faces in the wild with one of the seven basic expressions."""

import re
from pathlib import Path
from typing import Final

from ml.datasets.samples import ALL, DatasetError, Sample, check_pictures, keys_of_split, labelled

LINE: Final = re.compile(r"(?P<name>(?P<side>train|test)_\d+)\.jpg (?P<number>[1-7])")
NUMBERS: Final = {
    1: "surprise",
    2: "fear",
    3: "disgust",
    4: "happiness",
    5: "sadness",
    6: "anger",
    7: "neutral",
}


def read_rafdb(root: Path, split: str) -> list[Sample]:
    """Read EmoLabel/list_patition_label.txt and Image/aligned/train_00001_aligned.jpg in root or root/basic.

    The list has train and test; a tenth of train, by the hash of the names, serves as valid. Subjects are not
    known. Raises DatasetError for a missing or malformed list and for pictures that are missing.
    """
    base = root / "basic" if (root / "basic").is_dir() else root
    table, folder = base / "EmoLabel" / "list_patition_label.txt", base / "Image" / "aligned"
    if not table.is_file():
        raise DatasetError(f"RAF-DB needs the list {table}, which is missing.")
    lines = table.read_bytes().decode("ascii", "replace").splitlines()
    matches = [_parse(line, number, table) for number, line in enumerate(lines, start=1) if line.strip()]
    check_pictures(table, (folder / f"{match['name']}_aligned.jpg" for match in matches))
    validated = keys_of_split((match["name"] for match in matches if match["side"] == "train"), "valid")
    return [
        labelled(folder / f"{match['name']}_aligned.jpg", NUMBERS[int(match["number"])])
        for match in matches
        if split in (ALL, "valid" if match["name"] in validated else match["side"])
    ]


def _parse(line: str, number: int, table: Path) -> re.Match[str]:
    if match := LINE.fullmatch(line.strip()):
        return match
    raise DatasetError(
        f'Line {number} of {table} is no picture and class, such as "train_00001.jpg 5", but {line[:80]!r}.'
    )
