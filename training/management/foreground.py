"""Runs trained in the foreground, with bars and a line an epoch; Ctrl-C keeps their state."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ml.engine import BatchReport, Callbacks, EpochReport
from training import services
from training.models import State, TrainingRun
from training.runner import run_claimed

INTERRUPTED_CODE: Final = 130  # what a shell gives a program that Ctrl-C ended
KEPT: Final = "Stopped; the state is kept. Give the same command to go on."


def train_here(run: TrainingRun, write: Callable[[str], object]) -> bool:
    """Train what is left of a run, fold by fold; `write` gets a line an epoch. False where it was stopped."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with (
        stop_on_signals() as stopped,
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars,
    ):
        _train(run, bars, stopped, write)
    run.refresh_from_db()
    return not stopped


@contextmanager
def progress_bar() -> Iterator[services.Progress]:
    """A bar for what is told as (what, done, total), on the screen for as long as that is under way."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=Console(stderr=True))
    task = bars.add_task("", total=None)

    def show(what: str, done: int, total: int) -> None:
        bars.start()
        bars.update(task, description=what, completed=done, total=total)
        if done == total:
            bars.stop()

    try:
        yield show
    finally:
        bars.stop()


def _train(run: TrainingRun, bars: Progress, stopped: list[int], write: Callable[[str], object]) -> None:
    _await_the_silent(run, bars, stopped)
    if not stopped and run.folds.filter(state__in=services.RESUMABLE).exists():
        services.requeue(run)
    watch = Watch(bars, write)
    for fold_id in run.folds.filter(state=State.QUEUED).values_list("pk", flat=True):
        fold = None if stopped else services.claim(fold_id, services.worker_name("shell"))
        if fold is not None:
            watch.prefix = f"fold {fold.number}: " if run.folds.count() > 1 else ""
            callbacks = Callbacks(watch.on_batch, watch.on_epoch, lambda: bool(stopped))
            run_claimed(fold, callbacks, watch.on_read)
    if stopped:
        with suppress(services.LaunchError):  # its last fold had just ended
            services.cancel(run)


def _await_the_silent(run: TrainingRun, bars: Progress, stopped: list[int]) -> None:
    """Wait until folds whose command was killed count as lost; one that lives shows a sign of it."""
    for fold in run.folds.filter(state=State.RUNNING):
        seen = fold.heartbeat
        task = bars.add_task(f"{fold.worker} has fold {fold.number}: does it live?", total=None, note="")
        while not stopped and fold.state == State.RUNNING and fold.heartbeat == seen:
            time.sleep(0.5)
            services.notice_lost_workers()
            fold.refresh_from_db()
        bars.remove_task(task)


class Watch:
    """Turns the reports of a fold into progress bars and a line an epoch."""

    def __init__(self, bars: Progress, write: Callable[[str], object]) -> None:
        self.bars, self.write, self.prefix = bars, write, ""
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
        self.write(line)
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
