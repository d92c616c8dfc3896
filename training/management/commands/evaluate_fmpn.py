"""`manage.py evaluate_fmpn`: how well a checkpoint reads a split, a list or the folds of a data set."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ml.checkpoint import CheckpointError, load_checkpoint
from ml.datasets import DatasetError, Sample, load_samples
from ml.metrics import Metrics, format_metrics, metrics_of, summarise_folds
from ml.runtime import choose_device
from training.evaluation import evaluate_checkpoint, read_list
from training.management.arguments import (
    add_dataset_arguments,
    add_device_argument,
    find_datasets,
    fold_numbers,
)
from training.services import LaunchError, folds_of

Part = tuple[str, Path, Sequence[Sample]]  # a name for it, the checkpoint, the faces


class Command(BaseCommand):
    help = "Print accuracy, macro-F1, the table of classes and the confusion matrix of a checkpoint."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dataset_arguments(parser, several=False)
        faces = parser.add_mutually_exclusive_group()
        faces.add_argument("--split", choices=("train", "valid", "test", "all"), default="test")
        faces.add_argument("--list", type=Path, metavar="FILE", help="names of pictures, one a line")
        faces.add_argument(
            "--folds", type=fold_numbers, default=(), metavar="0-9|0,3|all", help="each fold's held-out faces"
        )
        parser.add_argument("--protocol", choices=("lists", "made"), default="lists", help="of the folds")
        parser.add_argument("--fold-count", type=int, default=10, metavar="10", help="of the protocol made")
        parser.add_argument("--seed", type=int, default=0, help="of the protocol made")
        parser.add_argument(
            "--checkpoint",
            default=str(settings.FER_CHECKPOINT),
            metavar="FILE",
            help="default: FER_CHECKPOINT's; {fold} in it stands for a fold's number",
        )
        add_device_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        results: dict[str, Metrics] = {}
        try:
            device = torch.device(choose_device(options["device"]))
            with Progress(*columns, console=Console(stderr=True)) as bars:
                task = bars.add_task("", total=None)
                for name, path, samples in _parts(options):
                    checkpoint = load_checkpoint(path)
                    results[f"{checkpoint.name} on {name}"] = evaluate_checkpoint(
                        checkpoint,
                        samples,
                        device,
                        lambda what, done, total: bars.update(
                            task, description=what, completed=done, total=total
                        ),
                    )
        except (CheckpointError, DatasetError, LaunchError, ValueError) as error:
            raise CommandError(str(error)) from error
        for title, metrics in results.items():
            if len(results) == 1:
                self.stdout.write(f"{title}:\n{format_metrics(metrics)}")
            else:
                numbers = f"accuracy {metrics.accuracy:.4f}, macro-F1 {metrics.macro_f1:.4f}"
                self.stdout.write(f"{title}: {numbers}")
        if len(results) > 1:
            self.stdout.write(_summary(list(results.values())))


def _parts(options: dict[str, Any]) -> list[Part]:
    """What is to be evaluated. Raises DatasetError or LaunchError."""
    dataset, *others = find_datasets(options, register=False)
    if others:
        raise DatasetError("One data set is evaluated at a time: give one --dataset.")
    path = str(options["checkpoint"])
    if options["folds"] != ():
        folds = folds_of(dataset, options["protocol"], options["fold_count"], options["seed"])
        known = {fold.number: fold for fold in folds}
        numbers = sorted(known) if options["folds"] is None else options["folds"]
        if unknown := set(numbers) - set(known):
            raise DatasetError(f"{dataset.name} has no fold {min(unknown)}.")
        return [
            (
                f"{dataset.name}, fold {number}",
                Path(path.replace("{fold}", str(number))),
                known[number].test,
            )
            for number in numbers
        ]
    if options["list"]:
        samples = load_samples(dataset.kind, dataset.path, "all")
        chosen = read_list(options["list"], samples, dataset.path)
        return [(f"{dataset.name}, {options['list'].name}", Path(path), chosen)]
    split = options["split"]
    return [(f"{dataset.name}, {split}", Path(path), load_samples(dataset.kind, dataset.path, split))]


def _summary(results: list[Metrics]) -> str:
    """Mean and deviation over the folds, and the figures of all their faces together."""
    summary = summarise_folds([metrics.accuracy for metrics in results])
    pooled = metrics_of(np.sum([metrics.confusion for metrics in results], axis=0))
    return (
        f"mean accuracy {summary.mean:.4f}, standard deviation {summary.deviation:.4f}\n"
        f"All held-out faces together:\n{format_metrics(pooled)}"
    )
