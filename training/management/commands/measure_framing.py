"""`manage.py measure_framing`: where the landmarks lie in a data set's face crops."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ml.datasets import KINDS, DatasetError, load_samples
from ml.faces import LANDMARKS, load_detector
from ml.framing import Framing, measure_framing


class Command(BaseCommand):
    help = "Print where the eyes, nose and mouth lie in a data set's train crops, as shares of their side."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dataset", required=True, choices=list(KINDS), help="the kind of data set")
        parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="its folder")
        parser.add_argument("--sample", type=int, default=1500, help="how many crops to look at (1500)")
        parser.add_argument("--seed", type=int, default=0, help="which crops are drawn (0)")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            samples = load_samples(options["dataset"], options["data"], "train")
            drawn = np.random.default_rng(options["seed"]).permutation(len(samples))[: options["sample"]]
            with Progress(console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task("Looking for faces", total=len(drawn))
                framing = measure_framing(
                    [samples[index].path for index in np.sort(drawn)],
                    load_detector("mtcnn", "cpu"),
                    on_progress=lambda done, total: progress.update(task, completed=done, total=total),
                )
        except (DatasetError, ValueError) as error:
            raise CommandError(str(error)) from error
        console = Console()
        with console.capture() as text:
            console.print(_table(framing))
        self.stdout.write(text.get())


def _table(framing: Framing) -> Table:
    table = Table(title=f"A face was found in {framing.found} of {framing.total} crops")
    for heading in ("landmark", "median x", "y", "spread x", "y", "template x", "y"):
        table.add_column(heading, justify="left" if heading == "landmark" else "right")
    numbers = np.concatenate((framing.centre, framing.spread, framing.template), axis=1)
    for name, row in zip(LANDMARKS, numbers, strict=True):
        table.add_row(name, *(f"{number:.4f}" for number in row))
    return table
