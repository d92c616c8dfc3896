"""`manage.py add_dataset`: register a data set, and look through it before it is used."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ml.datasets import KINDS, DatasetError
from training.management.arguments import ready_database
from training.models import Dataset
from training.services import inspect_dataset, register_dataset


class Command(BaseCommand):
    help = "Register a data set and look through all of it: classes, people, broken files, copies, leaks."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="how it is called from now on: letters, digits, - and _")
        parser.add_argument("kind", choices=KINDS)
        parser.add_argument("folder", metavar="DIR", help="under FER_DATA_ROOT, or an absolute path")

    def handle(self, *args: Any, **options: Any) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        ready_database()
        try:
            dataset = register_dataset(options["name"], options["kind"], options["folder"], anywhere=True)
        except DatasetError as error:
            raise CommandError(str(error)) from error
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task("", total=None)
            inspect_dataset(
                dataset,
                lambda what, done, total: bars.update(task, description=what, completed=done, total=total),
            )
        if dataset.problem:
            raise CommandError(f"{dataset.name} is registered but cannot be used yet: {dataset.problem}")
        self.stdout.write(_describe(dataset))


def _describe(dataset: Dataset) -> str:
    found = dataset.inspection
    assert found is not None, "a set without a problem was looked through"
    classes = ", ".join(f"{name} {count}" for name, count in found["by_class"].items() if count)
    people = len(found["by_subject"])
    lines = [f"{dataset.name}: {found['total']} pictures of {people or 'unnamed'} people.", f"  {classes}"]
    for key, what in (("unreadable", "cannot be read"), ("duplicates", "groups of exact copies")):
        if found[key]:
            lines.append(f"  {len(found[key])} {what}")
    if found["near_duplicate_count"]:
        lines.append(f"  {found['near_duplicate_count']} pairs that look nearly the same")
    if found["fold_lists"]:
        lines.append(f"  fold lists for {found['fold_lists']} folds")
    lines += [f"  {leak}" for leak in found["leaks"]]
    lines.append(f"  A sheet of faces: {dataset.contact_sheet}")
    return "\n".join(lines)
