"""ExpW, faces in the wild (Zhang, Luo, Loy and Tang, arXiv 1609.06426): several may be in one photo."""

from pathlib import Path
from typing import Final

from ml.datasets.samples import DatasetError, Sample, certain, keys_of_split
from ml.expressions import expression_index

TABLES: Final = ("label.lst", "label/label.lst")
FOLDERS: Final = ("origin", "image/origin", "Images")
NAMES: Final = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
CELLS: Final = 8  # picture, number of the face, top, left, right, bottom, the detector's score, expression


def read_expw(root: Path, split: str) -> list[Sample]:
    """Read label.lst, or label/label.lst, and the photos in origin, image/origin or Images.

    Divided 80/10/10 by photo, so that faces of one photo stay together. Raises DatasetError for a table or
    a picture that is missing and for a line that is not a picture, a box and an expression's number.
    """
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    folder = next((root / name for name in FOLDERS if (root / name).is_dir()), None)
    if table is None or folder is None:
        raise DatasetError(f"ExpW needs label.lst and the folder origin: one is missing in {root}.")
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table} is no text: {error}.") from error
    present = {path.name: path for path in folder.iterdir()}
    samples = [
        _parse(line.split(), present, f"Line {number} of {table}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    chosen = keys_of_split((sample.path.name for sample in samples), split)
    return [sample for sample in samples if sample.path.name in chosen]


def _parse(cells: list[str], present: dict[str, Path], where: str) -> Sample:
    numbers = [int(cell) for cell in (*cells[2:6], cells[-1]) if cell.isdecimal() and len(cell) < 6]
    if len(cells) != CELLS or len(numbers) != 5 or numbers[4] >= len(NAMES):
        raise DatasetError(
            f"{where} is not a picture, a face's number, its box, a score and an expression from 0 to 6: "
            f"{' '.join(cells)[:80]!r}."
        )
    top, left, right, bottom, number = numbers
    if cells[0] not in present:
        raise DatasetError(f"{where} names the picture {cells[0][:80]!r}, which is missing.")
    if not (left < right and top < bottom):
        raise DatasetError(f"{where} has a box without a size.")
    expression = expression_index(NAMES[number])
    box = (left, top, right, bottom)
    return Sample(present[cells[0]], expression, certain(expression), photo=True, box=box)
