"""Model files.

Refused where they are damaged, and always whole, however often their writer is killed. More cases stand in
tests/ml/test_checkpoint.py and tests/recognition/test_in_service.py.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from ml.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ml.config import PRESETS, TrainConfig
from ml.fmpn import FMPN
from tests.figures import Figure
from tests.training.conftest import shrink

FACTS = {"preset": "compact", "data": [], "seed": 7, "git_revision": None, "metrics": {}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small network."""
    config: TrainConfig = shrink(PRESETS["compact"])
    path = tmp_path_factory.mktemp("small") / "fmpn.safetensors"
    save_checkpoint(path, FMPN(config.model), config, FACTS)
    return path


def test_a_flipped_bit_is_refused_wherever_it_is(small: Path, tmp_path: Path, figure: Figure) -> None:
    whole = small.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(0)
    # Half of them among the names and the metadata, which are a small part of the file.
    places = [draw.randrange(header) for _ in range(50)] + [draw.randrange(len(whole)) for _ in range(50)]
    flipped = tmp_path / "flipped.safetensors"
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << draw.randrange(8)
        flipped.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_checkpoint(flipped)
    figure("A checkpoint with one flipped bit is refused", f"{len(places)} of {len(places)} places")


# A writer that is killed, without torch, to be forked anew in a moment. It writes the same weights (and
# 20 MB, to be longer at it) with a rising number again and again, and tells when the first file is there.
KILLED = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from ml.checkpoint import load_checkpoint, save_calibrated

source, path, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
checkpoint = load_checkpoint(source)
heavy = {"heavy": np.random.default_rng(0).random(5_000_000, np.float32)}
checkpoint = replace(checkpoint, weights=checkpoint.weights | heavy)
whole = halves = 0
for turn in range(times):
    hear, tell = os.pipe()
    writer = os.fork()
    if writer == 0:
        for number in range(1, 1_000_000):
            save_calibrated(path, checkpoint, 1.0 + number, 0.5, {}, {"turn": turn})
            if number == 1:
                os.write(tell, b".")
    os.read(hear, 1)
    time.sleep(random.Random(turn).uniform(0, 0.2))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    os.close(hear), os.close(tell)
    left = [other for other in path.parent.iterdir() if other != path]
    halves += bool(left)
    for half in left:
        half.unlink()
    found = load_checkpoint(path)  # raises where it is not whole
    assert found.metadata["calibration"] == {"turn": turn}
    assert all((found.weights[name] == weight).all() for name, weight in checkpoint.weights.items())
    whole += 1
print(whole, halves)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks on Windows")
@pytest.mark.parametrize("times", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_checkpoint_whose_writer_is_killed_is_always_whole(
    small: Path, tmp_path: Path, figure: Figure, times: int
) -> None:
    command = [sys.executable, "-c", KILLED, str(small), str(tmp_path / "fmpn.safetensors"), str(times)]
    said = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    whole, halves = map(int, said.stdout.split())
    assert whole == times
    if times == 100:
        assert halves, "some were killed while they wrote"
    figure(
        f"A checkpoint is whole after its writer was killed {times} times",
        f"{whole} of {times} whole, {halves} killed in the middle of a file",
    )
