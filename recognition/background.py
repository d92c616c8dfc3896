"""Batches and videos: read by a worker, told about while it lasts, stopped when their owner says so.

The row is the truth of a job (its states stand in `Analysis`), Celery only carries its token. A job is
claimed by a conditional UPDATE; one whose worker is lost is queued again, and given up after the third.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop
from kombu import Connection  # type: ignore[attr-defined]
from kombu.exceptions import OperationalError

from recognition.access import Owner
from recognition.models import Analysis, analyses_folder

logger = logging.getLogger(__name__)

QUEUE: Final = "analyses"
TASK: Final = "recognition.tasks.read_analysis"
ATTEMPTS: Final = 3
SECONDS_BETWEEN_BEATS: Final = 1.0
LOST_AFTER: Final = timedelta(seconds=60)
BROKER_TIMEOUT: Final = 2.0
MOST_WAITING: Final = 10  # of one person's batches and videos
LEFT_FREE: Final = 1_000_000_000  # bytes: database and broker write on the same disk
# As after a restore: no backup keeps uploads (deploy/backup.sh).
UPLOAD_IS_GONE: Final = gettext_noop("What was sent is not on this server any more, so it cannot be read.")

State = Analysis.State


class QueueError(Exception):
    """A job that no worker will hear of; the text is a sentence for the person who asked for it."""


class TooManyWaitError(QueueError):
    """More of one owner's uploads wait than are taken."""


class JobError(Exception):
    """A job that cannot be done, now or later; the text is a sentence for its owner."""


class Stopped(Exception):  # noqa: N818 (it tells of a wish, not of an error)
    """The job's owner cancelled or deleted it."""


def require_room(owner: Owner, size: int) -> None:
    """Raise QueueError where an upload of `size` bytes would fill the disk, TooManyWaitError where many of
    the owner's are not read yet."""
    if owner.analyses().filter(state__in=(State.QUEUED, State.RUNNING)).count() >= MOST_WAITING:
        raise TooManyWaitError(
            gettext("Several of your uploads are not read yet: send this one when they are.")
        )
    folder = analyses_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < size + LEFT_FREE:
        logger.error("The disk is nearly full: an upload of %d bytes was refused.", size)
        raise QueueError(gettext("This server's disk is nearly full. Tell whoever runs it; try again later."))


def submit(analysis: Analysis) -> None:
    """Hand a stored, QUEUED analysis to the workers; on QueueError it is deleted again."""
    try:
        _send([analysis.pk])
    except QueueError:
        Analysis.objects.filter(pk=analysis.pk).delete()  # the caller's own still knows its folder
        raise


def cancel(analysis: Analysis) -> None:
    """Stop a job that waits or runs; what it read until now stays. Nothing happens to one that has ended."""
    Analysis.objects.filter(pk=analysis.pk, state__in=(State.QUEUED, State.RUNNING)).update(
        state=State.CANCELLED, heartbeat=timezone.now()
    )


def is_ours(analysis: Analysis) -> bool:
    """Whether a job is there still and no other worker began it after us; it may have been cancelled.

    Within a transaction that stays so until its end.
    """
    ours = Analysis.objects.filter(pk=analysis.pk, attempts=analysis.attempts).exclude(state=State.QUEUED)
    with transaction.atomic():
        return ours.select_for_update().first() is not None


class Progress:
    """How a running job tells where it is; it is stopped from within `report`."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._next_beat = 0.0

    def report(self, done: int, total: int) -> None:
        """Say that `done` of `total` is done; once a second that reaches the row. Raises Stopped."""
        if time.monotonic() < self._next_beat and done < total:
            return
        self._next_beat = time.monotonic() + SECONDS_BETWEEN_BEATS
        mine = Analysis.objects.filter(
            pk=self._analysis.pk, state=State.RUNNING, attempts=self._analysis.attempts
        )
        if not mine.update(done=done, total=total, heartbeat=timezone.now()):
            raise Stopped


def run(token: str, work: Callable[[Analysis, Progress], None]) -> None:
    """Do the work of a queued analysis, if it is still there to be done; what came of it stands in its row.

    `work` may be called for an analysis that a lost worker left half read: it begins anew or goes on, as it
    likes. It raises JobError for what its owner has to know.
    """
    now = timezone.now()
    claimed = Analysis.objects.filter(pk=token, state=State.QUEUED).update(
        state=State.RUNNING, started=now, heartbeat=now, error="", attempts=F("attempts") + 1
    )
    if not claimed:
        return
    analysis = Analysis.objects.get(pk=token)
    try:
        work(analysis, Progress(analysis))
    except Stopped:
        return
    except JobError as error:
        _end(analysis, State.FAILED, str(error))
    except Exception:
        logger.exception("A %s could not be read.", analysis.kind)
        _end(analysis, State.FAILED, gettext_noop("Something went wrong on this server. Its log says what."))
    else:
        _end(analysis, State.DONE)


def _end(analysis: Analysis, state: State, error: str = "") -> None:
    mine = Analysis.objects.filter(pk=analysis.pk, state=State.RUNNING, attempts=analysis.attempts)
    mine.update(state=state, error=error[:250], heartbeat=timezone.now())


def requeue_lost() -> None:
    """Queue again what a lost worker left, and send again what the broker lost; called every few seconds."""
    silent = timezone.now() - LOST_AFTER
    lost = Analysis.objects.filter(state=State.RUNNING, heartbeat__lt=silent)
    lost.filter(attempts__gte=ATTEMPTS).update(
        state=State.FAILED, error=gettext_noop("It ended its worker three times, so it is not tried again.")
    )
    lost.update(state=State.QUEUED, heartbeat=None)
    forgotten = Analysis.objects.filter(Q(heartbeat__lt=silent) | Q(heartbeat=None), state=State.QUEUED)
    waiting = list(forgotten.values_list("pk", flat=True))
    if waiting:
        try:
            with _broker() as connection:
                queue = connection.default_channel.queue_declare(QUEUE)  # type: ignore[no-untyped-call]
                if queue.message_count == 0:
                    _send(waiting)
        except QueueError as error:
            logger.warning("%s", error)


def _send(tokens: list[str]) -> None:
    # First of all: what does not reach the broker now is sent again later.
    Analysis.objects.filter(pk__in=tokens, state=State.QUEUED).update(heartbeat=timezone.now())
    with _broker() as connection:
        for token in tokens:
            try:
                current_app.send_task(
                    TASK,
                    [token],
                    queue=QUEUE,
                    connection=connection,
                    retry=False,
                )
            except (OperationalError, *connection.connection_errors) as error:
                raise _unreachable() from error


@contextmanager
def _broker() -> Iterator[Connection]:
    """A connection to a broker that answers; Celery's own would wait twenty seconds for one that is down."""
    options = {
        **settings.CELERY_BROKER_TRANSPORT_OPTIONS,
        "socket_timeout": BROKER_TIMEOUT,
        "socket_connect_timeout": BROKER_TIMEOUT,
        "connect_retries_timeout": BROKER_TIMEOUT,
        "max_retries": 0,
    }
    with Connection(settings.CELERY_BROKER_URL, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        try:
            _ = connection.default_channel  # connects, and asks for a sign of life
        except (OperationalError, *connection.connection_errors) as error:
            raise _unreachable() from error
        yield connection


def _unreachable() -> QueueError:
    sentence = gettext("The workers cannot be reached now, so nothing was kept. Try again in a minute.")
    return QueueError(sentence)
