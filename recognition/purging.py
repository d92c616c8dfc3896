"""What is deleted when its time has passed, whoever it belongs to."""

import logging
import shutil
from datetime import timedelta
from typing import Final

from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from ml.runtime import sweep_exports
from recognition.batches import drop_incoming
from recognition.models import Analysis, AuditEntry, analyses_folder, retention
from recognition.videos import drop_raw_files

logger = logging.getLogger(__name__)

DAYS_WITHOUT_USE: Final = 30  # after which an exported network is removed; it is made again where needed


def purge_expired() -> int:
    """Delete every analysis whose time has passed, folders a killed process left without a row, uploaded
    videos and batches that nobody will read any more, and what the audit need not tell any longer.

    Returns how many analyses were deleted.
    """
    _, by_model = Analysis.objects.expired().delete()
    forgotten = timezone.now() - AuditEntry.KEPT
    AuditEntry.objects.filter(time__lt=forgotten).delete()
    LogEntry.objects.filter(action_time__lt=forgotten).delete()  # the admin's own
    call_command("clearsessions")  # a browser's word is forgotten with its cookie
    _sweep_orphans()
    drop_raw_files()
    drop_incoming()
    sweep_exports(DAYS_WITHOUT_USE)
    _empty_log()
    purged = by_model.get(Analysis._meta.label, 0)
    if purged:
        logger.info("Purged %d expired analyses.", purged)
    return purged


def _empty_log() -> None:
    """SQLite's log of changes still holds the rows that were deleted, until it is written over by chance."""
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _sweep_orphans() -> None:
    if not analyses_folder().is_dir():
        return
    # What is being received has no row yet, and is written to meanwhile.
    oldest = (timezone.now() - min(retention(), timedelta(hours=2))).timestamp()
    folders = list(analyses_folder().iterdir())  # before the rows: what has one later was there later
    known = set(Analysis.objects.values_list("pk", flat=True))
    for folder in folders:
        if folder.name in known:
            continue
        try:
            is_old = max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) < oldest
        except FileNotFoundError:  # deleted by its owner meanwhile
            continue
        if is_old and not Analysis.objects.filter(pk=folder.name).exists():
            shutil.rmtree(folder, ignore_errors=True)
