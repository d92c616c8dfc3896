"""Memory that a long computation frees and asks for again; looked at in the system's own counters."""

import platform
from pathlib import Path

import pytest
import torch

from ml.memory import memory_kept

resource = pytest.importorskip("resource", reason="this system does not count page faults")

MEGABYTE = 2**20

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, whose settings these are"
)


def faults_of_a_step() -> int:
    """How many pages the system has to find for 96 MB that were used before."""
    before = int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    torch.ones(96 * MEGABYTE, dtype=torch.uint8)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt) - before


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * int(resource.getpagesize())


def test_what_is_freed_is_there_for_the_next_step() -> None:
    faults_of_a_step()
    assert faults_of_a_step() > 40, "large pages are of 2 MB at most"
    with memory_kept():
        faults_of_a_step()
        assert faults_of_a_step() < 20
    assert faults_of_a_step() > 40


def test_at_the_end_it_goes_back_to_the_system() -> None:
    before = resident()
    with memory_kept():
        torch.ones(96 * MEGABYTE, dtype=torch.uint8)
        with memory_kept():
            torch.ones(96 * MEGABYTE, dtype=torch.uint8)
        assert resident() > before + 90 * MEGABYTE, "an inner block gives nothing back"
    assert resident() < before + 10 * MEGABYTE


def test_it_goes_back_after_an_error_too() -> None:
    before = resident()

    def fail() -> None:
        with memory_kept():
            torch.ones(96 * MEGABYTE, dtype=torch.uint8)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert resident() < before + 10 * MEGABYTE
