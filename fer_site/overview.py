"""How the site is doing, at a glance: what the first page of the administration shows.

Everything here answers within a fraction of a second, whatever is down.
"""

import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.cache import cache
from django.db.models import Count, Q
from django.utils import timezone

from fer_site.logs import recent_errors, requests_counter
from fer_site.queues import queue_lengths
from recognition.model_cards import ModelCard, model_cards
from recognition.models import Analysis
from training.models import State, TrainingRun

MOST_RUNS: Final = 5
LATELY: Final = timedelta(days=7)
MINUTES: Final = 9
SECONDS_TO_MEASURE: Final = 0.1
SECONDS_MEASURED: Final = 60


@dataclass(frozen=True)
class Requests:
    """last: in the last full minute; mean: a minute, over the last MINUTES."""

    last: int
    mean: float


@dataclass(frozen=True)
class Disk:
    """In bytes. used: by FER_VAR_DIR, at least: `whole` is False where there was no time to look at all."""

    used: int
    whole: bool
    free: int


@dataclass(frozen=True)
class Kept:
    """How many analyses of a kind are kept, by when they were made."""

    kind: str
    day: int
    week: int
    older: int

    @property
    def total(self) -> int:
        return self.day + self.week + self.older


@dataclass(frozen=True)
class LastError:
    time: datetime
    logger: str
    request: str
    text: str


@dataclass(frozen=True)
class Overview:
    """model: None where none can be read; requests and queues: None where cache or broker do not answer."""

    running: list[TrainingRun]
    queued: list[TrainingRun]
    failed: list[TrainingRun]
    model: ModelCard | None
    requests: Requests | None
    queues: dict[str, int] | None
    disk: Disk
    errors: list[LastError]
    analyses: list[Kept]


def overview() -> Overview:
    runs = TrainingRun.objects.select_related("dataset")
    lately = timezone.now() - LATELY
    return Overview(
        running=list(runs.filter(state=State.RUNNING)[:MOST_RUNS]),
        queued=list(runs.filter(state=State.QUEUED)[:MOST_RUNS]),
        failed=list(
            runs.filter(state__in=(State.FAILED, State.INTERRUPTED), created__gte=lately)[:MOST_RUNS]
        ),
        model=next((card for card in model_cards() if card.in_service), None),
        requests=requests_a_minute(),
        queues=queue_lengths(),
        disk=disk(Path(settings.FER_VAR_DIR)),
        errors=[
            LastError(
                datetime.fromtimestamp(error["time"], UTC), error["logger"], error["request"], error["text"]
            )
            for error in recent_errors()
        ],
        analyses=analyses_kept(),
    )


def requests_a_minute() -> Requests | None:
    """None where the cache does not answer."""
    cache.set("overview-asks", True, 10)
    if not cache.get("overview-asks"):
        return None
    now = time.time()
    names = [requests_counter(now - 60 * minutes) for minutes in range(1, MINUTES + 1)]
    counted = cache.get_many(names)
    return Requests(counted.get(names[0], 0), sum(counted.values()) / MINUTES)


def analyses_kept() -> list[Kept]:
    """One for each kind, also where none is kept."""
    now = timezone.now()
    day, week = Q(created__gte=now - timedelta(days=1)), Q(created__gte=now - timedelta(days=7))
    counted = (
        Analysis.objects.live()
        .order_by()
        .values("kind")
        .annotate(
            day=Count("pk", filter=day), week=Count("pk", filter=week & ~day), older=Count("pk", filter=~week)
        )
    )
    by_kind = {row["kind"]: (row["day"], row["week"], row["older"]) for row in counted}
    return [Kept(str(kind.label), *by_kind.get(kind.value, (0, 0, 0))) for kind in Analysis.Kind]


def disk(folder: Path) -> Disk:
    """Measured once in SECONDS_MEASURED."""
    measured: tuple[int, bool] | None = cache.get("disk-used")
    if measured is None:
        measured = _measure(folder, time.monotonic() + SECONDS_TO_MEASURE)
        cache.set("disk-used", measured, SECONDS_MEASURED)
    return Disk(*measured, free=shutil.disk_usage(folder).free)


def _measure(folder: Path, deadline: float) -> tuple[int, bool]:
    """The bytes of all files in it, and whether all were counted before the deadline (monotonic)."""
    used, folders = 0, [os.fspath(folder)]
    while folders:
        if time.monotonic() > deadline:
            return used, False
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        used += entry.stat(follow_symlinks=False).st_size
        except OSError:  # deleted meanwhile, or not ours to read
            continue
    return used, True
