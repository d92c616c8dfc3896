"""Decoded faces on disk: the same as decoded anew, and never stale."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml.datasets import DatasetError, Sample, load_cached_faces, load_faces
from ml.datasets.samples import certain


def picture(path: Path, level: int) -> Sample:
    pixels = np.random.default_rng(level).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return Sample(path, 0, certain(0))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [picture(tmp_path / f"{number}.png", number) for number in range(6)]


def test_cached_faces_are_the_decoded_ones_in_the_order_asked(samples: list[Sample], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for chosen in (samples[:3], samples[::-1], [samples[4], samples[4], samples[0]]):
        for colour in (True, False):
            expected = load_faces(chosen, 16, colour)
            np.testing.assert_array_equal(load_cached_faces(chosen, 16, colour, cache), expected)


def test_a_second_time_no_picture_is_opened(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_cached_faces(samples, 16, False, tmp_path / "cache")
    monkeypatch.setattr(Image, "open", None)
    np.testing.assert_array_equal(load_cached_faces(samples[2:5], 16, False, tmp_path / "cache"), first[2:5])


def test_a_changed_picture_is_decoded_anew(samples: list[Sample], tmp_path: Path) -> None:
    load_cached_faces(samples, 16, False, tmp_path / "cache")
    before = samples[1].path.stat()
    picture(samples[1].path, 77)
    # It is as long as before, and many a file system's clock has not gone on in the moment since then.
    os.utime(samples[1].path, ns=(before.st_atime_ns, before.st_mtime_ns + 10_000_000))
    again = load_cached_faces(samples, 16, False, tmp_path / "cache")
    np.testing.assert_array_equal(again, load_faces(samples, 16, False))


@pytest.mark.parametrize("index", [b"null", b"[[1]]", b"\xff", b"[" * 9999])
def test_an_index_that_is_damaged_is_as_if_it_were_not_there(
    samples: list[Sample], tmp_path: Path, index: bytes
) -> None:
    expected = load_cached_faces(samples[:1], 16, False, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_bytes(index)
    np.testing.assert_array_equal(load_cached_faces(samples[:1], 16, False, tmp_path / "cache"), expected)


@pytest.mark.parametrize("other", [np.zeros((1, 1, 1, 1), np.uint8), np.zeros((1, 16, 16, 1)), np.zeros(())])
def test_a_segment_of_other_faces_is_as_if_it_were_not_there(
    samples: list[Sample], tmp_path: Path, other: np.ndarray
) -> None:
    expected = load_cached_faces(samples[:1], 16, False, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.npy"):
        np.save(path, other)
    np.testing.assert_array_equal(load_cached_faces(samples[:1], 16, False, tmp_path / "cache"), expected)


def test_a_picture_that_is_gone_is_named(samples: list[Sample], tmp_path: Path) -> None:
    samples[2].path.unlink()
    with pytest.raises(DatasetError, match=rf"{samples[2].path.name} cannot be read"):
        load_cached_faces(samples, 16, False, tmp_path / "cache")


@pytest.mark.parametrize("left", [0, 100])
def test_a_torn_segment_is_as_if_it_were_not_there(samples: list[Sample], tmp_path: Path, left: int) -> None:
    expected = load_cached_faces(samples, 16, False, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:left])
    np.testing.assert_array_equal(load_cached_faces(samples, 16, False, tmp_path / "cache"), expected)


def test_a_picture_that_cannot_be_read_is_named_and_nothing_is_kept(
    samples: list[Sample], tmp_path: Path
) -> None:
    samples[2].path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"2\.png"):
        load_cached_faces(samples, 16, False, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_full_disk_costs_the_cache_and_not_the_faces(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, faces: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", half)
    faces = load_cached_faces(samples, 16, False, tmp_path / "cache")

    np.testing.assert_array_equal(faces, load_faces(samples, 16, False))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_what_a_killed_process_left_half_written_goes_after_a_day(
    samples: list[Sample], tmp_path: Path
) -> None:
    load_cached_faces(samples[:2], 16, False, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    old, new = kept.with_name("old.npy"), kept.with_name("new.npy")
    for path in (old, new):
        path.write_bytes(b"half")
    day_before = time.time() - 25 * 3600
    for path in (old, kept):
        os.utime(path, (day_before, day_before))

    load_cached_faces(samples, 16, False, tmp_path / "cache")

    assert (old.exists(), new.exists(), kept.exists()) == (False, True, True)
