"""Photos with what was read drawn onto them, for whoever works in the shell."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from recognition.palette import COLOURS, UNREAD, ink
from recognition.reports import FaceReport


def annotate(image: NDArray[np.uint8], faces: list[FaceReport]) -> Image.Image:
    """Draw every face's box, its number and what was read onto a copy of an RGB photo (height, width, 3)."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for number, face in enumerate(faces, 1):
        colour = COLOURS[face["expression"]] if face["expression"] else UNREAD
        left, top, right, bottom = face["box"] or (0, 0, *picture.size)
        # As large as its face allows, for neighbours' sake, but never too small to read.
        size = max(10, round(min((right - left) / 6, max(picture.size) / 40)))
        font = ImageFont.load_default(size)
        draw.rectangle((left, top, right, bottom), outline=colour, width=max(2, size // 6))
        label = f"{number} {_words(face)}"
        width, height = draw.textlength(label, font) + size * 0.6, size * 1.4
        x = max(0, min(left, picture.width - width))
        y = top - height if top >= height else top
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        draw.text((x + width / 2, y + height / 2), label, ink(colour), font, anchor="mm")
    return picture


def _words(face: FaceReport) -> str:
    if face["expression"] is None or face["probabilities"] is None:
        return face.get("problem", "")
    guess = "?" if face["sure"] is False else ""
    return f"{face['expression']}{guess} {face['probabilities'][face['expression']]:.0%}"
