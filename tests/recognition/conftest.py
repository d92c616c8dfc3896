"""What the tests of the recognition pages and commands share."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from PIL import Image, ImageFilter
from pytest_django import Settings

from ml.expressions import EXPRESSIONS
from recognition import services
from recognition.access import kept_until
from recognition.models import Analysis, Face, Photo
from recognition.samples import SAMPLES


@pytest.fixture(autouse=True)
def media(settings: Settings, tmp_path: Path) -> Path:
    """A folder of its own for the pictures of every test."""
    settings.MEDIA_ROOT = tmp_path / "media"
    return tmp_path / "media"


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not loaded a model yet."""
    monkeypatch.setattr(services, "_served", services.ServedPredictor())


def as_jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """A real photo of one person, 512 × 512, large enough to read: the JPEG behind "Try a sample photo"."""
    return SAMPLES["eileen-collins"].path.read_bytes()


@pytest.fixture(scope="session")
def far_portrait(portrait: bytes) -> bytes:
    """The same person so far away that a face is found but cannot be read."""
    page = Image.new("RGB", (600, 600), "grey")
    page.paste(Image.open(io.BytesIO(portrait)).resize((56, 56), Image.Resampling.LANCZOS), (200, 200))
    return as_jpeg(page)


@pytest.fixture(scope="session")
def blurred_portrait(portrait: bytes) -> bytes:
    """The same person, out of focus."""
    return as_jpeg(Image.open(io.BytesIO(portrait)).filter(ImageFilter.GaussianBlur(4)))


@pytest.fixture(scope="session")
def landscape() -> bytes:
    """A photo without a face."""
    slope = np.tile(np.linspace(0, 255, 320).astype(np.uint8), (240, 1))
    return as_jpeg(Image.fromarray(np.dstack([slope] * 3)))


@pytest.fixture
def upload(client: Client, portrait: bytes, db: None) -> Callable[..., Analysis]:
    """Send files as a person's browser does (the portrait, if none are given) and return what was stored."""

    def send(*files: tuple[str, bytes]) -> Analysis:
        named = files or (("portrait.jpg", portrait),)
        uploads = [SimpleUploadedFile(name, data) for name, data in named]
        response = client.post(reverse("analyse"), {"photos": uploads})
        assert response.status_code == 302, response.content.decode()
        return Analysis.objects.get(pk=response["Location"].split("/")[2])

    return send


Keep = Callable[..., Analysis]


@pytest.fixture
def keep(db: None) -> Keep:
    """Store an analysis of one photo as if a model had read it: a face for each of `expressions`."""

    def store(expressions: tuple[str, ...] = ("happiness",), **fields: object) -> Analysis:
        analysis = Analysis(model_name="a model", **fields)
        if analysis.user and "expires" not in fields:
            analysis.expires = kept_until(analysis.user, analysis.created)
        analysis.save()
        analysis.folder.mkdir(parents=True)
        photo = Photo.objects.create(analysis=analysis, number=1, width=320, height=240)
        (analysis.folder / photo.filename).write_bytes(b"a photo")
        for number, expression in enumerate(expressions, 1):
            face = Face.objects.create(
                photo=photo,
                number=number,
                box=[10, 10, 90, 90],
                landmarks={},
                confidence=1,
                probabilities={name: 0.93 if name == expression else 0.01 for name in EXPRESSIONS},
            )
            (analysis.folder / face.crop_filename).write_bytes(b"a face")
            (analysis.folder / face.mask_filename).write_bytes(b"a mask")
        return analysis

    return store
