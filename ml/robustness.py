"""What makes a face hard to read, done to it on purpose: pure functions over uint8 faces, seeded.

Each condition is one kind of change at one level, on the aligned crop as the model gets it, so a rotation
is what is left after alignment. Where a change uncovers what lies outside the crop, its edge is repeated.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ml.metrics import evaluate_predictions

Faces = NDArray[np.uint8]
Kind = Literal["rotation", "scale", "resolution", "blur", "noise", "darkness", "occlusion"]

GREY: Final = 128  # of an occluded part


@dataclass(frozen=True)
class Condition:
    """kind and level: degrees of rotation in the plane; the face's scale; pixels a side that it is sampled
    down to; the blur's standard deviation as a share of the side; the noise's in grey values of 255; the
    share of light that is left; the third that is covered."""

    kind: Kind
    level: float | str


LEVELS: Final[dict[Kind, tuple[float | str, ...]]] = {
    "rotation": (-45, -30, -20, -15, -10, -5, 5, 10, 15, 20, 30, 45),
    "scale": (0.6, 0.75, 0.9, 1.1, 1.25, 1.5),
    "resolution": (48, 32, 24, 16, 12),
    "blur": (0.01, 0.02, 0.03, 0.05),
    "noise": (5, 10, 20, 40),
    "darkness": (0.75, 0.5, 0.25, 0.1),
    "occlusion": ("upper", "middle", "lower", "left", "right"),
}
# What each kind is where nothing is changed; an occlusion has no such level.
UNCHANGED: Final[dict[Kind, float]] = {"rotation": 0, "scale": 1, "blur": 0, "noise": 0, "darkness": 1}
CONDITIONS: Final = tuple(Condition(kind, level) for kind, levels in LEVELS.items() for level in levels)


@dataclass(frozen=True)
class Measured:
    """Accuracy and macro-F1, 0..1, under a condition; None stands for the faces as they are."""

    condition: Condition | None
    accuracy: float
    macro_f1: float


def measure_robustness(
    read: Callable[[Faces], NDArray[np.float32]],
    faces: Faces,
    labels: NDArray[np.int64],
    conditions: Sequence[Condition] = CONDITIONS,
    seed: int = 0,
) -> Iterator[Measured]:
    """Read the faces as they are and under each condition, one after the other.

    read: uint8 faces (N, C, S, S) to probabilities (N, 8). labels: (N,), indices in EXPRESSIONS.
    """
    for condition in (None, *conditions):
        metrics = evaluate_predictions(labels, read(change(faces, condition, seed) if condition else faces))
        yield Measured(condition, metrics.accuracy, metrics.macro_f1)


def change(faces: Faces, condition: Condition, seed: int = 0) -> Faces:
    """Change faces, uint8 (N, C, S, S), C 1 or 3, into new ones of the same shape; `seed` draws the noise."""
    kind, level = condition.kind, condition.level
    if kind == "occlusion":
        return _occlude(faces, str(level))
    amount = float(level)
    if kind == "noise":
        random = np.random.default_rng(seed)
        return _each(faces, lambda face: _to_bytes(face + random.normal(0, amount, face.shape)))
    if kind == "darkness":
        return _each(faces, lambda face: _to_bytes(face * amount))
    side = faces.shape[-1]
    if kind in ("rotation", "scale"):
        angle, scale = (amount, 1.0) if kind == "rotation" else (0.0, amount)
        middle = ((side - 1) / 2, (side - 1) / 2)
        matrix = cv2.getRotationMatrix2D(middle, angle, scale)
        return _each(
            faces, lambda face: cv2.warpAffine(face, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
        )
    if kind == "blur":
        return _each(
            faces,
            lambda face: cv2.GaussianBlur(face, (0, 0), amount * side, borderType=cv2.BORDER_REPLICATE),
        )
    small = (int(amount), int(amount))
    return _each(
        faces,
        lambda face: cv2.resize(
            cv2.resize(face, small, interpolation=cv2.INTER_AREA), (side, side), interpolation=cv2.INTER_CUBIC
        ),
    )


def _occlude(faces: Faces, third: str) -> Faces:
    side = faces.shape[-1]
    first, second = side // 3, side - side // 3
    span = {"upper": slice(0, first), "middle": slice(first, second), "lower": slice(second, side)}
    across = {"left": slice(0, first), "right": slice(second, side)}  # of the picture
    covered = faces.copy()
    if third in span:
        covered[:, :, span[third], :] = GREY
    else:
        covered[:, :, :, across[third]] = GREY
    return covered


def _each(faces: Faces, act: Callable[[Faces], NDArray[Any]]) -> Faces:
    """Let `act` change every channel of every face, uint8 (S, S), for itself: all at once, as floats, a test
    set would take gigabytes."""
    changed = np.empty_like(faces)
    for index in np.ndindex(faces.shape[:2]):
        changed[index] = act(np.ascontiguousarray(faces[index]))
    return changed


def _to_bytes(values: NDArray[np.floating]) -> Faces:
    whole: Faces = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return whole
