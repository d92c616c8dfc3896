"""Recipes: experiments as small TOML files, each run from its data sets to its table by one function.

`training/recipes/README.md` explains the format. A recipe trains through the same services as train_fmpn and
measures as evaluate_fmpn does, so its runs stand among all others in the admin.
"""

import tomllib
from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from django.conf import settings

from ml.checkpoint import BUNDLED, OWN_SPLITS, Checkpoint, load_checkpoint, save_average
from ml.config import TrainConfig
from ml.datasets import KINDS, DatasetError, load_samples
from ml.folds import Fold
from ml.metrics import summarise_folds
from training.calibrating import calibrate
from training.evaluation import Evaluation, classes_of, evaluate_checkpoint
from training.management.arguments import add_config_arguments, config_of, dataset_of_folder
from training.models import Dataset, EpochMetric, TrainingRun
from training.results import Document, facts, measurement, results_folder, write_document
from training.runner import CHECKPOINT_NAME
from training.services import (
    LaunchError,
    Progress,
    Protocol,
    RunRequest,
    Stages,
    find_finished,
    folds_of,
    git_revision,
)

RECIPES: Final = Path(__file__).parent / "recipes"
CALIBRATED: Final = "calibrated"
Split = Literal["train", "valid", "test", "all", "folds"]
Train = Callable[[RunRequest], TrainingRun]


class RecipeError(Exception):
    """A recipe that cannot be read or run; its text is a sentence fit for a person."""


@dataclass(frozen=True)
class Data:
    """A data set that a recipe needs. folder: under FER_DATA_ROOT, unless it is given elsewhere."""

    name: str
    kind: str
    folder: str
    about: str


@dataclass(frozen=True)
class Step:
    """One training. data: the set, and those added to it. options: flags of train_fmpn without their dashes,
    in place of the preset's numbers; `start` may name an earlier step. share: of what it trains, 0..1, in the
    mean with the checkpoint that it starts from, which then is the step's."""

    name: str
    data: tuple[str, ...]
    protocol: Protocol = "split"
    fold_count: int = 10
    stage: Stages = "both"
    options: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0


@dataclass(frozen=True)
class Start:
    """A checkpoint that must be there before the first step, which may start from it by its name. file: under
    FER_DATA_ROOT, unless it is given elsewhere."""

    name: str
    file: str
    about: str


@dataclass(frozen=True)
class Calibration:
    """Of the last step's checkpoint; called "calibrated". accuracy: as in `calibrate`."""

    data: str
    split: Split = "valid"
    accuracy: float = 0.9


@dataclass(frozen=True)
class Measure:
    """What is measured. checkpoint: "bundled", "calibrated" or a step's, whose folds have one each.
    mirrored: as in `evaluate_checkpoint`."""

    name: str
    data: str
    checkpoint: str
    split: Split = "test"
    protocol: Protocol = "lists"
    fold_count: int = 10
    mirrored: bool = False


@dataclass(frozen=True)
class Recipe:
    """An experiment. shows: what it is good for; hours: what it takes on two cores, all seeds together."""

    name: str
    title: str
    shows: str
    hours: float
    seeds: tuple[int, ...]
    data: dict[str, Data]
    start: Start | None
    train: tuple[Step, ...]
    calibrate: Calibration | None
    measure: tuple[Measure, ...]

    @property
    def result(self) -> Path:
        return results_folder() / f"{self.name}.json"


# Reading ----------------------------------------------------------------------------------------------------


def list_recipes() -> list[Recipe]:
    """Every recipe there is, by name. Raises RecipeError for one that cannot be read."""
    return [read_recipe(path) for path in sorted(RECIPES.glob("*.toml"))]


def find_recipe(name: str) -> Recipe:
    """Raises RecipeError where there is no such recipe, or it cannot be read."""
    known = sorted(path.stem for path in RECIPES.glob("*.toml"))
    if name not in known:
        raise RecipeError(f"There is no recipe {name!r}: known are {', '.join(known)}.")
    return read_recipe(RECIPES / f"{name}.toml")


