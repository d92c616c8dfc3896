"""What somebody analysed, day by day: a calendar, a day's list, and the shares of expressions over time.

Days are those of the site's time zone. Each face of a photo counts once, by its most probable expression, and
each person of a video once, by the expression that was on average the most probable; who could not be read
does not count.
"""

import calendar
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Final

from django.db.models import Count, QuerySet
from django.db.models.functions import TruncDate
from django.utils import timezone

from ml.expressions import EXPRESSIONS
from recognition.models import Analysis, DayNote, Face, Track

EARLIEST: Final = date(2000, 1, 1)

RANGES: Final = {30: 1, 90: 7, 365: 7}  # days to look back: days in one bar of the chart


@dataclass
class Day:
    """A cell of the calendar. `marks`: the expressions that were read, the most frequent first."""

    date: date
    analyses: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    has_note: bool = False

    @property
    def marks(self) -> list[str]:
        return [name for name, _count in self.counts.most_common()]

    @property
    def is_today(self) -> bool:
        return self.date == timezone.localdate()

    @property
    def is_future(self) -> bool:
        return self.date > timezone.localdate()


@dataclass(frozen=True)
class Month:
    """A month as weeks from Monday to Sunday; None stands for the days of its neighbours."""

    first: date
    weeks: list[list[Day | None]]

    @property
    def before(self) -> date | None:
        """The first day of the month before, None where there is none to look at."""
        before = (self.first - timedelta(days=1)).replace(day=1)
        return before if before >= EARLIEST else None

    @property
    def after(self) -> date | None:
        after = (self.first + timedelta(days=31)).replace(day=1)
        return after if after <= timezone.localdate() else None

    @property
    def latest(self) -> date | None:
        """The last day on which something was analysed or noted."""
        used = [day.date for week in self.weeks for day in week if day and (day.analyses or day.has_note)]
        return max(used, default=None)


def month_of(first: date, analyses: QuerySet[Analysis], notes: QuerySet[DayNote]) -> Month:
    """The calendar of the month that begins with `first`."""
    last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
    inside = between(analyses, first, last)
    days = {day: Day(day) for day in (first + timedelta(days=n) for n in range(last.day))}
    for day, count in _per_day(inside):
        days[day].analyses = count
    for day, expression in _readings(inside):
        days[day].counts[expression] += 1
    for day in notes.filter(day__range=(first, last)).values_list("day", flat=True):
        days[day].has_note = True
    weeks = calendar.Calendar().monthdatescalendar(first.year, first.month)
    return Month(first, [[days.get(day) for day in week] for week in weeks])


def between(analyses: QuerySet[Analysis], first: date, last: date) -> QuerySet[Analysis]:
    """Those made from the beginning of `first` to the end of `last`."""
    return analyses.filter(created__gte=_midnight(first), created__lt=_midnight(last + timedelta(days=1)))


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))


def _per_day(analyses: QuerySet[Analysis]) -> Iterator[tuple[date, int]]:
    days = analyses.order_by().annotate(day=TruncDate("created")).values_list("day")
    yield from days.annotate(Count("pk"))


def _readings(analyses: QuerySet[Analysis]) -> Iterator[tuple[date, str]]:
    """Every face and every person of a video that could be read: (day, expression)."""
    own = analyses.order_by().values("pk")
    faces = Face.objects.filter(photo__analysis__in=own, probabilities__isnull=False).order_by()
    people = Track.objects.filter(analysis__in=own, probabilities__isnull=False).order_by()
    for seen in (
        faces.values_list("photo__analysis__created", "probabilities"),
        people.values_list("analysis__created", "probabilities"),
    ):
        for created, probabilities in seen.iterator():
            assert probabilities is not None
            yield timezone.localdate(created), max(probabilities, key=probabilities.__getitem__)


# The chart -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """One expression's part of a bar: its share of what was read, 0 to 1, and how much lies below it."""

    expression: str
    count: int
    share: float
    below: float


@dataclass
class Bar:
    """What was read from `first` to `last`, both included."""

    first: date
    last: date
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def segments(self) -> list[Segment]:
        """Those with something in them, from the bottom up, always in the same order."""
        segments, below = [], 0.0
        for name in EXPRESSIONS:
            if self.counts[name]:
                share = self.counts[name] / self.total
                segments.append(Segment(name, self.counts[name], share, below))
                below += share
        return segments


def chart_of(analyses: QuerySet[Analysis], days: int, today: date) -> list[Bar]:
    """A bar a day or a week (see RANGES) over the `days` that end with `today`."""
    width = timedelta(days=RANGES[days])
    first = today - timedelta(days=days - 1)
    if width.days == 7:
        first -= timedelta(days=first.weekday())  # weeks are whole, and begin on Monday
    bars = []
    start = first
    while start <= today:
        bars.append(Bar(start, min(start + width - timedelta(days=1), today)))
        start += width
    for day, expression in _readings(between(analyses, first, today)):
        bars[(day - first) // width].counts[expression] += 1
    return bars
