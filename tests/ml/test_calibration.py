"""How sure a model may sound: temperature, threshold, and what a checkpoint and a prediction say of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.calibration import CalibrationError, apply_temperature, choose_threshold, fit_temperature
from ml.checkpoint import CheckpointError, load_checkpoint, save_calibrated, save_checkpoint
from ml.config import PRESETS
from ml.expressions import EXPRESSIONS
from ml.fmpn import FMPN, Served
from ml.metrics import expected_calibration_error
from ml.predictor import FacePrediction
from tests.ml.test_engine import small_config

FACTS = {"preset": "compact", "data": [], "seed": 7, "git_revision": None, "metrics": {}}


def answers(count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from just the probabilities that they stand for."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (count, 8))
    drawn = [random.choice(8, p=row) for row in apply_temperature(logits, 1)]
    return logits, np.array(drawn)


@pytest.mark.parametrize("too_sure", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_what_made_the_model_too_sure(too_sure: float) -> None:
    logits, labels = answers()
    temperature = fit_temperature(logits * too_sure, labels)
    assert temperature == pytest.approx(too_sure, rel=0.05)
    after = apply_temperature(logits * too_sure, temperature)
    assert expected_calibration_error(labels, after) < 0.03
    np.testing.assert_allclose(after.sum(axis=1), 1)
    np.testing.assert_array_equal(after.argmax(axis=1), logits.argmax(axis=1))


def test_a_temperature_needs_faces_and_finite_logits() -> None:
    for logits, labels in (
        (np.empty((0, 8)), []),
        (np.full((1, 8), np.nan), [0]),
        (np.zeros((2, 8)), [0]),
    ):
        with pytest.raises(CalibrationError, match="at least one face, and to finite logits"):
            fit_temperature(logits, labels)


def said(confidences: list[float], right: list[bool]) -> tuple[list[int], np.ndarray]:
    probabilities = np.zeros((len(right), 8))
    probabilities[:, 0] = confidences
    probabilities[:, 1] = 1 - probabilities[:, 0]
    return [0 if good else 2 for good in right], probabilities


def test_the_threshold_is_the_lowest_from_which_answers_are_good_enough() -> None:
    labels, probabilities = said([0.9, 0.8, 0.7, 0.6], [True, True, False, True])
    assert choose_threshold(labels, probabilities, 1.0) == 0.8
    assert choose_threshold(labels, probabilities, 0.75) == 0.0  # all of it is good enough
    labels, probabilities = said([0.9, 0.8, 0.8, 0.7], [True, True, False, False])
    assert choose_threshold(labels, probabilities, 0.9) == 0.9  # what is as sure is said together


def test_a_threshold_that_nothing_reaches_is_refused() -> None:
    with pytest.raises(CalibrationError, match="Not even the surest answers are 90% right"):
        choose_threshold(*said([0.9], [False]), 0.9)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = small_config()
    path = tmp_path_factory.mktemp("plain") / "fmpn.safetensors"
    save_checkpoint(path, FMPN(config.model).eval(), config, FACTS)
    return path


def test_a_calibrated_checkpoint_has_the_same_weights_and_another_name(plain: Path, tmp_path: Path) -> None:
    before = load_checkpoint(plain)
    assert (before.temperature, before.sure_from) == (1.0, 0.0)
    found = ({"accuracy": 0.9}, {"split": "valid"})
    save_calibrated(tmp_path / "calibrated.safetensors", before, 1.7, 0.55, *found)
    after = load_checkpoint(tmp_path / "calibrated.safetensors")
    assert (after.temperature, after.sure_from) == (1.7, 0.55)
    assert after.metadata["calibration"] == {"split": "valid"}
    assert after.metadata["seed"] == 7
    assert after.name != before.name
    for name, array in before.weights.items():
        np.testing.assert_array_equal(array, after.weights[name])


@pytest.mark.parametrize(
    ("temperature", "sure_from"), [(0, 0.5), (-1, 0.5), (float("inf"), 0.5), (1, 1.5), ("hot", 0)]
)
def test_a_calibration_without_sense_is_refused(
    plain: Path, tmp_path: Path, temperature: float, sure_from: float
) -> None:
    path = tmp_path / "broken.safetensors"
    save_calibrated(path, load_checkpoint(plain), temperature, sure_from, {}, {})
    with pytest.raises(CheckpointError, match="makes no sense"):
        load_checkpoint(path)


@pytest.mark.parametrize("shares", [[0.125] * 7, [0, *[0.125] * 7], ["much"] * 8, 0.125])
def test_shares_without_sense_are_refused(plain: Path, tmp_path: Path, shares: object) -> None:
    path = tmp_path / "broken.safetensors"
    save_calibrated(path, load_checkpoint(plain), 1.0, 0.5, {}, {"shares": shares})
    with pytest.raises(CheckpointError, match="makes no sense"):
        load_checkpoint(path)


def test_what_is_served_is_as_sure_as_its_temperature_says(plain: Path) -> None:
    model = load_checkpoint(plain).build()
    faces = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        logits, _ = model(faces.expand(-1, 3, -1, -1).float() / 255)
        probabilities, _ = Served(model, 2.5)(faces)
    np.testing.assert_allclose(probabilities, apply_temperature(logits.numpy(), 2.5), rtol=1e-5)


def test_below_the_threshold_a_prediction_says_that_it_is_not_sure() -> None:
    even = dict.fromkeys(EXPRESSIONS, 0.1) | {"happiness": 0.3}
    crop = np.zeros((192, 192, 3), np.uint8)
    guess = FacePrediction(None, crop, None, even, None, sure_from=0.5)
    assert (guess.expression, guess.sure) == ("happiness", False)
    assert replace(guess, sure_from=0.3).sure
    assert FacePrediction(None, crop, None, even, None).sure  # a model that knows of no threshold
    assert not FacePrediction(None, crop, None, None, "too small").sure


def test_an_old_checkpoint_s_config_has_the_paper_s_prior() -> None:
    values = PRESETS["compact"].to_dict()
    del values["model"]["prior"]
    assert type(PRESETS["compact"]).from_dict(values) == PRESETS["compact"]
