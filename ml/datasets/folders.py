"""The layout that anyone can make: one folder a class."""

from pathlib import Path

from ml.datasets.images import SUFFIXES
from ml.datasets.samples import (
    ALL,
    SPLITS,
    DatasetError,
    EmptySplitError,
    Sample,
    certain,
    is_visible,
    keys_of_split,
)
from ml.expressions import EXPRESSIONS, SYNONYMS, expression_index


def read_folders(root: Path, split: str) -> list[Sample]:
    """Read root/{train,valid,test}/<class>/ or, without split folders, root/<class>/.

    A class folder bears an expression's name or a synonym of it. Without split folders every class is
    divided 80/10/10 by the hash of its files' relative paths. Hidden names and files that are no pictures
    are passed over. Raises DatasetError for an unknown class folder and for a split folder that is missing.
    """
    parts = [part for part in SPLITS if (root / part).is_dir()]
    if not parts:
        return _divide(_read_classes(root), root, split)
    if split == ALL:
        return [sample for part in parts for sample in _read_classes(root / part)]
    if split not in parts:
        raise EmptySplitError(f"{root} has the split folders {', '.join(parts)}, but no folder {split!r}.")
    return _read_classes(root / split)


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


def _divide(samples: list[Sample], root: Path, split: str) -> list[Sample]:
    def key(sample: Sample) -> str:
        return sample.path.relative_to(root).as_posix()

    chosen: set[str] = set()
    for expression in range(len(EXPRESSIONS)):
        chosen |= keys_of_split((key(s) for s in samples if s.expression == expression), split)
    return [sample for sample in samples if key(sample) in chosen]
