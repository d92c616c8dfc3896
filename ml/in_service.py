"""Which checkpoint is in service: all that training and recognition share, without knowing each other.

Training provides the source, recognition asks it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InService:
    """A checkpoint's file, and the SHA-256 it has to state."""

    path: Path
    sha256: str


Source = Callable[[], InService | None]


def _nobody() -> InService | None:
    return None


_source: Source = _nobody


def provide(source: Source) -> None:
    """Let `source` answer from now on; it may be called from any thread, and raise what it likes."""
    global _source
    _source = source


def checkpoint_in_service() -> InService | None:
    """The checkpoint that a person put in service; None where nobody did: the settings' own is to be used."""
    return _source()
