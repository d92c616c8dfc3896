"""One claimed fold from its data to its measurement, and the row and files that tell of it.

The same function runs in a worker (tasks.train_fold) and in the foreground (train_fmpn).
"""

import json
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, TypeVar, cast

import numpy as np
import torch
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from django.utils import timezone
from numpy.typing import NDArray

from ml.checkpoint import OWN_SPLITS, CheckpointError, build_model, save_checkpoint, splits_learnt
from ml.config import TrainConfig
from ml.datasets import DatasetError, Sample, load_samples
from ml.engine import (
    BatchReport,
    Callbacks,
    DivergedError,
    EpochReport,
    FaceSet,
    Interrupted,
    ResumeError,
    Training,
    autocast_dtype,
    draw_masks,
    predict,
    run_fold,
)
from ml.folds import Fold as FoldOfSamples
from ml.folds import refuse_leaks, refuse_shared_people
from ml.metrics import Metrics, evaluate_predictions
from ml.motion_masks import MotionMaskError, MotionMasks, load_motion_masks, masks_for_fold, save_motion_masks
from ml.runtime import choose_device
from training import services
from training.models import Checkpoint, Dataset, EpochMetric, Fold, State, TrainingRun
from training.sinks import Sink, TensorBoard, Visdom
from training.strips import face_tile, mask_tile, save_strip, spread, truth_tile

CHECKPOINT_NAME: Final = "fmpn.safetensors"
STATE_NAME: Final = "state.safetensors"
WATCHED_FACES: Final = 8
MOST_MISTAKES: Final = 12
PROGRESS_EVERY: Final = 1.0  # seconds between two writes of where a fold stands
PATIENCE: Final = (1, 5, 20, 60)  # seconds to wait for a database that does not answer

# Errors whose text is a sentence for a person.
TOLD: Final = (
    *(DatasetError, MotionMaskError, ResumeError, DivergedError, CheckpointError),
    services.LaunchError,
)

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class ClaimLostError(Exception):
    """The fold is another worker's now, or was deleted: this one writes nothing more."""


def run_claimed(
    fold: Fold, callbacks: Callbacks | None = None, on_progress: services.Progress | None = None
) -> None:
    """Train a claimed fold and measure it; whatever happens, its row says so in the end.

    callbacks and on_progress are the foreground's: they are told the same as the row, and `should_stop`
    cancels the fold.
    """
    desk = Desk(fold, callbacks or Callbacks(), on_progress or (lambda what, done, total: None))
    _sweep(fold.folder)
    desk.say(f"{fold.worker} begins.")
    try:
        with _heartbeat(desk):
            outcome = _train(desk)
    except ClaimLostError:
        logger.warning("%s lost fold %s: another worker has it, or it was deleted.", fold.worker, fold.pk)
    except Interrupted:
        desk.say("Stopped; the state is saved." if desk.stopped == State.CANCELLED else "Worker ends.")
        patiently(lambda: services.leave(fold, desk.stopped))
    except Exception as error:
        desk.say(f"Failed.\n{traceback.format_exc()}")
        sentence = explain(error)
        patiently(lambda: services.leave(fold, State.FAILED, error=sentence))
    else:
        _succeed(desk, outcome)
    finally:
        desk.close()


def _sweep(folder: Path) -> None:
    """Delete the half files of a worker that was killed while it wrote: ours and those of safetensors."""
    for half in (*folder.rglob(".*.part"), *folder.rglob(".tmp*")):
        if half.is_file():
            half.unlink(missing_ok=True)


@dataclass
class Outcome:
    """What came of a fold: its checkpoint's checksum, its metrics where faces were held out."""

    sha256: str
    metrics: Metrics | None


