"""Which checkpoint is in service and which others there are: all that training and recognition share.

Neither knows the other: training provides the sources, recognition asks them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InService:
    """A checkpoint's file, and the SHA-256 it has to state."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Available(InService):
    """A checkpoint that could be in service; `name` is what people call it."""

    name: str


Source = Callable[[], InService | None]
List = Callable[[], list[Available]]


def _nobody() -> InService | None:
    return None


def _none() -> list[Available]:
    return []


_source: Source = _nobody
_list: List = _none


def provide(source: Source) -> None:
    """Let `source` answer from now on; it may be called from any thread, and raise what it likes."""
    global _source
    _source = source


def provide_available(source: List) -> None:
    """The same for the list of all there are."""
    global _list
    _list = source


def checkpoint_in_service() -> InService | None:
    """The checkpoint that a person put in service; None where nobody did: the settings' own is to be used."""
    return _source()


def available_checkpoints() -> list[Available]:
    """Every checkpoint that training finished or a person imported, the newest first."""
    return _list()
