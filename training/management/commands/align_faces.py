"""`manage.py align_faces`: bring a data set of face crops to the framing that the model reads."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ml.datasets import DatasetError
from ml.datasets.samples import first_few
from ml.faces import load_detector
from ml.framing import frame_folder


class Command(BaseCommand):
    help = "Detect and align the faces of a folder of class folders, into the same folders elsewhere (PNG)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--data",
            required=True,
            type=Path,
            metavar="DIR",
            help="holds class folders, or train, valid and test with class folders",
        )
        parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where they go")
        parser.add_argument("--size", type=int, default=160, help="pixels a side (160, which `compact` sees)")
        parser.add_argument("--grey", action="store_true", help="keep the luminance only")
        parser.add_argument(
            "--exclude",
            type=Path,
            metavar="FILE",
            help="pictures to leave out, of every split: lines ending in CLASS/NAME",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        try:
            with Progress(*bar, console=Console(stderr=True)) as progress:
                task = progress.add_task("Aligning", total=None)
                framed = frame_folder(
                    options["data"],
                    options["output"],
                    load_detector("mtcnn", "cpu"),
                    options["size"],
                    colour=not options["grey"],
                    excluded=_names(options["exclude"]),
                    on_progress=lambda done, total: progress.update(task, completed=done, total=total),
                )
        except (DatasetError, OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        aligned = framed.total - len(framed.without_face)
        self.stdout.write(f"Aligned {aligned} faces into {options['output']}.")
        if framed.without_face:
            self.stdout.write(
                f"No face was found in {len(framed.without_face)} more, which are cut where the others have"
                f" it: {first_few(framed.without_face)}. Look at them, and delete what is no face."
            )
        if notes := str(framed.passed_over):
            self.stdout.write(notes)


def _names(path: Path | None) -> set[str]:
    """Read the list of pictures to leave out, as CLASS/NAME."""
    if path is None:
        return set()
    return {"/".join(Path(line).parts[-2:]) for line in path.read_text().split("\n") if line.strip()}
