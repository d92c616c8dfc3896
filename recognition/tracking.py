"""Who is who from frame to frame: the faces of a video joined into people, by where they are.

Nothing is known of what a face looks like. Two people who change places behind a third one may be taken for
each other, and somebody who comes back after more than a second is a new person.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

SECONDS_OF_ABSENCE: Final = 1.0
FURTHEST: Final = 1.0  # of its own size is how far a face may move from one analysed frame to the next
MOST_GROWTH: Final = 2.0  # so many times larger or smaller it may become
MOST_PEOPLE: Final = 200  # in one video; whoever comes after them is not followed
SURE: Final = 0.95  # what a detector gives a face once at least; to folds of clothes it gives less
MOST_WAITING: Final = 5  # sightings that are remembered of somebody who may be nobody
FORBIDDEN: Final = 1e6

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Found(Protocol):
    """A face that a detector found; `confidence` is 0 to 1."""

    @property
    def box(self) -> Box: ...

    @property
    def confidence(self) -> float: ...


T = TypeVar("T", bound=Found)


@dataclass
class Person(Generic[T]):
    """A face followed over the frames. `number` counts people from 1, and is 0 until it is sure to be one."""

    box: Box
    seconds: float  # when it was seen last
    waiting: list[T] = field(default_factory=list)
    number: int = 0


class Tracker(Generic[T]):
    """Joins faces to people, frame after frame; it remembers only those who may still come back.

    What is seen once only, or never clearly, is mostly no face at all. So people are told of when they have
    been seen twice and once for `SURE`, and then with what was seen just before; others are dropped.
    """

    def __init__(self, absence: float = SECONDS_OF_ABSENCE) -> None:
        """absence: how many seconds somebody may be out of sight and still be the same person."""
        self._absence = absence
        self._people: list[Person[T]] = []
        self._known = 0
        self._frames = 0

    def follow(self, seconds: float, faces: Sequence[T]) -> list[tuple[int, T]]:
        """Take the faces of the next analysed frame, `seconds` from the start: (person's number, face) of
        everybody who is sure now, those of the frame before included that were not yet."""
        self._frames += 1
        self._people = [person for person in self._people if seconds - person.seconds <= self._absence]
        pairs = match([person.box for person in self._people], [face.box for face in faces])
        told: list[tuple[int, T]] = []
        for known, face in pairs:
            told.extend(self._sighted(self._people[known], seconds, faces[face]))
        taken = {face for _, face in pairs}
        self._people += [
            Person(face.box, seconds, [face]) for index, face in enumerate(faces) if index not in taken
        ]
        return told

    def finish(self) -> list[tuple[int, T]]:
        """What is left to tell at the end: in a video of one single frame, everybody in it."""
        if self._frames != 1:
            return []
        sure = [person.waiting[0] for person in self._people if person.waiting[0].confidence >= SURE]
        return list(enumerate(sure, 1))

    def _sighted(self, person: Person[T], seconds: float, face: T) -> list[tuple[int, T]]:
        person.box, person.seconds = face.box, seconds
        person.waiting.append(face)
        sure = any(sighting.confidence >= SURE for sighting in person.waiting)
        if not person.number and sure and self._known < MOST_PEOPLE:
            self._known += 1
            person.number = self._known
        if not person.number:
            del person.waiting[:-MOST_WAITING]
            return []
        told = [(person.number, sighting) for sighting in person.waiting]
        person.waiting = []
        return told


def match(before: Sequence[Box], now: Sequence[Box]) -> list[tuple[int, int]]:
    """Pair boxes of one frame with those of the next so that, over all pairs, they overlap most and have
    moved least: (index before, index now). What moved or grew too far for one face stays alone."""
    if not before or not now:
        return []
    # Here and not above: it takes long to import, and only a worker needs it.
    from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]

    costs = _costs(np.asarray(before, np.float64), np.asarray(now, np.float64))
    rows, columns = linear_sum_assignment(costs)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if costs[row, column] < FORBIDDEN]


def _costs(before: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each pair costs, float64 (before, now): 0 for the same box, 2 at the edge of what is allowed."""
    old, new = before[:, None], now[None]
    size_old, size_new = (np.sqrt(_area(boxes)) for boxes in (old, new))
    moved = np.linalg.norm((old[..., :2] + old[..., 2:] - new[..., :2] - new[..., 2:]) / 2, axis=-1)
    distance = moved / np.maximum((size_old + size_new) / 2, 1e-9)
    inner = np.concatenate(
        [np.maximum(old[..., :2], new[..., :2]), np.minimum(old[..., 2:], new[..., 2:])], -1
    )
    overlap = _area(inner)
    union = np.maximum(_area(old) + _area(new) - overlap, 1e-9)
    growth = np.maximum(size_old, size_new) / np.maximum(np.minimum(size_old, size_new), 1e-9)
    allowed = (distance <= FURTHEST) & (growth <= MOST_GROWTH)
    costs: NDArray[np.float64] = np.where(allowed, 1 - overlap / union + distance, FORBIDDEN)
    return costs


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides: NDArray[np.float64] = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]
