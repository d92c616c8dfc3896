"""`manage.py train_fmpn`: both stages in the foreground; Ctrl-C saves, the same command goes on."""

import signal
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ml.checkpoint import CheckpointError
from ml.config import PRESETS
from ml.datasets import KINDS, DatasetError
from ml.engine import BatchReport, Callbacks, EpochReport, Interrupted, ResumeError
from ml.motion_masks import BUNDLED_MASKS, MotionMaskError
from ml.runtime import choose_device
from training.services import Source, train


class Command(BaseCommand):
    help = "Train FMPN: the mask stage, then the joint stage. Interrupt it and run it again to go on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dataset", action="append", required=True, choices=KINDS, help="kind; again for a further set"
        )
        parser.add_argument(
            "--data", action="append", required=True, type=Path, metavar="DIR", help="one for each --dataset"
        )
        parser.add_argument("--preset", choices=PRESETS, default="compact")
        parser.add_argument("--mask-epochs", type=int, metavar="N", help="instead of the preset's")
        parser.add_argument("--joint-epochs", type=int, metavar="N", help="instead of the preset's")
        parser.add_argument(
            "--start", default="imagenet", help="imagenet (default), random, bundled, or a checkpoint's path"
        )
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=settings.FER_DEVICE)
        parser.add_argument("--masks", type=Path, default=BUNDLED_MASKS, metavar="DIR", help="motion masks")
        parser.add_argument(
            "--output", type=Path, metavar="DIR", help="default: var/runs/<sets>-<preset>-<seed>"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if len(options["dataset"]) != len(options["data"]):
            raise CommandError("Give as many --data as --dataset, in the same order.")
        sources = [Source(*pair) for pair in zip(options["dataset"], options["data"], strict=True)]
        preset, seed = options["preset"], options["seed"]
        config = PRESETS[preset].with_epochs(options["mask_epochs"], options["joint_epochs"])
        config = replace(config, start=options["start"])
        name = "-".join([*options["dataset"], preset, str(seed)])
        output = options["output"] or Path(settings.FER_VAR_DIR) / "runs" / name

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        bars = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        try:
            with bars, stop_on_signals() as stopped:
                watch = Watch(bars, self)
                path = train(
                    sources,
                    config,
                    preset,
                    seed,
                    output,
                    options["masks"],
                    torch.device(choose_device(options["device"])),
                    Callbacks(watch.on_batch, watch.on_epoch, lambda: bool(stopped)),
                    watch.on_read,
                )
        except Interrupted:
            raise CommandError(
                f"Stopped; {output} holds the state. Run the same command to go on.", returncode=130
            ) from None
        except (
            DatasetError,
            MotionMaskError,
            ResumeError,
            CheckpointError,
            RuntimeError,
            ValueError,
            OSError,
        ) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"The checkpoint is {path}.")


class Watch:
    """Turns the reports of a run into progress bars and a line an epoch."""

    def __init__(self, bars: Progress, command: BaseCommand) -> None:
        self.bars, self.command = bars, command
        self.tasks: dict[str, Any] = {}

    def on_read(self, what: str, done: int, total: int) -> None:
        self._show(what, done, total, f"{done}/{total}")

    def on_batch(self, report: BatchReport) -> None:
        name = f"{report.stage} stage, epoch {report.epoch}/{report.epochs}"
        self._show(name, report.step, report.steps, f"loss {report.loss:.4f}  {report.rate:.0f} images/s")

    def on_epoch(self, report: EpochReport) -> None:
        line = (
            f"{report.stage} {report.epoch}/{report.epochs}  loss {report.loss:.4f}"
            f"  mask {report.mask_loss:.4f}  classifier {report.classifier_loss:.4f}"
            f"  {report.rate:.0f} images/s"
        )
        if report.metrics:
            line += f"  validation accuracy {report.metrics.accuracy:.4f}"
            line += f"  macro-F1 {report.metrics.macro_f1:.4f}"
        self.bars.stop()
        self.command.stdout.write(line)
        self.command.stdout.flush()
        self.bars.start()

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total, note="")
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
