"""Pictures as they are kept, shown and handed out: our own encodings, never a byte of what was uploaded."""

import base64
import io
import re
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# What an analysis's pictures are called. Whoever asks for a file by its name asks for one of these.
FILENAME: Final = re.compile(r"(photo-\d+(-face-\d+(-mask)?)?|person-\d+|poster)\.(jpg|png)", re.ASCII)

# Large enough for a screen; the photo itself is not kept.
SHOWN_SIDE: Final = 2048


def encode_photo(image: NDArray[np.uint8]) -> bytes:
    """Encode an RGB photo (height, width, 3) as a JPEG of at most `SHOWN_SIDE` pixels a side."""
    height, width = image.shape[:2]
    scale = SHOWN_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return _encode(image, "JPEG", quality=88)


def encode_crop(crop: NDArray[np.uint8]) -> bytes:
    """Encode an aligned face, RGB (S, S, 3), as a JPEG."""
    return _encode(crop, "JPEG", quality=92)


def encode_picture(image: NDArray[np.uint8]) -> bytes:
    """Encode a small RGB picture (H, W, 3) as a PNG, as it is."""
    return _encode(image, "PNG")


def encode_mask(mask: NDArray[np.float32]) -> bytes:
    """Encode a motion mask (S, S), 0..1, as a PNG in the colours of viridis, from violet to yellow."""
    levels = (mask.clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(levels)
    # A palette: the same colours as three channels, in a fiftieth of the time and two thirds of the bytes.
    picture.putpalette(_viridis())
    return _save(picture, "PNG")


def data_url(png: bytes) -> str:
    """A PNG as an address that holds the picture itself: shown, and kept nowhere."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


@cache
def _viridis() -> bytes:
    """256 colours, RGB."""
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(colours[0, :, ::-1]).tobytes()


def _encode(image: NDArray[np.uint8], form: str, **options: object) -> bytes:
    return _save(Image.fromarray(np.ascontiguousarray(image)), form, **options)


def _save(picture: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()
