"""`manage.py reproduce`: run a recipe from its data sets to its table; the same command goes on."""

from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.calibration import CalibrationError
from ml.checkpoint import CheckpointError
from ml.datasets import DatasetError
from ml.runtime import DeviceError, choose_device
from training import services
from training.management.arguments import add_device_argument, ready_database
from training.management.foreground import INTERRUPTED_CODE, KEPT, progress_bar, train_here
from training.models import State, TrainingRun
from training.reproduction import (
    Recipe,
    RecipeError,
    describe,
    find_data,
    find_recipe,
    find_start,
    list_recipes,
    reproduce,
)


class Command(BaseCommand):
    help = "Run a recipe from data to table. Ctrl-C keeps the state: the same command goes on from it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="?", help="a recipe; --list tells which there are")
        parser.add_argument("--list", action="store_true", help="print all recipes and what they need")
        parser.add_argument(
            "--data",
            action="append",
            default=[],
            type=_name_and_folder,
            metavar="NAME=DIR",
            help="where a data set of the recipe lies, or its start, if not under FER_DATA_ROOT",
        )
        parser.add_argument("--again", action="store_true", help="train anew what has been trained already")
        add_device_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["list"] or not options["name"]:
                for recipe in list_recipes():
                    self.stdout.write(_describe(recipe))
                return
            recipe = find_recipe(options["name"])
            ready_database()
            places = dict(options["data"])
            data, start = find_data(recipe, places), find_start(recipe, places)
            self.stdout.write(
                f"{recipe.title}: about {recipe.hours:g} hours on two cores, if nothing is done yet."
            )
            with progress_bar() as show:
                document = reproduce(
                    recipe,
                    data,
                    start,
                    self._train,
                    choose_device(options["device"]),
                    show,
                    options["again"],
                )
        except (
            RecipeError,
            DatasetError,
            CheckpointError,
            CalibrationError,
            DeviceError,
            services.LaunchError,
            OSError,
        ) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(describe(document))
        self.stdout.write(f"Stored in {recipe.result}.")

    def _train(self, request: services.RunRequest) -> TrainingRun:
        run = services.find_unfinished(request) or services.create_run(request)
        self._say(f"{run} in {run.folder}")
        if not train_here(run, self._say):
            raise CommandError(KEPT, returncode=INTERRUPTED_CODE)
        if failed := run.folds.exclude(state=State.SUCCEEDED).first():
            raise CommandError(
                f"{failed} has not finished. {failed.error} Give the same command to try again."
            )
        return run

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _describe(recipe: Recipe) -> str:
    parts = [(data.name, data.folder, data.about) for data in recipe.data.values()]
    parts += [(recipe.start.name, recipe.start.file, recipe.start.about)] if recipe.start else []
    needs = "; ".join(f"{name} ({where}): {about}" for name, where, about in parts)
    state = f"measured, in {recipe.result}" if recipe.result.is_file() else f"{recipe.hours:g} hours"
    return f"{recipe.name}  [{state}]\n  {recipe.title}. {recipe.shows}\n  needs {needs}"


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, Path(folder)
