"""Other models' opinions on a photo, and what led a model to its word."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from pytest_django import Settings
from torch import nn

from ml.checkpoint import save_checkpoint
from ml.config import PRESETS
from ml.expressions import expression_index
from ml.fmpn import FMPN
from recognition import compare
from recognition.admission import places
from recognition.models import Analysis, Face
from training.models import Checkpoint

pytestmark = pytest.mark.django_db

Upload = Callable[..., Analysis]


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other model is in memory yet."""
    monkeypatch.setattr(compare, "_readers", compare._Readers())


@pytest.fixture
def rival(settings: Settings, tmp_path: Path) -> Checkpoint:
    """A small model from a training, which says fear whatever it sees."""
    settings.FER_VAR_DIR = tmp_path
    config = PRESETS["compact"]
    config = replace(config, model=replace(config.model, image_size=32, mask_channels=4, mask_blocks=1))
    torch.manual_seed(0)
    model = FMPN(config.model)
    *_, last = model.classifier.modules()
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[expression_index("fear")] = 5.0
    facts = {"preset": "rival", "data": [], "seed": 7, "git_revision": None, "metrics": {}}
    sha256 = save_checkpoint(tmp_path / "rival.safetensors", model, config, facts)
    return Checkpoint.objects.create(name="Afraid of all", file="rival.safetensors", sha256=sha256)


def address(analysis: Analysis, *, face: int | None = None, photo: int = 1) -> str:
    if face is None:
        return reverse("compare", args=[analysis.token, photo])
    return reverse("explain", args=[analysis.token, photo, face])


def everything(analysis: Analysis) -> tuple[object, ...]:
    """Rows, files and the session, to see that a page left no trace."""
    return (
        Analysis.objects.count(),
        Face.objects.count(),
        sorted((file.name, file.stat().st_mtime_ns) for file in analysis.folder.iterdir()),
        list(Session.objects.values_list("session_key", "session_data", "expire_date")),
    )


def test_two_models_are_compared_and_their_differences_told_in_words(
    client: Client, upload: Upload, rival: Checkpoint
) -> None:
    analysis = upload()
    small = Face.objects.get()
    small.pk, small.number, small.probabilities, small.problem = None, 2, None, "too small"
    small.save()
    before = everything(analysis)

    response = client.get(address(analysis))

    assert "How long each took for 1 face<" in response.content.decode(), (
        "the other one was too small to read"
    )
    assert "no-store" in response["Cache-Control"]
    compared, _small = response.context["comparison"].faces
    served, other = compared.opinions
    assert served.model.name == analysis.model_name
    assert served.model.in_service
    stored = Face.objects.get(number=1)
    assert served.expression == stored.expression
    assert served.share == pytest.approx((stored.probabilities or {})[served.expression], abs=0.03)
    assert other.expression == "fear"
    assert other.share == pytest.approx(np.exp(5) / (np.exp(5) + 7), abs=1e-4)
    (fear,) = [bar for bar in other.bars if bar.expression == "fear"]
    assert fear.points == round(100 * (other.share - served.bars[3].share))
    text = response.content.decode()
    assert "They name different expressions" in text
    assert "Afraid of all" in text
    assert f"+{fear.points}" in text
    assert text.count("data:image/png;base64,") == 2, "a mask each"
    assert [speed.milliseconds > 0 for speed in response.context["comparison"].speeds] == [True, True]
    assert everything(analysis) == before


def test_one_chooses_the_models(client: Client, upload: Upload, rival: Checkpoint) -> None:
    response = client.get(address(upload()), {"model": rival.sha256[:16]})

    (compared,) = response.context["comparison"].faces
    assert [opinion.model.title for opinion in compared.opinions] == ["Afraid of all"]
    assert "Choose at least two models" in response.content.decode()


