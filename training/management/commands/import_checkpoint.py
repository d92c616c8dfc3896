"""Make a checkpoint of the old project's three networks."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.datasets import KINDS
from training import checkpoints
from training.management.arguments import ready_database


class Command(BaseCommand):
    help = (
        "Convert the old project's <epoch>_net_resface.pth, _fusion.pth and _cls.pth into one checkpoint. "
        "It is not in service before somebody puts it there."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "paths", nargs="+", type=Path, metavar="FOLDER_OR_FILE", help="their folder, or the three files"
        )
        parser.add_argument("--epoch", type=int, help="which one, where the folder has several")
        parser.add_argument("--name", default="", help="a name for the list of checkpoints")
        parser.add_argument(
            "--classes",
            type=lambda text: text.split(","),
            metavar="anger,disgust,…",
            help="what the classifier's outputs mean, in their order; known for 7 (CK+, JAFFE) and 6 (MMI)",
        )

        parser.add_argument(
            "--trained-on",
            action="append",
            default=[],
            choices=KINDS,
            help="a kind of data set that they saw, again for each: no training that holds out faces of it "
            "will start from them, and none at all where nothing is said",
        )

    def handle(
        self,
        *,
        paths: list[Path],
        epoch: int | None,
        name: str,
        classes: list[str] | None,
        trained_on: list[str],
        **_: Any,
    ) -> None:
        ready_database()
        try:
            checkpoint = checkpoints.import_checkpoint(
                paths, name=name, epoch=epoch, classes=classes, trained_on=trained_on
            )
        except checkpoints.ServiceError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Imported as {checkpoint}: {checkpoint.path}")
        self.stdout.write(
            "It was trained on faces cut out in another way: measure it with evaluate_fmpn, then put it in "
            "service in the admin."
        )