def _train(desk: "Desk") -> Outcome:
    fold, run = desk.fold, desk.fold.run
    config = TrainConfig.from_dict(run.config)
    device = torch.device(choose_device(run.device))
    desk.device = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    revision = services.git_revision()
    if revision and run.git_revision and revision != run.git_revision:
        now, then = (text[:7] + text[40:] for text in (revision, run.git_revision))  # with "+changes"
        desk.say(f"The code is {now} now, and was {then} when the run was launched.")

    own, extra = _samples_of(fold)
    train_samples = [*own.train, *(sample for _, samples in extra for sample in samples)]
    whole = replace(own, train=tuple(train_samples))
    if run.protocol in OWN_SPLITS:
        refuse_shared_people(whole)  # to compare every picture of a large set would take long
    else:
        refuse_leaks([whole])
    state_path = fold.folder / STATE_NAME
    if run.start_sha256 and not state_path.exists() and run.start_sha256 != services.start_sha256(config):
        raise services.LaunchError(
            f"The model that this run starts from ({config.start}) is another one than at its launch, and "
            "folds of one run are to be compared: launch a copy of the run."
        )
    if not state_path.exists():  # what an earlier try told of is not this one's
        fold.epochs.all().delete()
        shutil.rmtree(fold.folder / "samples", ignore_errors=True)
    masks = _masks_of(fold, own, config.model.image_size, state_path, desk)
    desk.read("Building the model", 0, 1)
    # A saved state holds every weight: what it started from may be gone by now.
    model = build_model(replace(config, start="random") if state_path.exists() else config, run.seed)
    train = FaceSet.joined(
        [_load(dataset, samples, config, desk) for dataset, samples in [(run.dataset, own.train), *extra]]
    )
    held_out = _load(run.dataset, own.test, config, desk) if own.test else None
    desk.begin(len(train), len(held_out) if held_out else 0, config)

    watched_set, watched = _watch(held_out or train)
    _save_watched(fold.folder / "samples", watched_set, watched, masks)
    training = Training(
        model=model,
        config=config,
        train=train,
        valid=held_out,
        masks=masks,
        seed=run.seed,
        state_path=state_path,
        device=device,
        callbacks=Callbacks(desk.on_batch, desk.on_epoch, desk.should_stop),
        stages=cast(services.Stages, run.stages),
        watched=watched_set.faces[watched],
    )
    try:
        run_fold(training)
    except ResumeError as error:
        # It would stand in the way of every other try as well; but it may be days of work.
        aside = state_path.replace(state_path.with_stem("state-refused"))
        raise ResumeError(
            f"{error} It is kept as {aside.name}: try again, and the fold starts anew."
        ) from error

    metrics = None
    if held_out and run.stages != TrainingRun.Stages.MASK:
        desk.read("Measuring on the held-out faces", 0, len(held_out))
        metrics = _measure(fold, training, held_out, own.test)
    facts = {
        "preset": run.preset,
        "data": [
            _seen(run.dataset, own.train, run.protocol),
            *(_seen(dataset, samples, "split") for dataset, samples in extra),
        ],
        "trained_before": run.trained_before,
        "seed": run.seed,
        "git_revision": revision,
        "stages": run.stages,
        "protocol": run.protocol,
        "fold": fold.number,
        "folds_sha256": run.folds_sha256,
        "machine": {
            **services.machine(),
            "device": desk.device,
            "precision": str(autocast_dtype(device) or torch.float32).removeprefix("torch."),
        },
        "metrics": {"validation": metrics.to_dict()} if metrics else {},
    }
    return Outcome(save_checkpoint(fold.folder / CHECKPOINT_NAME, model, config, facts), metrics)


def _seen(dataset: Dataset, samples: Sequence[Sample], protocol: str) -> dict[str, Any]:
    return {"kind": dataset.kind, "splits": splits_learnt(protocol), "train_images": len(samples)}


def _succeed(desk: "Desk", outcome: Outcome) -> None:
    fold, run = desk.fold, desk.fold.run
    metrics = outcome.metrics.to_dict() if outcome.metrics else None
    file = (fold.folder / CHECKPOINT_NAME).relative_to(settings.FER_VAR_DIR)
    name = f"{run.name[:60]}, run {run.pk}, fold {fold.number}"
    checkpoint = {"name": name, "file": str(file), "sha256": outcome.sha256}

    def leave() -> bool:
        with transaction.atomic():
            left = services.leave(fold, State.SUCCEEDED, metrics=metrics, progress={})
            if left and run.stages != TrainingRun.Stages.MASK:  # a mask stage's classifier knows nothing yet
                Checkpoint.objects.update_or_create(fold=fold, defaults=checkpoint)
        return left

    if not patiently(leave):
        desk.say("Finished, but another worker has this fold now.")
        return
    (fold.folder / STATE_NAME).unlink(missing_ok=True)
    result = f" Accuracy {outcome.metrics.accuracy:.4f}." if outcome.metrics else ""
    desk.say(f"Finished.{result}")


