"""Decoded faces kept on disk: the second fold and a resumed run need not decode and align them again.

They lie in segments, `<name>.npy` beside `<name>.json`, which holds one key a row. A segment is written whole
and never changed, so any number of processes may read and add at once. To delete the folder is always safe.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.datasets.images import Progress, load_faces
from ml.datasets.samples import DatasetError, Sample

logger = logging.getLogger(__name__)

ABANDONED: Final = 24 * 3600  # seconds after which nobody writes any more at a file without an index
FORMAT: Final = 2  # to be raised where `load_faces` gives other pixels


def load_cached_faces(
    samples: Sequence[Sample], size: int, colour: bool, folder: Path, on_progress: Progress | None = None
) -> NDArray[np.uint8]:
    """As `load_faces`, but what `folder` holds is read from there, and what it lacks is added.

    A picture is known by its path, its size in bytes and when it was changed, a face in it by its box too.
    Raises DatasetError as `load_faces` does, and for a picture that is gone.
    """
    from ml.alignment import TEMPLATE  # not above: the names of a set are read without OpenCV

    kind = hashlib.sha256(TEMPLATE.tobytes()).hexdigest()[:8]
    shelf = folder / f"{size}-{'colour' if colour else 'grey'}-{FORMAT}-{kind}"
    keys = [_key(sample) for sample in samples]
    known = _read_segments(shelf, (size, size, 3 if colour else 1))
    missing = [position for position, key in enumerate(keys) if key not in known]
    decoded = load_faces([samples[position] for position in missing], size, colour, on_progress)
    if missing:
        try:
            _add_segment(shelf, [keys[position] for position in missing], decoded)
        except OSError:  # a full disk: they are decoded anew the next time
            logger.warning("Faces could not be kept in %s.", shelf, exc_info=True)
    if len(missing) == len(samples):
        return decoded  # not copied: it may be gigabytes
    faces = np.empty((len(samples), size, size, 3 if colour else 1), np.uint8)
    faces[missing] = decoded
    for position, key in enumerate(keys):
        if key in known:
            segment, row = known[key]
            faces[position] = segment[row]
    return faces


def _key(sample: Sample) -> str:
    try:
        stat = sample.path.stat()
    except OSError as error:
        raise DatasetError(f"The picture {sample.path} cannot be read: {error}.") from error
    facts = (str(sample.path), stat.st_size, stat.st_mtime_ns, sample.photo, *(sample.box or ()))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _read_segments(shelf: Path, shape: tuple[int, ...]) -> dict[str, tuple[NDArray[np.uint8], int]]:
    """Where each face, uint8 of `shape`, is: its segment, mapped into memory, and its row there."""
    found: dict[str, tuple[NDArray[np.uint8], int]] = {}
    for index in sorted(shelf.glob("*.json")):
        try:
            keys = json.loads(index.read_text())
            segment = np.load(index.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            if segment.shape == (len(keys), *shape) and segment.dtype == np.uint8:
                found.update({key: (segment, row) for row, key in enumerate(keys)})
        except (OSError, ValueError, TypeError, EOFError, RecursionError):
            continue  # removed meanwhile, or damaged: its faces are decoded anew
    return found


def _add_segment(shelf: Path, keys: Sequence[str], faces: NDArray[np.uint8]) -> None:
    shelf.mkdir(parents=True, exist_ok=True)
    _sweep(shelf)
    segment = shelf / f"{uuid.uuid4().hex}.npy"
    partial = segment.with_suffix(".part")
    try:
        np.save(segment, faces)
        # The index makes the segment count, so it comes last, and whole.
        partial.write_text(json.dumps(list(keys)))
        partial.replace(segment.with_suffix(".json"))
    except OSError:
        segment.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        raise


def _sweep(shelf: Path) -> None:
    """Remove what a process that was killed had half written: gigabytes, perhaps."""
    for path in (*shelf.glob("*.npy"), *shelf.glob("*.part")):
        with suppress(OSError):
            if not path.with_suffix(".json").exists() and time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
