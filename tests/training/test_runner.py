"""One fold in this process: its row, its files, how it is stopped, goes on, and fails."""

import json
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from django.conf import settings as django_settings
from django.db import OperationalError
from PIL import Image
from pytest_django import Settings

from ml.checkpoint import load_checkpoint
from ml.config import TrainConfig
from ml.datasets import DatasetError, load_samples
from ml.engine import BatchReport, Callbacks
from ml.expressions import EXPRESSIONS
from training import services
from training.models import Checkpoint, Dataset, Fold, State, TrainingRun
from training.runner import explain, patiently, run_claimed
from training.services import RunRequest
from training.sinks import TensorBoard

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path: Path, settings: Settings) -> Iterator[None]:
    """A var folder of one's own, and one thread, so that sums of floats have one order."""
    settings.FER_VAR_DIR = tmp_path / "var"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def request_(dataset: Dataset, tiny: TrainConfig) -> RunRequest:
    return RunRequest(dataset, "compact", tiny, device="cpu")


def train(run: TrainingRun, callbacks: Callbacks | None = None) -> Fold:
    """Let a worker have the run's fold 0; return the row it leaves."""
    fold = services.claim(run.folds.get(number=0).pk, services.worker_name("worker"))
    assert fold is not None
    run_claimed(fold, callbacks)
    run.refresh_from_db()
    return run.folds.get(number=0)


def stop_after(batches: int) -> Callbacks:
    seen: list[BatchReport] = []
    return Callbacks(on_batch=seen.append, should_stop=lambda: len(seen) >= batches)


def test_a_fold_is_trained_measured_and_told_of(request_: RunRequest, faces: Path) -> None:
    run = services.create_run(request_)
    fold = train(run)

    assert (fold.state, run.state, fold.error) == (State.SUCCEEDED, State.SUCCEEDED, "")
    assert (fold.train_images, fold.test_images) == (48, 16)
    assert fold.finished
    epochs = [(row.stage, row.epoch, row.accuracy is None) for row in fold.epochs.all()]
    assert epochs == [("mask", 1, True), ("joint", 1, False), ("joint", 2, False)]
    assert fold.metrics is not None
    assert fold.metrics["accuracy"] == fold.epochs.get(stage="joint", epoch=2).accuracy

    checkpoint = Checkpoint.objects.get(fold=fold)
    loaded = load_checkpoint(checkpoint.path)
    assert loaded.sha256 == checkpoint.sha256
    assert loaded.metadata["data"] == [{"kind": "folders", "splits": ["train"], "train_images": 48}]
    assert loaded.metadata["metrics"]["validation"] == fold.metrics
    assert not (fold.folder / "state.safetensors").exists()

    # Pictures: eight faces, the masks they should have, and the masks drawn after each epoch.
    strips = {path.name for path in (fold.folder / "samples").iterdir()}
    assert strips == {"faces.png", "truth.png", "mask-0001.png", "joint-0001.png", "joint-0002.png"}
    for name in strips:
        with Image.open(fold.folder / "samples" / name) as strip:
            assert (strip.size, strip.mode) == ((8 * 96, 96), "RGB")

    document = json.loads((fold.folder / "predictions.json").read_text())
    assert len(document["samples"]) == 16
    for sample in document["samples"]:
        assert (faces / sample["path"]).is_file()
        assert Path(sample["path"]).parent.name == EXPRESSIONS[sample["label"]]
        assert sum(sample["probabilities"]) == pytest.approx(1, abs=1e-4)
    right = sum(max(range(8), key=s["probabilities"].__getitem__) == s["label"] for s in document["samples"])
    assert right / 16 == fold.metrics["accuracy"]
    wrong = [document["samples"][entry["sample"]] for entry in document["mistakes"]]
    assert len(wrong) == min(12, 16 - right)
    confidences = [max(sample["probabilities"]) for sample in wrong]
    assert confidences == sorted(confidences, reverse=True)
    for rank in range(len(wrong)):
        for what in ("face", "mask"):
            with Image.open(fold.folder / "mistakes" / f"{rank}-{what}.png") as picture:
                assert picture.size == (96, 96)

    log = (fold.folder / "log.txt").read_text()
    assert "joint stage, epoch 2/2" in log
    assert log.splitlines()[-1].endswith(f"Finished. Accuracy {fold.metrics['accuracy']:.4f}.")


