"""How times and shares of a video are written."""

from django import template

from ml.expressions import EXPRESSIONS

register = template.Library()


@register.filter
def clock(milliseconds: int) -> str:
    """A place in a video, as players write it: "0:03", "12:40"."""
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes}:{seconds:02d}"


@register.filter
def extent(share: float) -> str:
    """A share of one's room, for a drawing's attribute: "64.00%"."""
    return f"{share:.2%}"


@register.filter
def of_time(share: float) -> str:
    """How much of the time: a count, which may be all of it, and no probability."""
    digits = "<1" if share < 0.005 else f"{share * 100:.0f}"
    return f"{digits}\N{NARROW NO-BREAK SPACE}%"


@register.filter
def colour(shows: str) -> str:
    """The name of the colour (expression-NAME) for an expression, or for a problem that forbids to tell."""
    return shows if shows in EXPRESSIONS else "unread"
