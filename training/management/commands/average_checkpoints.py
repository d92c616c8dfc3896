"""`manage.py average_checkpoints`: the mean of a training and of what it started from."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.checkpoint import CheckpointError, load_checkpoint, save_average


class Command(BaseCommand):
    help = (
        "Average the weights of a checkpoint and of one that was trained on from it: often better on the new "
        "faces and on the old. Choose the share on validation data."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "first", type=Path, metavar="FIRST.safetensors", help="what the second started from"
        )
        parser.add_argument("second", type=Path, metavar="SECOND.safetensors")
        parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1 (0.5)")
        parser.add_argument("--output", type=Path, required=True, metavar="FILE.safetensors")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 0 <= options["share"] <= 1:
            raise CommandError("--share is from 0, the first checkpoint, to 1, the second.")
        try:
            first, second = (load_checkpoint(options[name]) for name in ("first", "second"))
            sha256 = save_average(options["output"], first, second, options["share"])
        except (CheckpointError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{options['output']} ({sha256[:8]})")
