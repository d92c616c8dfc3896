"""What the admin pages, the commands and the tasks call, in plain functions: data sets, runs, their states.

Every change of a state is here or in `runner`; `models` draws the picture. Torch is never imported here.
"""

import json
import math
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID, uuid4

from celery import current_app
from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.text import slugify
from kombu import Connection  # type: ignore[attr-defined]
from kombu.exceptions import OperationalError

from ml.checkpoint import OWN_SPLITS, start_file
from ml.config import StageConfig, TrainConfig
from ml.datasets import KINDS, SAME_FACES, DatasetError, load_samples
from ml.datasets.samples import SPLITS
from ml.runtime import available_cores
from training.models import MOST_LOSSES, Dataset, Fold, State, TrainingRun

if TYPE_CHECKING:
    from ml.checkpoint import Checkpoint as StartCheckpoint
    from ml.folds import Fold as FoldOfSamples

QUEUE: Final = "training"
HEARTBEAT: Final = 5.0  # seconds between two signs of life of a running fold
LOST_AFTER: Final = 20.0  # seconds without one, after which its worker counts as dead
UNHEARD_AFTER: Final = 60.0  # seconds after which a queued fold that the broker does not know is sent again
BROKER_TIMEOUT: Final = 2.0  # seconds that a broker has to answer a launch
# A run is what the first of these is that one of its folds is.
PRECEDENCE: Final = (
    State.RUNNING,
    State.INTERRUPTED,
    State.QUEUED,
    State.CANCELLED,
    State.FAILED,
    State.SUCCEEDED,
)
ENDED: Final = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
RESUMABLE: Final = (State.CANCELLED, State.INTERRUPTED, State.FAILED)
SHELL: Final = "shell@"  # the name of a claim made in the foreground begins with this

# Set when this process is asked to end: its fold saves its state and goes to another worker.
shutting_down = Event()

Progress = Callable[[str, int, int], None]  # what is being read, done, of how many
Stages = Literal["both", "mask", "joint"]
Protocol = Literal["split", "final", "lists", "clean", "made"]


class LaunchError(Exception):
    """Something that was asked for cannot be done; the text is a sentence for whoever asked."""


@dataclass(frozen=True)
class RunRequest:
    """What a person asks for.

    folds: the numbers to train, None for all; fold_count counts for the protocol "made" alone. extra: sets
    whose train parts are added to every fold's. launch_key: a form's own, so that sending it twice makes one
    run. name: empty for one made of data set and preset.
    """

    dataset: Dataset
    preset: str
    config: TrainConfig
    extra: tuple[Dataset, ...] = ()
    stages: Stages = "both"
    protocol: Protocol = "split"
    fold_count: int = 10
    folds: tuple[int, ...] | None = None
    seed: int = 0
    device: str = "auto"
    name: str = ""
    visdom: str = ""
    launched_by: User | None = None
    launch_key: UUID | None = None


# Data sets --------------------------------------------------------------------------------------------------


def register_dataset(name: str, kind: str, folder: str | Path, *, anywhere: bool = False) -> Dataset:
    """Make the row of a data set, or return it where the same one stands already.

    `folder` is relative to FER_DATA_ROOT; `anywhere` allows the shell's absolute paths outside of it. Raises
    DatasetError for a name that is taken or malformed, an unknown kind and a folder that is not there.
    """
    if kind not in KINDS:
        raise DatasetError(f"There is no data set kind {kind!r}: known are {', '.join(KINDS)}.")
    if not name or slugify(name) != name.lower():
        raise DatasetError(f"{name!r} is no name for a data set: letters, digits, - and _ alone.")
    root = Path(settings.FER_DATA_ROOT)
    path = Path(os.path.normpath(root / folder))
    inside = path.is_relative_to(root)
    if not inside and not anywhere:
        raise DatasetError(f"The folder {folder} is not inside FER_DATA_ROOT, which is {root}.")
    if not path.is_dir():
        raise DatasetError(f"There is no folder {path}.")
    stored = str(path.relative_to(root)) if inside else str(path)
    dataset, _ = Dataset.objects.get_or_create(name=name, defaults={"kind": kind, "folder": stored})
    if (dataset.kind, dataset.folder) != (kind, stored):
        raise DatasetError(
            f"The name {name} is taken by the {dataset.kind} set in {dataset.path}: choose another one."
        )
    return dataset


