"""`manage.py build_motion_masks`: compute the class maps from sets with neutral and expressive pairs."""

from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import Progress

from ml.datasets import KINDS, DatasetError, load_samples
from ml.expressions import EXPRESSIONS
from ml.faces import load_detector
from ml.motion_masks import Pair, average_motion, pair_faces, save_motion_masks


class Command(BaseCommand):
    help = "Compute motion masks from pictures of the same people, neutral and expressive."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--data",
            required=True,
            nargs="+",
            type=_kind_and_folder,
            metavar="KIND=DIR",
            help="data sets that tell who is on each picture, as jaffe=DIR",
        )
        parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the masks go")
        parser.add_argument("--size", type=int, default=128, help="pixels a side (128)")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            pairs = [pair for kind, root in options["data"] for pair in _read(kind, root, options["size"])]
            masks = average_motion(pairs)
            kinds = " ".join(f"{kind}=DIR" for kind, _ in options["data"])
            source = f"manage.py build_motion_masks --data {kinds} --size {options['size']}"
            paths = save_motion_masks(masks, options["output"], source)
        except (DatasetError, OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        counts = Counter(EXPRESSIONS[pair.expression] for pair in pairs)
        people = {name: {p.subject for p in pairs if EXPRESSIONS[p.expression] == name} for name in counts}
        for path in paths:
            self.stdout.write(f"{path}: {counts[path.stem]} pairs of {len(people[path.stem])} people")


def _read(kind: str, root: Path, size: int) -> list[Pair]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"Aligning {kind}", total=None)
        # Two sets may name their people alike.
        samples = [
            replace(sample, subject=sample.subject and f"{kind} {sample.subject}")
            for sample in load_samples(kind, root, "all")
        ]
        return pair_faces(
            samples,
            load_detector("mtcnn", "cpu"),
            size,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _kind_and_folder(text: str) -> tuple[str, Path]:
    kind, _, folder = text.partition("=")
    if kind not in KINDS or not folder:
        raise ArgumentTypeError(f"{text!r} is not KIND=DIR with a kind of {', '.join(KINDS)}")
    return kind, Path(folder)
