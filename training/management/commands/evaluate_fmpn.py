"""`manage.py evaluate_fmpn`: how well a checkpoint reads one split of a data set."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ml.checkpoint import CheckpointError, load_checkpoint
from ml.datasets import KINDS, DatasetError
from ml.metrics import format_metrics
from ml.runtime import choose_device
from training.services import Source, evaluate_checkpoint


class Command(BaseCommand):
    help = "Print accuracy, macro-F1, the table of classes and the confusion matrix of a checkpoint."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dataset", required=True, choices=KINDS)
        parser.add_argument("--data", required=True, type=Path, metavar="DIR")
        parser.add_argument("--split", choices=("train", "valid", "test", "all"), default="test")
        parser.add_argument(
            "--checkpoint",
            type=Path,
            default=Path(settings.FER_CHECKPOINT),
            help="default: the one in service",
        )
        parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=settings.FER_DEVICE)

    def handle(self, *args: Any, **options: Any) -> None:
        source = Source(options["dataset"], options["data"])
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        try:
            checkpoint = load_checkpoint(options["checkpoint"])
            with Progress(*columns, console=Console(stderr=True)) as bars:
                task = bars.add_task("", total=None)
                metrics = evaluate_checkpoint(
                    checkpoint,
                    source,
                    options["split"],
                    torch.device(choose_device(options["device"])),
                    lambda what, done, total: bars.update(
                        task, description=what, completed=done, total=total
                    ),
                )
        except (CheckpointError, DatasetError, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{checkpoint.name} on {source.kind}, {options['split']}:\n{format_metrics(metrics)}"
        )
