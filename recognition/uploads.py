"""The one place where a file that a person hands in becomes pixels.

Everything after it works on an RGB array. A file is judged by its content, never by its name.
"""

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Pillow can read far more (EPS, PSD, FITS…), much of it never meant for strangers' files. MPO is how many
# phones save a JPEG: the photo first, a depth map or a second view after it.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "MPO")
ACCEPTED: Final = "JPEG, PNG and WebP photos are accepted"
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp"})

MIN_SIDE: Final = 20  # less holds no face that could be read
MAX_SIDE: Final = 30_000  # OpenCV counts the columns it samples in 16 bits

# Transparent parts become the middle grey: white or black would draw a hard edge around a light or dark face.
BACKDROP: Final = (128, 128, 128)

# How files that people mix up with photos begin: (offset, bytes, what it is).
SIGNATURES: Final = (
    (0, b"GIF8", "a GIF image"),
    (0, b"%!PS", "an EPS drawing"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS drawing"),
    (0, b"%PDF", "a PDF document"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"BM", "a BMP image"),
    (0, b"PK\x03\x04", "a ZIP archive or an office document"),
    (4, b"ftyphei", "a HEIC photo"),
    (4, b"ftyphev", "a HEIC photo"),
    (4, b"ftypmif", "a HEIC photo"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyp", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (0, b"\xff\xd8\xff", "a damaged JPEG"),
    (0, b"\x89PNG", "a damaged PNG"),
    (8, b"WEBP", "a damaged WebP"),
)


class PhotoError(Exception):
    """A file that cannot be used as a photo; its text is a sentence for the person who chose it."""


class Readable(Protocol):
    """An open binary file, or Django's uploaded one."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Limits:
    """What one file may cost: its size in megabytes (10⁶ bytes) and its picture's in megapixels."""

    megabytes: float = 15
    megapixels: float = 40


def decode_photo(source: bytes | Readable, limits: Limits) -> NDArray[np.uint8]:
    """Decode a photo to an upright RGB array (height, width, 3), without any of its metadata.

    Orientation from EXIF is applied; 16-bit grey is scaled, CMYK and palettes converted, transparency laid on
    grey, and of an animation the first picture taken. At most `limits.megabytes` are read from `source`, and
    sizes are checked in the header before a pixel is decoded, so memory stays bounded for any input.
    Raises PhotoError.
    """
    data = _read(source, limits)
    picture = _open(data, limits)
    try:
        picture.load()  # a JPEG cut to a fifth opens and verifies: only loading it tells
    except Exception as error:  # broken files make decoders raise nearly anything
        raise PhotoError(
            f"This {_format(picture)} is damaged or incomplete: not all of it could be read."
        ) from error
    # EXIF is written by anything and anyhow, and a photo is not refused for its notes.
    with suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    return np.array(_to_rgb(picture), dtype=np.uint8)


def _read(source: bytes | Readable, limits: Limits) -> bytes:
    most = int(limits.megabytes * 1_000_000)
    data = source[: most + 1] if isinstance(source, bytes) else source.read(most + 1)
    if not data:
        raise PhotoError("This file is empty.")
    if len(data) > most:
        raise PhotoError(f"This file is larger than {limits.megabytes:g} MB, the most that is accepted.")
    return data


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Read the header alone, and refuse what must not be decoded."""
    too_many = f"This picture has more than {limits.megapixels:g} megapixels, the most that is accepted."
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(too_many) from error
    except Exception as error:  # broken files make parsers raise nearly anything
        raise PhotoError(f"This is {_describe(data)}; {ACCEPTED}.") from error
    width, height = picture.size
    if width * height > limits.megapixels * 1_000_000:
        raise PhotoError(too_many)
    if min(width, height) < MIN_SIDE:
        raise PhotoError(
            f"This picture is {width} × {height} pixels, too small to hold a face: "
            f"at least {MIN_SIDE} × {MIN_SIDE} are needed."
        )
    if max(width, height) > MAX_SIDE:
        raise PhotoError(f"This picture is longer than {MAX_SIDE:,} pixels, the most that is accepted.")
    return picture


def _describe(data: bytes) -> str:
    """Say in words what a refused file is."""
    for offset, signature, what in SIGNATURES:
        if data.startswith(signature, offset):
            return what
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg")) and b"<svg" in data[:4096].lower():
        return "an SVG drawing"
    try:
        data[:1024].decode("utf-8")
    except UnicodeDecodeError as error:
        # A character cut in two by the slice is still text.
        if error.start < len(data[:1024]) - 3:
            return "not a picture known here"
    return "not a picture known here" if b"\0" in data[:1024] else "a text file"


def _format(picture: Image.Image) -> str:
    return {"WEBP": "WebP", "PNG": "PNG"}.get(picture.format or "", "JPEG")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion clips at 255, which turns nearly all of it white.
        grey = (np.asarray(picture).astype(np.uint32).clip(0, 65535) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        flat = Image.new("RGB", picture.size, BACKDROP)
        flat.paste(picture, mask=picture.getchannel("A"))
        return flat
    return picture if picture.mode == "RGB" else picture.convert("RGB")