def inspect_dataset(dataset: Dataset, on_progress: Progress | None = None) -> None:
    """Look at every picture of a set, and store what was found, or why it cannot be read, in its row."""
    from ml.inspection import contact_sheet, inspect

    dataset.problem, dataset.inspection = "", None
    try:
        dataset.inspection = inspect(dataset.kind, dataset.path, on_progress).to_dict()
        dataset.contact_sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(load_samples(dataset.kind, dataset.path, "all"), dataset.contact_sheet)
    except (DatasetError, OSError) as error:
        dataset.problem = str(error)
    dataset.inspected = timezone.now()
    found = {name: getattr(dataset, name) for name in ("problem", "inspection", "inspected")}
    if not Dataset.objects.filter(pk=dataset.pk).update(**found):  # deleted meanwhile, and its folder with it
        shutil.rmtree(dataset.contact_sheet.parent, ignore_errors=True)


# Launch -----------------------------------------------------------------------------------------------------


def launch(request: RunRequest) -> TrainingRun:
    """Make a run and hand its folds to the workers; the same launch_key gives the same run.

    Raises LaunchError within three seconds, and leaves no row, where the broker does not answer; else as
    `create_run`. Within a transaction the folds are handed over when it is committed.
    """
    with broker():
        pass
    run, is_new = _create_run(request)
    if is_new:
        transaction.on_commit(partial(_send_or_remove, run))
    return run


def create_run(request: RunRequest) -> TrainingRun:
    """Make the rows of a run; nothing is sent, so that whoever calls this trains the folds itself.

    Raises DatasetError for data that cannot be read, LeakError (one of them) for fold lists that share a
    picture or a person between both sides, LaunchError for a setting that makes no sense.
    """
    return _create_run(request)[0]


def find_unfinished(request: RunRequest) -> TrainingRun | None:
    """The latest run of exactly this request, and from the same first weights, that has not succeeded: what
    the same command goes on with."""
    return _find(request, TrainingRun.objects.exclude(state=State.SUCCEEDED))


def find_finished(request: RunRequest) -> TrainingRun | None:
    """The latest run of exactly this request, and from the same first weights, that has succeeded."""
    return _find(request, TrainingRun.objects.filter(state=State.SUCCEEDED))


def _find(request: RunRequest, runs: "QuerySet[TrainingRun]") -> TrainingRun | None:
    candidates = runs.filter(
        dataset=request.dataset,
        preset=request.preset,
        stages=request.stages,
        protocol=request.protocol,
        seed=request.seed,
        start_sha256=start_sha256(request.config),
    )
    for run in candidates:
        same_sets = set(run.extra.all()) == set(request.extra)
        same_count = request.protocol != "made" or run.fold_count == request.fold_count
        folds = {fold.number for fold in run.folds.all()}
        same_folds = len(folds) == run.fold_count if request.folds is None else folds == set(request.folds)
        same_request = _same_config(run, request.config) and same_sets and same_count and same_folds
        if same_request and _same_division(run, request):
            return run
    return None


def _same_division(run: TrainingRun, request: RunRequest) -> bool:
    """Whether the run's folds hold out the faces that the request's would: the set may have changed since."""
    if run.folds_sha256 == "":  # the set's own split, or launched before this was kept
        return True
    folds = folds_of(request.dataset, request.protocol, request.fold_count, request.seed)
    return run.folds_sha256 == division_sha256(folds, request.dataset.path)


def _same_config(run: TrainingRun, config: TrainConfig) -> bool:
    try:
        return TrainConfig.from_dict(run.config) == config
    except (KeyError, TypeError):  # of another version
        return False


