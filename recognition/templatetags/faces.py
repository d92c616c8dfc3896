"""How a face is drawn: its box on the photo and its card beside it."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django import template
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ml.expressions import EXPRESSIONS
from recognition.models import Analysis, Face, Photo
from recognition.words import short_word_for, word_for

register = template.Library()
register.filter("word", word_for)

CHIP_HEIGHT: Final = 20  # pixels
# A chip reads to the right from its box, save where the photo ends before the chip does, and stands above it,
# save at the photo's upper edge.
EDGE_SHARE: Final = 0.06
RIGHT_SHARE: Final = 0.75
# Where a face is narrower than this share of its photo, chips would cover the neighbours' faces: they are
# then small, below the chin, and show their word only when pointed at.
CROWDED_SHARE: Final = 0.1

# The room for a photo on a usual screen, in pixels: beside its faces, or above them.
SHOWN_WIDTH: Final = 1150
SHOWN_HEIGHT: Final = 720


@register.filter
def percent(share: float) -> str:
    """A probability in the digits it deserves; certainty is never claimed, nor impossibility."""
    digits = "<1" if share < 0.005 else ">99" if share >= 0.995 else f"{share * 100:.0f}"
    return f"{digits}\N{NARROW NO-BREAK SPACE}%"


@register.filter
def verdict(face: Face) -> str:
    """What is said of a face in a few words: "happiness, 73 %", "not sure: perhaps happiness, 31 %" or "too
    small to tell"."""
    if face.expression is None or face.probabilities is None:
        return word_for(face.problem)
    return f"{reading(face)}, {percent(face.probabilities[face.expression])}"


@register.filter
def reading(face: Face) -> str:
    """The expression of a face that was read, and whether it is a guess: "not sure: perhaps happiness"."""
    assert face.expression is not None, "a face without an expression has a problem instead"
    word = word_for(face.expression)
    return _("not sure: perhaps %(expression)s") % {"expression": word} if face.is_guess else word


@register.filter
def summary(analysis: Analysis) -> str:
    """How much was found: "3 faces in 2 photos", "1 person in a video"; of a batch or a video that is not
    read to its end, how it stands: "queued"."""
    if analysis.state != Analysis.State.DONE and not analysis.photos.exists():
        return str(analysis.get_state_display())
    if analysis.kind == Analysis.Kind.VIDEO:
        people = analysis.tracks.count()
        if not people:
            return _("nobody in a video")
        return ngettext("%(count)d person in a video", "%(count)d people in a video", people) % {
            "count": people
        }
    photos = analysis.photos.count()
    return _("%(faces)s in %(photos)s") % {
        "faces": _faces(Face.objects.filter(photo__analysis=analysis).count()),
        "photos": ngettext("%(count)d photo", "%(count)d photos", photos) % {"count": photos}
        if photos
        else _("no photos"),
    }


@register.filter
def contents(photo: Photo) -> str:
    """What was found in a photo: "3 faces: 2 happiness, 1 neutral"."""
    faces = photo.faces.all()
    found = Counter(face.expression or face.problem for face in faces)
    what = ", ".join(f"{count} {word_for(name)}" for name, count in found.most_common())
    return _faces(len(faces)) + (f": {what}" if what else "")


def _faces(count: int) -> str:
    return ngettext("%(count)d face", "%(count)d faces", count) % {"count": count} if count else _("no faces")


@register.filter
def first_crops(analysis: Analysis) -> list[str]:
    """The pictures of a few faces to know an analysis by."""
    if analysis.kind == Analysis.Kind.VIDEO:
        crops = (f"person-{number}.jpg" for number in analysis.tracks.values_list("number", flat=True)[:4])
        return [name for name in crops if (analysis.folder / name).is_file()]
    faces = Face.objects.filter(photo__analysis=analysis).select_related("photo")
    return [face.crop_filename for face in faces.order_by("photo__number", "number")[:4]]


