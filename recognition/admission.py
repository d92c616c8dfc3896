"""How many photos this process reads at once.

Who comes beyond is asked to come again, before anything of what they send is looked at: a queue would only
grow, and everybody in it wait longer and longer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Final

from django.conf import settings

SECONDS_TO_COME_AGAIN: Final = 1.0  # a photo of a phone takes less


class Busy(Exception):  # noqa: N818 (it tells of the moment, not of an error)
    """Every place is taken."""


class _Places:
    """FER_PHOTOS_AT_ONCE of them. No semaphore: one can look before taking a place."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._taken = 0

    def require(self) -> None:
        """Raises Busy where no place is free."""
        if not self._is_free():
            raise Busy

    @contextmanager
    def take(self, *, wait: bool = False) -> Iterator[None]:
        """Hold a place; `wait` for it, or raise Busy where none is free."""
        with self._changed:
            if wait:
                self._changed.wait_for(self._is_free)
            self.require()
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify()

    def _is_free(self) -> bool:
        return self._taken < settings.FER_PHOTOS_AT_ONCE


places = _Places()