def start_sha256(config: TrainConfig) -> str:
    """Of the checkpoint that a run of `config` starts from; empty where that is none, or missing."""
    path = start_file(config)
    return sha256(path.read_bytes()).hexdigest() if path and path.is_file() else ""


def start_checkpoint(config: TrainConfig) -> "StartCheckpoint | None":
    """What a run of `config` starts from; None for ImageNet's or random weights. Raises LaunchError where
    that is broken."""
    from ml.checkpoint import CheckpointError, load_checkpoint

    path = start_file(config)
    try:
        return load_checkpoint(path) if path else None
    except CheckpointError as error:
        raise LaunchError(str(error)) from error


def check_config(config: TrainConfig) -> None:
    """Raise LaunchError, in a sentence, for the first number that no training could go on with."""
    model = config.model
    if not 32 <= model.image_size <= 1024:
        raise LaunchError("The image size must be from 32 to 1024 pixels a side.")
    if model.mask_channels < 1 or model.mask_blocks < 0:
        raise LaunchError("The mask generator needs at least one channel, and no fewer blocks than none.")
    if model.mask_shrink not in (1, 2):
        raise LaunchError("The mask generator can shrink the face by 1 (not at all) or by 2.")
    for word, stage in (("mask", config.mask_stage), ("joint", config.joint_stage)):
        _check_stage(word, stage)
    augment = config.augment
    for name in ("flip", "erase"):
        if not 0 <= getattr(augment, name) <= 1:
            raise LaunchError(f"Augmentation's {name} is a probability: from 0 to 1.")
    if not 0 < augment.resolution <= 1:
        raise LaunchError("Augmentation's resolution is a share of the side: above 0, 1 for never.")
    for name in ("scale", "shift", "brightness", "contrast", "noise"):
        if not 0 <= getattr(augment, name) < 1:
            raise LaunchError(f"Augmentation's {name} is a share: from 0 to below 1.")
    if not 0 <= augment.rotation <= 180:
        raise LaunchError("Augmentation's rotation is from 0 to 180 degrees.")
    if (path := start_file(config)) and not path.is_file():
        raise LaunchError(f"There is no checkpoint at {config.start} to start from.")


def _check_stage(word: str, stage: StageConfig) -> None:
    if stage.epochs_full < 0 or stage.epochs_falling < 0 or not 1 <= stage.epochs <= 10_000:
        raise LaunchError(f"The {word} stage needs at least one epoch, at full or at falling rate.")
    if not 1 <= stage.batch_size <= 4096:
        raise LaunchError(f"The {word} stage's batch size must be from 1 to 4096.")
    for field in fields(stage):
        value = getattr(stage, field.name)
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise LaunchError(f"The {word} stage's {field.name} is {value}: it must be a number from 0.")
    if not stage.lr_mask + stage.lr_fusion + stage.lr_classifier > 0:
        raise LaunchError(f"The {word} stage has no learning rate above zero: it would learn nothing.")
    if stage.ema_decay >= 1 or stage.label_smoothing >= 1 or stage.warmup >= 1:
        raise LaunchError(f"The {word} stage's ema_decay, label_smoothing and warmup must be below 1.")


def _create_run(request: RunRequest) -> tuple[TrainingRun, bool]:
    if request.launch_key and (twin := TrainingRun.objects.filter(launch_key=request.launch_key).first()):
        return twin, False
    check_config(request.config)
    start = start_checkpoint(request.config)
    numbers, fold_count, division = _check_folds(request, start)
    run = TrainingRun(
        name=request.name or f"{request.dataset.name} {request.preset}",
        dataset=request.dataset,
        preset=request.preset,
        config=request.config.to_dict(),
        stages=request.stages,
        protocol=request.protocol,
        fold_count=fold_count,
        seed=request.seed,
        device=request.device,
        git_revision=git_revision() or "",
        start_sha256=start_sha256(request.config),
        trained_before=start.trained_on if start else {},
        folds_sha256=division,
        visdom=request.visdom,
        launched_by=request.launched_by,
        launch_key=request.launch_key,
    )
    try:
        with transaction.atomic():
            run.save(force_insert=True)
            run.extra.set(request.extra)
            Fold.objects.bulk_create(Fold(run=run, number=number) for number in numbers)
    except IntegrityError:  # the other click of a double one was faster
        twin = TrainingRun.objects.filter(launch_key=request.launch_key).first()
        if request.launch_key is None or twin is None:
            raise
        return twin, False
    return run, True


