"""Checkpoints in service: put in, gone back from, found damaged, imported, deleted.

Torch is imported where it is needed and not above: this module is loaded wherever Django starts.
"""

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone

from ml.datasets.samples import SPLITS
from ml.in_service import Available, InService
from training.models import Checkpoint

logger = logging.getLogger(__name__)


class ServiceError(Exception):
    """What keeps a checkpoint from being imported, put in service or left; a sentence for the person."""


def in_service() -> InService | None:
    """What recognition asks for: the active checkpoint's file and its SHA-256."""
    active = Checkpoint.objects.filter(active=True).first()
    return InService(active.path, active.sha256) if active else None


def available() -> list[Available]:
    """What recognition may compare with: every checkpoint whose file is there, the newest first."""
    checkpoints = Checkpoint.objects.all()
    return [Available(row.path, row.sha256, row.name) for row in checkpoints if row.path.is_file()]


def activate(checkpoint: Checkpoint) -> None:
    """Put a checkpoint in service in the place of the one that was.

    Raises ServiceError where its file is missing or damaged, is not the one the row tells of, or does not fit
    this version's network; then nothing changes.
    """
    if problem := find_problem(checkpoint):
        raise ServiceError(problem)
    with transaction.atomic():
        _take_turns()
        Checkpoint.objects.filter(active=True).update(active=False)
        if not Checkpoint.objects.filter(pk=checkpoint.pk).update(active=True, activated=timezone.now()):
            raise ServiceError(f"{checkpoint} was deleted meanwhile.")
    logger.info("%s is in service now.", checkpoint)


def previous(active: Checkpoint) -> Checkpoint | None:
    """The usable checkpoint that was in service last before `active`; None: FER_CHECKPOINT's model was."""
    earlier = Checkpoint.objects.filter(active=False, activated__lt=active.activated).order_by("-activated")
    return next((checkpoint for checkpoint in earlier if find_problem(checkpoint) is None), None)


def go_back(active: Checkpoint) -> Checkpoint | None:
    """Put the previous checkpoint in service again, and forget that those after it ever were.

    So going back twice leads two steps back, not to and fro. Returns `previous(active)`. Raises ServiceError,
    and changes nothing, where `active` is not in service any more (a second click, or another person, was
    faster), and where somebody has deleted meanwhile what would be gone back to.
    """
    active.refresh_from_db()
    target = previous(active) if active.active else None
    with transaction.atomic():
        _take_turns()
        if not Checkpoint.objects.filter(pk=active.pk, active=True).update(active=False, activated=None):
            raise ServiceError(f"Nothing was changed: {active} is not in service any more.")
        later = Checkpoint.objects.exclude(activated=None)
        if target:
            later = later.filter(activated__gt=target.activated)
            if not Checkpoint.objects.filter(pk=target.pk).update(active=True):
                raise ServiceError(f"Nothing was changed: {target} was deleted meanwhile.")
        later.update(activated=None)
    logger.info("Went back from %s to %s.", active, target or "the model of the settings")
    return target


def import_checkpoint(
    paths: Sequence[Path],
    *,
    name: str = "",
    epoch: int | None = None,
    classes: Sequence[str] | None = None,
    trained_on: Sequence[str] = (),
) -> Checkpoint:
    """Convert the old project's three networks (`ml.old_networks`) into a checkpoint with a row, not active.

    paths, epoch and classes are as in `find_networks` and `convert`. trained_on: the kinds of the data sets
    that they saw, where that is known: without, no training can start from them. The same arguments give the
    same row again. Raises ServiceError where they do not fit, and where it cannot be written.
    """
    from ml.checkpoint import CheckpointError, save_checkpoint
    from ml.expressions import EXPRESSIONS
    from ml.old_networks import convert, find_networks

    folder = Path(settings.FER_VAR_DIR) / "checkpoints"
    new = folder / f"importing-{os.getpid()}.safetensors"
    try:
        networks = find_networks(paths, epoch)
        converted = convert(networks, classes)
        facts = {
            "preset": "imported",
            "data": [],
            "trained_before": {kind: list(SPLITS) for kind in sorted(set(trained_on))},
            "seed": None,
            "git_revision": None,
            "metrics": {},
            "converted_from": {
                part: sha256(file.read_bytes()).hexdigest() for part, file in networks.items()
            },
            "never_says": [expression for expression in EXPRESSIONS if expression not in converted.known],
        }
        digest = save_checkpoint(new, converted.model, converted.config, facts)
    except (CheckpointError, OSError) as error:  # an OSError: a file or a folder that may not be used
        raise ServiceError(str(error)) from error
    file = new.replace(folder / f"imported-{digest[:16]}.safetensors")
    source = networks["cls"]
    checkpoint, _ = Checkpoint.objects.get_or_create(
        sha256=digest,
        defaults={
            "name": (name or f"imported {source.parent.name} {source.stem.split('_')[0]}")[:100],
            "file": str(file.relative_to(settings.FER_VAR_DIR)),
        },
    )
    return checkpoint


def find_problem(checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint cannot be in service, in a sentence; None for a sound one.

    The file is read whole and its model is opened, once for each state of the file.
    """
    try:
        stat = checkpoint.path.stat()
    except OSError:
        return f"There is no checkpoint at {checkpoint.path}."
    try:
        return _find_problem(checkpoint.path, checkpoint.sha256, stat.st_mtime_ns, stat.st_size)
    except (OSError, RuntimeError) as error:  # a full disk or GPU: not remembered, it may have room later
        return f"Its model could not be opened: {error}"


@lru_cache(maxsize=32)
def _find_problem(path: Path, stated: str, _changed: int, _size: int) -> str | None:
    from ml.checkpoint import CheckpointError, load_checkpoint
    from ml.predictor import open_model
    from ml.runtime import DeviceError, choose_device

    try:
        # Opened as service will: what has to be exported for that is exported now, not in a person's request.
        open_model(load_checkpoint(path, stated), choose_device(settings.FER_DEVICE))
    except (CheckpointError, DeviceError) as error:
        return str(error)
    return None


def _take_turns() -> None:
    """Wait until nobody else changes what is in service (SQLite's transactions do so by themselves)."""
    list(Checkpoint.objects.select_for_update().order_by("pk").values_list("pk"))


@receiver(post_delete, sender=Checkpoint)
def delete_file(instance: Checkpoint, **_: object) -> None:
    """A row takes its file along, but not before that can't be undone."""
    path = instance.path
    transaction.on_commit(lambda: path.unlink(missing_ok=True))
