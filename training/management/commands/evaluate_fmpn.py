"""`manage.py evaluate_fmpn`: how well a checkpoint reads a split, a list or the folds of a data set."""

import csv
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from ml.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from ml.datasets import DatasetError, Sample, load_samples
from ml.expressions import EXPRESSIONS
from ml.folds import read_list
from ml.metrics import summarise_folds
from ml.runtime import choose_device
from training.evaluation import Evaluation, classes_of, evaluate_checkpoint, may_have_seen
from training.management.arguments import (
    add_dataset_arguments,
    add_device_argument,
    find_datasets,
    fold_numbers,
)
from training.management.foreground import progress_bar
from training.models import Dataset
from training.results import facts, measurement, write_document
from training.services import LaunchError, division_sha256, folds_of

Seen = Callable[[Checkpoint], bool]  # whether a model may have been trained on the part's faces


class Part(NamedTuple):
    """What is evaluated in one go, and the checkpoint that reads it."""

    name: str
    checkpoint: Path
    samples: Sequence[Sample]
    seen: Seen


class Command(BaseCommand):
    help = "Print how well a checkpoint reads: accuracy, calibration, the table of classes, the confusions."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dataset_arguments(parser, several=False)
        faces = parser.add_mutually_exclusive_group()
        faces.add_argument("--split", choices=("train", "valid", "test", "all"), default="test")
        faces.add_argument("--list", type=Path, metavar="FILE", help="names of pictures, one a line")
        faces.add_argument(
            "--folds", type=fold_numbers, default=(), metavar="0-9|0,3|all", help="each fold's held-out faces"
        )
        parser.add_argument(
            "--protocol",
            choices=("lists", "clean", "made"),
            default="lists",
            help="of the folds: as the run had it",
        )
        parser.add_argument("--fold-count", type=int, default=10, metavar="10", help="of the protocol made")
        parser.add_argument("--seed", type=int, default=0, help="of the protocol made")
        parser.add_argument(
            "--checkpoint",
            default=str(settings.FER_CHECKPOINT),
            metavar="FILE",
            help="default: FER_CHECKPOINT's; {fold} in it stands for a fold's number",
        )
        parser.add_argument(
            "--mirror", action="store_true", help="read each face twice, mirrored as well: the mean counts"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
        parser.add_argument(
            "--predictions", type=Path, metavar="FILE", help="write what is said of each face there, as CSV"
        )
        add_device_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        begun = facts(options["seed"])
        results: list[tuple[str, Checkpoint, Evaluation]] = []
        seen = []
        try:
            device = torch.device(choose_device(options["device"]))
            dataset = _dataset(options)
            split, parts, classes = _parts(dataset, options)
            with progress_bar() as show:
                for part in parts:
                    checkpoint = load_checkpoint(part.checkpoint)
                    if part.seen(checkpoint):
                        seen.append(part.name)
                    evaluation = evaluate_checkpoint(
                        *(checkpoint, part.samples, device, show), classes=classes, mirrored=options["mirror"]
                    )
                    results.append((part.name, checkpoint, evaluation))
            if options["json"]:
                more = {"mirrored": options["mirror"], "may_have_seen": seen}
                measured = measurement(dataset.kind, split, results, **more)
                write_document(options["json"], {"measurements": [measured], **begun})
            if options["predictions"]:
                _write_predictions(options["predictions"], dataset.path, parts, results)
        except (CheckpointError, DatasetError, LaunchError, ValueError, OSError) as error:
            raise CommandError(str(error)) from error
        twice = ", mirrored as well" if options["mirror"] else ""
        for name, checkpoint, evaluation in results:
            title = f"{checkpoint.name} on {dataset.name}, {name}{twice}"
            if len(results) == 1:
                self.stdout.write(f"{title}:\n{evaluation.describe()}")
            else:
                metrics = evaluation.metrics
                numbers = f"accuracy {metrics.accuracy:.4f}, macro-F1 {metrics.macro_f1:.4f}"
                self.stdout.write(f"{title}: {numbers}")
        if len(results) > 1:
            self.stdout.write(_summary([evaluation for _, _, evaluation in results]))
        if seen:
            self.stderr.write(
                f"The model may have been trained on some of these faces ({', '.join(seen)}): then the "
                "figures say nothing of faces that are new to it."
            )


def _dataset(options: dict[str, Any]) -> Dataset:
    dataset, *others = find_datasets(options, register=False)
    if others:
        raise DatasetError("One data set is evaluated at a time: give one --dataset.")
    return dataset


def _parts(dataset: Dataset, options: dict[str, Any]) -> tuple[str, list[Part], frozenset[int]]:
    """A word for what is evaluated, its parts, the set's own classes. Raises DatasetError or LaunchError."""
    path = str(options["checkpoint"])
    if options["folds"] != ():
        folds = folds_of(dataset, options["protocol"], options["fold_count"], options["seed"])
        known = {fold.number: fold for fold in folds}
        numbers = sorted(known) if options["folds"] is None else options["folds"]
        if unknown := set(numbers) - set(known):
            raise DatasetError(f"{dataset.name} has no fold {min(unknown)}.")
        division = division_sha256(folds, dataset.path)
        parts = [
            Part(
                f"fold {number}",
                Path(path.replace("{fold}", str(number))),
                known[number].test,
                partial(may_have_seen, kind=dataset.kind, fold=number, division=division),
            )
            for number in numbers
        ]
        return f"folds, {options['protocol']}", parts, classes_of(dataset, folds)
    classes = classes_of(dataset)
    if options["list"]:
        samples = load_samples(dataset.kind, dataset.path, "all")
        name, chosen = options["list"].name, read_list(options["list"], samples, dataset.path)
        return name, [Part(name, Path(path), chosen, partial(may_have_seen, kind=dataset.kind))], classes
    split = options["split"]
    chosen = load_samples(dataset.kind, dataset.path, split)
    part = Part(split, Path(path), chosen, partial(may_have_seen, kind=dataset.kind, split=split))
    return split, [part], classes


def _write_predictions(
    path: Path, root: Path, parts: list[Part], results: list[tuple[str, Checkpoint, Evaluation]]
) -> None:
    """What was said of each face, a line each. Raises OSError."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "picture", "person", "label", "predicted", *EXPRESSIONS])
        for part, (name, _, evaluation) in zip(parts, results, strict=True):
            for sample, row in zip(part.samples, evaluation.probabilities, strict=True):
                picture = sample.path.relative_to(root).as_posix()
                label, predicted = EXPRESSIONS[sample.expression], EXPRESSIONS[int(row.argmax())]
                said = (f"{probability:.6f}" for probability in row)
                writer.writerow([name, picture, sample.subject or "", label, predicted, *said])


def _summary(results: list[Evaluation]) -> str:
    """Mean and deviation over the folds, and the figures of all their faces together."""
    summary = summarise_folds([evaluation.metrics.accuracy for evaluation in results])
    return (
        f"mean accuracy {summary.mean:.4f}, standard deviation {summary.deviation:.4f}\n"
        f"All held-out faces together:\n{Evaluation.together(results).describe()}"
    )
