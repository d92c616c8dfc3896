"""Memory that a long computation frees and asks for again; looked at in the system's own counters.

In a process of its own: what tests before have left in the heap would answer in the system's place.
"""

import platform
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from ml.memory import memory_kept

resource = pytest.importorskip("resource", reason="this system does not count page faults")

MEGABYTE = 2**20

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, whose settings these are"
)


def step(megabytes: int = 96) -> None:
    """Take memory, write to all of it, and free it."""
    assert len(b"x" * (megabytes * MEGABYTE))


def faults_of_a_step(megabytes: int = 96) -> int:
    """How many pages the system had to find for this thread."""
    before = int(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt)
    step(megabytes)
    return int(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt) - before


def resident() -> int:
    """Bytes in memory, of which nothing is free that tests before have left."""
    with memory_kept():
        pass
    return in_memory()


def in_memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * int(resource.getpagesize())


def what_is_freed_is_there_for_the_next_step() -> None:
    faults_of_a_step()
    assert faults_of_a_step() > 40, "large pages are of 2 MB at most"
    with memory_kept():
        faults_of_a_step()
        assert faults_of_a_step() < 20
    assert faults_of_a_step() > 40


def at_the_end_it_goes_back_to_the_system() -> None:
    before = resident()
    with memory_kept():
        step()
        with memory_kept():
            step()
        assert in_memory() > before + 90 * MEGABYTE, "an inner block gives nothing back"
    assert in_memory() < before + 10 * MEGABYTE


def afterwards_what_is_less_large_is_still_there_for_the_next_step() -> None:
    with memory_kept():
        step()
    faults_of_a_step(28)
    assert faults_of_a_step(28) < 8, "glibc keeps such arrays by itself, once it has seen one"


def it_goes_back_after_an_error_too() -> None:
    before = resident()

    def fail() -> None:
        with memory_kept():
            step()
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert in_memory() < before + 10 * MEGABYTE


@pytest.mark.parametrize(
    "claim",
    [
        what_is_freed_is_there_for_the_next_step,
        at_the_end_it_goes_back_to_the_system,
        afterwards_what_is_less_large_is_still_there_for_the_next_step,
        it_goes_back_after_an_error_too,
    ],
)
def test_in_a_fresh_process(claim: Callable[[], None]) -> None:
    with get_context("spawn").Pool(1) as pool:
        pool.apply(claim)