# Data -------------------------------------------------------------------------------------------------------


def _samples_of(fold: Fold) -> tuple[FoldOfSamples, list[tuple[Dataset, list[Sample]]]]:
    """The fold's own samples, and those of the other sets that are trained on as well.

    People keep their names: the same person in two sets (JAFFE in both sizes) is a leak like any other.
    """
    run = fold.run
    folds = services.folds_of(run.dataset, cast(services.Protocol, run.protocol), run.fold_count, run.seed)
    if run.folds_sha256 and run.folds_sha256 != services.division_sha256(folds, run.dataset.path):
        raise services.LaunchError(
            f"{run.dataset.name} has other pictures than at the launch, so its folds are others as well: "
            "launch a copy of the run, and delete this one."
        )
    own = next((own for own in folds if own.number == fold.number), None)
    if own is None:
        raise DatasetError(f"{run.dataset.name} has no fold {fold.number} any more.")
    extra = [
        (dataset, load_samples(dataset.kind, dataset.path, "train")) for dataset in run.extra.order_by("name")
    ]
    return own, extra


def _masks_of(fold: Fold, own: FoldOfSamples, size: int, state_path: Path, desk: "Desk") -> MotionMasks:
    """The fold's motion masks, kept beside it: a fold that goes on from its state reads the same ones."""
    folder = fold.folder / "masks"
    if not (folder.is_dir() and state_path.exists()):
        desk.read("Making motion masks", 0, 1)
        dataset = fold.run.dataset
        masks = masks_for_fold(
            own,
            dataset.kind,
            dataset.path,
            size,
            lambda done, total: desk.read("Aligning faces for the motion masks", done, total),
        )
        partial = folder.with_name(".masks.part")
        shutil.rmtree(partial, ignore_errors=True)
        save_motion_masks(masks, partial, f"{fold}: its own training faces, or see ml.motion_masks")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return load_motion_masks(folder, size)


def _load(dataset: Dataset, samples: Sequence[Sample], config: TrainConfig, desk: "Desk") -> FaceSet:
    return FaceSet.load(
        samples,
        config.model.image_size,
        config.model.colour,
        lambda done, total: desk.read(f"Reading the faces of {dataset}", done, total),
        dataset.faces_folder,
    )


# Pictures and measurement -----------------------------------------------------------------------------------


def _watch(faces: FaceSet) -> tuple[FaceSet, list[int]]:
    return faces, spread(faces.labels.tolist(), WATCHED_FACES)


def _save_watched(folder: Path, faces: FaceSet, watched: list[int], masks: MotionMasks) -> None:
    labels = [int(faces.labels[index]) for index in watched]
    save_strip(folder / "faces.png", [face_tile(faces.faces[index].numpy()) for index in watched])
    save_strip(folder / "truth.png", [truth_tile(masks.maps[i], bool(masks.known[i])) for i in labels])


def _measure(fold: Fold, training: Training, held_out: FaceSet, samples: tuple[Sample, ...]) -> Metrics:
    """Read the held-out faces with the finished model; keep every probability and the worst mistakes."""
    probabilities = predict(training.model, held_out.faces, training.device)
    labels = held_out.labels.numpy()
    metrics = evaluate_predictions(labels, probabilities)
    mistakes = _mistakes(labels, probabilities)
    faces = held_out.faces[mistakes]
    folder = fold.folder / "mistakes"
    for rank, mask in enumerate(draw_masks(training.model, faces, training.device).numpy()):
        save_strip(folder / f"{rank}-face.png", [face_tile(faces[rank].numpy())])
        save_strip(folder / f"{rank}-mask.png", [mask_tile(mask)])
    document = {
        "samples": [
            {
                "path": sample.path.relative_to(fold.run.dataset.path).as_posix(),
                "label": sample.expression,
                "probabilities": [round(float(value), 6) for value in row],
            }
            for sample, row in zip(samples, probabilities, strict=True)
        ],
        "mistakes": [{"sample": index} for index in mistakes],
    }
    partial = fold.folder / ".predictions.json.part"
    partial.write_text(json.dumps(document))
    partial.replace(fold.folder / "predictions.json")
    return metrics


