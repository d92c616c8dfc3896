"""Pictures that are nearly the same: another crop, another compression, the next frame."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.datasets.images import THREADS, decode, pixel_digest

HASH_SIDE: Final = 16  # the perceptual hash has 16 × 16 bits
# Two pictures are near duplicates up to so many bits apart. Chosen on AffectNet's hull-masked crops: it finds
# 852 of 1,150 train pictures that are known to be nearly in the test set, and takes none of 4.6 million other
# pairs for one. (A DCT hash did no better.)
NEAR: Final = 16
COMPARED_AT_ONCE: Final = 2**23  # pairs of pictures, at about 12 bytes


@dataclass(frozen=True)
class Print:
    """What tells pictures apart: the SHA-256 of the luminance, and the perceptual hash, uint64 (4,)."""

    digest: bytes
    hash: NDArray[np.uint64]


def print_of(path: Path) -> Print:
    """Raises DatasetError for a picture that cannot be read."""
    picture = decode(path, colour=False)
    return Print(pixel_digest(picture), _perceptual_hash(picture))


def prints_of(paths: Sequence[Path]) -> list[Print]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(print_of, paths))


def near_pairs(prints: Sequence[Print]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Compare all with all: how many are done, and rows (bits apart, first, second) with first < second.

    Pictures with the very same pixels are among them.
    """
    if not prints:
        return
    hashes = np.stack([one.hash for one in prints])
    rows = max(1, COMPARED_AT_ONCE // len(hashes))
    for start in range(0, len(hashes), rows):
        some, others = hashes[start : start + rows], hashes[start:]
        distance = np.zeros((len(some), len(others)), np.uint16)
        for word in range(hashes.shape[1]):
            distance += np.bitwise_count(some[:, None, word] ^ others[None, :, word])
        first, second = np.nonzero(distance <= NEAR)
        pairs = np.stack([distance[first, second], first + start, second + start], axis=1).astype(np.int64)
        yield start + len(some), pairs[first < second]


def _perceptual_hash(picture: Image.Image) -> NDArray[np.uint64]:
    """Return 256 bits (dHash): where a small copy of the picture grows brighter to the right, uint64 (4,)."""
    small = np.asarray(picture.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX))
    return np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)
