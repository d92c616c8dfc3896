"""`manage.py train_fmpn`: a run in the foreground; Ctrl-C keeps its state, the same command goes on."""

import signal
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ml.datasets import DatasetError
from ml.engine import BatchReport, Callbacks, EpochReport
from ml.folds import NoFoldListsError, read_fold_lists
from ml.metrics import summarise_folds
from training import services
from training.management.arguments import (
    add_config_arguments,
    add_dataset_arguments,
    add_device_argument,
    config_of,
    find_datasets,
    fold_numbers,
    ready_database,
)
from training.models import Dataset, Fold, State, TrainingRun
from training.runner import CHECKPOINT_NAME, run_claimed

INTERRUPTED_CODE = 130  # what a shell gives a program that Ctrl-C ended


class Command(BaseCommand):
    help = "Train FMPN on a data set or its folds. Ctrl-C keeps the state: the same command goes on from it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dataset_arguments(parser, several=True)
        parser.add_argument(
            "--folds",
            type=fold_numbers,
            default=(),
            metavar="0-9|0,3|all",
            help="cross-validation; default: the set's train part, watched on its validation part",
        )
        parser.add_argument(
            "--protocol",
            choices=TrainingRun.Protocol.values,
            help="split (default without --folds), lists (the set's own; default where it has them), or made",
        )
        parser.add_argument("--fold-count", type=int, default=10, metavar="10", help="of the protocol made")
        parser.add_argument("--stage", choices=TrainingRun.Stages.values, default="both")
        add_config_arguments(parser)
        parser.add_argument("--seed", type=int, default=0)
        add_device_argument(parser)
        parser.add_argument("--name", default="", help="how the run is called; default: data set and preset")
        parser.add_argument(
            "--visdom", default="", metavar="URL", help="a visdom server to draw the curves on"
        )
        parser.add_argument("--queue", action="store_true", help="hand it to the workers and return at once")

    def handle(self, *args: Any, **options: Any) -> None:
        ready_database()
        try:
            request = _request(options)
            run = services.find_unfinished(request)
            if options["queue"]:
                self._hand_over(run, request)
                return
            run = run or services.create_run(request)
        except (DatasetError, services.LaunchError) as error:
            raise CommandError(str(error)) from error
        if run.device != request.device:
            run.device = request.device
            run.save(update_fields=["device"])
        self.stdout.write(f"{run} in {run.folder}")
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        with (
            stop_on_signals() as stopped,
            Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars,
        ):
            self._train(run, bars, stopped)
        self._report(run, bool(stopped))

    def _hand_over(self, run: TrainingRun | None, request: services.RunRequest) -> None:
        if run is None:
            run = services.launch(request)
        elif run.state in services.RESUMABLE:
            services.resume(run)
        self.stdout.write(f"{run} is {run.get_state_display().lower()}: watch it at {run.get_absolute_url()}")

    def _train(self, run: TrainingRun, bars: Progress, stopped: list[int]) -> None:
        self._await_the_silent(run, bars, stopped)
        if not stopped and run.folds.filter(state__in=services.RESUMABLE).exists():
            services.requeue(run)
        watch = Watch(bars, self)
        for fold_id in run.folds.filter(state=State.QUEUED).values_list("pk", flat=True):
            fold = None if stopped else services.claim(fold_id, services.worker_name("shell"))
            if fold is not None:
                watch.prefix = f"fold {fold.number}: " if run.folds.count() > 1 else ""
                callbacks = Callbacks(watch.on_batch, watch.on_epoch, lambda: bool(stopped))
                run_claimed(fold, callbacks, watch.on_read)
        if stopped:
            with suppress(services.LaunchError):  # its last fold had just ended
                services.cancel(run)

    def _await_the_silent(self, run: TrainingRun, bars: Progress, stopped: list[int]) -> None:
        """Wait until folds whose command was killed count as lost; one that lives shows a sign of it."""
        for fold in run.folds.filter(state=State.RUNNING):
            seen = fold.heartbeat
            task = bars.add_task(f"{fold.worker} has fold {fold.number}: does it live?", total=None, note="")
            while not stopped and fold.state == State.RUNNING and fold.heartbeat == seen:
                time.sleep(0.5)
                services.notice_lost_workers()
                fold.refresh_from_db()
            bars.remove_task(task)

    def _report(self, run: TrainingRun, stopped: bool) -> None:
        run.refresh_from_db()
        folds = list(run.folds.all())
        for fold in folds:
            self.stdout.write(_describe(fold))
        accuracies = [fold.metrics["accuracy"] for fold in folds if fold.metrics]
        if len(accuracies) > 1:
            summary = summarise_folds(accuracies)
            self.stdout.write(f"mean accuracy {summary.mean:.4f}, standard deviation {summary.deviation:.4f}")
        if stopped:
            raise CommandError(
                "Stopped; the state is kept. Give the same command to go on.", returncode=INTERRUPTED_CODE
            )
        if unfinished := [fold for fold in folds if fold.state != State.SUCCEEDED]:
            numbers = ", ".join(str(fold.number) for fold in unfinished)
            raise CommandError(f"Not finished: fold {numbers}. Give the same command to try again.")