def test_a_cancelled_fold_goes_on_and_ends_like_an_undisturbed_one(request_: RunRequest) -> None:
    undisturbed = train(services.create_run(request_))
    run = services.create_run(request_)

    # The flag in the database, set while the fifth batch is under way.
    seen: list[BatchReport] = []

    def cancel_at_the_fifth(report: BatchReport) -> None:
        seen.append(report)
        if len(seen) == 5:
            services.cancel(run)

    stopped = train(run, Callbacks(on_batch=cancel_at_the_fifth))
    assert (stopped.state, run.state) == (State.CANCELLED, State.CANCELLED)
    assert len(seen) == 5
    assert stopped.metrics is None

    services.requeue(run)
    resumed = train(run)
    assert resumed.state == State.SUCCEEDED
    assert resumed.metrics == undisturbed.metrics
    first, second = (json.loads((f.folder / "predictions.json").read_text()) for f in (undisturbed, resumed))
    assert first == second
    losses = [list(f.epochs.values_list("stage", "epoch", "loss")) for f in (undisturbed, resumed)]
    assert losses[0] == losses[1]


def test_a_worker_that_is_told_to_end_leaves_its_fold_to_another(request_: RunRequest) -> None:
    run = services.create_run(request_)
    callbacks = Callbacks(on_batch=lambda report: services.shutting_down.set())
    try:
        left = train(run, callbacks)
    finally:
        services.shutting_down.clear()
    assert (left.state, run.state, left.losses) == (State.INTERRUPTED, State.INTERRUPTED, 0)
    assert (left.folder / "state.safetensors").exists()


def test_a_broken_fold_says_why_and_keeps_the_traceback_to_its_log(
    request_: RunRequest, tmp_path: Path
) -> None:
    run = services.create_run(request_)
    Dataset.objects.update(folder=str(tmp_path / "gone"))
    fold = train(run)
    assert (fold.state, run.state) == (State.FAILED, State.FAILED)
    assert fold.error == f"There is no folder {tmp_path / 'gone'}."
    assert "Traceback" in (fold.folder / "log.txt").read_text()


def test_code_that_was_changed_since_the_launch_is_told(
    request_: RunRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "git_revision", lambda: "a" * 40)
    run = services.create_run(request_)
    monkeypatch.setattr(services, "git_revision", lambda: "a" * 40 + "+changes")
    Dataset.objects.update(folder=str(tmp_path / "gone"))
    log = (train(run).folder / "log.txt").read_text()
    assert "The code is aaaaaaa+changes now, and was aaaaaaa when the run was launched." in log


def test_a_fold_that_breaks_in_the_middle_can_be_run_again(request_: RunRequest) -> None:
    def break_down(report: BatchReport) -> None:
        raise KeyError("a slip of the programmer")

    run = services.create_run(request_)
    fold = train(run, Callbacks(on_batch=break_down))
    assert fold.state == State.FAILED
    assert fold.error == "The program broke (KeyError: 'a slip of the programmer'): the log has the details."
    assert "Traceback" not in fold.error
    (fold.folder / "mistakes").mkdir()
    halves = (".state.safetensors.4321.part", ".tmpOfSafetensors", "mistakes/.0-face.png.4321.part")
    for half in halves:  # of a process that was killed
        (fold.folder / half).write_bytes(b"half")
    services.requeue(run, 0)
    assert train(run).state == State.SUCCEEDED
    assert not list(fold.folder.rglob(".*"))


