"""What an MP4 or MOV announces, added up before FFmpeg believes it.

FFmpeg makes room for every sample that a file's tables announce, once for each edit, as soon as it opens
the file: 700 bytes may ask for gigabytes and a minute of work. So the tables are looked at here first.
They are found by their names, wherever FFmpeg might find them, and not by their place.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

TABLES_AT_MOST: Final = 64_000_000  # bytes of all that is not pictures or sound; ten minutes have about five
BOXES_AT_MOST: Final = 50_000
TRACKS_AT_MOST: Final = 50
TRACKS: Final = 4  # so many times the samples that one track may have, for pictures, sound and notes
RATE_OF_SOUND: Final = 192_000  # samples a second, where each is one of uncompressed sound

# Of a table: its version and flags, then the numbers that count.
SIZES: Final = re.compile(rb"(?:stsz|stz2).{8}(.{4})", re.DOTALL)
RUN: Final = re.compile(rb"trun.{4}(.{4})", re.DOTALL)  # in a file that was written in fragments
EDITS: Final = re.compile(rb"elst.{4}(.{4})", re.DOTALL)
CHUNKS: Final = re.compile(rb"(?:stco|co64).{4}(.{4})", re.DOTALL)
CHUNK_SIZES: Final = re.compile(rb"stsc.{4}(.{4})", re.DOTALL)
ONE_BY_ONE: Final = re.compile(rb"stts.{4}\x00\x00\x00\x01.{4}\x00\x00\x00\x01", re.DOTALL)


def is_plausible(path: Path, seconds: float, rate: float) -> bool:
    """Whether the file announces no more than it can hold, and than `seconds` of a video need, at `rate`
    pictures a second at most."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        tables = _tables(stream, size)
    if tables is None or tables.count(b"trak") > TRACKS_AT_MOST or b"cmov" in tables:  # packed tables
        return False
    samples = sounds = 0
    for track in tables.split(b"trak"):
        announced = sum(_numbers(SIZES, track)) + sum(_numbers(RUN, track))
        if b"soun" in track and ONE_BY_ONE.search(track):  # of these FFmpeg takes many together
            sounds += max(announced, max(_numbers(CHUNKS, track), default=0) * _largest_chunk(track))
        else:
            samples += announced * max(1, sum(_numbers(EDITS, track)))
    return samples <= TRACKS * seconds * rate and sounds <= min(size, seconds * RATE_OF_SOUND)


def _tables(stream: BinaryIO, size: int) -> bytes | None:
    """All but the pictures and the sound themselves; None where that is more than any video needs."""
    tables = bytearray()
    position = 0
    for _ in range(BOXES_AT_MOST):
        stream.seek(position)
        head = stream.read(16)
        if len(head) < 8:
            return bytes(tables)
        length, name = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        elif length == 0:
            length = size - position
        if length < 8:
            return bytes(tables)
        if name != b"mdat":
            there = min(length, size - position)
            if len(tables) + there > TABLES_AT_MOST:
                return None
            stream.seek(position)
            tables += stream.read(there)
        position = min(position + length, size)
    return None


def _numbers(pattern: re.Pattern[bytes], track: bytes) -> Iterator[int]:
    return (int.from_bytes(match[1]) for match in pattern.finditer(track))


def _largest_chunk(track: bytes) -> int:
    """The most samples that a chunk is said to hold, in the one table of them that there may be."""
    tables = list(CHUNK_SIZES.finditer(track))
    if len(tables) != 1:
        return 2**32 if tables else 0
    (table,) = tables
    entries = track[table.end() : table.end() + 12 * int.from_bytes(table[1])]
    numbers = np.frombuffer(entries[: len(entries) // 12 * 12], ">u4").reshape(-1, 3)
    return int(numbers[:, 1].max(initial=0))
