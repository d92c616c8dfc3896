"""`manage.py train_fmpn`: a run in the foreground; Ctrl-C keeps its state, the same command goes on."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.datasets import DatasetError
from ml.folds import NoFoldListsError, read_fold_lists
from ml.metrics import summarise_folds
from training import services
from training.management.arguments import (
    add_config_arguments,
    add_dataset_arguments,
    add_device_argument,
    config_of,
    find_datasets,
    fold_numbers,
)
from training.management.foreground import INTERRUPTED_CODE, KEPT, train_here
from training.models import Dataset, Fold, State, TrainingRun
from training.runner import CHECKPOINT_NAME


class Command(BaseCommand):
    help = "Train FMPN on a data set or its folds. Ctrl-C keeps the state: the same command goes on from it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dataset_arguments(parser, several=True)
        parser.add_argument(
            "--folds",
            type=fold_numbers,
            default=(),
            metavar="0-9|0,3|all",
            help="cross-validation; default: the set's train part, watched on its validation part",
        )
        parser.add_argument(
            "--protocol",
            choices=TrainingRun.Protocol.values,
            help="split (default without --folds), final (train and validation parts, measured on the test "
            "part), lists (the set's own; default where it has them), clean (their test lists, each trained "
            "on everybody else in them), or made",
        )
        parser.add_argument("--fold-count", type=int, default=10, metavar="10", help="of the protocol made")
        parser.add_argument("--stage", choices=TrainingRun.Stages.values, default="both")
        add_config_arguments(parser)
        parser.add_argument("--seed", type=int, default=0)
        add_device_argument(parser)
        parser.add_argument("--name", default="", help="how the run is called; default: data set and preset")
        parser.add_argument(
            "--visdom", default="", metavar="URL", help="a visdom server to draw the curves on"
        )
        parser.add_argument("--queue", action="store_true", help="hand it to the workers and return at once")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            request = _request(options)
            run = services.find_unfinished(request)
            if options["queue"]:
                self._hand_over(run, request)
                return
            run = run or services.create_run(request)
            if run.device != request.device:
                run.device = request.device
                run.save(update_fields=["device"])
            self.stdout.write(f"{run} in {run.folder}")
            finished = train_here(run, self._say)
        except (DatasetError, services.LaunchError) as error:
            raise CommandError(str(error)) from error
        self._report(run, stopped=not finished)

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()

    def _hand_over(self, run: TrainingRun | None, request: services.RunRequest) -> None:
        if run is None:
            run = services.launch(request)
        elif run.state in services.RESUMABLE or services.unsent(run).exists():
            services.resume(run)
        self.stdout.write(f"{run} is {run.get_state_display().lower()}: watch it at {run.get_absolute_url()}")

    def _report(self, run: TrainingRun, stopped: bool) -> None:
        run.refresh_from_db()
        folds = list(run.folds.all())
        for fold in folds:
            self.stdout.write(_describe(fold))
        accuracies = [fold.metrics["accuracy"] for fold in folds if fold.metrics]
        if len(accuracies) > 1:
            summary = summarise_folds(accuracies)
            self.stdout.write(f"mean accuracy {summary.mean:.4f}, standard deviation {summary.deviation:.4f}")
        if stopped:
            raise CommandError(KEPT, returncode=INTERRUPTED_CODE)
        if unfinished := [fold for fold in folds if fold.state != State.SUCCEEDED]:
            numbers = ", ".join(str(fold.number) for fold in unfinished)
            raise CommandError(f"Not finished: fold {numbers}. Give the same command to try again.")


def _request(options: dict[str, Any]) -> services.RunRequest:
    dataset, *extra = find_datasets(options, register=True)
    folds = options["folds"]
    protocol = options["protocol"]
    if protocol is None:
        protocol = "split" if folds == () else "lists" if _has_lists(dataset) else "made"
    return services.RunRequest(
        dataset=dataset,
        extra=tuple(extra),
        preset=options["preset"],
        config=config_of(options),
        stages=options["stage"],
        protocol=protocol,
        fold_count=options["fold_count"],
        folds=None if folds == () else folds,
        seed=options["seed"],
        device=options["device"],
        name=options["name"],
        visdom=options["visdom"],
    )


def _has_lists(dataset: Dataset) -> bool:
    try:
        read_fold_lists(dataset.kind, dataset.path)
    except NoFoldListsError:
        return False
    return True


def _describe(fold: Fold) -> str:
    line = f"fold {fold.number}  {fold.get_state_display().lower()}"
    if fold.state == State.RUNNING:
        return f"{line} on {fold.worker}"
    if fold.error:
        return f"{line}: {fold.error}"
    if fold.metrics:
        line += f"  accuracy {fold.metrics['accuracy']:.4f}  macro-F1 {fold.metrics['macro_f1']:.4f}"
        line += f"  ({fold.test_images} faces)"
    if fold.state == State.SUCCEEDED:
        line += f"  {fold.folder / CHECKPOINT_NAME}"
    return line