def test_a_state_of_other_data_is_refused_once_and_then_trained_anew(
    request_: RunRequest, tmp_path: Path
) -> None:
    run = services.create_run(request_)
    train(run, stop_after(2))
    state = run.folder / "fold_0" / "state.safetensors"
    state.write_bytes(b"nothing")
    services.requeue(run)
    assert "kept as state-refused.safetensors: try again" in train(run).error
    assert state.with_stem("state-refused").read_bytes() == b"nothing"
    services.requeue(run)
    seen: list[set[tuple[str, int]]] = []
    look = Callbacks(
        on_batch=lambda _: seen.append(set(run.folds.get().epochs.values_list("stage", "epoch")))
    )
    assert train(run, look).state == State.SUCCEEDED
    assert seen[0] == set(), "the epochs of the try before are not this one's"


def test_no_fold_starts_from_other_weights_than_its_run_did(request_: RunRequest, tmp_path: Path) -> None:
    run = services.create_run(request_)
    train(run)
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(Checkpoint.objects.get().path.read_bytes())
    later = services.create_run(replace(request_, config=replace(request_.config, start=str(weights))))
    assert train(later, stop_after(1)).state == State.CANCELLED
    weights.write_bytes(b"those of a later version")
    services.requeue(later)
    (later.folder / "fold_0" / "state.safetensors").unlink()
    assert "is another one than at its launch" in train(later).error


def test_what_goes_on_from_its_state_needs_no_start_any_more(request_: RunRequest, tmp_path: Path) -> None:
    train(services.create_run(request_))
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(Checkpoint.objects.get().path.read_bytes())
    run = services.create_run(replace(request_, config=replace(request_.config, start=str(weights))))
    train(run, stop_after(2))
    weights.unlink()
    services.requeue(run)
    fold = train(run)
    assert (fold.state, fold.error) == (State.SUCCEEDED, "")
    assert load_checkpoint(fold.checkpoint.path).trained_on == {"folders": ["train"]}


def test_folds_of_a_set_that_has_changed_since_the_launch_are_refused(
    request_: RunRequest, faces: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(faces, tmp_path / "own"))
    dataset = Dataset.objects.create(name="own", kind="folders", folder=str(own))
    run = services.create_run(replace(request_, dataset=dataset, protocol="made", fold_count=2))
    train(run, stop_after(1))
    next((own / "train" / "anger").iterdir()).unlink()
    services.requeue(run, 0)
    fold = train(run)
    assert fold.state == State.FAILED
    assert "has other pictures than at the launch" in fold.error


@pytest.mark.parametrize(("mask_epochs", "told"), [(1, [False, True, True]), (2, [True, True, True, True])])
def test_time_left_is_told_where_most_of_the_work_is_of_a_known_rate(
    request_: RunRequest, monkeypatch: pytest.MonkeyPatch, mask_epochs: int, told: list[bool]
) -> None:
    monkeypatch.setattr("training.runner.PROGRESS_EVERY", 0.0)
    run = services.create_run(replace(request_, config=request_.config.with_epochs(mask_epochs, 2)))
    seen: list[bool] = []
    look = Callbacks(on_epoch=lambda _: seen.append(run.folds.get().progress["seconds_left"] is not None))
    train(run, look)
    assert seen == told


def test_a_final_run_is_trained_on_all_but_the_test_part_and_measured_on_that(
    request_: RunRequest, faces: Path, tmp_path: Path
) -> None:
    dataset = crops_of((f"S{number:03}" for number in range(40)), tmp_path / "crops")
    request = replace(request_, dataset=dataset, protocol="final")
    fold = train(services.create_run(request))
    assert (fold.state, fold.error) == (State.SUCCEEDED, "")
    train_part, valid, test = (
        len(load_samples("ckplus48", dataset.path, part)) for part in ("train", "valid", "test")
    )
    assert (fold.train_images, fold.test_images) == (train_part + valid, test)
    checkpoint = load_checkpoint(fold.checkpoint.path)
    assert checkpoint.metadata["protocol"] == "final"

    # From there, the same test part is still nobody it knows, but the validation part is.
    config = replace(request.config, start=str(fold.checkpoint.path))
    services.create_run(replace(request, config=config))
    with pytest.raises(services.LaunchError, match="was trained on ckplus48 faces itself"):
        services.create_run(replace(request, config=config, protocol="split"))

    # Nor is it forgotten when another set has been trained on since.
    drawn = train(services.create_run(replace(request_, config=config)))
    later = load_checkpoint(drawn.checkpoint.path)
    assert later.trained_on == {"ckplus48": ["train", "valid"], "folders": ["train"]}
    split = replace(request, protocol="split", config=replace(config, start=str(drawn.checkpoint.path)))
    with pytest.raises(services.LaunchError, match="was trained on ckplus48 faces itself"):
        services.create_run(split)

    own = Path(shutil.copytree(faces, tmp_path / "own"))
    shutil.rmtree(own / "test")
    without = Dataset.objects.create(name="without", kind="folders", folder=str(own))
    with pytest.raises(DatasetError, match="test"):
        services.create_run(replace(request, dataset=without))


