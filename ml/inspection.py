"""What is in a data set, looked at before anything is trained on it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ml.datasets import DatasetError, Sample, load_samples
from ml.datasets.images import THREADS, decode
from ml.expressions import EXPRESSIONS
from ml.folds import Fold, NoFoldListsError, find_leaks, read_fold_lists
from ml.near_duplicates import Print, near_pairs, print_of

MOST_PAIRS: Final = 500  # near duplicates that are named; all are counted

FACES_A_ROW: Final = 10
FACE_SIDE: Final = 96
LABEL_WIDTH: Final = 150
GAP: Final = 4

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True)
class Inspection:
    """What was found in a set; paths are relative to its folder, with "/" between their parts.

    by_class: pictures of each of EXPRESSIONS, also where there are none. by_subject: pictures of each person,
    empty where the set does not tell. unreadable: (picture, reason).
    duplicates: groups of pictures with the very same pixels. near_duplicates: pairs whose perceptual hashes
    nearly agree, the nearest MOST_PAIRS of `near_duplicate_count`; frames of one and the same person are
    alike by nature and not counted. fold_lists: how many folds the set has lists of. leaks: a sentence for
    each of those folds that must not be used, or why the lists cannot be read.
    """

    by_class: dict[str, int]
    by_subject: dict[str, int]
    unreadable: list[tuple[str, str]]
    duplicates: list[list[str]]
    near_duplicates: list[tuple[str, str]]
    near_duplicate_count: int
    fold_lists: int
    leaks: list[str]

    @property
    def total(self) -> int:
        return sum(self.by_class.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers, fit for JSON; `total` is among them."""
        return {"total": self.total, **asdict(self)}


def inspect(kind: str, root: Path, on_progress: Progress | None = None) -> Inspection:
    """Look through the whole set of `kind` in `root`.

    `on_progress(doing, done, total)` is called in the caller's thread. Raises DatasetError where the set
    cannot be read at all; single unreadable pictures are reported, and left out of everything else.
    """
    report = on_progress or (lambda doing, done, total: None)
    samples = load_samples(kind, root, "all")
    prints, unreadable = _read(samples, report)
    names = {sample.path: _relative(sample.path, root) for sample in samples}
    readable = [sample for sample in samples if sample.path in prints]
    pictures = list({sample.path: sample for sample in readable}.values())  # one may hold several faces
    near, near_count = _near_duplicates(pictures, prints, report)
    fold_lists, leaks = _own_folds(kind, root, unreadable)
    counts = Counter(EXPRESSIONS[sample.expression] for sample in readable)
    people = Counter(sample.subject for sample in readable if sample.subject)
    return Inspection(
        by_class={name: counts[name] for name in EXPRESSIONS},
        by_subject=dict(sorted(people.items())),
        unreadable=[(names[path], reason) for path, reason in unreadable.items()],
        duplicates=[[names[path] for path in group] for group in _duplicates(prints)],
        near_duplicates=[(names[first], names[second]) for first, second in near],
        near_duplicate_count=near_count,
        fold_lists=fold_lists,
        leaks=leaks,
    )


def contact_sheet(samples: Sequence[Sample], path: Path) -> None:
    """Draw a JPEG with a row for each expression that occurs: its word and some faces, taken evenly.

    Pictures that cannot be read are passed over. Raises OSError where the file cannot be written.
    """
    rows = [[sample for sample in samples if sample.expression == index] for index in range(len(EXPRESSIONS))]
    rows = [row for row in rows if row]
    step = FACE_SIDE + GAP
    size = (LABEL_WIDTH + FACES_A_ROW * step, max(1, len(rows)) * step + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(20), ImageFont.load_default(15)
    for line, row in enumerate(rows):
        top = GAP + line * step
        draw.text((12, top + 28), EXPRESSIONS[row[0].expression], "black", font)
        draw.text((12, top + 54), f"{len(row):,}", "dimgray", small)
        for column, face in enumerate(_some_faces(row)):
            sheet.paste(face, (LABEL_WIDTH + column * step, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "JPEG", quality=88)


def _read(samples: Sequence[Sample], report: Progress) -> tuple[dict[Path, Print], dict[Path, str]]:
    def look(sample: Sample) -> Print | str:
        try:
            return print_of(sample.path)
        except DatasetError as error:
            return str(error.__cause__ or error)

    prints: dict[Path, Print] = {}
    unreadable: dict[Path, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        looked = zip(samples, pool.map(look, samples), strict=True)
        for done, (sample, found) in enumerate(looked, start=1):
            if isinstance(found, str):
                unreadable[sample.path] = found
            else:
                prints[sample.path] = found
            report("Reading the pictures", done, len(samples))
    return prints, unreadable


def _duplicates(prints: dict[Path, Print]) -> list[list[Path]]:
    groups: defaultdict[bytes, list[Path]] = defaultdict(list)
    for path, found in prints.items():
        groups[found.digest].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _near_duplicates(
    samples: Sequence[Sample], prints: dict[Path, Print], report: Progress
) -> tuple[list[tuple[Path, Path]], int]:
    """Pairs of nearly but not quite the same picture, nearest first, and how many there are."""
    pictures = _numbered([prints[sample.path].digest for sample in samples])
    people = _numbered([sample.subject or index for index, sample in enumerate(samples)])
    found: list[tuple[int, int, int]] = []
    count = 0
    for done, near in near_pairs([prints[sample.path] for sample in samples]):
        _, first, second = near.T
        pairs = near[(pictures[first] != pictures[second]) & (people[first] != people[second])]
        count += len(pairs)
        nearest = pairs[np.argsort(pairs[:, 0], kind="stable")[:MOST_PAIRS]]
        found = sorted([*found, *(tuple(pair) for pair in nearest.tolist())])[:MOST_PAIRS]
        report("Comparing the pictures", done, len(samples))
    return [(samples[first].path, samples[second].path) for _, first, second in found], count


def _numbered(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Equal numbers for equal keys, int64 (N,)."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _own_folds(kind: str, root: Path, unreadable: Iterable[Path]) -> tuple[int, list[str]]:
    try:
        folds = read_fold_lists(kind, root)
    except NoFoldListsError:
        return 0, []
    except DatasetError as error:
        return 0, [str(error)]
    left_out = set(unreadable)
    return len(folds), [str(leak) for leak in find_leaks([_without(fold, left_out) for fold in folds])]


def _without(fold: Fold, paths: set[Path]) -> Fold:
    train, test = (
        tuple(sample for sample in side if sample.path not in paths) for side in (fold.train, fold.test)
    )
    return replace(fold, train=train, test=test)


def _some_faces(row: Sequence[Sample]) -> list[Image.Image]:
    faces = []
    for index in np.linspace(0, len(row) - 1, min(FACES_A_ROW, len(row))).round().astype(int):
        try:
            picture = decode(row[index].path, colour=True)
        except DatasetError:
            continue
        faces.append(ImageOps.fit(picture, (FACE_SIDE, FACE_SIDE), Image.Resampling.BICUBIC))
    return faces


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
