"""Decoding a set's pictures: many small files, a few threads (Pillow lets go of the GIL while it decodes)."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ml.datasets.samples import DatasetError, Sample

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # MPO opens as JPEG
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
ROOM: Final = 0.3  # around a box that is given, as a share of its sides
THREADS: Final = min(4, os.cpu_count() or 1)

Progress = Callable[[int, int], None]

Image.init()  # Pillow would load its plugins at the first open, which is not safe in several threads


def load_faces(
    samples: Sequence[Sample], size: int, colour: bool, on_progress: Progress | None = None
) -> NDArray[np.uint8]:
    """Decode every sample to one array: uint8 (N, size, size, 3), or (N, size, size, 1) without `colour`.

    Values are 0..255, RGB or luminance. A picture that is not square loses its longer sides evenly, so that
    no face is stretched; an alpha channel is dropped; EXIF orientation is applied. Shrinking averages over
    the area (Pillow's bicubic widens its support), enlarging is bicubic. `on_progress(done, total)` is
    called in the caller's thread. Raises DatasetError that names the first file which cannot be read or has
    its box beside it.

    Of a whole photo (`Sample.photo`) the face is found by MTCNN and brought to our framing
    (`alignment.frame_photo`), which takes about 50 ms; of several in it the one in the middle of the sample's
    box. Other pictures are taken as they are framed.
    """
    faces = np.empty((len(samples), size, size, 3 if colour else 1), np.uint8)
    frame = _framer() if any(sample.photo for sample in samples) else None

    def fill(position: int) -> None:
        sample = samples[position]
        if frame and sample.photo:
            photo = decode(sample.path, colour=True)
            part = _around(photo, sample.box, sample.path) if sample.box else photo
            picture = frame(part, size, sample.box is not None)
            picture = picture if colour else picture.convert("L")
        else:
            picture = decode(sample.path, colour)
        square = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        faces[position] = np.asarray(square).reshape(size, size, -1)

    with ThreadPoolExecutor(THREADS) as pool:
        for done, _ in enumerate(pool.map(fill, range(len(samples))), start=1):
            if on_progress:
                on_progress(done, len(samples))
    return faces


def _around(photo: Image.Image, box: tuple[int, int, int, int], path: Path) -> Image.Image:
    """The box and what is around it, for the detector; what lies outside the photo will be black.

    Raises DatasetError for a box that cannot be a face's: beside the photo, or far larger than it.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    beside_it = left >= photo.width or top >= photo.height or right <= 0 or bottom <= 0
    if beside_it or width > 2 * photo.width or height > 2 * photo.height:
        size = f"{photo.width} × {photo.height}"
        raise DatasetError(f"The picture {path}, {size} pixels, has no face at {box}: its table is wrong.")
    beside, above = round(ROOM * width), round(ROOM * height)
    return photo.crop((left - beside, top - above, right + beside, bottom + above))


def _framer() -> Callable[[Image.Image, int, bool], Image.Image]:
    """Load the detector, which reading the names of a set does not need."""
    from ml.alignment import frame_photo
    from ml.faces import load_detector

    detector = load_detector("mtcnn")
    return lambda photo, size, middle: Image.fromarray(
        frame_photo(np.asarray(photo), detector, size, middle=middle)
    )


def pixel_digests(paths: Sequence[Path]) -> list[bytes | None]:
    """The SHA-256 of each picture's luminance: equal for equal pictures, however they were compressed.

    None for one that cannot be read: who reads its face is told of it.
    """

    def digest(path: Path) -> bytes | None:
        try:
            return pixel_digest(decode(path, colour=False))
        except DatasetError:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(digest, paths))


def without_copies(samples: list[Sample], others: Sequence[Path]) -> list[Sample]:
    """The samples whose pictures are none of `others`, pixel by pixel."""
    if not others:
        return samples
    taken = set(pixel_digests(others)) - {None}
    digests = pixel_digests([sample.path for sample in samples])
    return [sample for sample, digest in zip(samples, digests, strict=True) if digest not in taken]


def pixel_digest(picture: Image.Image) -> bytes:
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()


def decode(path: Path, colour: bool) -> Image.Image:
    """Read one picture, upright, in mode RGB or L; DatasetError names a file that cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            # EXIF is written by anything and anyhow, and a photo is not refused for its notes.
            with suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            upright: Image.Image = image
        if upright.mode in ("I", "F"):  # Pillow would clip them to white, or to black
            raise ValueError("of grey values of 32 bits nobody tells which is white")
        if upright.mode.startswith("I;16"):  # sixteen bits of grey, which Pillow would clip to white
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.mode in ("P", "PA"):  # a palette may hold its own alpha: take it out of the colours first
            upright = upright.convert("RGBA")
        return upright.convert("RGB" if colour else "L")
    except Exception as error:  # broken files make decoders raise nearly anything
        raise DatasetError(f"The picture {path} cannot be read: {error}.") from error
