"""How well a checkpoint reads chosen faces of a data set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.calibration import apply_temperature
from ml.checkpoint import Checkpoint
from ml.datasets import DatasetError, Sample
from ml.engine import FaceSet, predict_logits
from ml.metrics import (
    BINS,
    Coverage,
    Metrics,
    coverage_at,
    evaluate_own_classes,
    evaluate_predictions,
    expected_calibration_error,
    format_metrics,
    negative_log_likelihood,
    reliability,
)
from ml.robustness import CONDITIONS, Measured, measure_robustness
from training.services import Progress


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model said of some faces, and how good that is.

    labels: integers (N,). probabilities: (N, 8), calibrated, rows sum to 1. sure_from: the model's
    threshold, 0..1. metrics: over all eight answers. own: the largest among the set's own classes wins (the
    zero-shot protocol). ece: 0..1, of BINS bins. nll: in nats. coverage: at the threshold.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    sure_from: float
    metrics: Metrics
    own: Metrics
    ece: float
    nll: float
    coverage: Coverage

    @classmethod
    def of(
        cls, labels: NDArray[np.int64], probabilities: NDArray[np.float64], sure_from: float
    ) -> "Evaluation":
        """Raises ValueError as `ml.metrics.evaluate_predictions` does."""
        return cls(
            labels,
            probabilities,
            sure_from,
            evaluate_predictions(labels, probabilities),
            evaluate_own_classes(labels, probabilities),
            expected_calibration_error(labels, probabilities),
            negative_log_likelihood(labels, probabilities),
            coverage_at(labels, probabilities, sure_from),
        )

    @classmethod
    def together(cls, parts: "Sequence[Evaluation]") -> "Evaluation":
        """All faces of several; the highest of their thresholds counts."""
        return cls.of(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            max(part.sure_from for part in parts),
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures in plain lists and numbers, ready for JSON; single answers are left out."""
        return {
            "faces": len(self.labels),
            **self.metrics.to_dict(),
            "own_classes": self.own.to_dict(),
            "ece": self.ece,
            "nll": self.nll,
            "bins": [asdict(row) for row in reliability(self.labels, self.probabilities)],
            "coverage": asdict(self.coverage),
        }

    def describe(self) -> str:
        """Aligned text for a terminal."""
        of_said = "" if self.coverage.accuracy is None else f", {self.coverage.accuracy:.3f} of it right"
        more = [
            f"accuracy among the set's own classes  {self.own.accuracy:.3f}",
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
    mirrored: bool = False,
) -> Evaluation:
    """Evaluate on the faces as they are, at the checkpoint's own temperature and threshold.

    mirrored: on the mean of what the model says of a face and of its mirror image, which is twice the work;
    the site reads a face once. Raises DatasetError for a picture that cannot be read.
    """
    faces = read_faces(checkpoint, samples, on_progress)
    logits = predict_logits(checkpoint.build().to(device), faces.faces, device, mirrored=mirrored)
    probabilities = apply_temperature(logits, checkpoint.temperature)
    return Evaluation.of(faces.labels.numpy(), probabilities, checkpoint.sure_from)


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


def read_list(path: Path, samples: Sequence[Sample], root: Path) -> list[Sample]:
    """The samples that a list names, one a line: by file name, or by path under the set's folder.

    A line's first comma ends the name, so a table with the picture first will do. Raises DatasetError for a
    list that cannot be read, is empty, or names a picture that the set does not have or has twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The list {path} cannot be read: {error}.") from error
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        for name in {sample.path.name, sample.path.relative_to(root).as_posix()}:
            by_name.setdefault(name, []).append(sample)
    names = [name for line in lines if (name := line.partition(",")[0].strip())]
    for name in names:
        found = len(by_name.get(name, []))
        if found != 1:
            what = "which the set does not have" if not found else f"of which the set has {found}"
            raise DatasetError(f"The list {path} names {name[:80]!r}, {what}.")
    if not names:
        raise DatasetError(f"The list {path} is empty.")
    return [by_name[name][0] for name in names]
