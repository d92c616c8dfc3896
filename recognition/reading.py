"""Photos on this machine's disk, read in batches: what `predict_fmpn` is made of."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from recognition.reports import PhotoReport, report_error, report_photo
from recognition.uploads import SUFFIXES, Limits, PhotoError, decode_photo

if TYPE_CHECKING:
    from ml.predictor import Predictor

# A batch ends at whichever comes first, so memory stays bounded and small photos still share one pass.
BATCH_PHOTOS: Final = 16
BATCH_PIXELS: Final = 16_000_000


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
    """Read every source in order, a batch at a time. With `crops` each picture is a face already cut out."""
    batch: list[Reading] = []
    for source in sources:
        batch.append(_decode(source, limits))
        pixels = sum(reading.image.size // 3 for reading in batch if reading.image is not None)
        if len(batch) == BATCH_PHOTOS or pixels >= BATCH_PIXELS:
            yield from _predict(batch, predictor, crops)
            batch = []
    yield from _predict(batch, predictor, crops)


def _decode(source: Source, limits: Limits) -> Reading:
    """Decode a source; its report is final where that fails, and a blank to fill where it does not."""
    name = str(source.path)
    try:
        with source.path.open("rb") as stream:
            image = decode_photo(stream, limits)
    except PhotoError as error:
        return Reading(source, report_error(name, str(error)), None)
    except OSError as error:
        return Reading(source, report_error(name, f"This file could not be opened: {error.strerror}."), None)
    height, width = image.shape[:2]
    return Reading(source, PhotoReport(photo=name, width=width, height=height, error=None, faces=[]), image)


def _predict(batch: list[Reading], predictor: "Predictor", crops: bool) -> Iterator[Reading]:
    images = [reading.image for reading in batch if reading.image is not None]
    predict = predictor.predict_crops if crops else predictor.predict
    predictions = iter(predict(images) if images else ())
    for reading in batch:
        if reading.image is None:
            yield reading
        else:
            report = report_photo(reading.report["photo"], next(predictions))
            yield Reading(reading.source, report, reading.image)
