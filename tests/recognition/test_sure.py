"""A first guess below the model's threshold is called a guess, on the page and in every file."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from ml.checkpoint import BUNDLED, load_checkpoint, save_calibrated
from recognition.drawing import annotate
from recognition.models import Analysis, Face
from recognition.reports import report_analysis

Upload = Callable[..., Analysis]


@pytest.fixture
def modest(settings: Settings, tmp_path: Path, fresh_process: None) -> None:
    """The model in service is sure of nothing: its threshold is certainty."""
    settings.FER_CHECKPOINT = tmp_path / "modest.safetensors"
    save_calibrated(settings.FER_CHECKPOINT, load_checkpoint(BUNDLED), 4.0, 1.0, {}, {})


def test_what_the_model_is_not_sure_of_is_called_a_guess(
    modest: None, client: Client, upload: Upload
) -> None:
    analysis = upload()
    face = Face.objects.get()
    assert face.sure is False
    page = client.get(analysis.get_absolute_url()).content.decode()
    assert f"not sure: perhaps {face.expression}" in page
    assert f">{face.expression}?</text>" in page  # in the photo, where there is little room

    report = report_analysis(analysis)
    assert report["photos"][0]["faces"][0]["sure"] is False
    (row,) = csv.DictReader(
        io.StringIO(client.get(reverse("download_csv", args=[analysis.token])).getvalue().decode())
    )
    assert (row["expression"], row["sure"]) == (face.expression, "False")


def test_a_guess_before_the_camera_is_called_one_too(
    modest: None, client: Client, portrait: bytes, db: None
) -> None:
    response = client.post(reverse("live_frame"), portrait, content_type="image/jpeg")

    (face,) = response.json()["faces"]
    assert (face["sure"], face["expression"] is None) == (False, False)


def test_what_it_is_sure_of_or_was_read_before_models_had_thresholds_is_said_plainly(
    client: Client, upload: Upload
) -> None:
    analysis = upload()
    assert Face.objects.get().sure is True
    for sure in (True, None):
        Face.objects.update(sure=sure)
        page = client.get(analysis.get_absolute_url()).content.decode()
        assert "not sure" not in page
        assert report_analysis(analysis)["photos"][0]["faces"][0]["sure"] is sure


def test_a_face_that_cannot_be_read_is_neither_sure_nor_a_guess(upload: Upload, far_portrait: bytes) -> None:
    upload(("far.jpg", far_portrait))
    face = Face.objects.get()
    assert (face.problem, face.sure, face.is_guess) == ("too small", None, False)


def test_a_guess_is_drawn_with_a_question_mark(upload: Upload) -> None:
    face = report_analysis(upload())["photos"][0]["faces"][0]
    photo = np.full((512, 512, 3), 255, np.uint8)
    sure, guess = (np.asarray(annotate(photo, [{**face, "sure": sure}])) for sure in (True, False))
    assert (sure != guess).any()
