"""`manage.py unpack_fer2013`: the pictures of Kaggle's FER2013 table, as files."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.datasets import DatasetError
from ml.datasets.fer2013 import unpack_fer2013
from training.management.foreground import progress_bar

ALL_OF_KAGGLE = 35_887


class Command(BaseCommand):
    help = "Write the pictures of fer2013.csv as files: with Microsoft's votes as FER+, else by expression."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--table", required=True, type=Path, metavar="fer2013.csv")
        parser.add_argument(
            "--votes",
            type=Path,
            metavar="fer2013new.csv",
            help="of github.com/microsoft/FERPlus: write what the kind ferplus reads (else fer2013)",
        )
        parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where they go")

    def handle(self, *args: Any, **options: Any) -> None:
        kind = "ferplus" if options["votes"] else "fer2013"
        try:
            with progress_bar() as show:
                count = unpack_fer2013(
                    options["table"],
                    options["votes"],
                    options["output"],
                    lambda done: show("Writing pictures", done, max(done, ALL_OF_KAGGLE)),
                )
        except (DatasetError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"Wrote {count} pictures. Train on them by "
            f"`manage.py train_fmpn --dataset {kind} --data {options['output']}`."
        )
