"""How many faces were read, by all processes, since the cache is there: a number, and nobody's."""

from typing import Final

from django.core.cache import cache

from recognition.limits import count

FACES: Final = "faces-read"


def count_faces(number: int) -> None:
    if number:
        count(FACES, number)


def faces_read() -> int | None:
    """None where nothing was counted yet, or the cache is down."""
    number: int | None = cache.get(FACES)
    return number
