"""Networks as they are run beside eager torch, and what is kept of them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ml import runtime
from ml.checkpoint import BUNDLED, load_checkpoint
from ml.fmpn import Served
from ml.predictor import open_model
from ml.runtime import DeviceError, choose_device, open_network


@pytest.fixture
def exports(tmp_path: Path) -> Iterator[Path]:
    before = runtime.exports_folder()
    runtime.set_exports_folder(tmp_path / "exports")
    yield tmp_path / "exports"
    runtime.set_exports_folder(before)


class Doubled(nn.Module):
    """(N, 2) -> twice it, and its sum."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 2 * x, x.sum(dim=1)


def open_doubled(at_once: int = 2) -> runtime.Network:
    return open_network("doubled-1", __name__, Doubled, np.zeros((at_once, 2), np.float32), "cpu")


def no_torch() -> nn.Module:
    raise AssertionError("the export was there")


def test_the_bundled_model_answers_as_in_eager_torch() -> None:
    checkpoint = load_checkpoint(BUNDLED)
    side = checkpoint.model_config.image_size
    faces = np.random.default_rng(0).integers(0, 256, (5, 1, side, side), dtype=np.uint8)
    eager = Served(checkpoint.build(), checkpoint.temperature).eval()
    with torch.inference_mode():
        probabilities, masks = (tensor.numpy() for tensor in eager(torch.from_numpy(faces)))
    network = open_model(checkpoint, "cpu")
    ours, our_masks = network(faces)
    np.testing.assert_allclose(ours, probabilities, atol=1e-3)
    np.testing.assert_allclose(our_masks, masks, atol=1e-3)


@pytest.mark.usefixtures("exports")
@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 50])
def test_any_number_of_inputs_goes_through_in_order(count: int, at_once: int, one_by_one: bool) -> None:
    inputs = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    twice, total = open_doubled(at_once)(iter(inputs) if one_by_one else inputs)
    np.testing.assert_array_equal(twice, 2 * inputs)
    np.testing.assert_allclose(total, inputs.sum(axis=1), rtol=1e-6)


def test_an_export_is_made_once(exports: Path) -> None:
    network = open_doubled()
    twice, total = network(np.array([[1, 2], [3, 4]], np.float32))
    np.testing.assert_array_equal(twice, [[2, 4], [6, 8]])
    np.testing.assert_array_equal(total, [3, 7])
    open_network("doubled-1", __name__, no_torch, np.zeros((2, 2), np.float32), "cpu")
    assert len(list(exports.iterdir())) == 1, "nothing half made is left"
    open_doubled(at_once=3)
    assert len(list(exports.iterdir())) == 2, "another shape is another export"


def test_an_export_that_nobody_opens_for_a_month_goes(exports: Path) -> None:
    open_doubled()
    (used,) = exports.iterdir()
    open_doubled(at_once=3)
    (unused,) = set(exports.iterdir()) - {used}
    half = exports / ".doubled-1-half"  # of a process that was killed
    half.mkdir()
    long_ago = time.time() - 31 * 24 * 3600
    for path in (used / "sha256", unused / "sha256", half):
        os.utime(path, (long_ago, long_ago))
    open_doubled()

    runtime.sweep_exports(days=30)

    assert list(exports.iterdir()) == [used]


def test_a_damaged_export_is_made_again(exports: Path) -> None:
    open_doubled()
    (folder,) = exports.iterdir()
    (folder / "model.xml").write_text("<net/>")
    twice, _ = open_doubled()(np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(twice, [[2, 2]])


@pytest.mark.parametrize("overtaken_in", ["_digest", "_is_whole"])
def test_an_export_that_was_faster_is_left_alone(
    exports: Path, monkeypatch: pytest.MonkeyPatch, overtaken_in: str
) -> None:
    """Its process may be reading it. (Two workers start at once, and both have to export.)"""
    open_doubled()
    (folder,) = exports.iterdir()
    faster = folder.rename(exports / "faster")
    place, calls = faster.stat().st_ino, 0
    real = getattr(runtime, overtaken_in)

    def be_overtaken(looked_at: Path) -> object:
        nonlocal calls
        calls += 1
        found = real(looked_at)
        if calls == 2 and faster.exists():  # the first look was whether there is an export
            faster.rename(folder)
        return found

    monkeypatch.setattr(runtime, overtaken_in, be_overtaken)
    open_doubled()
    assert faster.exists() or folder.stat().st_ino == place
    assert len(list(exports.iterdir())) == 1 + faster.exists(), "nothing half made is left"


def test_without_a_home_the_module_is_imported_all_the_same(exports: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "def nobody(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = nobody\n"
        "from ml.runtime import exports_folder, set_exports_folder\n"
        "set_exports_folder(pathlib.Path(sys.argv[1]))\n"
        "assert exports_folder() == pathlib.Path(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(exports)], check=True)


@pytest.mark.usefixtures("exports")
def test_threads_share_a_network_and_none_gets_the_answer_of_another() -> None:
    network = open_doubled()

    def ask(number: int) -> bool:
        twice, _ = network(np.full((1 + number % 7, 2), number, np.float32))
        return bool((twice == 2 * number).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))


FIRST_OF_ALL = """
import sys, threading
from pathlib import Path
import numpy as np
from ml.runtime import open_network, set_exports_folder

set_exports_folder(Path(sys.argv[1]))
def make():
    raise AssertionError("the export was there")
network = open_network("doubled-1", "tests.ml.test_runtime", make, np.zeros((2, 2), np.float32), "cpu")
sys.setswitchinterval(1e-6)  # a thread is sent away wherever it can be
going = False

def ask():
    while not going:
        pass
    network(np.ones((1, 2), np.float32))

threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
going = True
for thread in threads:
    thread.join()
"""


def test_the_first_of_all_inputs_may_come_at_once(exports: Path) -> None:
    """In a fresh process: OpenVINO's first look at an array deadlocks where two threads take it together."""
    open_network("doubled-1", "tests.ml.test_runtime", Doubled, np.zeros((2, 2), np.float32), "cpu")
    command = [sys.executable, "-c", FIRST_OF_ALL, str(exports)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert run.returncode == 0, run.stderr


def test_devices_that_are_not_to_be_had_are_named() -> None:
    assert choose_device("cpu") == "cpu"
    with pytest.raises(DeviceError, match="known are auto, cpu and cuda"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto") == "cpu"
        with pytest.raises(DeviceError, match="no CUDA GPU"):
            choose_device("cuda")