def _check_folds(request: RunRequest, start: "StartCheckpoint | None") -> tuple[list[int], int, str]:
    """The numbers of the folds to train, how many the set has, and `division_sha256`.

    Raises where a fold cannot be trained.
    """
    from ml.folds import refuse_leaks

    if start:
        _check_strangers(request, start)
    for dataset in (request.dataset, *request.extra):
        if dataset.problem:
            raise DatasetError(f"The data set {dataset.name} cannot be used: {dataset.problem}")
        if not dataset.path.is_dir():
            raise DatasetError(f"There is no folder {dataset.path}, where {dataset.name} should lie.")
    if not 0 <= request.seed < 2**31:
        raise LaunchError("The seed must be from 0 to 2147483647.")
    if request.visdom and not request.visdom.startswith(("http://", "https://")):
        raise LaunchError(
            f"{request.visdom} is no address of a visdom server, such as http://localhost:8097."
        )
    if request.dataset in request.extra:
        raise LaunchError(f"{request.dataset.name} cannot be trained on twice: leave it out of the others.")
    if request.protocol in OWN_SPLITS:
        # Reading a large set's lists takes long, and who looked at it knows that it can be read.
        if request.dataset.inspection is None:
            load_samples(request.dataset.kind, request.dataset.path, "train")
        if request.protocol == "final":
            load_samples(request.dataset.kind, request.dataset.path, "test")  # which it may not have
        if request.folds not in (None, (0,)):
            raise LaunchError("A set's own split has one fold, number 0.")
        return [0], 1, ""
    folds = folds_of(request.dataset, request.protocol, request.fold_count, request.seed)
    known = [fold.number for fold in folds]
    chosen = known if request.folds is None else sorted(set(request.folds))
    if not chosen:
        raise LaunchError("Choose at least one fold.")
    if unknown := set(chosen) - set(known):
        raise LaunchError(
            f"{request.dataset.name} has no fold {min(unknown)}: it has {min(known)} to {max(known)}."
        )
    refuse_leaks([fold for fold in folds if fold.number in chosen])
    return chosen, len(folds), division_sha256(folds, request.dataset.path)


def _check_strangers(request: RunRequest, start: "StartCheckpoint") -> None:
    """Refuse held-out faces that the model which a run starts from may have been trained on."""
    if start.is_of_unknown_origin:
        raise LaunchError(
            "The model that this run starts from was imported, and nobody said what it had been trained on: "
            "import it anew with --trained-on KIND, for each set that it saw."
        )
    kind = request.dataset.kind
    held_out = set(SPLITS) - set(OWN_SPLITS.get(request.protocol, ()))
    # Any set at all may lie in folders.
    if kind != "folders" and held_out & splits_seen(start.trained_on, kind):
        raise LaunchError(
            f"The model that this run starts from was trained on {kind} faces itself: those that "
            "are held out would be no strangers to it. Start from imagenet, or from one that never saw them."
        )


def splits_seen(trained_on: Mapping[str, Sequence[str]], kind: str) -> set[str]:
    """The splits of a set of `kind` that faces of `trained_on` (`Checkpoint.trained_on`) may be of."""
    faces = SAME_FACES.get(kind, kind)
    return {
        split for one, splits in trained_on.items() if SAME_FACES.get(one, one) == faces for split in splits
    }


