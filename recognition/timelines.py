"""What a person in a video shows over time, in stretches and shares: plain functions over sightings."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from ml.expressions import EXPRESSIONS

SMOOTHED: Final = 400  # milliseconds before and after that a moment is seen together with
GAP: Final = 1000  # milliseconds without a sighting that end a stretch, or more where it is seldom looked


class Moment(Protocol):
    """A sighting of one person."""

    milliseconds: int
    probabilities: dict[str, float] | None
    problem: str


@dataclass(frozen=True)
class Stretch:
    """A time, in milliseconds, in which a person shows one thing: an expression, or a problem that forbids to
    tell. `share`: how probable the expression is over that time, 0 to 1; None beside a problem."""

    start: int
    end: int
    shows: str
    share: float | None


def stretches(moments: Sequence[Moment]) -> list[Stretch]:
    """The whole of a person's time as stretches, in order. `moments` are in order of time.

    Each moment is taken together with what was read shortly before and after it, so that a blink does not
    make three stretches of one.
    """
    gap = gap_between([moment.milliseconds for moment in moments])
    found: list[Stretch] = []
    shares: list[float] = []
    for index, moment in enumerate(moments):
        shows, share = _about(moments, index)
        last = found[-1] if found else None
        if last and last.shows == shows and moment.milliseconds - last.end <= gap:
            shares.append(share or 0.0)
            mean = None if share is None else sum(shares) / len(shares)
            found[-1] = Stretch(last.start, moment.milliseconds, shows, mean)
        else:
            shares = [share or 0.0]
            found.append(Stretch(moment.milliseconds, moment.milliseconds, shows, share))
    return found


def gap_between(times: Sequence[int]) -> int:
    """How many milliseconds without a sighting say that a person was away, who was seen at these `times`."""
    steps = sorted(later - earlier for earlier, later in pairwise(times))
    return max(GAP, round(1.5 * steps[len(steps) // 2])) if steps else GAP


def _about(moments: Sequence[Moment], index: int) -> tuple[str, float | None]:
    """What is shown around a moment, and how probable that is."""
    here = moments[index]
    if here.probabilities is None:
        return here.problem, None
    first = last = index
    while first > 0 and here.milliseconds - moments[first - 1].milliseconds <= SMOOTHED:
        first -= 1
    while last + 1 < len(moments) and moments[last + 1].milliseconds - here.milliseconds <= SMOOTHED:
        last += 1
    read = [moment.probabilities for moment in moments[first : last + 1] if moment.probabilities]
    means = {name: sum(one[name] for one in read) / len(read) for name in EXPRESSIONS}
    most = max(means, key=means.__getitem__)
    return most, means[most]


def shares(moments: Sequence[Moment]) -> list[tuple[str, float]]:
    """How much of a person's sightings each expression and each problem was, the most frequent first."""
    counts = Counter(
        max(moment.probabilities, key=moment.probabilities.__getitem__)
        if moment.probabilities
        else moment.problem
        for moment in moments
    )
    return [(name, count / len(moments)) for name, count in counts.most_common()]
