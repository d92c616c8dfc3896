"""The words that people read for what rows and files call by fixed names, in the reader's language."""

from typing import Final

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

_WORDS: Final[dict[str, Promise | str]] = {
    "anger": _("anger"),
    "contempt": _("contempt"),
    "disgust": _("disgust"),
    "fear": _("fear"),
    "happiness": _("happiness"),
    "sadness": _("sadness"),
    "surprise": _("surprise"),
    "neutral": _("neutral"),
    "too small": _("too small to tell"),
    "too blurred": _("too blurred to tell"),
    "unknown face": _("unknown face"),
}

_SHORT: Final[dict[str, Promise]] = {
    "too small": _("too small"),
    "too blurred": _("too blurred"),
    "unknown face": _("unknown"),
}


def word_for(name: str) -> str:
    """The word for an expression or for a face's problem: "happiness", "too small to tell"."""
    return str(_WORDS[name])


def short_word_for(name: str) -> str:
    """The same where there is little room: "happiness", "too small"."""
    return str(_SHORT.get(name) or _WORDS[name])