def _request(options: dict[str, Any]) -> services.RunRequest:
    dataset, *extra = find_datasets(options, register=True)
    folds = options["folds"]
    protocol = options["protocol"]
    if protocol is None:
        protocol = "split" if folds == () else "lists" if _has_lists(dataset) else "made"
    return services.RunRequest(
        dataset=dataset,
        extra=tuple(extra),
        preset=options["preset"],
        config=config_of(options),
        stages=options["stage"],
        protocol=protocol,
        fold_count=options["fold_count"],
        folds=None if folds == () else folds,
        seed=options["seed"],
        device=options["device"],
        name=options["name"],
        visdom=options["visdom"],
    )


def _has_lists(dataset: Dataset) -> bool:
    try:
        read_fold_lists(dataset.kind, dataset.path)
    except NoFoldListsError:
        return False
    return True


def _describe(fold: Fold) -> str:
    line = f"fold {fold.number}  {fold.get_state_display().lower()}"
    if fold.state == State.RUNNING:
        return f"{line} on {fold.worker}"
    if fold.error:
        return f"{line}: {fold.error}"
    if fold.metrics:
        line += f"  accuracy {fold.metrics['accuracy']:.4f}  macro-F1 {fold.metrics['macro_f1']:.4f}"
        line += f"  ({fold.test_images} faces)"
    if fold.state == State.SUCCEEDED:
        line += f"  {fold.folder / CHECKPOINT_NAME}"
    return line


class Watch:
    """Turns the reports of a fold into progress bars and a line an epoch."""

    def __init__(self, bars: Progress, command: BaseCommand) -> None:
        self.bars, self.command, self.prefix = bars, command, ""
        self.tasks: dict[str, Any] = {}

    def on_read(self, what: str, done: int, total: int) -> None:
        self._show(what, done, total, f"{done}/{total}")

    def on_batch(self, report: BatchReport) -> None:
        name = f"{report.stage} stage, epoch {report.epoch}/{report.epochs}"
        self._show(name, report.step, report.steps, f"loss {report.loss:.4f}  {report.rate:.0f} images/s")

    def on_epoch(self, report: EpochReport) -> None:
        line = (
            f"{self.prefix}{report.stage} {report.epoch}/{report.epochs}  loss {report.loss:.4f}"
            f"  mask {report.mask_loss:.4f}  classifier {report.classifier_loss:.4f}"
            f"  {report.rate:.0f} images/s"
        )
        if report.metrics:
            line += f"  held-out accuracy {report.metrics.accuracy:.4f}"
            line += f"  macro-F1 {report.metrics.macro_f1:.4f}"
        self.bars.stop()
        self.command.stdout.write(line)
        self.command.stdout.flush()
        self.bars.start()

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        """Show one bar: that of what is going on."""
        name = self.prefix + name
        if name not in self.tasks:
            for task in self.tasks.values():
                self.bars.remove_task(task)
            self.tasks = {name: self.bars.add_task(name, total=total, note="")}
        self.bars.update(self.tasks[name], completed=done, note=note)


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Within the block, SIGINT and SIGTERM fill the list instead of ending the process."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