def _mistakes(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> list[int]:
    """Positions of the mistakes made with the most confidence, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
    return [int(index) for index in surest[:MOST_MISTAKES]]


# Reports ----------------------------------------------------------------------------------------------------


@dataclass
class Desk:
    """Where a fold's reports arrive: its row, its log, its pictures, the sinks, and the foreground.

    stopped: what the fold is to become where it was asked to stop.
    """

    fold: Fold
    foreground: Callbacks
    on_progress: services.Progress
    lost: Event = field(default_factory=Event)
    stopped: State = State.CANCELLED
    sinks: list[Sink] = field(default_factory=list)
    images: int = 0
    config: TrainConfig | None = None
    last_write: float = 0.0
    doing: str = ""
    device: str = ""  # its name for people

    def say(self, sentence: str) -> None:
        """Add a line to the fold's log; a full disk costs the line, and never what the row is to say."""
        try:
            self.fold.folder.mkdir(parents=True, exist_ok=True)
            with (self.fold.folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"{timezone.localtime():%Y-%m-%d %H:%M:%S}  {sentence}\n")
        except OSError:
            logger.warning("%s: the log could not be written.", self.fold, exc_info=True)

    def read(self, what: str, done: int, total: int) -> None:
        """Told while the data is prepared; raises Interrupted where the fold is to stop."""
        self.on_progress(what, done, total)
        if what != self.doing:
            self.doing, self.last_write = what, 0.0
            self.say(f"{what}.")
        if self._is_time():
            self._write_progress({"doing": what, "step": done, "steps": total})
            if self.should_stop():
                raise Interrupted

    def begin(self, train_images: int, test_images: int, config: TrainConfig) -> None:
        """The data is there: note its size, open the sinks."""
        self.images, self.config = train_images, config
        self.say(f"Training on {train_images} faces, {test_images} held out.")
        Fold.objects.filter(pk=self.fold.pk).update(train_images=train_images, test_images=test_images)
        self.sinks.append(TensorBoard(self.fold.folder))
        if url := self.fold.run.visdom:
            rows = EpochMetric.objects.filter(fold=self.fold)
            earlier = [(row.stage, row.epoch, _numbers_of_row(row)) for row in rows]
            run = self.fold.run
            self.sinks.append(Visdom(url, f"run {run.pk}", f"fold {self.fold.number}", earlier, self.say))

    def on_batch(self, report: BatchReport) -> None:
        self.foreground.on_batch(report)
        if self._is_time():
            self._write_progress(
                {
                    "doing": f"{report.stage} stage",
                    "stage": report.stage,
                    "epoch": report.epoch,
                    "epochs": report.epochs,
                    "step": report.step,
                    "steps": report.steps,
                    "loss": report.loss,
                    "rate": report.rate,
                    "seconds_left": self._seconds_left(report),
                    "device": self.device,
                }
            )

    def on_epoch(self, report: EpochReport) -> None:
        self.foreground.on_epoch(report)
        strip = None
        if report.masks is not None:
            tiles = [mask_tile(mask) for mask in report.masks.numpy()]
            strip = np.hstack(tiles)
            save_strip(self.fold.folder / "samples" / f"{report.stage}-{report.epoch:04}.png", tiles)
        values = {
            "loss": report.loss,
            "mask_loss": report.mask_loss,
            "classifier_loss": report.classifier_loss,
            "rate": report.rate,
            "accuracy": report.metrics.accuracy if report.metrics else None,
            "macro_f1": report.metrics.macro_f1 if report.metrics else None,
        }
        # An epoch that was not saved before a worker died is reported twice, and is the same both times.
        patiently(
            lambda: EpochMetric.objects.update_or_create(
                fold=self.fold, stage=report.stage, epoch=report.epoch, defaults=values
            )
        )
        accuracy = f", held-out accuracy {report.metrics.accuracy:.4f}" if report.metrics else ""
        self.say(
            f"{report.stage} stage, epoch {report.epoch}/{report.epochs}: loss {report.loss:.4f}{accuracy}, "
            f"{report.rate:.0f} images/s."
        )
        for sink in self.sinks:
            sink.write(report, strip)

    def should_stop(self) -> bool:
        """Asked after every batch. Raises ClaimLostError where the fold is not this worker's any more."""
        if self.lost.is_set():
            raise ClaimLostError
        if services.shutting_down.is_set():
            self.stopped = State.INTERRUPTED
            return True
        if self.foreground.should_stop():
            self.stopped = State.CANCELLED
            return True
        try:
            run = TrainingRun.objects.filter(pk=self.fold.run_id)
            asked = run.values_list("cancel_requested", flat=True).first()
        except DatabaseError:
            connection.close()
            return False  # it is asked again after the next batch
        if asked is None:  # the run was deleted
            raise ClaimLostError
        if asked:
            self.stopped = State.CANCELLED
        return asked

    def close(self) -> None:
        for sink in self.sinks:
            try:
                sink.close()
            except OSError:  # of a full disk: how the fold ended is in its row already
                logger.warning("%s: the last of its curves could not be written.", self.fold, exc_info=True)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self.last_write < PROGRESS_EVERY:
            return False
        self.last_write = now
        return True

    def _write_progress(self, progress: dict[str, Any]) -> None:
        try:
            Fold.objects.filter(pk=self.fold.pk, worker=self.fold.worker, state=State.RUNNING).update(
                progress=progress
            )
        except DatabaseError:
            connection.close()  # the next one is a second away

    def _seconds_left(self, report: BatchReport) -> float | None:
        """At the rate of this moment, also for a further stage; None where most of the work is that stage's,
        which may be many times slower."""
        assert self.config is not None
        epochs = report.epochs - report.epoch + 1 - report.step / report.steps
        if report.stage == "mask" and self.fold.run.stages == TrainingRun.Stages.BOTH:
            further = self.config.joint_stage.epochs
            if further > self.config.mask_stage.epochs:
                return None
            epochs += further
        return epochs * self.images / report.rate if report.rate else None


def _numbers_of_row(row: EpochMetric) -> dict[str, float]:
    names = ["loss", "mask_loss", "rate", *(["classifier_loss"] if row.stage == "joint" else [])]
    numbers = {name: float(getattr(row, name)) for name in names}
    for name in ("accuracy", "macro_f1"):
        if (value := getattr(row, name)) is not None:
            numbers[name] = value
    return numbers


def explain(error: Exception) -> str:
    """What a failed fold's row says: a sentence, never a traceback (that stands in the log)."""
    if isinstance(error, TOLD):
        return str(error)
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return "The memory is full: choose a smaller batch, a smaller image or fewer channels."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'A file'}: {error.strerror}."
    if isinstance(error, ValueError | RuntimeError) and str(error):
        return str(error).splitlines()[0]
    return f"The program broke ({type(error).__name__}: {error}): the log has the details."


def patiently(action: Callable[[], Result]) -> Result:
    """Use the database, again after a while where it does not answer: hours of training hang on it."""
    for seconds in PATIENCE:
        try:
            return action()
        except (OperationalError, InterfaceError):
            logger.warning("The database does not answer; trying again in %d s.", seconds, exc_info=True)
            connection.close()
            time.sleep(seconds)
    return action()


@contextmanager
def _heartbeat(desk: Desk) -> Iterator[None]:
    """Within the block a thread renews the claim; where it is lost, `desk.lost` is set."""
    over = Event()

    def beat() -> None:
        try:
            while not over.wait(services.HEARTBEAT):
                try:
                    if not services.keep(desk.fold):
                        desk.lost.set()
                        return
                except DatabaseError:
                    logger.warning("A sign of life could not be written.", exc_info=True)
                    connection.close()
        finally:
            connection.close()

    thread = Thread(target=beat, name=f"heartbeat of {desk.fold}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