def test_a_loss_that_is_no_number_any_more_ends_the_fold_with_what_to_do(request_: RunRequest) -> None:
    joint = replace(request_.config.joint_stage, lr_classifier=1e30, warmup=0.0)
    run = services.create_run(replace(request_, config=replace(request_.config, joint_stage=joint)))
    fold = train(run)
    assert fold.state == State.FAILED
    assert "of the joint stage: choose a smaller learning rate." in fold.error
    assert not Checkpoint.objects.exists()


def crops_of(people: Iterable[str], folder: Path) -> Dataset:
    """A set in the old project's layout: two expressions of each."""
    (folder / "imgs").mkdir(parents=True)
    labels = {}
    for number, person in enumerate(people):
        for sequence, label in ((f"{person}_001", 1), (f"{person}_002", 5)):
            level = 16 * number + label + len(folder.name)  # no picture twice
            Image.new("L", (48, 48), level % 256).save(folder / "imgs" / f"{sequence}_00000010.png")
            labels[sequence] = label
    (folder / "emotion_labels.pkl").write_bytes(pickle.dumps(labels))
    return Dataset.objects.create(name=folder.name, kind="ckplus48", folder=str(folder))


def test_nobody_who_is_held_out_is_trained_on_from_another_set(tmp_path: Path, tiny: TrainConfig) -> None:
    one = crops_of((f"S{number}" for number in range(100, 115)), tmp_path / "one")
    valid, test = (
        {str(sample.subject) for sample in load_samples(one.kind, one.path, split)}
        for split in ("valid", "test")
    )
    # Each set divides its own people: who is held out of the one is trained on in the other.
    other = crops_of(sorted(valid | test), tmp_path / "another")
    shared = valid & {str(sample.subject) for sample in load_samples(other.kind, other.path, "train")}
    assert shared
    fold = train(services.create_run(RunRequest(one, "compact", tiny, extra=(other,), device="cpu")))
    assert fold.state == State.FAILED
    assert all(person in fold.error for person in shared)


def test_no_picture_that_is_held_out_is_trained_on_from_another_set(
    request_: RunRequest, faces: Path
) -> None:
    again = Dataset.objects.create(name="again", kind="folders", folder=str(faces))
    request = replace(request_, protocol="made", fold_count=2, extra=(again,))
    fold = train(services.create_run(request))
    assert fold.state == State.FAILED
    assert "Fold 0 is trained on what it is tested on" in fold.error


def test_a_database_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.runner.PATIENCE", (0, 0))

    def asked(away: int) -> int:
        """What it takes to get an answer from a database that is away so many times."""
        tries = iter(range(9))

        def ask() -> int:
            if (number := next(tries)) < away:
                raise OperationalError("the connection was lost")
            return number

        return patiently(ask)

    assert [asked(away) for away in (0, 1, 2)] == [0, 1, 2]
    with pytest.raises(OperationalError):
        asked(3)


def test_a_mask_stage_alone_leaves_a_file_to_start_from_and_nothing_to_put_in_service(
    request_: RunRequest,
) -> None:
    run = services.create_run(replace(request_, stages="mask"))
    fold = train(run)
    assert fold.state == State.SUCCEEDED
    assert fold.metrics is None
    assert not Checkpoint.objects.exists()

    start = fold.folder / "fmpn.safetensors"
    config = replace(request_.config, start=str(start))
    joint = services.create_run(replace(request_, stages="joint", config=config))
    assert train(joint).state == State.SUCCEEDED
    assert {row.stage for row in joint.folds.get().epochs.all()} == {"joint"}