def read_recipe(path: Path) -> Recipe:
    """Read and check one recipe. Raises RecipeError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        start, calibration = (values.pop(key, None) for key in ("start", "calibrate"))
        recipe = Recipe(
            name=path.stem,
            data={name: Data(name=name, **data) for name, data in values.pop("data").items()},
            start=Start(**start) if start else None,
            train=tuple(Step(**{**step, "data": tuple(step["data"])}) for step in values.pop("train", [])),
            calibrate=Calibration(**calibration) if calibration else None,
            measure=tuple(Measure(**measure) for measure in values.pop("measure")),
            seeds=tuple(values.pop("seeds", [0])),
            **values,
        )
        _check(recipe)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, LaunchError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}.") from error
    return recipe


def _check(recipe: Recipe) -> None:
    """Raise LaunchError for the first word that means nothing."""
    for data in recipe.data.values():
        if data.kind not in KINDS:
            raise LaunchError(f"there is no data set kind {data.kind!r}")
    steps = [step.name for step in recipe.train]
    users: list[Step | Calibration | Measure] = [*recipe.train, *recipe.measure]
    users += [recipe.calibrate] if recipe.calibrate else []
    for user in users:
        names = user.data if isinstance(user, Step) else (user.data,)
        if unknown := set(names) - set(recipe.data):
            raise LaunchError(f"it names no data set {min(unknown)!r}")
        if not isinstance(user, Calibration) and user.protocol not in get_args(Protocol):
            raise LaunchError(f"there is no protocol {user.protocol!r}")
        if not isinstance(user, Step) and user.split not in get_args(Split):
            raise LaunchError(f"there is no split {user.split!r}")
    given = [recipe.start.name] if recipe.start else []
    known = {*steps, "bundled", *([CALIBRATED] if recipe.calibrate else [])}
    for measure in recipe.measure:
        if measure.checkpoint not in known:
            raise LaunchError(f"there is no checkpoint {measure.checkpoint!r} in it")
    for number, step in enumerate(recipe.train):
        start = step.options.get("start")
        earlier = [*steps[:number], *given]
        _config(step, "random" if start in earlier else start)
        if step.share != 1 and (start not in [*earlier, "bundled"] or step.protocol not in OWN_SPLITS):
            raise LaunchError(f"{step.name} has no one checkpoint to start from and to be averaged with")
        if not 0 < step.share <= 1:
            raise LaunchError(f"the share of {step.name} must be above 0, 1 at most")


def _config(step: Step, start: str | None) -> TrainConfig:
    """The step's configuration, its options read as train_fmpn reads them. Raises LaunchError."""
    parser = ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    add_config_arguments(parser)
    given = {**step.options, **({"start": start} if start else {})}
    words = []
    for name, value in given.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words.append(f"--{name}={value}")
    try:
        options, unknown = parser.parse_known_args(words)
    except ArgumentError as error:
        raise LaunchError(str(error)) from error
    if unknown:
        raise LaunchError(f"train_fmpn has no option {unknown[0]}")
    return config_of(vars(options))


# Running ----------------------------------------------------------------------------------------------------


def find_data(recipe: Recipe, folders: Mapping[str, Path]) -> dict[str, Dataset]:
    """The rows of a recipe's data sets, registered where they are not yet.

    folders: where those lie that are not under FER_DATA_ROOT. Raises RecipeError or DatasetError.
    """
    if unknown := set(folders) - set(recipe.data) - ({recipe.start.name} if recipe.start else set()):
        raise RecipeError(f"{recipe.name} needs no data set {min(unknown)!r}, but {', '.join(recipe.data)}.")
    found = {}
    for name, data in recipe.data.items():
        path = folders.get(name, Path(settings.FER_DATA_ROOT) / data.folder).resolve()
        if not path.is_dir():
            raise DatasetError(
                f"{recipe.name} needs {data.about} It is not at {path}: lay it there, or say where it is by "
                f"--data {name}=DIR."
            )
        found[name] = dataset_of_folder(data.kind, path)
    return found


