"""How good predictions are: pure functions over arrays.

Labels are indices in EXPRESSIONS. Rows of a confusion matrix are the labels, columns the predictions.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ml.expressions import EXPRESSIONS


@dataclass(frozen=True)
class ClassMetrics:
    """One expression's numbers, 0..1 (0 where there is no case to count); support: faces with that label."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Metrics:
    """accuracy: 0..1. macro_f1: mean F1 over the classes that occur in the labels.

    per_class: all eight, in the order of EXPRESSIONS. confusion: int64 (8, 8), rows true, columns predicted.
    """

    accuracy: float
    macro_f1: float
    per_class: tuple[ClassMetrics, ...]
    confusion: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """The same in plain lists and numbers, ready for JSON."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "per_class": [asdict(row) for row in self.per_class],
            "confusion": self.confusion.tolist(),
        }


def evaluate_predictions(labels: ArrayLike, probabilities: ArrayLike) -> Metrics:
    """Compare labels, integers (N,) in 0..7, with probabilities (or logits), (N, 8): the largest wins.

    Raises ValueError where there is nothing to compare, a number is not finite or the two do not match.
    """
    truth, scores = np.asarray(labels), np.asarray(probabilities)
    classes = np.arange(len(EXPRESSIONS))
    if len(truth) == 0 or scores.shape != (len(truth), len(classes)):
        raise ValueError(
            f"Labels {truth.shape} and probabilities {scores.shape} are not (N,) and (N, 8), N > 0."
        )
    if not np.isin(truth, classes).all():
        raise ValueError("Labels must be whole numbers from 0 to 7.")
    if not np.isfinite(scores).all():
        raise ValueError("A probability is not a finite number: the model has diverged.")

    predicted = scores.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=classes, zero_division=0
    )
    return Metrics(
        accuracy=float((predicted == truth).mean()),
        macro_f1=float(f1[support > 0].mean()),
        per_class=tuple(
            ClassMetrics(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(EXPRESSIONS)
        ),
        confusion=confusion_matrix(truth, predicted, labels=classes).astype(np.int64),
    )


def format_metrics(metrics: Metrics) -> str:
    """Aligned text for a terminal: accuracy and macro-F1, the table of classes, the confusion matrix."""
    faces = sum(row.support for row in metrics.per_class)
    summary = [
        f"accuracy  {metrics.accuracy:.3f}  ({faces} faces)",
        f"macro-F1  {metrics.macro_f1:.3f}",
    ]
    classes = [["", "precision", "recall", "F1", "support"]] + [
        [row.name, f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}", str(row.support)]
        for row in metrics.per_class
    ]
    confusion = [["true \\ predicted", *EXPRESSIONS]] + [
        [name, *map(str, counts)] for name, counts in zip(EXPRESSIONS, metrics.confusion, strict=True)
    ]
    return "\n".join([*summary, "", *_aligned(classes), "", *_aligned(confusion)])


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column flush left and the numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        )
        for cells in table
    ]