def division_sha256(folds: "Sequence[FoldOfSamples]", root: Path) -> str:
    """Of who is trained on and who is held out in each fold, by the pictures' places in `root`."""
    digest = sha256()
    for fold in folds:
        for side in (fold.train, fold.test):
            names = sorted(sample.path.relative_to(root).as_posix() for sample in side)
            digest.update(json.dumps([fold.number, names]).encode())
    return digest.hexdigest()


def folds_of(
    dataset: Dataset, protocol: Protocol, fold_count: int = 1, seed: int = 0
) -> "list[FoldOfSamples]":
    """A set's folds under a protocol, as `ml.folds` gives them; raises DatasetError."""
    from ml.folds import clean_folds, final_fold, make_folds, read_fold_lists, split_fold

    if protocol == "split":
        return [split_fold(dataset.kind, dataset.path)]
    if protocol == "final":
        return [final_fold(dataset.kind, dataset.path)]
    if protocol in ("lists", "clean"):
        folds = read_fold_lists(dataset.kind, dataset.path)
        return folds if protocol == "lists" else clean_folds(folds)
    if fold_count < 2:
        raise LaunchError("New folds are at least two.")
    return make_folds(load_samples(dataset.kind, dataset.path, "all"), fold_count, seed)


# Stop, resume, retry ----------------------------------------------------------------------------------------


def cancel(run: TrainingRun) -> None:
    """Ask a run to stop: what waits is cancelled now, what runs at its next batch. Its state is kept.

    Raises LaunchError where nothing of it waits or runs.
    """
    with transaction.atomic():
        TrainingRun.objects.filter(pk=run.pk).update(cancel_requested=True)  # from now on nothing is claimed
        waiting = run.folds.filter(state__in=(State.QUEUED, State.INTERRUPTED))
        stopped = waiting.update(state=State.CANCELLED, finished=timezone.now())
        if not stopped and not run.folds.filter(state=State.RUNNING).exists():
            raise LaunchError(f"{run} has ended already: there is nothing to cancel.")
    run.cancel_requested = True
    settle(run)


def resume(run: TrainingRun) -> None:
    """Queue a run's cancelled, interrupted and failed folds again; each goes on from its last saved state.

    With them go to the workers those that waited for a command in the foreground. Raises LaunchError where
    there is neither, where one is still stopping, and where the broker is down.
    """
    with broker():
        pass
    if run.folds.filter(state__in=RESUMABLE).exists() or not unsent(run).exists():
        requeue(run)
    transaction.on_commit(partial(_send, list(unsent(run).values_list("pk", flat=True))))


def unsent(run: TrainingRun) -> "QuerySet[Fold]":
    """The queued folds that no worker was told of: they belong to a command in the foreground."""
    return run.folds.filter(state=State.QUEUED, heartbeat=None)


def retry(fold: Fold) -> None:
    """Queue one failed, cancelled or interrupted fold again, alone; it goes on from its last saved state.

    Raises LaunchError where it is in another state, and where the broker is down.
    """
    with broker():
        pass
    folds = requeue(fold.run, fold.number)
    transaction.on_commit(partial(_send, [fold.pk for fold in folds]))


def requeue(run: TrainingRun, *numbers: int) -> list[Fold]:
    """The state change of `resume` and `retry`, sending nothing; all resumable folds without `numbers`."""
    with transaction.atomic():
        run.refresh_from_db()
        if run.cancel_requested and run.folds.filter(state=State.RUNNING).exists():
            raise LaunchError(f"{run} is still stopping: try again when its last batch is done.")
        chosen = run.folds.filter(state__in=RESUMABLE)
        if numbers:
            chosen = chosen.filter(number__in=numbers)
        folds = list(chosen)
        if not folds:
            raise LaunchError(f"{run} has no cancelled, interrupted or failed fold to go on with.")
        Fold.objects.filter(pk__in=[fold.pk for fold in folds], state__in=RESUMABLE).update(
            state=State.QUEUED, worker="", heartbeat=None, losses=0, error="", progress={}, finished=None
        )
        TrainingRun.objects.filter(pk=run.pk).update(cancel_requested=False)
    settle(run)
    return folds


