"""How good predictions are, and how sure one can be of that: pure functions over arrays.

Labels are indices in EXPRESSIONS. Rows of a confusion matrix are the labels, columns the predictions.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml.expressions import EXPRESSIONS

CONFIDENCE: Final = 0.95  # of every interval
BINS: Final = 15  # of the expected calibration error


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

    from sklearn.metrics import confusion_matrix  # slow to import too

    return metrics_of(confusion_matrix(truth, scores.argmax(axis=1), labels=classes))


def metrics_of(confusion: ArrayLike) -> Metrics:
    """The metrics of a confusion matrix of counts, integers (8, 8); the sum of several folds' pools them.

    Raises ValueError where it has another shape or counts nothing.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    if counts.shape != (len(EXPRESSIONS), len(EXPRESSIONS)) or not counts.any():
        raise ValueError(f"A confusion matrix {counts.shape} is not one (8, 8) with counts in it.")
    right, support, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _share(right, predicted), _share(right, support)
    f1 = _share(2 * right, support + predicted)
    return Metrics(
        accuracy=float(right.sum() / counts.sum()),
        macro_f1=float(f1[support > 0].mean()),
        per_class=tuple(
            ClassMetrics(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(EXPRESSIONS)
        ),
        confusion=counts,
    )


def evaluate_own_classes(
    labels: ArrayLike,
    probabilities: ArrayLike,
    classes: Collection[int],
    shares: ArrayLike | None = None,
) -> Metrics:
    """The zero-shot protocol: the largest among `classes` wins, those of the whole set that the faces are of.

    For a model of eight expressions on a set that shows fewer: what the set cannot show is no answer.
    shares: of each expression among the faces the model knows, (8,), above 0. What it says, which must be
    probabilities then, is divided by them, so that every expression is as likely beforehand (Saerens, Latinne
    and Decaestecker, Neural Computation 14, 2002, equation 2.4, with even new priors). Other arguments and
    errors as of `evaluate_predictions`.
    """
    truth, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    evaluate_predictions(truth, scores)  # raises
    return evaluate_predictions(truth, _among(scores, classes, shares))


def _among(
    scores: NDArray[np.float64], classes: Collection[int], shares: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Scores (N, 8) of which none but one of `classes` can be the largest; shares: as above."""
    if shares is not None:
        scores = scores / np.asarray(shares, np.float64)
    foreign = ~np.isin(np.arange(scores.shape[1]), list(classes))
    return np.where(foreign, scores.min() - 1, scores)


# How sure an answer is, and how right ----------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Answers of like confidence. low, high: its edges; confidence: their mean; accuracy: the share of right
    ones; all 0..1. Both are 0 where there is none."""

    low: float
    high: float
    faces: int
    confidence: float
    accuracy: float


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> tuple[Bin, ...]:
    """Sort answers by their confidence, the largest of the eight probabilities, into bins of equal width.

    Guo et al. (arXiv 1706.04599, section 2): bin m of M holds ((m - 1) / M, m / M]. labels: integers (N,);
    probabilities: (N, 8), rows sum to 1.
    """
    right, confidence = _answers(labels, probabilities)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    faces = np.bincount(place, minlength=bins)
    accuracy = _share(np.bincount(place, right, minlength=bins), faces)
    mean = _share(np.bincount(place, confidence, minlength=bins), faces)
    return tuple(
        Bin(index / bins, (index + 1) / bins, int(faces[index]), float(mean[index]), float(accuracy[index]))
        for index in range(bins)
    )


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> float:
    """ECE, 0..1: the mean over answers of |accuracy - confidence| of their bin (`reliability`)."""
    rows = reliability(labels, probabilities, bins)
    faces = sum(row.faces for row in rows)
    return sum(row.faces * abs(row.accuracy - row.confidence) for row in rows) / faces


def negative_log_likelihood(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The mean of -log p(label) in nats; p is taken to be at least 1e-12."""
    truth, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    return float(-np.log(np.clip(scores[np.arange(len(truth)), truth], 1e-12, None)).mean())


@dataclass(frozen=True)
class Coverage:
    """What is said where the confidence reaches a threshold: the share of faces that is answered, and the
    accuracy among them, None where nothing is."""

    threshold: float
    coverage: float
    accuracy: float | None


def coverage_at(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> Coverage:
    """Coverage and accuracy of answers whose confidence is at least `threshold`, 0..1."""
    right, confidence = _answers(labels, probabilities)
    said = confidence >= threshold
    return Coverage(threshold, float(said.mean()), float(right[said].mean()) if said.any() else None)


def _answers(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which answers are right (N,), and how confident each is (N,)."""
    scores = np.asarray(probabilities, dtype=np.float64)
    return scores.argmax(axis=1) == np.asarray(labels), scores.max(axis=1)


# Counts and shares -----------------------------------------------------------------------------------------


def _share(part: NDArray[Any], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, 0 where there is no whole."""
    share: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return share


def share_interval(right: int, faces: int) -> tuple[float, float]:
    """Wilson's interval of a share at CONFIDENCE; faces: above 0. It takes them to be independent, which
    those of one person are not."""
    z, share = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), right / faces
    centre = share + z * z / (2 * faces)
    reach = z * math.sqrt(share * (1 - share) / faces + z * z / (4 * faces * faces))
    whole = 1 + z * z / faces
    return max((centre - reach) / whole, 0.0), min((centre + reach) / whole, 1.0)


def interval_over_people(
    labels: ArrayLike, probabilities: ArrayLike, classes: Collection[int], people: Sequence[str]
) -> tuple[float, float] | None:
    """The interval, at CONFIDENCE, of the accuracy among `classes`, where it is people who are independent.

    people: whose each of the N faces is. All faces count alike, so the accuracy is a ratio of two sums over
    people (Cochran, Sampling Techniques, 1977, section 2.11), with Student's t. None for one person alone, or
    where nothing scatters.
    """
    right = _among(np.asarray(probabilities, np.float64), classes).argmax(axis=1) == np.asarray(labels)
    _, person = np.unique(list(people), return_inverse=True)
    faces = np.bincount(person)
    share = right.mean()
    of_person = share + (np.bincount(person, right) - share * faces) / faces.mean()
    deviation, interval = _scatter(of_person)
    return (max(interval[0], 0.0), min(interval[1], 1.0)) if deviation and interval else None


@dataclass(frozen=True)
class Summary:
    """One measure over folds. deviation: sample standard deviation (n - 1).

    interval: of the mean, by Student's t at CONFIDENCE. Both are None for a single fold, which says nothing
    of how folds scatter.
    """

    folds: int
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def summarise_folds(shares: ArrayLike) -> Summary:
    """Summarise a measure of each fold, shares 0..1 (N,); the interval is cut off at 0 and 1.

    The folds of a cross-validation share most of their training faces, so the interval is rather too narrow
    than too wide (Bengio and Grandvalet, 2004: no unbiased one exists). Raises ValueError without a fold.
    """
    values = _finite(shares)
    deviation, interval = _scatter(values)
    if interval is not None:
        interval = max(interval[0], 0.0), min(interval[1], 1.0)
    return Summary(len(values), float(values.mean()), deviation, interval)


@dataclass(frozen=True)
class PairedTest:
    """One measure of two runs on the same folds. difference: mean of first minus second.

    deviation and interval: as in Summary, of the difference. t_p, wilcoxon_p: two-sided p-values of the
    paired t-test and of Wilcoxon's signed-rank test, None where they cannot be had: with a single fold, t
    where every fold differs by the same, Wilcoxon where none differs.
    """

    folds: int
    difference: float
    deviation: float | None
    interval: tuple[float, float] | None
    t_p: float | None
    wilcoxon_p: float | None


def paired_test(first: ArrayLike, second: ArrayLike, *, parts: int | None = None) -> PairedTest:
    """Compare a measure of two runs fold by fold: shares 0..1, (N,) each, the same folds in the same order.

    parts: into how many the set is divided, where not all are compared. Folds share the most of their
    training faces, so their differences are no independent ones: the variance of the mean is made larger by
    the share of held-out to trained-on faces, 1 / (parts - 1) (Nadeau and Bengio, Machine Learning 52, 2003).
    Wilcoxon's test knows no such correction. Raises ValueError where they do not pair up or there is no fold.
    """
    from scipy import stats  # with `special` nearly a second to import, which no start of the site needs
    from scipy.special import stdtr

    ours, theirs = _finite(first), _finite(second)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} and {len(theirs)} folds do not pair up.")
    # Shares of counts differ by tiny rounding errors, which would hide ties from the ranks.
    differences = np.round(ours - theirs, 12)
    several = len(differences) > 1
    shared = 1 / (max(parts or len(differences), 2) - 1)
    deviation, interval = _scatter(differences, shared)
    mean = float(differences.mean())
    t_p = None
    if deviation:
        t = mean / (deviation * (1 / len(differences) + shared) ** 0.5)
        t_p = float(2 * stdtr(len(differences) - 1, -abs(t)))
    return PairedTest(
        folds=len(differences),
        difference=mean,
        deviation=deviation,
        interval=interval,
        t_p=t_p,
        wilcoxon_p=float(stats.wilcoxon(differences).pvalue) if several and differences.any() else None,
    )


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError("There must be one finite number a fold, and at least one fold.")
    return array


def _scatter(
    values: NDArray[np.float64], shared: float = 0.0
) -> tuple[float | None, tuple[float, float] | None]:
    """Sample standard deviation, and the interval of the mean by Student's t; `shared` as in paired_test."""
    from scipy.special import stdtrit  # quantiles of Student's t; as slow to import as `stats`

    if len(values) < 2:
        return None, None
    # Of equal numbers it would be a rounding error.
    deviation = float(values.std(ddof=1)) if np.ptp(values) > 0 else 0.0
    quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    mean, reach = float(values.mean()), quantile * deviation * (1 / len(values) + shared) ** 0.5
    return deviation, (mean - reach, mean + reach)


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
