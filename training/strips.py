"""The small pictures of a fold: faces, the masks they should have, the masks that the model draws."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE: Final = 96  # pixels a side
NO_MASK: Final = 110  # the grey of an expression of which no mask is known

Tile = NDArray[np.uint8]  # RGB, (TILE, TILE, 3)


def face_tile(face: NDArray[np.uint8]) -> Tile:
    """A face as the model reads it, uint8 (1 or 3, S, S), as a tile."""
    resized = _resize(face.transpose(1, 2, 0))
    return np.broadcast_to(resized.reshape(TILE, TILE, -1), (TILE, TILE, 3)).astype(np.uint8)


def mask_tile(mask: NDArray[np.float32]) -> Tile:
    """A motion mask, (S, S) in 0..1, in the colours of viridis, from violet to yellow, as everywhere else."""
    levels = np.rint(_resize(mask).clip(0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1], np.uint8)


def truth_tile(mask: NDArray[np.float32], known: bool) -> Tile:
    """The mask that an expression should have; plain grey where none is known."""
    return mask_tile(mask) if known else np.full((TILE, TILE, 3), NO_MASK, np.uint8)


def save_strip(path: Path, tiles: Iterable[Tile]) -> None:
    """Write tiles side by side as one PNG, whole or not at all: a page may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    Image.fromarray(np.ascontiguousarray(np.hstack(list(tiles)))).save(partial, "PNG")
    partial.replace(path)


def spread(labels: Sequence[int], count: int) -> list[int]:
    """Positions of `count` faces, one of each class in turn, in the order of the classes."""
    by_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    for label, positions in by_class.items():
        # The second one from the middle: neighbours are often pictures of one person.
        middle = len(positions) // 2
        by_class[label] = [positions[0], *positions[middle:], *positions[1:middle]] if middle else positions
    rounds = max(map(len, by_class.values()), default=0)
    in_turn = [
        by_class[label][turn]
        for turn in range(min(rounds, count))
        for label in sorted(by_class)
        if turn < len(by_class[label])
    ]
    return sorted(in_turn[:count], key=lambda position: labels[position])


def _resize(picture: NDArray[np.generic]) -> NDArray[np.generic]:
    shrinks = picture.shape[0] > TILE
    return np.asarray(
        cv2.resize(
            np.ascontiguousarray(picture),
            (TILE, TILE),
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
    )
