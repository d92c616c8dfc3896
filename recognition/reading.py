"""Photos on this machine's disk, read side by side: what `predict_fmpn` is made of."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ml.runtime import available_cores
from recognition.reports import PhotoReport, report_error, report_photo
from recognition.uploads import SUFFIXES, Limits, PhotoError, decode_photo

if TYPE_CHECKING:
    from ml.predictor import Predictor

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD: Final = 2  # photos that are read and wait for one before them: memory stays bounded


@dataclass(frozen=True)
class Source:
    """A photo to read, and where its annotated copy lies inside the folder of copies."""

    path: Path
    copy: Path


@dataclass(frozen=True)
class Reading:
    """What came of one source; `image`, RGB (height, width, 3), is None where it could not be read."""

    source: Source
    report: PhotoReport
    image: NDArray[np.uint8] | None


def find_photos(paths: Iterable[Path]) -> list[Source]:
    """List the photos that `paths` name: files as they are, folders with all that lies in them, in order.

    In folders only names that end as photos do count. Raises PhotoError where a path
    leads nowhere or a folder holds no photo.
    """
    sources: dict[Path, Path] = {}
    taken: set[Path] = set()
    for path in paths:
        for photo, copy in _walk(path):
            if photo not in sources:
                sources[photo] = _free(copy, taken)
                taken.add(sources[photo])
    return [Source(photo, copy) for photo, copy in sources.items()]


def _walk(path: Path) -> Iterator[tuple[Path, Path]]:
    if path.is_dir():
        inside = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if not inside:
            raise PhotoError(f"There is no photo in {path}: none of its files ends in .jpg, .png or .webp.")
        yield from ((file, file.relative_to(path)) for file in inside)
    elif path.exists():
        yield path, Path(path.name)
    else:
        raise PhotoError(f"There is no file or folder {path}.")


def _free(copy: Path, taken: set[Path]) -> Path:
    """The name for a copy: of a kind that can be written, and not yet given to a namesake from elsewhere."""
    if copy.suffix.lower() not in SUFFIXES:
        copy = copy.with_name(f"{copy.name}.jpg")
    number, free = 1, copy
    while free in taken:
        number += 1
        free = copy.with_stem(f"{copy.stem}-{number}")
    return free


def read_photos(
    sources: Iterable[Source], predictor: "Predictor", limits: Limits, *, crops: bool
) -> Iterator[Reading]:
    """Read every source, one a core at a time, and give them in order. With `crops` each picture is a face
    already cut out."""
    return side_by_side(lambda source: _read(source, predictor, limits, crops), sources)


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    """What `work` makes of every item, one a core at a time, in the items' order."""
    # numpy, OpenCV and the networks let go of the interpreter while they compute: threads are enough, and
    # they share one model.
    workers = available_cores()
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers + AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: Source, predictor: "Predictor", limits: Limits, crops: bool) -> Reading:
    # A name may hold bytes that are no letters; what is written of it has to be text.
    name = str(source.path).encode("utf-8", "replace").decode()
    try:
        with source.path.open("rb") as stream:
            image = decode_photo(stream, limits)
    except PhotoError as error:
        return Reading(source, report_error(name, str(error)), None)
    except OSError as error:
        return Reading(source, report_error(name, f"This file could not be opened: {error.strerror}."), None)
    predict = predictor.predict_crops if crops else predictor.predict
    return Reading(source, report_photo(name, predict([image])[0]), image)
