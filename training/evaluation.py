"""How well a checkpoint reads chosen faces of a data set."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.calibration import apply_temperature
from ml.checkpoint import Checkpoint
from ml.datasets import Sample, load_samples
from ml.datasets.samples import SPLITS
from ml.engine import FaceSet, predict_logits
from ml.folds import Fold
from ml.metrics import (
    BINS,
    Coverage,
    Metrics,
    coverage_at,
    evaluate_own_classes,
    evaluate_predictions,
    expected_calibration_error,
    format_metrics,
    interval_over_people,
    negative_log_likelihood,
    reliability,
)
from ml.robustness import CONDITIONS, Measured, measure_robustness
from training.models import Dataset
from training.services import Progress, splits_seen


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model said of some faces, and how good that is.

    labels: integers (N,). probabilities: (N, 8), calibrated, rows sum to 1. sure_from: the model's
    threshold, 0..1. classes: indices of those that the whole set has, of which these faces may show fewer.
    people: whose each face is, empty where that is not known of all. shares: each expression's share of the
    faces that the model was calibrated on, if that is known. metrics: over all eight answers. own: the
    largest among `classes` wins (the zero-shot protocol). even: the same, but no expression is thought
    likelier than another beforehand, as it is by `shares`. ece: 0..1, of BINS bins. nll: in nats. coverage:
    at the threshold.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    sure_from: float
    classes: frozenset[int]
    people: tuple[str, ...]
    shares: tuple[float, ...] | None
    metrics: Metrics
    own: Metrics
    even: Metrics | None
    ece: float
    nll: float
    coverage: Coverage

    @classmethod
    def of(
        cls,
        labels: NDArray[np.int64],
        probabilities: NDArray[np.float64],
        sure_from: float,
        classes: Collection[int],
        people: Sequence[str | None] = (),
        shares: tuple[float, ...] | None = None,
    ) -> "Evaluation":
        """Raises ValueError as `ml.metrics.evaluate_predictions` does."""
        known = tuple(person for person in people if person)
        return cls(
            labels,
            probabilities,
            sure_from,
            frozenset(classes),
            known if len(known) == len(people) else (),
            shares,
            evaluate_predictions(labels, probabilities),
            evaluate_own_classes(labels, probabilities, classes),
            None if shares is None else evaluate_own_classes(labels, probabilities, classes, shares),
            expected_calibration_error(labels, probabilities),
            negative_log_likelihood(labels, probabilities),
            coverage_at(labels, probabilities, sure_from),
        )

    @classmethod
    def together(cls, parts: "Sequence[Evaluation]") -> "Evaluation":
        """All faces of several; the highest of their thresholds counts, and shares that all have."""
        shares = {part.shares for part in parts}
        return cls.of(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            max(part.sure_from for part in parts),
            frozenset().union(*(part.classes for part in parts)),
            [person for part in parts for person in part.people or [None]],
            shares.pop() if len(shares) == 1 else None,
        )

    @property
    def over_people(self) -> tuple[float, float] | None:
        """The interval of the accuracy among the set's own classes, over people; None where there is none."""
        if not self.people:
            return None
        return interval_over_people(self.labels, self.probabilities, self.classes, self.people)

    def to_dict(self) -> dict[str, Any]:
        """The figures in plain lists and numbers, ready for JSON; single answers are left out."""
        return {
            "faces": len(self.labels),
            **self.metrics.to_dict(),
            "own_classes": self.own.to_dict(),
            "people": len(set(self.people)) or None,
            "over_people": self.over_people,
            "even": self.even.to_dict() if self.even else None,
            "ece": self.ece,
            "nll": self.nll,
            "bins": [asdict(row) for row in reliability(self.labels, self.probabilities)],
            "coverage": asdict(self.coverage),
        }

    def describe(self) -> str:
        """Aligned text for a terminal."""
        of_said = "" if self.coverage.accuracy is None else f", {self.coverage.accuracy:.3f} of it right"
        reach = self.over_people
        over = f" ({reach[0]:.3f} to {reach[1]:.3f} over {len(set(self.people))} people)" if reach else ""
        more = [
            f"accuracy among the set's own classes  {self.own.accuracy:.3f}{over}",
            *([f"the same, each as likely beforehand  {self.even.accuracy:.3f}"] if self.even else []),
            f"calibration error (ECE, {BINS} bins)  {self.ece:.3f}",
            f"sure from {self.sure_from:.2f}: says {self.coverage.coverage:.3f}{of_said}",
        ]
        summary, blank, tables = format_metrics(self.metrics).partition("\n\n")
        return "\n".join([summary, *more]) + blank + tables


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    device: torch.device,
    on_progress: Progress,
    *,
    classes: Collection[int],
    mirrored: bool = False,
) -> Evaluation:
    """Evaluate on the faces as they are, at the checkpoint's own temperature and threshold.

    classes: as in Evaluation. mirrored: on the mean of what the model says of a face and of its mirror image,
    which is twice the work; the site reads a face once. Raises DatasetError for a picture that cannot
    be read.
    """
    faces = read_faces(checkpoint, samples, on_progress)
    logits = predict_logits(checkpoint.build().to(device), faces.faces, device, mirrored=mirrored)
    probabilities = apply_temperature(logits, checkpoint.temperature)
    people = [sample.subject for sample in samples]
    return Evaluation.of(
        *(faces.labels.numpy(), probabilities, checkpoint.sure_from, classes),
        people=people,
        shares=checkpoint.shares,
    )


