"""How far a batch or a video is, in numbers for a script and in a sentence for whoever waits."""

from datetime import datetime
from typing import TypedDict

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from recognition.models import Analysis

State = Analysis.State


class JobReport(TypedDict):
    """`done` of `total` is read: photos, or milliseconds of a video; total is 0 where it is not known yet.

    seconds_left is a guess, null where there is nothing to guess from. error is "" unless it failed.
    """

    state: str
    done: int
    total: int
    seconds_left: int | None
    sentence: str
    error: str


def report_job(analysis: Analysis, now: datetime | None = None) -> JobReport:
    seconds = seconds_left(analysis, now or timezone.now())
    return JobReport(
        state=analysis.state,
        done=analysis.done,
        total=analysis.total,
        seconds_left=seconds,
        sentence=_sentence(analysis, seconds),
        error=_(analysis.error) if analysis.error else "",
    )


def seconds_left(analysis: Analysis, now: datetime) -> int | None:
    """How long it takes still, if it goes on as fast as it did until now."""
    if analysis.state != State.RUNNING or not (analysis.started and analysis.done and analysis.total):
        return None
    spent = (now - analysis.started).total_seconds()
    return max(0, round(spent * (analysis.total - analysis.done) / analysis.done))


def _sentence(analysis: Analysis, seconds: int | None) -> str:
    if analysis.state == State.QUEUED:
        return _waiting(analysis)
    if analysis.state != State.RUNNING:
        return analysis.get_state_display()
    if not analysis.total:
        return _("It begins.")
    said = _read(analysis)
    return said if seconds is None else _("%(read)s, %(left)s") % {"read": said, "left": time_left(seconds)}


def _waiting(analysis: Analysis) -> str:
    before = Analysis.objects.filter(state=State.QUEUED, created__lt=analysis.created).count()
    if not before:
        return _("It waits until a worker has time for it.")
    return ngettext(
        "It waits for a worker; %(count)d other is before it.",
        "It waits for a worker; %(count)d others are before it.",
        before,
    ) % {"count": before}


def _read(analysis: Analysis) -> str:
    if analysis.kind == Analysis.Kind.VIDEO:
        return _("%(done)s of %(total)s read") % {
            "done": _clock(analysis.done),
            "total": _clock(analysis.total),
        }
    return ngettext(
        "%(done)d of %(total)d photo read", "%(done)d of %(total)d photos read", analysis.total
    ) % {"done": analysis.done, "total": analysis.total}


def time_left(seconds: int) -> str:
    """A guess in the digits it deserves: "about 40 seconds left"."""
    if seconds < 5:
        return _("nearly done")
    if seconds < 90:
        return _("about %(count)d seconds left") % {"count": round(seconds, -1) or 5}
    minutes = round(seconds / 60)
    if minutes < 90:
        return ngettext("about %(count)d minute left", "about %(count)d minutes left", minutes) % {
            "count": minutes
        }
    hours = round(minutes / 60)
    return ngettext("about %(count)d hour left", "about %(count)d hours left", hours) % {"count": hours}


def _clock(milliseconds: int) -> str:
    minutes, seconds = divmod(milliseconds // 1000, 60)
    return f"{minutes}:{seconds:02d}"
