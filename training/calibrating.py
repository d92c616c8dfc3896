"""Fitting a checkpoint's temperature and threshold to a validation split, and storing both with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml.calibration import apply_temperature, choose_threshold, fit_temperature
from ml.checkpoint import Checkpoint, save_calibrated
from ml.datasets import Sample
from ml.engine import predict_logits
from ml.expressions import EXPRESSIONS
from ml.metrics import evaluate_predictions
from training.evaluation import Evaluation, read_faces
from training.services import Progress


@dataclass(frozen=True)
class Calibrated:
    """What was found on how many faces, and the new file's checksum. ece and nll: before and after;
    coverage and accuracy: of what is said at the threshold, on the same faces."""

    sha256: str
    temperature: float
    sure_from: float
    faces: int
    wanted: float
    ece: tuple[float, float]
    nll: tuple[float, float]
    coverage: float
    accuracy: float | None


def calibrate(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    accuracy: float,
    output: Path,
    told: dict[str, Any],
    device: torch.device,
    on_progress: Progress,
) -> Calibrated:
    """Write `checkpoint` to `output` with a temperature and the threshold from which `accuracy` (0..1) holds.

    told: JSON values on the faces, kept beside the figures in the checkpoint's `calibration`. Raises
    CalibrationError where that accuracy is out of reach, DatasetError for a picture that cannot be read.
    """
    faces = read_faces(checkpoint, samples, on_progress)
    labels = faces.labels.numpy()
    logits = predict_logits(checkpoint.build().to(device), faces.faces, device)
    temperature = fit_temperature(logits, labels)
    probabilities = apply_temperature(logits, temperature)
    sure_from = choose_threshold(labels, probabilities, accuracy)
    classes = set(labels.tolist())
    before = Evaluation.of(labels, apply_temperature(logits, checkpoint.temperature), 0.0, classes)
    after = Evaluation.of(labels, probabilities, sure_from, classes)
    # With one face more of each (Laplace), so that an expression that these do not show keeps a share.
    shares = (np.bincount(labels, minlength=len(EXPRESSIONS)) + 1) / (len(labels) + len(EXPRESSIONS))
    found: dict[str, Any] = {
        "faces": len(labels),
        "wanted": accuracy,
        "ece": (before.ece, after.ece),
        "nll": (before.nll, after.nll),
        "coverage": after.coverage.coverage,
        "accuracy": after.coverage.accuracy,
    }
    metrics = evaluate_predictions(labels, probabilities).to_dict()
    sha256 = save_calibrated(
        output, checkpoint, temperature, sure_from, metrics, {**told, **found, "shares": shares.tolist()}
    )
    return Calibrated(sha256=sha256, temperature=temperature, sure_from=sure_from, **found)
