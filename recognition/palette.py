"""One colour an expression, everywhere: Okabe and Ito's palette, which colour-blind people can tell apart.

Its black became a grey, so that it is seen on a dark page as well. A colour never stands without its word.
static/css/site.css holds the same values.
"""

from typing import Final

COLOURS: Final = {
    "anger": "#d55e00",
    "contempt": "#cc79a7",
    "disgust": "#009e73",
    "fear": "#56b4e9",
    "happiness": "#f0e442",
    "sadness": "#0072b2",
    "surprise": "#e69f00",
    "neutral": "#7a7a7a",
}

UNREAD: Final = "#7a7a7a"  # a face with a problem: dashed, and the problem in words


def ink(colour: str) -> str:
    """Black or white, whichever reads better on `colour` (#rrggbb)."""
    return "#ffffff" if colour == COLOURS["sadness"] else "#000000"
