"""How a face is drawn: its box on the photo and its card beside it."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from django import template

from ml.expressions import EXPRESSIONS
from recognition.models import Analysis, Face, Photo

register = template.Library()

CHIP_HEIGHT: Final = 20  # pixels, as in site.css
# A chip stands above its box and to its right, save where the photo ends before the chip does.
TOP_SHARE: Final = 0.06
RIGHT_SHARE: Final = 0.75
# Where a face is narrower than this share of its photo, words would cover the neighbours: a chip then shows
# its number until it is pointed at.
CROWDED_SHARE: Final = 0.1


@register.filter
def percent(share: float) -> str:
    """A probability in the digits it deserves; certainty is never claimed, nor impossibility."""
    if share < 0.005:
        return "<1 %"
    if share >= 0.995:
        return ">99 %"
    return f"{share * 100:.0f} %"


@register.filter
def verdict(face: Face) -> str:
    """What is said of a face in a few words: "happiness, 73 %" or "too small to tell"."""
    if face.expression is None or face.probabilities is None:
        return f"{face.problem} to tell"
    return f"{face.expression}, {percent(face.probabilities[face.expression])}"


@register.filter
def summary(analysis: Analysis) -> str:
    """How much was found: "3 faces in 2 photos"."""
    photos = analysis.photos.all()
    faces = [face for photo in photos for face in photo.faces.all()]
    return f"{_count(len(faces), 'face')} in {_count(len(photos), 'photo')}"


@register.filter
def contents(photo: Photo) -> str:
    """What was found in a photo: "3 faces: 2 happiness, 1 neutral"."""
    faces = photo.faces.all()
    found = Counter(face.expression or f"{face.problem} to tell" for face in faces)
    what = ", ".join(f"{count} {word}" for word, count in found.most_common())
    return _count(len(faces), "face") + (f": {what}" if what else "")


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


@register.filter
def first_faces(analysis: Analysis) -> list[Face]:
    """A few faces to know an analysis by."""
    return [face for photo in analysis.photos.all() for face in photo.faces.all()][:4]


@register.filter
def anchor(face: Face) -> str:
    """The face's name in the page's addresses."""
    return f"photo-{face.photo.number}-face-{face.number}"


@register.filter
def crowded(photo: Photo) -> bool:
    """Whether a face is so narrow that words above the boxes would run into each other."""
    return any((face.box[2] - face.box[0]) / photo.width < CROWDED_SHARE for face in photo.faces.all())


def _share(value: float) -> str:
    return f"{min(max(value, 0), 1):.2%}"


@register.inclusion_tag("recognition/_box.html")
def face_box(face: Face, photo: Photo) -> dict[str, object]:
    """The outline of a face and the chip that names it.

    Places are shares of the photo, so the outline fits it at whatever size it is shown, while lines and
    letters keep their size in pixels.
    """
    left, top, right, bottom = face.box
    word = face.expression or face.problem
    number_width, word_width = 12 + 8 * len(str(face.number)), 12 + 7 * len(word)
    at_right = left / photo.width > RIGHT_SHARE
    return {
        "face": face,
        "word": word,
        "left": _share(left / photo.width),
        "top": _share(top / photo.height),
        "width": _share((min(right, photo.width) - max(left, 0)) / photo.width),
        "height": _share((min(bottom, photo.height) - max(top, 0)) / photo.height),
        "chip_left": _share((right if at_right else left) / photo.width),
        "chip_x": -(number_width + word_width) if at_right else 0,
        "chip_y": 0 if top / photo.height < TOP_SHARE else -CHIP_HEIGHT,
        "number_width": number_width,
        "number_middle": number_width / 2,
        "word_width": word_width,
        "word_middle": number_width + word_width / 2,
    }


@dataclass(frozen=True)
class Bar:
    expression: str
    percent: str
    width: str
    most: bool


@register.inclusion_tag("recognition/_face.html")
def face_card(face: Face, photo: Photo) -> dict[str, object]:
    """A face cut out, its motion mask and its eight bars, always in the same order."""
    probabilities = face.probabilities or {}
    bars = [
        Bar(name, percent(probabilities[name]), _share(probabilities[name]), name == face.expression)
        for name in EXPRESSIONS
        if name in probabilities
    ]
    return {"face": face, "analysis": photo.analysis, "bars": bars}
