"""`manage.py measure_robustness`: what turned, small, blurred, dark and covered faces cost."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.table import Table

from ml.checkpoint import CheckpointError, load_checkpoint
from ml.datasets import DatasetError, load_samples
from ml.robustness import Measured
from ml.runtime import choose_device
from training.evaluation import robustness_of
from training.management.arguments import add_dataset_arguments, add_device_argument, find_datasets
from training.management.foreground import progress_bar
from training.results import facts, robustness, write_document


class Command(BaseCommand):
    help = "Print accuracy under rotation, scale, low resolution, blur, noise, darkness and occlusion."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dataset_arguments(parser, several=False)
        parser.add_argument("--split", choices=("train", "valid", "test", "all"), default="test")
        parser.add_argument("--checkpoint", type=Path, default=settings.FER_CHECKPOINT, metavar="FILE")
        parser.add_argument("--sample", type=int, metavar="N", help="look at N faces, drawn by the seed")
        parser.add_argument("--seed", type=int, default=0, help="draws the sample and the noise (0)")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
        add_device_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        split, seed = options["split"], options["seed"]
        begun = facts(seed)
        try:
            dataset, *others = find_datasets(options, register=False)
            if others:
                raise DatasetError("One data set is measured at a time: give one --dataset.")
            samples = load_samples(dataset.kind, dataset.path, split)
            if options["sample"]:
                drawn = np.random.default_rng(seed).permutation(len(samples))[: options["sample"]]
                samples = [samples[index] for index in np.sort(drawn)]
            checkpoint = load_checkpoint(options["checkpoint"])
            device = torch.device(choose_device(options["device"]))
            with progress_bar() as show:
                rows = robustness_of(checkpoint, samples, device, seed, show)
            if options["json"]:
                measured = robustness(dataset.kind, split, checkpoint, len(samples), rows)
                write_document(options["json"], {"robustness": measured, **begun})
        except (CheckpointError, DatasetError, ValueError, OSError) as error:
            raise CommandError(str(error)) from error
        console = Console(width=100)
        with console.capture() as text:
            console.print(_table(f"{checkpoint.name} on {dataset.name}, {split}: {len(samples)} faces", rows))
        self.stdout.write(text.get())


def _table(title: str, rows: list[Measured]) -> Table:
    table = Table(title=title)
    for heading in ("change", "level", "accuracy", "difference", "macro-F1"):
        table.add_column(heading, justify="left" if heading == "change" else "right")
    plain = rows[0].accuracy
    for row in rows:
        kind, level = (row.condition.kind, f"{row.condition.level}") if row.condition else ("none", "")
        table.add_row(
            kind, level, f"{row.accuracy:.3f}", f"{row.accuracy - plain:+.3f}", f"{row.macro_f1:.3f}"
        )
    return table
