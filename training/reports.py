"""What came of a run, and of one run beside another: plain data for pages, JSON, CSV and Markdown.

Folds are measured after their last epoch on faces that they did not see, and a run chooses nothing by those
faces; whoever compares runs and keeps the better settings does. Only folds that succeeded count; what is
missing is said in `RunReport.notes`.
"""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ml.expressions import EXPRESSIONS
from ml.metrics import ClassMetrics, Metrics, PairedTest, Summary, metrics_of, paired_test, summarise_folds
from ml.spreadsheets import harmless
from training.models import EpochMetric, Fold, State, TrainingRun

MISTAKES_SHOWN: Final = 12  # as many as a fold keeps, so the most confident of all folds are among them
MEASURES: Final = {"accuracy": "accuracy", "macro_f1": "macro-F1"}  # by their names here and in words
TABLES: Final = ("folds", "summary", "classes", "confusion", "mistakes", "epochs")
NOTHING: Final = "–"


@dataclass(frozen=True)
class FoldResult:
    """One fold. accuracy and macro_f1: 0..1, None until it is measured; error: why it failed, if it did."""

    fold: int
    state: str
    train_images: int | None
    test_images: int | None
    accuracy: float | None
    macro_f1: float | None
    error: str


@dataclass(frozen=True)
class Mistake:
    """A held-out face that was taken for something else.

    rank: its number in the fold, under which its pictures lie (mistakes/<rank>-face.png and -mask.png).
    path: the face's file in its data set. confidence, truth: the probabilities of what was read and of what
    would have been right.
    """

    fold: int
    rank: int
    path: str
    label: str
    predicted: str
    confidence: float
    truth: float


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curves, as in EpochMetric; None where a number is missing or not finite."""

    fold: int
    stage: str
    epoch: int
    loss: float | None
    mask_loss: float | None
    classifier_loss: float | None
    rate: float | None
    accuracy: float | None
    macro_f1: float | None


@dataclass(frozen=True)
class RunReport:
    """Everything of a run. run: who it is, and its settings. notes: sentences on what a reader must know.

    accuracy, macro_f1: over the measured folds. pooled: of all their faces together. None without any.
    """

    run: dict[str, Any]
    notes: tuple[str, ...]
    folds: tuple[FoldResult, ...]
    accuracy: Summary | None
    macro_f1: Summary | None
    pooled: Metrics | None
    mistakes: tuple[Mistake, ...]
    epochs: tuple[Epoch, ...]

    @property
    def title(self) -> str:
        return f"{self.run['name']} (run {self.run['id']})"

    def measured(self, measure: str) -> dict[int, float]:
        """A measure ("accuracy" or "macro_f1") of every fold that has it, by the fold's number."""
        return {row.fold: getattr(row, measure) for row in self.folds if getattr(row, measure) is not None}

    def to_dict(self) -> dict[str, Any]:
        """The same in plain dictionaries, lists and numbers, ready for JSON."""
        document = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("folds", "mistakes", "epochs"):
            document[name] = [asdict(row) for row in document[name]]
        for name in MEASURES:
            document[name] = asdict(document[name]) if document[name] else None
        return document | {"pooled": self.pooled.to_dict() if self.pooled else None}


def report_run(run: TrainingRun) -> RunReport:
    """Gather a run's report from its rows and from its folds' folders, as far as they are there."""
    folds = list(run.folds.all())
    for fold in folds:
        fold.run = run  # not asked of the database once more for every fold's folder
    results = tuple(_result(fold) for fold in folds)
    confusions = [fold.metrics["confusion"] for fold in folds if _is_measured(fold) and fold.metrics]
    mistakes, unread = _mistakes([fold for fold in folds if _is_measured(fold)])
    return RunReport(
        run=_facts(run),
        notes=tuple(_notes(run, results, unread)),
        folds=results,
        accuracy=_over_folds([row.accuracy for row in results]),
        macro_f1=_over_folds([row.macro_f1 for row in results]),
        pooled=metrics_of(np.sum(confusions, axis=0)) if confusions else None,
        mistakes=mistakes,
        epochs=tuple(
            _epoch(metric) for metric in EpochMetric.objects.filter(fold__run=run).select_related("fold")
        ),
    )