def find_start(recipe: Recipe, folders: Mapping[str, Path]) -> dict[str, str]:
    """The path of the checkpoint that a recipe begins with, by its name there; nothing where it needs none.

    Raises RecipeError where there is no such file.
    """
    if recipe.start is None:
        return {}
    name = recipe.start.name
    path = folders.get(name, Path(settings.FER_DATA_ROOT) / recipe.start.file).resolve()
    if not path.is_file():
        raise RecipeError(
            f"{recipe.name} needs {recipe.start.about} It is not at {path}: lay it there, or say where it is "
            f"by --data {name}=FILE."
        )
    return {name: str(path)}


def reproduce(
    recipe: Recipe,
    data: Mapping[str, Dataset],
    start: Mapping[str, str],
    train: Train,
    device: str,
    on_progress: Progress,
    again: bool = False,
) -> Document:
    """Train and average what is not trained yet, calibrate, measure; store the document as `recipe.result`.

    data, start: as `find_data` and `find_start` give them. train: makes a finished run of a request, or
    raises. device: "cpu" or "cuda". again: trains also what a finished run has trained. Raises as those that
    it calls.
    """
    begun, runs, measurements = facts(recipe.seeds[0]), [], []
    for seed in recipe.seeds:
        checkpoints = {"bundled": str(BUNDLED), **start}
        for step in recipe.train:
            request = _request(recipe, step, data, seed, checkpoints, device)
            run = (None if again else find_finished(request)) or train(request)
            runs.append(_run_facts(step, run))
            number = "{fold}" if step.protocol not in OWN_SPLITS else "0"
            checkpoints[step.name] = str(run.folder / f"fold_{number}" / CHECKPOINT_NAME)
            if step.share < 1:
                checkpoints[step.name] = str(_average(recipe, step, checkpoints, seed))
        last = Path(checkpoints[recipe.train[-1].name if recipe.train else "bundled"])
        if recipe.calibrate:
            checkpoints[CALIBRATED] = str(
                _calibrate(recipe, recipe.calibrate, last, data, seed, device, on_progress)
            )
        for measure in recipe.measure:
            if measure.checkpoint == "bundled" and seed != recipe.seeds[0]:
                continue  # it is the same for every seed
            parts = list(_measure(measure, data, seed, checkpoints, device, on_progress))
            split = f"folds, {measure.protocol}" if measure.split == "folds" else measure.split
            measurements.append(
                measurement(
                    data[measure.data].kind,
                    split,
                    parts,
                    name=measure.name,
                    seed=seed,
                    mirrored=measure.mirrored,
                )
            )
    document = {
        "recipe": recipe.name,
        "title": recipe.title,
        "shows": recipe.shows,
        "seeds": list(recipe.seeds),
        "train": [asdict(step) for step in recipe.train],
        "calibrate": asdict(recipe.calibrate) if recipe.calibrate else None,
        "runs": runs,
        "seconds": sum(run["seconds"] for run in runs),
        "measurements": measurements,
        **begun,
    }
    write_document(recipe.result, document)
    return document


def _request(
    recipe: Recipe,
    step: Step,
    data: Mapping[str, Dataset],
    seed: int,
    checkpoints: Mapping[str, str],
    device: str,
) -> RunRequest:
    start = step.options.get("start")
    dataset, *extra = (data[name] for name in step.data)
    return RunRequest(
        dataset=dataset,
        extra=tuple(extra),
        preset=step.options.get("preset", "compact"),
        config=_config(step, start if start in (None, "bundled") else checkpoints.get(start, start)),
        stages=step.stage,
        protocol=step.protocol,
        fold_count=step.fold_count,
        seed=seed,
        device=device,
        name=f"{recipe.name}, {step.name}, seed {seed}",
    )


