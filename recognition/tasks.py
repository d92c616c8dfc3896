"""Celery's way into the plain functions; fer_site.settings schedules the two that nobody asks for."""

from celery import shared_task

from recognition import background, purging
from recognition.background import Progress
from recognition.batches import read_batch
from recognition.models import Analysis
from recognition.videos import read_video


@shared_task(ignore_result=True)
def purge_expired() -> int:
    """Delete what has outlived its time; returns how many analyses that were."""
    return purging.purge_expired()


@shared_task(ignore_result=True)
def read_analysis(token: str) -> None:
    """Read a batch or a video that waits for a worker; what came of it stands in its row."""
    background.run(token, _read)


@shared_task(ignore_result=True)
def watch_analyses() -> None:
    """Notice workers that died, and queue again what they left."""
    background.requeue_lost()


def _read(analysis: Analysis, progress: Progress) -> None:
    readers = {Analysis.Kind.BATCH: read_batch, Analysis.Kind.VIDEO: read_video}
    readers[Analysis.Kind(analysis.kind)](analysis, progress)
