import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings as site
from django.core.checks import run_checks
from pytest_django import Settings

from ml.checkpoint import BUNDLED
from ml.checks import check_folder


def complaints() -> list[str]:
    return [f"{message.msg} {message.hint}" for message in run_checks()]


def test_a_folder_that_cannot_be_made_is_an_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings.FER_VAR_DIR = tmp_path / "file" / "var"

    assert any("cannot be written. Change the owner" in complaint for complaint in complaints())


def test_a_folder_on_a_drive_that_is_not_there_is_an_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings.FER_VAR_DIR = tmp_path / "var"
    monkeypatch.setattr("ml.checks.os.path.exists", lambda path: False)

    [error] = check_folder()
    assert "cannot be written" in error.msg


def test_a_folder_that_can_be_made_is_none(settings: Settings, tmp_path: Path) -> None:
    settings.FER_VAR_DIR = tmp_path / "not" / "yet"

    assert complaints() == []


def test_an_unknown_detector_is_an_error_that_names_the_known(settings: Settings) -> None:
    settings.FER_DETECTOR = "eyes"

    [complaint] = complaints()
    assert "no face detector 'eyes'" in complaint
    assert "mtcnn, mtcnn-tensorflow" in complaint


def test_an_unknown_device_is_an_error_that_names_the_known(settings: Settings) -> None:
    settings.FER_DEVICE = "abacus"

    [complaint] = complaints()
    assert "no device 'abacus'" in complaint
    assert "auto, cpu and cuda" in complaint


def test_cuda_where_there_is_none_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings.FER_DEVICE = "cuda"

    [complaint] = complaints()
    assert "There is no CUDA GPU here" in complaint
    assert "cpu or auto" in complaint


def test_the_check_command_finds_nothing_wrong_with_the_bundled_model() -> None:
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "fer_site.settings"}
    command = [sys.executable, "manage.py", "check"]
    subprocess.run(command, cwd=site.BASE_DIR, env=environment, check=True)


@pytest.fixture
def check_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `manage.py check`, which alone looks into the model."""
    monkeypatch.setattr(sys, "argv", ["manage.py", "check"])


@pytest.mark.usefixtures("check_command")
def test_a_missing_model_is_an_error_that_says_how_to_get_it_back(settings: Settings, tmp_path: Path) -> None:
    settings.FER_CHECKPOINT = tmp_path / "none.safetensors"

    [complaint] = complaints()
    assert "There is no checkpoint at" in complaint
    assert "git checkout ml/weights" in complaint


@pytest.mark.usefixtures("check_command")
@pytest.mark.parametrize("place", [-1, -100_000, 20], ids=["last", "middle", "header"])
def test_a_model_with_one_bit_turned_is_an_error(settings: Settings, tmp_path: Path, place: int) -> None:
    damaged = Path(shutil.copy(BUNDLED, tmp_path))
    data = bytearray(damaged.read_bytes())
    data[place] ^= 1
    damaged.write_bytes(data)
    settings.FER_CHECKPOINT = damaged

    [complaint] = complaints()
    assert str(damaged) in complaint
