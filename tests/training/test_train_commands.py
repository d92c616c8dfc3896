"""train_fmpn and evaluate_fmpn as a person calls them, on a small drawn data set."""

import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from PIL import Image

from ml.checkpoint import load_checkpoint
from ml.expressions import EXPRESSIONS

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class; each picture has a bar whose height tells its class."""
    root = tmp_path_factory.mktemp("faces")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("valid", 2), ("test", 2)):
        for index, name in enumerate(EXPRESSIONS):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (48, 48), dtype=np.uint8)
                pixels[6 * index : 6 * index + 6] += 180
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def arguments(faces: Path, output: Path) -> list[str]:
    return [
        *("train_fmpn", "--dataset", "folders", "--data", str(faces), "--preset", "compact"),
        *("--mask-epochs", "1", "--joint-epochs", "4", "--start", "random", "--output", str(output)),
    ]


def test_training_stops_on_ctrl_c_goes_on_and_is_evaluated(faces: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-u", str(ROOT / "manage.py"), *arguments(faces, tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("mask 1/1")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Run the same command to go on" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run" / "fmpn.safetensors").exists()

    finished = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert "mask 1/1" not in finished.stdout  # it was done before the stop
    assert "joint 4/4" in finished.stdout
    checkpoint = load_checkpoint(tmp_path / "run" / "fmpn.safetensors")
    assert checkpoint.metadata["data"] == [{"kind": "folders", "train_images": 96}]
    assert checkpoint.metadata["metrics"]["validation"]["accuracy"] >= 0

    out = StringIO()
    call_command(
        "evaluate_fmpn",
        dataset="folders",
        data=faces,
        checkpoint=tmp_path / "run" / "fmpn.safetensors",
        stdout=out,
    )
    text = out.getvalue().lower()
    for word in ("accuracy", "macro-f1", "precision", "recall", "support", *EXPRESSIONS):
        assert word in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--data", "missing"], "There is no folder"),
        (["--masks", "missing"], "motion masks"),
        (["--dataset", "folders"], "as many --data as --dataset"),
    ],
)
def test_bad_calls_get_a_sentence(faces: Path, tmp_path: Path, change: list[str], sentence: str) -> None:
    call = arguments(faces, tmp_path)
    if change[0] == "--data":
        call[call.index("--data") + 1] = str(tmp_path / "missing")
    else:
        call += change
    with pytest.raises(CommandError, match=sentence):
        call_command(*call)


def test_an_unknown_class_and_an_empty_set_are_named(tmp_path: Path) -> None:
    (tmp_path / "odd" / "boredom").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    for folder, sentence in (("odd", "boredom"), ("none", "none")):
        with pytest.raises(CommandError, match=sentence):
            call_command("evaluate_fmpn", dataset="folders", data=tmp_path / folder)


def test_a_missing_and_a_damaged_checkpoint_are_told(faces: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\0" * 100)
    for path, sentence in ((tmp_path / "no.safetensors", "no checkpoint"), (damaged, "cannot be read")):
        with pytest.raises(CommandError, match=sentence):
            call_command("evaluate_fmpn", dataset="folders", data=faces, checkpoint=path)
