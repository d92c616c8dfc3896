"""What the C library does with memory that is freed, where that is glibc, as on most Linux systems."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

# Parameters of mallopt(3).
TRIM_THRESHOLD: Final = -1
MMAP_THRESHOLD: Final = -3
MMAP_MAX: Final = -4
KEEP_ALL: Final = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
# glibc begins with small thresholds and raises them up to these as large arrays are freed; a program that
# sets any of them ends that, so they have to be set to where it would have come.
GROWN: Final = {TRIM_THRESHOLD: 64 * 2**20, MMAP_THRESHOLD: 32 * 2**20, MMAP_MAX: 65536}

_kept = False


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within this block freed memory stays with the process, and goes back to the system at its end.

    Left alone, glibc returns every array above 32 MB when it is freed. A training step makes and frees
    hundreds of them, and the system clears each of their pages anew. Blocks may stand within each other; all
    threads are in them. Without glibc (macOS, Windows, Alpine) nothing is changed.
    """
    global _kept
    library = _glibc()
    if library is None or _kept:
        yield
        return
    _kept = True
    _set(library, KEEP_ALL)
    try:
        yield
    finally:
        _kept = False
        _set(library, GROWN)
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    # Alpine's musl may bear that name as well.
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