@register.filter
def file_name(name: str) -> str:
    """A batch's file without the folders of its ZIP, which leave no room for what tells it from others."""
    return name.rpartition("/")[2] or name


@register.filter
def anchor(face: Face) -> str:
    """The face's name in the page's addresses."""
    return f"photo-{face.photo.number}-face-{face.number}"


@register.filter
def ago(moment: datetime) -> str:
    """How long ago, in one unit: "5 minutes ago"."""
    if timezone.now() - moment < timedelta(minutes=1):
        return _("just now")
    return _("%(time)s ago") % {"time": _span(timezone.now() - moment)}


@register.filter
def left(moment: datetime) -> str:
    """How long until then, in one unit: "23 hours"."""
    return _span(moment - timezone.now())


def _span(time: timedelta) -> str:
    """A time in its largest unit. Django's own words for it are not there in Vietnamese."""
    minutes = max(0, int(time.total_seconds() // 60))
    if minutes >= 24 * 60:
        text = ngettext("%(count)d day", "%(count)d days", minutes // (24 * 60))
    elif minutes >= 60:
        text = ngettext("%(count)d hour", "%(count)d hours", minutes // 60)
    else:
        text = ngettext("%(count)d minute", "%(count)d minutes", minutes)
    count = minutes // (24 * 60) or minutes // 60 or minutes
    return (text % {"count": count}).replace(" ", "\N{NO-BREAK SPACE}")


@register.filter
def shown_size(photo: Photo) -> tuple[int, int]:
    """The width and height to show a photo in, so that it fits a screen beside its faces."""
    scale = min(SHOWN_WIDTH / photo.width, SHOWN_HEIGHT / photo.height, 1)
    return max(1, round(photo.width * scale)), max(1, round(photo.height * scale))


@register.filter
def crowded(photo: Photo) -> bool:
    """Whether a face is so narrow that words above the boxes would run into each other."""
    return any((face.box[2] - face.box[0]) / photo.width < CROWDED_SHARE for face in photo.faces.all())


def _share(value: float) -> str:
    return f"{value:.2%}"


@register.inclusion_tag("recognition/_box.html")
def face_box(face: Face, photo: Photo) -> dict[str, object]:
    """The outline of a face and the chip that names it.

    Places are shares of the photo, so the outline fits it at whatever size it is shown, while lines and
    letters keep their size in pixels.
    """
    left, top, right, bottom = _within(face.box, photo)
    word = short_word_for(face.expression or face.problem) + "?" * face.is_guess
    number_width, word_width = 12 + 8 * len(str(face.number)), 12 + 7 * len(word)
    at_right = left > RIGHT_SHARE
    below = crowded(photo) and bottom < 1 - EDGE_SHARE
    number_x = -number_width if at_right else 0
    word_x = number_x - word_width if at_right else number_width
    return {
        "face": face,
        "word": word,
        "left": _share(left),
        "top": _share(top),
        "width": _share(right - left),
        "height": _share(bottom - top),
        "chip_left": _share(right if at_right else left),
        "chip_top": _share(bottom if below else top),
        "chip_y": 0 if below or top < EDGE_SHARE else -CHIP_HEIGHT,
        "number_x": number_x,
        "number_width": number_width,
        "number_middle": number_x + number_width / 2,
        "word_x": word_x,
        "word_width": word_width,
        "word_middle": word_x + word_width / 2,
    }


def _within(box: list[float], photo: Photo) -> tuple[float, float, float, float]:
    """A box in shares of its photo. A detector's box may reach over the edge; its line may not."""
    left, right = (min(max(x / photo.width, 0), 1) for x in box[0::2])
    top, bottom = (min(max(y / photo.height, 0), 1) for y in box[1::2])
    return left, top, right, bottom


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
    return {
        "face": face,
        "analysis": photo.analysis,
        "bars": bars,
        "probability": probabilities.get(face.expression or ""),
    }
