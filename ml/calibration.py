"""How sure a model may sound: a temperature for its logits, and the probability from which it is believed.

Both are found on a validation split after training and stored with the checkpoint, whose weights stay as
they are (`manage.py calibrate_fmpn`). Training and its own validation know nothing of them.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

COOLEST: Final = 0.05
HOTTEST: Final = 20.0


class CalibrationError(ValueError):
    """Answers that cannot be calibrated; its text is a sentence fit for a person."""


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T under which softmax(logits / T) gives the labels the highest likelihood.

    Temperature scaling (Guo et al., arXiv 1706.04599, section 4.2): one number, so that the order of the
    answers stays. logits: (N, 8), any finite numbers; labels: integers (N,). T is from COOLEST to HOTTEST;
    above 1 means that the model was too sure of itself. Raises CalibrationError without a face or with a
    logit that is not finite.
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if not len(truth) or len(scores) != len(truth) or not np.isfinite(scores).all():
        raise CalibrationError("A temperature is fitted to at least one face, and to finite logits alone.")
    rows = np.arange(len(truth))

    def loss(logarithm: float) -> float:
        return float(-log_softmax(scores / math.exp(logarithm), axis=1)[rows, truth].mean())

    # The loss is convex in 1 / T, so it has one valley in log T as well.
    found = minimize_scalar(  # type: ignore[no-untyped-call]
        loss, bounds=(math.log(COOLEST), math.log(HOTTEST)), method="bounded"
    )
    return math.exp(float(found.x))


def apply_temperature(logits: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Probabilities (N, 8), rows sum to 1, of logits (N, 8)."""
    return np.asarray(softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1))


def choose_threshold(labels: ArrayLike, probabilities: ArrayLike, accuracy: float) -> float:
    """The lowest confidence from which on the answers reach `accuracy` (0..1) together.

    labels: integers (N,); probabilities: (N, 8), rows sum to 1. What is said at or above the threshold has
    that accuracy on these faces, and no lower threshold says more of which that holds; 0 where all of it
    does. Raises CalibrationError where even the surest answers are not as good.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    confidence = scores.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (scores.argmax(axis=1) == np.asarray(labels))[order]
    so_far = np.cumsum(right) / np.arange(1, len(right) + 1)
    # Answers of the same confidence are said together or not at all.
    last_of_its_kind = np.append(np.diff(confidence[order]) != 0, True)
    good = np.flatnonzero((so_far >= accuracy) & last_of_its_kind)
    if not good.size:
        raise CalibrationError(f"Not even the surest answers are {accuracy:.0%} right: ask for less.")
    return 0.0 if good[-1] == len(right) - 1 else float(confidence[order][good[-1]])
