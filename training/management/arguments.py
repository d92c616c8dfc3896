"""Arguments that several commands share: data sets, folds, and every number of a configuration."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils.text import slugify

from ml.config import PRESETS, AugmentConfig, ModelConfig, StageConfig, TrainConfig
from ml.datasets import KINDS, DatasetError
from training.fold_numbers import parse_folds
from training.models import Dataset
from training.services import register_dataset

TOO_MANY_FOLDERS: Final = "Give a --data DIR for each --dataset KIND, and no more."

# Flags begin with the part's word, except where it would say nothing: --image-size, --flip.
PARTS: Final = {
    "model": ("", ModelConfig),
    "mask_stage": ("mask-", StageConfig),
    "joint_stage": ("joint-", StageConfig),
    "augment": ("", AugmentConfig),
}
OF_THE_JOINT_STAGE: Final = (
    "lr_fusion",
    "lr_classifier",
    "lambda_mask",
    "lambda_classifier",
    "label_smoothing",
)


def add_dataset_arguments(parser: ArgumentParser, several: bool) -> None:
    again = "; again for further ones to train on" if several else ""
    parser.add_argument(
        "--dataset",
        action="append",
        required=True,
        metavar="NAME|KIND",
        help=f"a registered data set, or a kind ({', '.join(KINDS)}) with its --data{again}",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DIR",
        help="the folder of a --dataset KIND, in the same order",
    )


def find_datasets(options: dict[str, Any], register: bool) -> list[Dataset]:
    """The sets asked for; a KIND with its --data gets a row and a name of its own where `register` says so.

    Raises DatasetError in a sentence.
    """
    ready_database()
    names, folders = options["dataset"], list(options["data"])
    if len(folders) > len(names):
        raise DatasetError(TOO_MANY_FOLDERS)
    registered = {}
    if len(folders) < len(names):  # else each of them is a kind, whatever names there are
        registered = {dataset.name: dataset for dataset in Dataset.objects.filter(name__in=names)}
    found = []
    for name in names:
        if name in registered:
            found.append(registered[name])
        elif name in KINDS and folders:
            path = Path(folders.pop(0)).resolve()
            found.append(
                dataset_of_folder(name, path) if register else Dataset(name=name, kind=name, folder=str(path))
            )
        elif name in KINDS:
            raise DatasetError(f"--dataset {name} needs its folder: --data DIR, one for each kind.")
        else:
            known = ", ".join(Dataset.objects.values_list("name", flat=True)) or "none yet"
            raise DatasetError(
                f"There is no data set {name!r}. Registered are: {known}. Kinds are: {', '.join(KINDS)}."
            )
    if folders:
        raise DatasetError(TOO_MANY_FOLDERS)
    return found


def dataset_of_folder(kind: str, path: Path) -> Dataset:
    """The row of a folder, made where there is none; its name is the kind and the folder's own."""
    for dataset in Dataset.objects.filter(kind=kind):
        if dataset.path.resolve() == path:
            return dataset
    base = slugify(f"{kind}-{path.name}")[:55]
    taken = set(Dataset.objects.filter(name__startswith=base).values_list("name", flat=True))
    name = next(name for name in (base, *(f"{base}-{n}" for n in range(2, 10_000))) if name not in taken)
    return register_dataset(name, kind, path, anywhere=True)


def fold_numbers(text: str) -> tuple[int, ...] | None:
    """As `training.fold_numbers.parse_folds`."""
    try:
        return parse_folds(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def add_config_arguments(parser: ArgumentParser) -> None:
    """A flag for every value of `ml.config.TrainConfig`: what is not given is the preset's."""
    parser.add_argument("--preset", choices=PRESETS, default="compact", help="the numbers to start from")
    parser.add_argument(
        "--start", metavar="WHAT", help="imagenet, random, bundled, or a checkpoint's path: the first weights"
    )
    parser.add_argument(
        "--mask-epochs", type=int, metavar="N", help="both parts; their ratio is the preset's"
    )
    parser.add_argument(
        "--joint-epochs", type=int, metavar="N", help="both parts; their ratio is the preset's"
    )
    numbers = parser.add_argument_group("instead of the preset's numbers (ml/config.py explains them)")
    for part, (prefix, kind) in PARTS.items():
        for field in fields(kind):
            if part == "mask_stage" and field.name in OF_THE_JOINT_STAGE:
                continue
            flag = f"--{prefix}{field.name.replace('_', '-')}"
            destination = f"{part}.{field.name}"
            if get_origin(field.type) is Literal:
                numbers.add_argument(flag, dest=destination, choices=get_args(field.type))
            elif field.type is bool:
                numbers.add_argument(flag, dest=destination, action=BooleanOptionalAction)
            else:
                assert isinstance(field.type, type)
                numbers.add_argument(flag, dest=destination, type=field.type, metavar=field.type.__name__)


def config_of(options: dict[str, Any]) -> TrainConfig:
    """The preset with everything that was given in its place."""
    config = PRESETS[options["preset"]].with_epochs(options["mask_epochs"], options["joint_epochs"])
    for part in PARTS:
        given = {
            name.partition(".")[2]: value
            for name, value in options.items()
            if name.startswith(f"{part}.") and value is not None
        }
        config = replace(config, **{part: replace(getattr(config, part), **given)})
    start = options["start"] or config.start
    if start not in ("imagenet", "random", "bundled"):
        start = str(Path(start).resolve())  # a worker may stand elsewhere
    return replace(config, start=start)


def ready_database() -> None:
    """Bring the database up to date where it is not, as the start of the site does."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", verbosity=0)


def add_device_argument(parser: ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=settings.FER_DEVICE)