# Workers ----------------------------------------------------------------------------------------------------


def worker_name(place: Literal["worker", "shell"]) -> str:
    """A name that no other claim has: where, host, process and a random word."""
    return f"{place}@{socket.gethostname()[:60]}:{os.getpid()}:{uuid4().hex[:8]}"


def claim(fold_id: int, worker: str) -> Fold | None:
    """Make a queued fold this worker's own and return it; None where it is not there to be taken.

    One conditional UPDATE decides, so a message that was delivered twice never makes a second runner.
    """
    now = timezone.now()
    stopping = TrainingRun.objects.filter(pk=OuterRef("run"), cancel_requested=True)
    # `state` stands in the UPDATE itself, not in a subquery: a second one that waited for it looks again.
    taken = Fold.objects.filter(~Exists(stopping), pk=fold_id, state=State.QUEUED).update(
        state=State.RUNNING,
        worker=worker,
        heartbeat=now,
        started=Coalesce("started", now),
        finished=None,
        error="",
        progress={"doing": "Starting"},
    )
    if not taken:
        return None
    fold = Fold.objects.select_related("run__dataset").get(pk=fold_id)
    settle(fold.run)
    return fold


def keep(fold: Fold) -> bool:
    """Renew a claim; False where the fold is another's by now.

    A machine that slept (a closed laptop) is given up like a dead one; awake again, it takes the fold back
    unless another worker has claimed it.
    """
    mine = Fold.objects.filter(pk=fold.pk, worker=fold.worker)
    if mine.filter(state=State.RUNNING).update(heartbeat=timezone.now()):
        return True
    back = mine.filter(state__in=(State.INTERRUPTED, State.QUEUED)).update(
        state=State.RUNNING, heartbeat=timezone.now(), losses=F("losses") - 1
    )
    if back:
        settle(fold.run)
    return bool(back)


def leave(fold: Fold, state: State, **values: object) -> bool:
    """End a claim: write the fold's new state; False (and nothing written) where it is another's by now."""
    ended = {"finished": timezone.now()} if state in ENDED else {}
    mine = Fold.objects.filter(pk=fold.pk, worker=fold.worker, state=State.RUNNING)
    left = keep(fold) and bool(mine.update(state=state, **{**ended, **values}))
    settle(fold.run)
    return left


def notice_lost_workers() -> int:
    """Give up on workers that show no sign of life, and queue again what they left; returns how many.

    A fold is INTERRUPTED for one round, then queued, or FAILED after MOST_LOSSES losses. One that ran in the
    foreground waits for its command to be given again. Queued folds that the broker has forgotten are sent
    once more.
    """
    for fold in Fold.objects.filter(state=State.INTERRUPTED).select_related("run"):
        _pick_up(fold)
    _send_forgotten()
    lost = 0
    silent = Fold.objects.filter(
        state=State.RUNNING, heartbeat__lt=timezone.now() - timedelta(seconds=LOST_AFTER)
    )
    for fold in silent.select_related("run"):
        # The heartbeat is part of the condition: who has just shown a sign of life is not lost.
        lost += Fold.objects.filter(
            pk=fold.pk, state=State.RUNNING, worker=fold.worker, heartbeat=fold.heartbeat
        ).update(state=State.INTERRUPTED, losses=F("losses") + 1)
        settle(fold.run)
    return lost


def _pick_up(fold: Fold) -> None:
    left = Fold.objects.filter(pk=fold.pk, state=State.INTERRUPTED)
    if fold.run.cancel_requested:
        left.update(state=State.CANCELLED, finished=timezone.now())
    elif fold.losses >= MOST_LOSSES:
        left.update(
            state=State.FAILED,
            finished=timezone.now(),
            error=f"Its worker died {fold.losses} times while running it (out of memory?): "
            "it is not tried again by itself.",
        )
    elif fold.worker.startswith(SHELL):
        return
    elif left.update(state=State.QUEUED):
        try:
            _send([fold.pk])
        except LaunchError:  # the broker is down: the next round tries again
            Fold.objects.filter(pk=fold.pk, state=State.QUEUED).update(state=State.INTERRUPTED)
    settle(fold.run)


