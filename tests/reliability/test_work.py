"""Work that must survive.

Real servers, on tiny networks and drawn faces. More of it stands in tests/training/test_workers.py.
"""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from ml.checkpoint import Arrays, load_checkpoint, read_arrays
from ml.config import TrainConfig
from ml.engine import BatchReport, Callbacks
from tests.figures import Figure
from tests.reliability.servers import Broker, fill, small_disk
from tests.training.conftest import PRESETS, draw_faces, shrink
from training import services
from training.models import Checkpoint, Dataset, Fold, State, TrainingRun
from training.runner import CHECKPOINT_NAME, run_claimed
from training.services import RunRequest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded broker does not run on Windows")


@pytest.fixture
def tiny() -> TrainConfig:
    return shrink(PRESETS["compact"])


@pytest.fixture
def dataset(tmp_path: Path, db: None) -> Dataset:
    faces = draw_faces(tmp_path / "faces", train=6, valid=2, test=2)
    return Dataset.objects.create(name="drawn", kind="folders", folder=str(faces))


def train(run: TrainingRun, callbacks: Callbacks | None = None) -> Fold:
    """Let a worker have the run's fold 0; return the row it leaves."""
    fold = services.claim(run.folds.get(number=0).pk, services.worker_name("worker"))
    assert fold is not None
    run_claimed(fold, callbacks)
    return run.folds.get(number=0)


def same(weights: Arrays, others: Arrays) -> bool:
    """Whether they are equal bit for bit."""
    return weights.keys() == others.keys() and all((weights[name] == others[name]).all() for name in weights)


# The broker -------------------------------------------------------------------------------------------------


def launch_fifty(dataset: Dataset, tiny: TrainConfig, commit: DjangoCaptureOnCommitCallbacks) -> None:
    for _ in range(5):
        request = RunRequest(dataset, "compact", tiny, protocol="made", fold_count=10, launch_key=uuid4())
        with commit(execute=True):
            services.launch(request)


@pytest.mark.parametrize("durable", [True, False])
def test_a_broker_that_is_killed_loses_none_of_fifty_folds(
    dataset: Dataset,
    tiny: TrainConfig,
    settings: Settings,
    tmp_path: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    figure: Figure,
    durable: bool,
) -> None:
    broker = Broker(tmp_path, durable)
    settings.CELERY_BROKER_URL = broker.url
    launch_fifty(dataset, tiny, django_capture_on_commit_callbacks)
    sent = broker.client.lrange("training", 0, -1)
    assert len(set(sent)) == 50  # type: ignore[arg-type]

    broker.kill()
    broker.start()
    try:
        kept = broker.messages("training")
        if durable:
            assert broker.client.lrange("training", 0, -1) == sent
        services.notice_lost_workers()
        assert broker.messages("training") == kept, "it waits a minute before it takes them for lost"
        later = timezone.now() - timedelta(seconds=services.UNHEARD_AFTER + 1)
        Fold.objects.update(heartbeat=later)
        services.notice_lost_workers()
        services.notice_lost_workers()
        assert broker.messages("training") == 50, "each is there, and once"
    finally:
        broker.kill()
    if durable:
        figure(
            "Redis with append-only persistence, killed and started again",
            f"{50 - kept} of 50 queued folds lost",
        )
    else:
        assert kept == 0
        figure(
            "Redis without persistence, killed and started: what the sweeper puts back",
            f"{50 - kept} of 50 queued folds lost, 50 put back",
        )


# The disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So that sums of floats have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_full_disk_fails_a_fold_in_a_sentence_and_it_goes_on_when_there_is_room(
    dataset: Dataset, tiny: TrainConfig, settings: Settings, tmp_path: Path, figure: Figure
) -> None:
    request = RunRequest(dataset, "compact", tiny, device="cpu")
    settings.FER_VAR_DIR = tmp_path / "large"
    undisturbed = train(services.create_run(request))
    expected = load_checkpoint(undisturbed.folder / CHECKPOINT_NAME).weights
    with small_disk(tmp_path / "small", 200) as disk:
        settings.FER_VAR_DIR = disk
        run = services.create_run(request)
        ballast: list[Path] = []

        def fill_in_the_second_joint_epoch(report: BatchReport) -> None:
            if (report.stage, report.epoch) == ("joint", 2) and not ballast:
                ballast.append(fill(disk))

        full = train(run, Callbacks(on_batch=fill_in_the_second_joint_epoch))
        assert (full.state, full.metrics) == (State.FAILED, None)
        assert "No space left on device" in full.error
        files = [path.name for path in full.folder.iterdir() if path.name.startswith(".")]
        assert files == [], "no half file stays"
        _, header = read_arrays(full.folder / "state.safetensors")
        assert '"stage": "joint", "step": 3,' in header["state"], "the last whole epoch is kept"
        assert not Checkpoint.objects.filter(fold=full).exists()

        ballast[0].unlink()
        services.requeue(run)
        batches: list[BatchReport] = []
        ended = train(run, Callbacks(on_batch=batches.append))
        assert (ended.state, ended.error) == (State.SUCCEEDED, "")
        assert ended.metrics == undisturbed.metrics
        assert same(load_checkpoint(ended.folder / CHECKPOINT_NAME).weights, expected)
    figure(
        "A disk that fills while a fold trains: it fails in a sentence, nothing is torn, and it goes on",
        f'"{full.error.rpartition(": ")[2]}"; {len(batches)} batches repeated, then the undisturbed weights',
    )
