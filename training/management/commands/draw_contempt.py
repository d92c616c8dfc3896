"""`manage.py draw_contempt`: faces of contempt to train on, drawn from the neutral faces of data sets."""

from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from django.core.management.base import BaseCommand, CommandError

from ml.contempt import draw_contempt
from ml.datasets import DatasetError, load_faces, load_samples
from ml.expressions import EXPRESSIONS
from training.management.arguments import add_dataset_arguments, find_datasets
from training.management.foreground import progress_bar

NEUTRAL: Final = EXPRESSIONS.index("neutral")


class Command(BaseCommand):
    help = (
        "Pull up a corner of the mouth of neutral faces, of their sets' train parts: OUTPUT/contempt/*.png. "
        "They say nothing of whose they are: not to be trained on beside new folds of the same sets."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dataset_arguments(parser, several=True)
        parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where `contempt` goes")
        parser.add_argument("--most", type=int, default=500, metavar="500", help="faces of one set")
        parser.add_argument("--size", type=int, default=160, help="pixels a side (160, which `compact` sees)")
        parser.add_argument("--seed", type=int, default=0)

    def handle(self, *args: Any, **options: Any) -> None:
        generator = np.random.default_rng(options["seed"])
        folder = options["output"] / "contempt"
        count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with progress_bar() as show:
                for number, dataset in enumerate(find_datasets(options, register=False)):
                    samples = load_samples(dataset.kind, dataset.path, "train")
                    neutral = [sample for sample in samples if sample.expression == NEUTRAL]
                    chosen = generator.permutation(len(neutral))[: options["most"]]
                    faces = load_faces(
                        [neutral[index] for index in chosen],
                        options["size"],
                        colour=False,
                        on_progress=partial(show, f"Reading neutral faces of {dataset.name}"),
                    )
                    for row, face in enumerate(faces):
                        drawn = draw_contempt(face, generator)
                        cv2.imwrite(str(folder / f"{number}-{dataset.kind}-{row}.png"), drawn)
                        count += 1
        except (DatasetError, OSError) as error:
            raise CommandError(str(error)) from error
        if not count:
            raise CommandError("There is no neutral face in the train parts of these sets.")
        self.stdout.write(f"Drew {count} faces into {folder}.")