def classes_of(dataset: Dataset, folds: Sequence[Fold] = ()) -> frozenset[int]:
    """The expressions that a whole set shows, or all of its folds: lists may leave some of a set's faces out,
    as JAFFE's do with neutral ones. Raises DatasetError."""
    held_out = [sample for fold in folds for sample in fold.test]
    samples = held_out or load_samples(dataset.kind, dataset.path, "all")
    return frozenset(sample.expression for sample in samples)


def may_have_seen(
    checkpoint: Checkpoint, *, kind: str, split: str = "", fold: int | None = None, division: str = ""
) -> bool:
    """Whether the model may have been trained on faces of this part of a set: then they are no test of it.

    split: empty for another choice of its faces. division: of the folds that `fold` is one of
    (`services.division_sha256`).
    """
    if checkpoint.is_of_unknown_origin:
        return True
    made = checkpoint.metadata
    if fold is not None and (made.get("folds_sha256"), made.get("fold")) == (division, fold):
        # Its last training held these out; any set at all may lie in folders.
        return kind != "folders" and bool(splits_seen(checkpoint.trained_before, kind))
    seen = splits_seen(checkpoint.trained_on, kind)
    return split in seen if split in SPLITS else bool(seen)


def robustness_of(
    checkpoint: Checkpoint, samples: Sequence[Sample], device: torch.device, seed: int, on_progress: Progress
) -> list[Measured]:
    """Evaluate on the faces as they are and under every condition. Raises DatasetError."""
    data = read_faces(checkpoint, samples, on_progress)
    model = checkpoint.build().to(device)
    rows: list[Measured] = []

    def read(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        on_progress("Reading changed faces", len(rows), len(CONDITIONS) + 1)
        return predict_logits(model, torch.from_numpy(faces), device)

    for row in measure_robustness(read, data.faces.numpy(), data.labels.numpy(), seed=seed):
        rows.append(row)
    return rows


def read_faces(checkpoint: Checkpoint, samples: Sequence[Sample], on_progress: Progress) -> FaceSet:
    """Decode faces as the checkpoint's model takes them. Raises DatasetError."""
    return FaceSet.load(
        samples,
        checkpoint.config.model.image_size,
        checkpoint.config.model.colour,
        lambda done, total: on_progress("Reading the faces", done, total),
    )
