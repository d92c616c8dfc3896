"""The photos of the bench, made from the two samples that come with the site."""

import io
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

ROOT: Final = Path(__file__).resolve().parents[2]
SAMPLES: Final = tuple(
    ROOT / "static" / "samples" / f"{name}.jpg" for name in ("eileen-collins", "grace-hopper")
)


def portrait(width: int, height: int) -> Image.Image:
    """One face: the first sample, cut and scaled to fill the frame."""
    return ImageOps.fit(Image.open(SAMPLES[0]).convert("RGB"), (width, height), centering=(0.5, 0.3))


def group(faces: int, width: int, height: int) -> Image.Image:
    """`faces` portraits in rows on grey, each about a third of a ninth of the frame and of another size."""
    columns = int(np.ceil(np.sqrt(faces)))
    rows = -(-faces // columns)
    page = Image.new("RGB", (width, height), (120, 120, 120))
    cell_width, cell_height = width // columns, height // rows
    for number in range(faces):
        side = int(min(cell_width, cell_height) * (0.95 - 0.05 * (number % 5)))
        picture = (
            Image.open(SAMPLES[number % 2]).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        )
        page.paste(picture, ((number % columns) * cell_width, (number // columns) * cell_height))
    return page


def as_jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()
