"""The one place where a file that a person hands in becomes pixels.

Everything after it works on an RGB array. A file is judged by its content, never by its name.
"""

import io
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Pillow can read far more (EPS, PSD, FITS…), much of it never meant for strangers' files. MPO is how many
# phones save a JPEG: the photo first, a depth map or a second view after it.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "MPO")
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp"})

# A camera's JPEG has ten scans where it is progressive, and some tens of segments. Each further scan is 60
# bytes of a file and goes over all pixels again, so that 15 MB of them would be read for an hour.
MOST_SCANS, MOST_SEGMENTS = 100, 1000
# Those with a length after them that decoders believe: what else stands in a scan's bytes they pass over.
MARKER: Final = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
START_OF_IMAGE, START_OF_SCAN, END_OF_IMAGE = b"\xff\xd8", b"\xda", b"\xd9"

# Deflate packs 1,032 bytes into one at the very most, and a pixel takes a bit at least: a PNG that claims
# more is cut, and is refused before there is memory for it.
PIXELS_A_BYTE: Final = 1032 * 8

MIN_SIDE: Final = 20  # less holds no face that could be read
MAX_SIDE: Final = 30_000  # OpenCV counts the columns it samples in 16 bits

NAME_LENGTH: Final = 100
# Transparent parts become the middle grey: white or black would draw a hard edge around a light or dark face.
BACKDROP: Final = (128, 128, 128)

# How files that people mix up with photos begin: (offset, bytes, what it is).
SIGNATURES: Final[tuple[tuple[int, bytes, Promise], ...]] = (
    (0, b"GIF8", _("a GIF image")),
    (0, b"%!PS", _("an EPS drawing")),
    (0, b"\xc5\xd0\xd3\xc6", _("an EPS drawing")),
    (0, b"%PDF", _("a PDF document")),
    (0, b"II*\0", _("a TIFF image")),
    (0, b"MM\0*", _("a TIFF image")),
    (0, b"8BPS", _("a Photoshop file")),
    (0, b"BM", _("a BMP image")),
    (0, b"PK\x03\x04", _("a ZIP archive or an office document")),
    (4, b"ftyphei", _("a HEIC photo")),
    (4, b"ftyphev", _("a HEIC photo")),
    (4, b"ftypmif", _("a HEIC photo")),
    (4, b"ftypavif", _("an AVIF image")),
    (4, b"ftyp", _("a video")),
    (0, b"\x1aE\xdf\xa3", _("a video")),
    (0, b"\xff\xd8\xff", _("a damaged JPEG")),
    (0, b"\x89PNG", _("a damaged PNG")),
    (8, b"WEBP", _("a damaged WebP")),
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
    sizes and a JPEG's scans are checked before a pixel is decoded, so memory and time stay bounded for any
    input. Raises PhotoError.
    """
    data = _read(source, limits)
    picture = _open(data, limits)
    try:
        picture.load()  # a JPEG cut to a fifth opens and verifies: only loading it tells
    except Exception as error:  # broken files make decoders raise nearly anything
        raise PhotoError(_damaged(picture)) from error
    # EXIF is written by anything and anyhow, and a photo is not refused for its notes.
    with suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    return np.array(_to_rgb(picture), dtype=np.uint8)


def display_name(name: str) -> str:
    """A stranger's name of a file, for eyes only: without what can't be printed, its end where it is long."""
    shown = "".join(letter for letter in name if letter.isprintable()).strip()
    shown = shown or gettext("a file without a name")
    return shown if len(shown) <= NAME_LENGTH else f"…{shown[1 - NAME_LENGTH :]}"


def _read(source: bytes | Readable, limits: Limits) -> bytes:
    most = int(limits.megabytes * 1_000_000)
    data = source[: most + 1] if isinstance(source, bytes) else source.read(most + 1)
    if not data:
        raise PhotoError(gettext("This file is empty."))
    if len(data) > most:
        sentence = gettext("This file is larger than %(most)s MB, the most that is accepted.")
        raise PhotoError(sentence % {"most": f"{limits.megabytes:g}"})
    return data


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Read the header alone, and refuse what must not be decoded."""
    too_many = gettext("This picture has more than %(most)s megapixels, the most that is accepted.") % {
        "most": f"{limits.megapixels:g}"
    }
    if data.startswith(START_OF_IMAGE):
        _refuse_endless_jpeg(data)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(too_many) from error
    except Exception as error:  # broken files make parsers raise nearly anything
        sentence = gettext("This is %(what)s; JPEG, PNG and WebP photos are accepted.")
        raise PhotoError(sentence % {"what": _describe(data)}) from error
    width, height = picture.size
    if width * height > limits.megapixels * 1_000_000:
        raise PhotoError(too_many)
    if min(width, height) < MIN_SIDE:
        sentence = gettext(
            "This picture is %(width)d × %(height)d pixels, too small to hold a face: "
            "at least %(least)d × %(least)d are needed."
        )
        raise PhotoError(sentence % {"width": width, "height": height, "least": MIN_SIDE})
    if picture.format == "PNG" and width * height > PIXELS_A_BYTE * len(data):
        raise PhotoError(_damaged(picture))
    if max(width, height) > MAX_SIDE:
        sentence = gettext("This picture is longer than %(most)s pixels, the most that is accepted.")
        raise PhotoError(sentence % {"most": f"{MAX_SIDE:,}"})
    return picture


def _refuse_endless_jpeg(data: bytes) -> None:
    at, scans, segments = len(START_OF_IMAGE), 0, 0
    while (marker := MARKER.search(data, at)) and marker[1] != END_OF_IMAGE:
        segments += 1
        scans += marker[1] == START_OF_SCAN
        if scans > MOST_SCANS or segments > MOST_SEGMENTS:
            raise PhotoError(gettext("This JPEG is made of more parts than any camera writes: save it anew."))
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])


def _describe(data: bytes) -> str:
    """Say in words what a refused file is."""
    for offset, signature, what in SIGNATURES:
        if data.startswith(signature, offset):
            return str(what)
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg")) and b"<svg" in data[:4096].lower():
        return gettext("an SVG drawing")
    try:
        data[:1024].decode("utf-8")
    except UnicodeDecodeError as error:
        # A character cut in two by the slice is still text.
        if error.start < len(data[:1024]) - 3:
            return gettext("not a picture known here")
    return gettext("not a picture known here") if b"\0" in data[:1024] else gettext("a text file")


def _damaged(picture: Image.Image) -> str:
    sentence = gettext("This %(format)s is damaged or incomplete: not all of it could be read.")
    return sentence % {"format": _format(picture)}


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
