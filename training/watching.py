"""What the watch page shows: where a run stands, as plain JSON values."""

import os
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from django.db.models import Count, Max, QuerySet
from django.urls import reverse

from training.models import EpochMetric, Fold, State, TrainingRun

LOG_LINES: Final = 20
TAIL_BYTES: Final = 8192
CURVES: Final = {
    "mask": ("loss", "mask_loss"),
    "joint": ("loss", "mask_loss", "classifier_loss", "accuracy", "macro_f1"),
}
STILL_TO_DO: Final = (State.QUEUED, State.RUNNING, State.INTERRUPTED)

Values = dict[str, Any]


def describe(run: TrainingRun, known: str = "") -> Values:
    """Where `run` and its folds stand.

    "share" is how much of the work is done, 0..1; "seconds_left" is None where nothing runs that could tell.
    "version" names the state of the curves: where it is `known`, they are None, as the reader has them.
    """
    rows = EpochMetric.objects.filter(fold__run=run)
    counts = {row["fold"]: row for row in rows.values("fold").annotate(epochs=Count("pk"), last=Max("pk"))}
    # A word that changes when the curves do.
    version = "-".join(f"{row['epochs']}.{row['last']}" for _, row in sorted(counts.items()))
    curves = None if version == known else _curves(rows)
    folds = []
    for fold in run.folds.order_by("number"):
        epochs = counts.get(fold.pk, {"epochs": 0})["epochs"]
        own = None if curves is None else curves[fold.pk]
        folds.append({**_describe_fold(fold, run, epochs), "curves": own})
    return {
        "run": {
            "state": run.state,
            "stopping": run.cancel_requested and run.state == State.RUNNING,
            "name": run.name,
            "device": run.device,
            "created": _time(run.created),
            "started": _time(run.started),
            "finished": _time(run.finished),
            "share": sum(fold["share"] for fold in folds) / max(1, len(folds)),
            "seconds_left": _seconds_left(folds),
        },
        "folds": folds,
        "version": version,
    }


def _describe_fold(fold: Fold, run: TrainingRun, epochs: int) -> Values:
    running = fold.state == State.RUNNING
    return {
        "number": fold.number,
        "state": fold.state,
        "worker": fold.worker if running else "",
        "progress": fold.progress,
        "share": _share(fold, run, epochs),
        "seconds_left": fold.progress.get("seconds_left") if running else None,
        "accuracy": fold.metrics["accuracy"] if fold.metrics else None,
        "train_images": fold.train_images,
        "test_images": fold.test_images,
        "losses": fold.losses,
        "error": fold.error,
        "log": _tail(fold.folder / "log.txt"),
        "samples": _samples(fold, run),
    }


def _share(fold: Fold, run: TrainingRun, finished: int) -> float:
    """The part of all epochs of all its stages that is behind it; `finished` of them are, at the least."""
    if fold.state == State.SUCCEEDED:
        return 1.0
    stages = {name: run.config[f"{name}_stage"] for name in ("mask", "joint") if run.stages in ("both", name)}
    lengths = {name: stage["epochs_full"] + stage["epochs_falling"] for name, stage in stages.items()}
    done = float(finished)
    progress = fold.progress
    if progress.get("stage"):
        before = lengths.get("mask", 0) if progress["stage"] == "joint" else 0
        done = max(done, before + progress["epoch"] - 1 + progress["step"] / progress["steps"])
    return float(min(1.0, done / max(1, sum(lengths.values()))))


def _seconds_left(folds: list[Values]) -> float | None:
    """All that is still to do, at the pace of the folds that run."""
    paces = [
        (1 - fold["share"]) / fold["seconds_left"]
        for fold in folds
        if fold["seconds_left"] and fold["share"] < 1
    ]
    left = sum(1 - fold["share"] for fold in folds if fold["state"] in STILL_TO_DO)
    return left / sum(paces) if paces else None


def _curves(rows: "QuerySet[EpochMetric]") -> defaultdict[int, Values]:
    """The points of every fold's curves."""
    curves: defaultdict[int, Values] = defaultdict(
        lambda: {stage: {"epoch": [], **{name: [] for name in names}} for stage, names in CURVES.items()}
    )
    for row in rows.order_by("fold", "stage", "epoch"):
        for name, values in curves[row.fold_id][row.stage].items():
            values.append(_short(getattr(row, name)))
    return curves


def _short(value: float | None) -> float | None:
    """Six digits are more than a chart shows, and a third of what JSON would write."""
    return None if value is None else float(f"{value:.6g}")


def _samples(fold: Fold, run: TrainingRun) -> Values | None:
    """Addresses of the faces, the masks they should have, and the masks last drawn."""
    folder = fold.folder / "samples"
    drawn = sorted(path.stem for path in folder.glob("*-*.png"))
    if not drawn:
        return None
    # "mask-0001" comes before "joint-0001".
    latest = max(drawn, key=lambda stem: (stem.startswith("joint"), stem))
    stage, _, epoch = latest.partition("-")

    def address(name: str) -> str:
        return reverse("admin:training_trainingrun_file", args=[run.pk, fold.number, f"samples/{name}.png"])

    return {
        "faces": address("faces"),
        "truth": address("truth"),
        "latest": address(latest),
        "stage": stage,
        "epoch": int(epoch),
    }


def _tail(path: Path) -> list[str]:
    """The last lines of a file; none where there is no file yet."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines[1 if size > TAIL_BYTES else 0 :][-LOG_LINES:]


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