def test_further_sets_are_trained_on_and_not_measured_on(request_: RunRequest, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "anger").mkdir(parents=True)
    for number, level in enumerate((10, 90)):
        Image.new("L", (48, 48), level).save(other / "anger" / f"{number}.png")
    further = Dataset.objects.create(name="further", kind="folders", folder=str(other))
    fold = train(services.create_run(replace(request_, extra=(further,))))
    assert fold.error == ""
    assert fold.test_images == 16
    assert fold.train_images is not None
    assert fold.train_images > 48


def test_a_fold_that_another_worker_has_is_left_alone(request_: RunRequest) -> None:
    run = services.create_run(request_)

    def lose(report: BatchReport) -> None:
        Fold.objects.filter(run=run).update(worker="worker@elsewhere")

    fold = train(run, Callbacks(on_batch=lose))
    assert (fold.state, fold.worker, fold.metrics) == (State.RUNNING, "worker@elsewhere", None)
    assert not Checkpoint.objects.exists()


def test_a_run_that_is_deleted_meanwhile_stops_quietly(request_: RunRequest) -> None:
    run = services.create_run(request_)
    fold = services.claim(run.folds.get().pk, services.worker_name("worker"))
    assert fold is not None
    seen: list[BatchReport] = []

    def delete(report: BatchReport) -> None:
        seen.append(report)
        if len(seen) == 1:
            TrainingRun.objects.all().delete()

    run_claimed(fold, Callbacks(on_batch=delete))
    assert len(seen) == 1
    assert not Fold.objects.exists()


def test_errors_are_told_in_sentences() -> None:
    assert "smaller batch" in explain(MemoryError())
    assert explain(PermissionError(13, "Permission denied", "/data")) == "/data: Permission denied."
    assert explain(ValueError("There is no CUDA GPU here.")) == "There is no CUDA GPU here."
    assert (
        explain(ZeroDivisionError("x"))
        == "The program broke (ZeroDivisionError: x): the log has the details."
    )


def events(folder: Path) -> dict[str, list[tuple[int, float | None]]]:
    """What TensorBoard's event files hold: by tag, (step, value), None for a picture."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float | None]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                number = None if value.HasField("image") else value.simple_value
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def test_tensorboard_can_read_the_curves(request_: RunRequest) -> None:
    fold = train(services.create_run(request_))
    found = events(fold.folder)
    for stage in ("mask", "joint"):
        rows = fold.epochs.filter(stage=stage)
        assert [step for step, _ in found[f"{stage}/loss"]] == [row.epoch for row in rows]
        losses = [loss for _, loss in found[f"{stage}/loss"]]
        assert losses == pytest.approx([row.loss for row in rows], rel=1e-6)
        assert found[f"{stage}/masks"] == [(row.epoch, None) for row in rows]
    assert [step for step, _ in found["joint/accuracy"]] == [1, 2]


def test_curves_that_cannot_be_closed_cost_nothing(
    request_: RunRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def close(sink: TensorBoard) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoard, "close", close)
    fold = train(services.create_run(request_))
    assert (fold.state, fold.error) == (State.SUCCEEDED, "")
    assert "the last of its curves could not be written" in caplog.text


def test_writing_for_tensorboard_imports_no_tensorflow(tmp_path: Path) -> None:
    program = (
        "import sys, numpy; from tensorboardX import SummaryWriter\n"
        "writer = SummaryWriter(sys.argv[1]); writer.add_scalar('a', 1.0, 1)\n"
        "writer.add_image('b', numpy.zeros((4, 4, 3), numpy.uint8), 1, dataformats='HWC'); writer.close()\n"
        "print(*sys.modules)"
    )
    root = Path(django_settings.BASE_DIR)
    command = [sys.executable, "-c", program, str(tmp_path)]
    loaded = subprocess.check_output(command, cwd=root, text=True)
    assert "tensorflow" not in loaded.split()
