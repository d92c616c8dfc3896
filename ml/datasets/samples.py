"""What every reader of a data set gives back, and how sets without official splits are divided."""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ml.expressions import EXPRESSIONS, expression_index

SPLITS: Final = ("train", "valid", "test")
ALL: Final = "all"


class DatasetError(Exception):
    """A data set that cannot be read; its text is a sentence fit for a person."""


class EmptySplitError(DatasetError):
    """A split that the set does not have, or that holds no labelled picture."""


@dataclass(frozen=True)
class Sample:
    """One labelled face that has not been decoded yet.

    expression: index in EXPRESSIONS. target: eight soft targets in that order, each 0..1, sum 1.
    subject: who is on the picture, as the set names people; None where it does not tell.
    photo: the picture shows more than a face, which has yet to be found in it and cut out.
    box: left, top, right, bottom in pixels of the photo: about where the face is, among others.
    """

    path: Path
    expression: int
    target: tuple[float, ...]
    subject: str | None = None
    photo: bool = False
    box: tuple[int, int, int, int] | None = None


def certain(expression: int) -> tuple[float, ...]:
    """The target of a set with one label an image: 1 for that expression, 0 for the others."""
    return tuple(float(index == expression) for index in range(len(EXPRESSIONS)))


def labelled(path: Path, name: str, subject: str | None = None, *, photo: bool = False) -> Sample:
    """A sample with one label, the expression's name."""
    expression = expression_index(name)
    return Sample(path, expression, certain(expression), subject, photo)


def divide_by_person(samples: Iterable[Sample], split: str) -> list[Sample]:
    """The samples of those people who fall into `split` (`keys_of_split`)."""
    samples = list(samples)
    chosen = keys_of_split((sample.subject or "" for sample in samples), split)
    return [sample for sample in samples if (sample.subject or "") in chosen]


def keys_of_split(keys: Iterable[str], split: str) -> set[str]:
    """The keys (people, relative paths) that fall into `split`: 80 % train, 10 % valid, 10 % test.

    The order of the keys' SHA-256 decides: it is the same on every machine and owes nothing to names. With
    fewer than ten keys valid or test may be empty; train never is. Split "all" gives every key.
    """
    # Names that are no UTF-8 are refused a little later, by `check_names`.
    ordered = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode(errors="surrogatepass")).digest())
    if split == ALL:
        return set(ordered)
    by_tenth = ("train",) * 8 + ("valid", "test")
    return {key for rank, key in enumerate(ordered) if by_tenth[rank * 10 // len(ordered)] == split}


def first_few(names: Sequence[str]) -> str:
    """The first three names and "…", for a sentence."""
    return ", ".join((*names[:3], "…") if len(names) > 3 else names)


def check_pictures(table: Path, pictures: Iterable[Path]) -> None:
    """Raise DatasetError, with how many and the first, where pictures that `table` names are missing."""
    pictures = list(pictures)
    missing = [path for path in pictures if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{table} names {len(pictures)} pictures, but {len(missing)} are missing, first {missing[0]}."
        )


def check_names(paths: Iterable[Path]) -> None:
    """Raise DatasetError where a name is no UTF-8, as of old archives: no table or database could hold it."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DatasetError(f"The name {str(path)!a} is no UTF-8: rename the file.") from None


def same_name(name: str) -> str:
    """A name in the one form in which names are compared: macOS takes letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def is_visible(path: Path) -> bool:
    return not path.name.startswith(".")