def test_a_damaged_model_is_told_of_and_the_others_read_on(
    client: Client, upload: Upload, rival: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(rival.path.read_bytes())
    data[-1000] ^= 1
    rival.path.write_bytes(data)

    response = client.get(address(upload()))

    (compared,) = response.context["comparison"].faces
    assert len(compared.opinions) == 1
    text = response.content.decode()
    assert "could not be used" in text
    assert rival.path.name not in text, "where it lies is for the log alone"
    assert str(rival.path) in caplog.text


def test_with_one_model_or_without_a_face_it_says_what_is_missing(
    client: Client, upload: Upload, landscape: bytes
) -> None:
    text = client.get(address(upload(("slope.jpg", landscape)))).content.decode()

    assert "There is only one model here." in text
    assert "No face was found in this photo" in text


def test_only_the_models_used_last_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def load(path: Path, sha256: str) -> object:
        loads.append(path.name)
        return SimpleNamespace(predict_crops=lambda crops: [])

    monkeypatch.setattr(compare, "get_predictor", load)
    models = {name: compare.Model(name, "", Path(name), name * 64, False) for name in "abc"}
    readers, sample = compare._Readers(), np.zeros((192, 192, 3), np.uint8)

    for name in "abacab":
        readers.get(models[name], sample)

    assert loads == ["a", "b", "c", "b"]


def test_the_read_expression_is_explained_by_the_model_that_read_it(client: Client, upload: Upload) -> None:
    analysis = upload()
    before = everything(analysis)

    response = client.get(address(analysis, face=1))

    assert "no-store" in response["Cache-Control"]
    explained = response.context["explained"]
    stored = Face.objects.get()
    assert explained.expression == stored.expression
    assert response.context["model"].name == analysis.model_name
    assert explained.probabilities == pytest.approx(stored.probabilities, abs=0.03)
    assert explained.speaks
    text = response.content.decode()
    assert text.count("data:image/png;base64,") == 5, "face and mask, fused picture, face and map"
    assert f"What speaks for {stored.expression}" in text
    assert everything(analysis) == before


def test_no_expression_chosen_in_the_form_is_the_one_that_was_read(client: Client, upload: Upload) -> None:
    response = client.get(address(upload(), face=1), {"expression": ""})

    assert response.context["explained"].expression == Face.objects.get().expression


def test_any_expression_and_model_can_be_explained(client: Client, upload: Upload, rival: Checkpoint) -> None:
    response = client.get(address(upload(), face=1), {"expression": "contempt", "model": rival.sha256[:16]})

    explained = response.context["explained"]
    assert explained.expression == "contempt"
    assert explained.probabilities["fear"] > 0.9
    assert not explained.speaks, "its answer does not depend on the face"
    text = response.content.decode()
    assert "Nothing in the picture speaks for contempt" in text
    assert "this is another model" in text


def test_without_a_usable_checkpoint_it_says_so(client: Client, upload: Upload, rival: Checkpoint) -> None:
    analysis = upload()
    data = bytearray(rival.path.read_bytes())
    data[-1000] ^= 1
    rival.path.write_bytes(data)

    response = client.get(address(analysis, face=1), {"model": rival.sha256[:16]})

    assert response.status_code == 503
    assert "missing or damaged" in response.content.decode()


def test_what_is_not_there_or_not_ones_own_is_not_found(
    client: Client, upload: Upload, far_portrait: bytes
) -> None:
    analysis, far = upload(), upload(("far.jpg", far_portrait))

    for missing in (
        address(analysis, photo=2),
        address(analysis, face=2),
        address(analysis, face=1) + "?expression=delight",
        address(far, face=1),  # too small: nothing was said of it
    ):
        assert client.get(missing).status_code == 404, missing
    stranger = Client()
    assert stranger.get(address(analysis)).status_code == 404
    assert stranger.get(address(analysis, face=1)).status_code == 404


def test_who_comes_while_all_places_are_taken_is_asked_to_come_again(
    client: Client, upload: Upload, settings: Settings
) -> None:
    analysis = upload()
    settings.FER_PHOTOS_AT_ONCE = 1

    with places.take():
        for page in (address(analysis), address(analysis, face=1)):
            response = client.get(page)
            assert response.status_code == 503
            assert response["Retry-After"] == "1"
    assert client.get(address(analysis)).status_code == 200


@pytest.mark.usefixtures("same_minute")
def test_who_asks_too_often_in_a_minute_has_to_wait(
    client: Client, upload: Upload, settings: Settings
) -> None:
    analysis = upload()
    settings.FER_UPLOADS_PER_MINUTE = 1

    for page in (address(analysis), address(analysis, face=1)):
        assert [client.get(page).status_code for _ in range(2)] == [200, 429]


def test_the_way_back_from_a_photo_of_a_batch_is_to_that_photo(client: Client, upload: Upload) -> None:
    analysis = upload()
    analysis.kind = Analysis.Kind.BATCH
    analysis.save()
    photo = reverse("photo", args=[analysis.token, 1])

    assert f'<p class="back"><a href="{photo}">' in client.get(address(analysis)).content.decode()
    assert f'<p class="back"><a href="{photo}#' in client.get(address(analysis, face=1)).content.decode()


def test_the_result_page_leads_to_both(client: Client, upload: Upload) -> None:
    analysis = upload()

    text = client.get(analysis.get_absolute_url()).content.decode()

    assert f'href="{address(analysis)}"' in text
    assert f'href="{address(analysis, face=1)}"' in text


def test_the_site_starts_without_torch() -> None:
    """So that a web process which only reads photos stays small, and may fork."""
    code = """
import django, sys
django.setup()
from django.urls import get_resolver
get_resolver().url_patterns
import recognition.compare_views
sys.exit("torch" in sys.modules)
"""
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": "", "PYTHONPATH": "."}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