def _over_folds(values: Iterable[float | None]) -> Summary | None:
    there = [value for value in values if value is not None]
    return summarise_folds(there) if there else None


def _is_measured(fold: Fold) -> bool:
    """A fold that is run again keeps its old metrics until it has new ones: those no longer count."""
    return fold.state == State.SUCCEEDED and fold.metrics is not None


def _result(fold: Fold) -> FoldResult:
    metrics = fold.metrics if _is_measured(fold) and fold.metrics else {}
    return FoldResult(
        fold=fold.number,
        state=fold.state,
        train_images=fold.train_images,
        test_images=fold.test_images,
        accuracy=metrics.get("accuracy"),
        macro_f1=metrics.get("macro_f1"),
        error=fold.error,
    )


def _epoch(metric: EpochMetric) -> Epoch:
    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None  # JSON knows no NaN

    numbers = ("loss", "mask_loss", "classifier_loss", "rate", "accuracy", "macro_f1")
    return Epoch(
        fold=metric.fold.number,
        stage=metric.stage,
        epoch=metric.epoch,
        **{name: finite(getattr(metric, name)) for name in numbers},
    )


def _facts(run: TrainingRun) -> dict[str, Any]:
    moments = {name: getattr(run, name) for name in ("created", "started", "finished")}
    return {
        "id": run.pk,
        "name": run.name,
        "dataset": run.dataset.name,
        "extra": [dataset.name for dataset in run.extra.all()],
        "preset": run.preset,
        "stages": run.stages,
        "protocol": run.protocol,
        "fold_count": run.fold_count,
        "folds_sha256": run.folds_sha256,
        "seed": run.seed,
        "device": run.device,
        "git_revision": run.git_revision,
        "state": run.state,
        **{name: moment.isoformat() if moment else None for name, moment in moments.items()},
        "config": run.config,
    }


def _notes(run: TrainingRun, results: Sequence[FoldResult], unread: Sequence[int]) -> Iterable[str]:
    measured = [row for row in results if row.accuracy is not None]
    if any(row.state != State.SUCCEEDED for row in results) or not results:
        yield f"The run is not complete: {len(measured)} of {len(results)} folds measured. " + (
            "Everything here is of these alone, and may change." if measured else "There is no result yet."
        )
    if 0 < len(results) < run.fold_count:
        yield f"Not the whole set: {len(results)} of its {run.fold_count} folds were asked for."
    for row in results:
        if row.state == State.FAILED:
            yield f"Fold {row.fold} failed: {row.error or 'the reason is not known.'}"
    if run.stages == TrainingRun.Stages.MASK:
        yield "The mask stage alone was trained: there is no classifier to measure."
    else:
        for row in results:
            if row.state == State.SUCCEEDED and row.accuracy is None:
                yield f"Fold {row.fold} held no face out, so it has no measurement."
    people = (run.dataset.inspection or {}).get("by_subject")
    if run.protocol == TrainingRun.Protocol.MADE and people == {}:
        yield "The set does not say who is on a picture: the same person may stand on both sides of a fold."
    if len(measured) == 1:
        yield "One fold alone says nothing of how folds scatter: no standard deviation and no interval."
    for number in unread:
        yield (
            f"The predictions of fold {number} are not on this machine or cannot be read: "
            "its mistakes are missing here."
        )


def _mistakes(folds: Sequence[Fold]) -> tuple[tuple[Mistake, ...], list[int]]:
    """The most confident mistakes of all folds, and the numbers of folds whose predictions cannot be read."""
    found: list[Mistake] = []
    unread: list[int] = []
    for fold in folds:
        try:
            found += _mistakes_of(fold)
        except (OSError, ValueError, LookupError, TypeError):
            unread.append(fold.number)
    found.sort(key=lambda mistake: (-mistake.confidence, mistake.fold, mistake.rank))
    return tuple(found[:MISTAKES_SHOWN]), unread