def _run_facts(step: Step, run: TrainingRun) -> Document:
    folds = list(run.folds.all())
    # By the rate, not by the clock: a run may have been stopped overnight.
    epochs = EpochMetric.objects.filter(fold__run=run, rate__gt=0).select_related("fold")
    start = step.options.get("start", run.config["start"])  # not the path of this machine
    return {
        "step": step.name,
        "seed": run.seed,
        "protocol": run.protocol,
        "git_revision": run.git_revision,
        "seconds": round(sum((epoch.fold.train_images or 0) / epoch.rate for epoch in epochs)),
        "train_images": [fold.train_images for fold in folds],
        "config": {**run.config, "start": start},
    }


def _average(recipe: Recipe, step: Step, checkpoints: Mapping[str, str], seed: int) -> Path:
    names = (step.options["start"], step.name)
    start, trained = (load_checkpoint(Path(checkpoints[name])) for name in names)
    output = results_folder() / f"{recipe.name}-{seed}-{step.name}.safetensors"
    save_average(output, start, trained, step.share)
    return output


def _calibrate(
    recipe: Recipe,
    calibration: Calibration,
    checkpoint: Path,
    data: Mapping[str, Dataset],
    seed: int,
    device: str,
    on_progress: Progress,
) -> Path:
    dataset = data[calibration.data]
    output = results_folder() / f"{recipe.name}-{seed}.safetensors"
    calibrate(
        load_checkpoint(checkpoint),
        load_samples(dataset.kind, dataset.path, calibration.split),
        calibration.accuracy,
        output,
        {"data": dataset.kind, "split": calibration.split, "git_revision": git_revision()},
        torch.device(device),
        on_progress,
    )
    return output


def _measure(
    measure: Measure,
    data: Mapping[str, Dataset],
    seed: int,
    checkpoints: Mapping[str, str],
    device: str,
    on_progress: Progress,
) -> Iterator[tuple[str, Checkpoint, Evaluation]]:
    dataset, pattern = data[measure.data], checkpoints[measure.checkpoint]
    folds: Sequence[Fold] = ()
    if measure.split == "folds":
        folds = folds_of(dataset, measure.protocol, measure.fold_count, seed)
        parts = [(f"fold {fold.number}", str(fold.number), fold.test) for fold in folds]
    else:
        samples = tuple(load_samples(dataset.kind, dataset.path, measure.split))
        parts = [(measure.split, "0", samples)]
    classes = classes_of(dataset, folds)
    for name, number, faces in parts:
        checkpoint = load_checkpoint(Path(pattern.replace("{fold}", number)))
        evaluation = evaluate_checkpoint(
            checkpoint,
            faces,
            torch.device(device),
            on_progress,
            classes=classes,
            mirrored=measure.mirrored,
        )
        yield name, checkpoint, evaluation


# Words ------------------------------------------------------------------------------------------------------


def describe(document: Document) -> str:
    """The figures of a stored result, a few lines a measurement."""
    lines = [document["title"]]
    for measured in document["measurements"]:
        together = measured["together"]
        lines.append(f"{measured['name']}, seed {measured['seed']}: {together['faces']} faces")
        if "summary" in measured:
            accuracies = " ".join(f"{part['accuracy']:.3f}" for part in measured["parts"])
            summary = measured["summary"]
            lines.append(f"  folds {accuracies}")
            lines.append(f"  mean {summary['mean']:.4f}, standard deviation {summary['deviation']:.4f}")
        lines.append(
            f"  accuracy {together['accuracy']:.4f}, among the set's own classes "
            f"{together['own_classes']['accuracy']:.4f}, macro-F1 {together['macro_f1']:.4f}, "
            f"ECE {together['ece']:.4f}"
        )
    means = mean_by_seed(document)
    if len(means) > 1:
        summary = summarise_folds(list(means.values()))
        lines.append(
            f"{len(means)} seeds: mean {summary.mean:.4f}, standard deviation {summary.deviation:.4f}"
        )
    return "\n".join(lines)


def mean_by_seed(document: Document) -> dict[int, float]:
    """The first measurement's accuracy, the mean over its folds where it has some, by seed."""
    first = document["measurements"][0]["name"]
    return {
        measured["seed"]: measured["summary"]["mean"]
        if "summary" in measured
        else measured["together"]["accuracy"]
        for measured in document["measurements"]
        if measured["name"] == first
    }
