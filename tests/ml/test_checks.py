from pathlib import Path

import pytest
from django.core.checks import run_checks
from pytest_django import Settings


def complaints() -> list[str]:
    return [f"{message.msg} {message.hint}" for message in run_checks()]


def test_a_folder_that_cannot_be_made_is_an_error(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings.FER_VAR_DIR = tmp_path / "file" / "var"

    assert any("cannot be written. Change the owner" in complaint for complaint in complaints())


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
    assert "auto, cpu, cuda" in complaint


def test_cuda_where_there_is_none_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings.FER_DEVICE = "cuda"

    [complaint] = complaints()
    assert "torch finds no CUDA GPU" in complaint
    assert "auto or cpu" in complaint