def _send_forgotten() -> None:
    """Send queued folds again where the broker has lost their messages (its disk, or a worker's memory)."""
    unheard = timezone.now() - timedelta(seconds=UNHEARD_AFTER)
    # Of `unsent` ones a command takes care.
    waiting = Fold.objects.filter(state=State.QUEUED, heartbeat__lt=unheard).values_list("pk", flat=True)
    if not waiting:
        return
    try:
        with broker() as connection:
            queue = connection.default_channel.queue_declare(QUEUE)  # type: ignore[no-untyped-call]
            if queue.message_count == 0:
                _send(list(waiting))
    except LaunchError:
        return


def settle(run: TrainingRun) -> None:
    """Let a run's state follow from its folds'; called after every change of one of them."""
    with transaction.atomic():
        # The last two folds may end at the same time: the second one waits here and sees the first.
        locked = TrainingRun.objects.select_for_update().filter(pk=run.pk).first()
        if locked is None:  # deleted while a worker was at it
            return
        folds = list(locked.folds.values_list("state", "started"))
        states = {state for state, _ in folds}
        locked.state = next(state for state in PRECEDENCE if state in states)
        locked.started = min((started for _, started in folds if started), default=None)
        over = locked.state in ENDED
        locked.finished = (locked.finished or timezone.now()) if over else None
        locked.save(update_fields=["state", "started", "finished"])
    run.state, run.started, run.finished = locked.state, locked.started, locked.finished


# Broker -----------------------------------------------------------------------------------------------------


@contextmanager
def broker() -> Iterator[Connection]:
    """A connection to a broker that answers; raises LaunchError within BROKER_TIMEOUT where it does not."""
    url = settings.CELERY_BROKER_URL
    options = {
        **settings.CELERY_BROKER_TRANSPORT_OPTIONS,
        "socket_timeout": BROKER_TIMEOUT,
        "socket_connect_timeout": BROKER_TIMEOUT,
        "connect_retries_timeout": BROKER_TIMEOUT,
        "max_retries": 0,
    }
    with Connection(url, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        try:
            _ = connection.default_channel  # connects, and asks for a sign of life
        except (OperationalError, *connection.connection_errors) as error:
            raise LaunchError(
                f"The broker does not answer ({error}). `make run` starts one; see FER_BROKER_URL."
            ) from error
        yield connection


def _send_or_remove(run: TrainingRun) -> None:
    try:
        _send(list(run.folds.values_list("pk", flat=True)))
    except BaseException:
        run.delete()
        raise


def _send(fold_ids: Sequence[int]) -> None:
    """Hand queued folds to the workers; their heartbeat says when. Raises LaunchError."""
    # First of all: what does not reach the broker now is sent again later.
    Fold.objects.filter(pk__in=fold_ids, state=State.QUEUED).update(heartbeat=timezone.now())
    with broker() as connection:
        for fold_id in fold_ids:
            try:
                current_app.send_task(
                    "training.tasks.train_fold", [fold_id], queue=QUEUE, connection=connection, retry=False
                )
            except (OperationalError, *connection.connection_errors) as error:
                raise LaunchError(f"The broker stopped answering: {error}.") from error


# Facts ------------------------------------------------------------------------------------------------------


def git_revision() -> str | None:
    """The commit of the code that runs, with "+changes" where it is not clean; None outside a checkout."""

    def git(*arguments: str) -> str:
        # A site that was installed by root and runs as somebody else is no reason to be silent.
        command = ["git", "-c", f"safe.directory={settings.BASE_DIR}", *arguments]
        return subprocess.run(
            command, cwd=settings.BASE_DIR, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changes = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, Any]:
    """What measures: the processor's name, the cores this process may use, and torch's version."""
    return {"cpu": _cpu_name(), "cores": available_cores(), "torch": version("torch")}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