def _mistakes_of(fold: Fold) -> list[Mistake]:
    document = json.loads((fold.folder / "predictions.json").read_text(encoding="utf-8"))
    mistakes = []
    for rank, entry in enumerate(document["mistakes"]):
        sample = document["samples"][entry["sample"]]
        probabilities = [float(probability) for probability in sample["probabilities"]]
        predicted = int(np.argmax(probabilities))
        mistakes.append(
            Mistake(
                fold=fold.number,
                rank=rank,
                path=str(sample["path"]),
                label=EXPRESSIONS[sample["label"]],
                predicted=EXPRESSIONS[predicted],
                confidence=probabilities[predicted],
                truth=probabilities[sample["label"]],
            )
        )
    return mistakes


# One run beside another ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two runs, fold by fold. folds: the numbers they have in common and both have measured.

    tests: by measure, first minus second; empty without common folds. note: what stands in the way.
    """

    first: RunReport
    second: RunReport
    folds: tuple[int, ...]
    tests: dict[str, PairedTest]
    note: str


@dataclass(frozen=True)
class Comparison:
    """Two or more runs. settings: those in which they differ, by name, one value a run."""

    reports: tuple[RunReport, ...]
    settings: dict[str, list[str]]
    pairs: tuple[Pair, ...]


def compare_runs(runs: Sequence[TrainingRun]) -> Comparison:
    """Put runs side by side and test every two of them over the folds that they have in common."""
    reports = [report_run(run) for run in runs]
    settings = [settings_of(report) for report in reports]
    names = list(dict.fromkeys(name for values in settings for name in values))
    rows = {name: [values.get(name, NOTHING) for values in settings] for name in names}
    return Comparison(
        reports=tuple(reports),
        settings={name: values for name, values in rows.items() if len(set(values)) > 1},
        pairs=tuple(_pair(first, second) for first, second in combinations(reports, 2)),
    )


def settings_of(report: RunReport) -> dict[str, str]:
    """What a run was asked to do, flat: {"seed": "0", "joint_stage.batch_size": "16", …}."""
    asked = (
        "dataset",
        "extra",
        "preset",
        "stages",
        "protocol",
        "fold_count",
        "seed",
        "device",
        "git_revision",
    )
    return dict(_flat({name: report.run[name] for name in asked} | report.run["config"]))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pair(first: RunReport, second: RunReport) -> Pair:
    digests = {first.run["folds_sha256"], second.run["folds_sha256"]} - {""}  # older runs have none
    if _division(first) != _division(second) or len(digests) > 1:
        return Pair(
            first,
            second,
            (),
            {},
            "They were not measured on the same folds (another data set, or other pictures in it by then, "
            "another way to divide it, or other seeds), so nothing can be paired.",
        )
    common = sorted(first.measured("accuracy").keys() & second.measured("accuracy").keys())
    sizes = [{row.fold: row.test_images for row in report.folds} for report in (first, second)]
    changed = [number for number in common if sizes[0][number] != sizes[1][number]]
    common = [number for number in common if number not in changed]
    note = ""
    if changed:
        note = f"The data set has changed between them: left out, fold {', '.join(map(str, changed))}."
    elif not common:
        note = "No fold is measured in both yet, so nothing can be paired."
    tests = {
        measure: paired_test(
            [first.measured(measure)[number] for number in common],
            [second.measured(measure)[number] for number in common],
            parts=first.run["fold_count"],
        )
        for measure in MEASURES
        if common
    }
    return Pair(first, second, tuple(common), tests, note)


def _division(report: RunReport) -> tuple[Any, ...]:
    """What makes the same fold number mean the same held-out faces, while the set is the same."""
    run = report.run
    made = run["protocol"] == TrainingRun.Protocol.MADE
    return (run["dataset"], run["protocol"], *((run["fold_count"], run["seed"]) if made else ()))


# Tables ----------------------------------------------------------------------------------------------------


def fold_table(rows: Sequence[tuple[str, RunReport, str]]) -> list[list[str]]:
    """The old README's table: a header with the folds' numbers, then (name, report, measure) a row.

    After the folds come mean, standard deviation and interval; a dash stands where there is nothing.
    """
    numbers = sorted({result.fold for _, report, _ in rows for result in report.folds})
    table = [["Fold", *map(str, numbers), "mean", "std. dev.", "95 % interval"]]
    for name, report, measure in rows:
        values, summary = report.measured(measure), getattr(report, measure)
        table.append([name, *(three_digits(values.get(number)) for number in numbers), *_summary(summary)])
    return table


def _summary(summary: Summary | None) -> list[str]:
    if summary is None:
        return [NOTHING] * 3
    return [three_digits(summary.mean), three_digits(summary.deviation), interval_words(summary.interval)]


def three_digits(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def interval_words(interval: tuple[float, float] | None) -> str:
    return NOTHING if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}".replace("-", "−")


class Writable(Protocol):
    """An open text file (with newline=""), or a response."""

    def write(self, text: str, /) -> object: ...


def write_csv(report: RunReport, table: str, stream: Writable) -> None:
    """Write one of TABLES with a header; numbers are as exact as in the JSON."""
    csv.writer(stream).writerows(map(harmless, row) for row in _csv_rows(report, table))


def write_pairs(pairs: Sequence[Pair], stream: Writable) -> None:
    """Write what every two runs differ by, a line a measure, with a header."""
    csv.writer(stream).writerows(map(harmless, row) for row in _pair_rows(pairs))


def _pair_rows(pairs: Sequence[Pair]) -> Iterable[Sequence[object]]:
    columns = [field.name for field in fields(PairedTest)]
    yield ("first", "second", "measure", *columns[:3], "low", "high", *columns[4:], "note")
    for pair in pairs:
        for measure, test in pair.tests.items():
            values = [getattr(test, name) for name in columns]
            values[3:4] = test.interval or (None, None)
            yield (pair.first.title, pair.second.title, measure, *values, pair.note)
        if not pair.tests:
            yield (pair.first.title, pair.second.title, *[""] * (len(columns) + 2), pair.note)


def _csv_rows(report: RunReport, table: str) -> Iterable[Sequence[object]]:
    if table == "summary":
        yield ("measure", "folds", "mean", "deviation", "low", "high")
        for measure in MEASURES:
            summary: Summary | None = getattr(report, measure)
            if summary:
                low_high = summary.interval or (None, None)
                yield (measure, summary.folds, summary.mean, summary.deviation, *low_high)
    elif table == "confusion":
        yield ("true \\ predicted", *EXPRESSIONS)
        if report.pooled:
            for name, counts in zip(EXPRESSIONS, report.pooled.confusion.tolist(), strict=True):
                yield (name, *counts)
    else:
        kind = {"folds": FoldResult, "classes": ClassMetrics, "mistakes": Mistake, "epochs": Epoch}[table]
        per_class = report.pooled.per_class if report.pooled else ()
        names = [field.name for field in fields(kind)]
        yield names
        for row in per_class if table == "classes" else getattr(report, table):
            yield [getattr(row, name) for name in names]


# Words for those who cannot see the pictures ---------------------------------------------------------------


def occurring(metrics: Metrics) -> list[int]:
    """The expressions that occur as a label or as a prediction: the rows and columns worth drawing."""
    counts: NDArray[np.int64] = metrics.confusion.sum(axis=0) + metrics.confusion.sum(axis=1)
    return [int(index) for index in np.flatnonzero(counts)]


def describe_confusion(metrics: Metrics) -> str:
    right = [
        f"{row.name} {metrics.confusion[i, i]} of {row.support}"
        for i, row in enumerate(metrics.per_class)
        if row.support
    ]
    wrong = metrics.confusion - np.diag(metrics.confusion.diagonal())
    text = f"Confusion matrix of {metrics.confusion.sum()} faces. Read right: {', '.join(right)}."
    if not wrong.any():
        return text + " No mistakes."
    label, predicted = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return (
        f"{text} The most frequent mistake: {EXPRESSIONS[label]} taken for {EXPRESSIONS[predicted]}, "
        f"{wrong[label, predicted]} of {metrics.per_class[label].support}."
    )
