"""The inspection of a data set by a worker, and where it stands: a small file beside the contact sheet."""

import json
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from training import services
from training.models import Dataset

TELL_EVERY: Final = 0.5  # seconds
STOPPED_AFTER: Final = 60.0  # seconds without a word, which no picture takes
WAITING: Final = "Waiting for a worker"


def ask_for_inspection(dataset: Dataset) -> None:
    """Hand a data set to a worker; what was found before is forgotten.

    Raises LaunchError, and changes nothing, where the broker does not answer or take it: the latter once the
    transaction is committed, where there is one.
    """
    with services.broker():
        pass
    row = Dataset.objects.filter(pk=dataset.pk)
    found: dict[str, Any] = dict(row.values("inspected", "inspection", "problem").first() or {})
    row.update(inspected=None, inspection=None, problem="")
    _tell(dataset, WAITING, 0, 0)
    transaction.on_commit(partial(_send, dataset, found))


def _send(dataset: Dataset, found: dict[str, Any]) -> None:
    try:
        with services.broker() as connection:
            current_app.send_task(
                "training.tasks.inspect_dataset", [dataset.pk], connection=connection, retry=False
            )
    except (services.LaunchError, OperationalError) as error:  # of a broker on a full disk, for one
        Dataset.objects.filter(pk=dataset.pk).update(**found)
        _forget(dataset)
        raise services.LaunchError(f"The broker does not take it: {error}") from error


def inspect(dataset: Dataset) -> None:
    """Look through a data set, telling `progress_of` now and then how far it is."""
    told = 0.0

    def on_progress(doing: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_EVERY:
            _tell(dataset, doing, done, total)
            told = time.monotonic()

    _tell(dataset, "Beginning", 0, 0)
    try:
        services.inspect_dataset(dataset, on_progress)
    finally:
        _forget(dataset)


def progress_of(dataset: Dataset) -> dict[str, Any] | None:
    """{"doing": words, "done", "total", "stopped"} of an inspection that waits or runs; None where none does.

    stopped: its worker has told nothing for long. One that was killed leaves its file behind.
    """
    file = _file(dataset)
    try:
        progress: dict[str, Any] = json.loads(file.read_text())
        silent = time.time() - file.stat().st_mtime
    except (OSError, ValueError):
        return None
    return progress | {"stopped": progress["doing"] != WAITING and silent > STOPPED_AFTER}


def _tell(dataset: Dataset, doing: str, done: int, total: int) -> None:
    file = _file(dataset)
    partial_file = file.with_suffix(f".{uuid4().hex}.part")  # two inspections may be at it
    with suppress(OSError):  # it goes on, whether or not it can be watched
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file.write_text(json.dumps({"doing": doing, "done": done, "total": total}))
        partial_file.replace(file)


def _forget(dataset: Dataset) -> None:
    with suppress(OSError):
        _file(dataset).unlink()


def _file(dataset: Dataset) -> Path:
    return dataset.contact_sheet.with_name("progress.json")
