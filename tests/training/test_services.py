"""Data sets, runs, and every change of a state; with a real broker where something is sent."""

import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from ml.checkpoint import load_checkpoint, save_average, save_checkpoint
from ml.config import TrainConfig
from ml.datasets import DatasetError
from ml.fmpn import FMPN
from ml.folds import LeakError
from training import services
from training.evaluation import may_have_seen
from training.models import Dataset, Fold, State, TrainingRun
from training.services import LaunchError, RunRequest

pytestmark = pytest.mark.django_db


@pytest.fixture
def request_(dataset: Dataset, tiny: TrainConfig) -> RunRequest:
    return RunRequest(dataset, "compact", tiny, protocol="made", fold_count=3)


@pytest.fixture
def run(request_: RunRequest) -> TrainingRun:
    return services.create_run(request_)


def states(run: TrainingRun) -> list[str]:
    """The states of the run's folds, by number."""
    return list(run.folds.order_by("number").values_list("state", flat=True))


def fold(run: TrainingRun, number: int = 0) -> Fold:
    return Fold.objects.select_related("run").get(run=run, number=number)


def claim(run: TrainingRun, number: int = 0, place: str = "worker") -> Fold:
    claimed = services.claim(fold(run, number).pk, services.worker_name(place))  # type: ignore[arg-type]
    assert claimed is not None
    return claimed


def let_time_pass(run: TrainingRun, seconds: float, **which: object) -> None:
    """Let the last signs of life be as old as that."""
    run.folds.filter(**which).update(heartbeat=timezone.now() - timedelta(seconds=seconds))


# Data sets --------------------------------------------------------------------------------------------------


def test_a_data_set_is_registered_once(tmp_path: Path, settings: Settings) -> None:
    settings.FER_DATA_ROOT = tmp_path
    (tmp_path / "one").mkdir()
    first = services.register_dataset("one", "folders", "one")
    assert services.register_dataset("one", "folders", "one") == first
    assert (first.folder, first.path) == ("one", tmp_path / "one")
    # An absolute path inside of the root is the same as the relative one.
    assert services.register_dataset("one", "folders", tmp_path / "one") == first


@pytest.mark.parametrize(
    ("name", "kind", "folder", "sentence"),
    [
        ("two", "polaroids", "one", "no data set kind 'polaroids'"),
        ("two words", "folders", "one", "no name for a data set"),
        ("two", "folders", "../elsewhere", "not inside FER_DATA_ROOT"),
        ("two", "folders", "/", "not inside FER_DATA_ROOT"),
        ("two", "folders", "nowhere", "There is no folder"),
        ("taken", "folders", "one", "The name taken is taken by the jaffe set"),
    ],
)
def test_a_data_set_that_cannot_be_registered_is_refused_in_a_sentence(
    tmp_path: Path, settings: Settings, name: str, kind: str, folder: str, sentence: str
) -> None:
    settings.FER_DATA_ROOT = tmp_path / "root"
    for place in (tmp_path / "root" / "one", tmp_path / "elsewhere"):
        place.mkdir(parents=True)
    Dataset.objects.create(name="taken", kind="jaffe", folder="jaffe")
    with pytest.raises(DatasetError, match=sentence):
        services.register_dataset(name, kind, folder)
    assert Dataset.objects.count() == 1


def test_an_inspection_and_its_sheet_are_kept(dataset: Dataset, settings: Settings, tmp_path: Path) -> None:
    settings.FER_VAR_DIR = tmp_path
    told: list[str] = []
    services.inspect_dataset(dataset, lambda what, done, total: told.append(what))
    dataset.refresh_from_db()
    assert dataset.inspection is not None
    assert dataset.inspection["by_class"]["anger"] == 10
    assert dataset.inspected
    assert dataset.contact_sheet.is_file()
    assert told


def test_a_set_that_is_deleted_while_it_is_looked_at_leaves_no_pictures(
    dataset: Dataset, settings: Settings, tmp_path: Path
) -> None:
    settings.FER_VAR_DIR = tmp_path

    def delete(*_: object) -> None:
        Dataset.objects.filter(pk=dataset.pk).delete()

    services.inspect_dataset(dataset, delete)
    assert not dataset.contact_sheet.parent.exists()
    assert not Dataset.objects.filter(name=dataset.name).exists()


def test_what_is_wrong_with_a_data_set_is_kept_and_keeps_it_from_being_used(
    request_: RunRequest, tmp_path: Path
) -> None:
    broken = Dataset.objects.create(name="broken", kind="ferplus", folder=str(tmp_path))
    services.inspect_dataset(broken)
    broken.refresh_from_db()
    assert broken.inspection is None
    assert "FER+ needs the file" in broken.problem
    with pytest.raises(DatasetError, match=r"broken cannot be used: FER\+ needs the file"):
        services.create_run(replace(request_, dataset=broken))


# Making runs ------------------------------------------------------------------------------------------------


def test_a_run_has_a_row_for_each_fold(run: TrainingRun, tiny: TrainConfig) -> None:
    assert states(run) == ["queued"] * 3
    assert TrainConfig.from_dict(run.config) == tiny
    assert (run.state, run.name, run.fold_count) == (State.QUEUED, "drawn compact", 3)


def test_some_folds_can_be_chosen(request_: RunRequest) -> None:
    run = services.create_run(replace(request_, folds=(2, 0)))
    assert [fold.number for fold in run.folds.all()] == [0, 2]
    assert run.fold_count == 3


def test_the_same_key_makes_one_run(request_: RunRequest) -> None:
    keyed = replace(request_, launch_key=uuid4())
    assert services.create_run(keyed) == services.create_run(keyed)
    assert services.create_run(replace(request_, launch_key=uuid4())) != services.create_run(request_)
    assert TrainingRun.objects.count() == 3


def test_two_clicks_at_the_same_moment_make_one_run(
    request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = replace(request_, launch_key=uuid4())
    inner: list[TrainingRun] = []
    check = services.check_config

    def check_slowly(config: TrainConfig) -> None:
        # The second click comes after the first has looked for its twin, and is done before.
        monkeypatch.setattr(services, "check_config", check)
        inner.append(services.create_run(keyed))

    monkeypatch.setattr(services, "check_config", check_slowly)
    assert [services.create_run(keyed)] == inner
    assert TrainingRun.objects.count() == 1
    assert Fold.objects.count() == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": -1}, "seed must be from 0 to 2147483647"),
        ({"folds": (7,)}, "has no fold 7"),
        ({"folds": ()}, "at least one fold"),
        ({"fold_count": 1}, "at least two"),
        ({"fold_count": 1000}, "too few for 1000 folds"),
        ({"protocol": "lists"}, "no fold lists"),
        ({"protocol": "split", "folds": (1,)}, "one fold, number 0"),
        ({"protocol": "final", "folds": (1,)}, "one fold, number 0"),
        ({"visdom": "file:///etc/passwd"}, "no address of a visdom server"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(
    request_: RunRequest, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises((LaunchError, DatasetError), match=sentence):
        services.create_run(replace(request_, **change))  # type: ignore[arg-type]
    assert not TrainingRun.objects.exists()


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("model", {"image_size": 8}, "image size"),
        ("model", {"mask_shrink": 0}, "shrink the face by 1"),
        ("mask_stage", {"epochs_falling": 0}, "mask stage needs at least one epoch"),
        ("joint_stage", {"batch_size": 0}, "joint stage's batch size"),
        ("joint_stage", {"lr_mask": -1.0}, "lr_mask is -1.0"),
        ("joint_stage", {"weight_decay": float("nan")}, "weight_decay is nan"),
        ("joint_stage", {"ema_decay": 1.0}, "must be below 1"),
        ("augment", {"flip": 2.0}, "flip is a probability"),
        ("augment", {"resolution": 0.0}, "resolution is a share"),
        ("augment", {"noise": 1.0}, "noise is a share"),
    ],
)
def test_a_number_that_makes_no_sense_is_named(
    request_: RunRequest, part: str, change: dict[str, float], sentence: str
) -> None:
    config = replace(request_.config, **{part: replace(getattr(request_.config, part), **change)})
    with pytest.raises(LaunchError, match=sentence):
        services.create_run(replace(request_, config=config))


def test_leaking_fold_lists_are_refused_by_name_and_clean_ones_of_them_are_not(
    request_: RunRequest, faces: Path, tmp_path: Path
) -> None:
    names = sorted(path.name for path in faces.rglob("*.png"))
    root = tmp_path / "set"
    root.symlink_to(faces)
    lists = tmp_path / "lists"
    lists.mkdir()
    for entry in faces.iterdir():
        (lists / entry.name).symlink_to(entry)
    for number, train in ((0, names[8:]), (1, names)):
        (lists / f"train_ids_{number}.csv").write_text("\n".join(train))
        (lists / f"test_ids_{number}.csv").write_text("\n".join(names[:8]))
    listed = Dataset.objects.create(name="listed", kind="folders", folder=str(lists))
    asked = replace(request_, dataset=listed, protocol="lists")

    with pytest.raises(LeakError, match="Fold 1 is trained on what it is tested on: 8 pictures"):
        services.create_run(asked)
    assert not TrainingRun.objects.exists()
    assert states(services.create_run(replace(asked, folds=(0,)))) == ["queued"]


# Launch -----------------------------------------------------------------------------------------------------


def test_a_launch_sends_every_fold_once_and_a_second_click_none(
    request_: RunRequest,
    queue: Callable[[], int],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    keyed = replace(request_, launch_key=uuid4())
    with django_capture_on_commit_callbacks(execute=True):
        run = services.launch(keyed)
        assert queue() == 0  # nothing is sent before the rows are there for others to see
    assert queue() == 3
    with django_capture_on_commit_callbacks(execute=True):
        assert services.launch(keyed) == run
    assert queue() == 3


def test_with_the_broker_down_a_launch_says_so_at_once_and_leaves_no_row(
    request_: RunRequest, settings: Settings, tmp_path: Path
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections are taken, and never a word is said
        for url in (
            f"redis+socket://{tmp_path / 'no.sock'}",
            "redis://127.0.0.1:1/0",
            f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
        ):
            settings.CELERY_BROKER_URL = url
            began = time.monotonic()
            with pytest.raises(LaunchError, match="The broker does not answer"):
                services.launch(request_)
            assert time.monotonic() - began < 2 * services.BROKER_TIMEOUT, "it was asked more than once"
    assert not TrainingRun.objects.exists()


def test_a_broker_that_goes_away_during_the_launch_leaves_no_row(
    request_: RunRequest,
    queue: Callable[[], int],
    settings: Settings,
    tmp_path: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks() as on_commit:
        services.launch(request_)
    settings.CELERY_BROKER_URL = f"redis+socket://{tmp_path / 'no.sock'}"
    with pytest.raises(LaunchError, match="The broker does not answer"):
        on_commit[0]()
    assert not TrainingRun.objects.exists()


def test_the_same_request_finds_its_unfinished_run(request_: RunRequest, run: TrainingRun) -> None:
    other = replace(request_.config, start="bundled")
    assert services.find_unfinished(request_) == run
    assert services.find_unfinished(replace(request_, seed=5)) is None
    assert services.find_unfinished(replace(request_, config=other)) is None
    assert services.find_unfinished(replace(request_, folds=(1,))) is None
    assert services.find_unfinished(replace(request_, fold_count=4)) is None
    more = Dataset.objects.create(name="more", kind="folders", folder=request_.dataset.folder)
    assert services.find_unfinished(replace(request_, extra=(more,))) is None
    part = services.create_run(replace(request_, seed=7, folds=(0, 1)))
    assert services.find_unfinished(replace(request_, seed=7, folds=(0, 1))) == part
    assert services.find_unfinished(replace(request_, seed=7)) is None, "all folds were asked for"
    run.folds.update(state=State.SUCCEEDED)
    services.settle(run)
    assert services.find_unfinished(request_) is None


def test_a_run_from_other_first_weights_is_another_though_they_lie_at_the_same_place(
    request_: RunRequest, tmp_path: Path
) -> None:
    # As the bundled model is after an update: its folds and those of the model before are no one table.
    weights = tmp_path / "start.safetensors"
    first, second = (start_file(tmp_path / name, request_.config, name) for name in ("first", "second"))
    weights.write_bytes(first)
    begun = replace(request_, config=replace(request_.config, start=str(weights)))
    run = services.create_run(begun)
    assert services.find_unfinished(begun) == run
    weights.write_bytes(second)
    assert services.find_unfinished(begun) is None
    weights.write_bytes(first)
    run.folds.update(state=State.SUCCEEDED)
    services.settle(run)
    assert services.find_finished(begun) == run
    weights.write_bytes(second)
    assert services.find_finished(begun) is None


def start_file(path: Path, config: TrainConfig, *kinds: str) -> bytes:
    """Write a checkpoint that was trained on such sets, and return its bytes."""
    facts = {"preset": "compact", "data": [{"kind": kind} for kind in kinds]}
    save_checkpoint(path, FMPN(config.model), config, facts)
    return path.read_bytes()


def test_folds_do_not_start_from_a_model_that_was_trained_on_the_same_set(
    request_: RunRequest, tmp_path: Path
) -> None:
    start = tmp_path / "start.safetensors"
    start_file(start, request_.config, "kdef", "folders", "ckplus", "affectnet", "ferplus")
    config = replace(request_.config, start=str(start))
    folds = replace(request_, protocol="made", fold_count=2, config=config)
    for kind in ("kdef", "ckplus48", "affectnet7", "affectnet-folders", "ferplus-majority", "fer2013"):
        dataset = Dataset.objects.create(name=kind, kind=kind, folder=str(tmp_path))
        with pytest.raises(LaunchError, match=f"was trained on {kind} faces itself"):
            services.create_run(replace(folds, dataset=dataset))
    # One's own folders may be anybody's.
    assert set(services.create_run(folds).trained_before) == {
        "kdef",
        "folders",
        "ckplus",
        "affectnet",
        "ferplus",
    }


def test_held_out_faces_are_refused_where_the_start_may_know_them(
    request_: RunRequest, tmp_path: Path
) -> None:
    path = tmp_path / "start.safetensors"
    config = replace(request_.config, start=str(path))
    dataset = Dataset.objects.create(name="kdef", kind="kdef", folder=str(tmp_path), inspection={})
    model, kdef = FMPN(config.model), {"data": [{"kind": "kdef"}]}
    split = replace(request_, protocol="split", dataset=dataset, config=config)
    save_checkpoint(path, model, config, {**kdef, "protocol": "made", "fold": 0})
    with pytest.raises(LaunchError, match="was trained on kdef faces itself"):
        services.create_run(split)
    save_checkpoint(path, model, config, {**kdef, "protocol": "split"})
    assert services.create_run(split).trained_before == {"kdef": ["train"]}
    save_checkpoint(path, model, config, {**kdef, "protocol": "final"})  # it knows the validation part
    with pytest.raises(LaunchError, match="was trained on kdef faces itself"):
        services.create_run(split)

    # What it was last trained on does not hide what it saw before.
    last = {"data": [{"kind": "ferplus", "splits": ["train"]}], "protocol": "split"}
    for before in ("valid", "test"):
        save_checkpoint(path, model, config, {**last, "trained_before": {"kdef": ["train", before]}})
        with pytest.raises(LaunchError, match="was trained on kdef faces itself"):
            services.create_run(split)
    save_checkpoint(path, model, config, {**last, "trained_before": {"kdef": ["train"]}})
    assert services.create_run(split).trained_before == {"ferplus": ["train"], "kdef": ["train"]}

    own = replace(request_, config=config)
    for request in (own, replace(own, protocol="made", fold_count=2)):
        save_checkpoint(path, model, config, {"data": [], "converted_from": {}})
        with pytest.raises(LaunchError, match="nobody said what it had been trained on"):
            services.create_run(request)
        mmi = {"mmi": ["test", "train", "valid"]}
        save_checkpoint(path, model, config, {"data": [], "converted_from": {}, "trained_before": mmi})
        assert services.create_run(request).trained_before == mmi


def test_what_an_earlier_import_saw_may_be_of_any_split(request_: RunRequest, tmp_path: Path) -> None:
    facts = {"data": [], "converted_from": {}, "trained_before": ["kdef"]}
    save_checkpoint(tmp_path / "old", FMPN(request_.config.model), request_.config, facts)
    assert load_checkpoint(tmp_path / "old").trained_on == {"kdef": ["test", "train", "valid"]}


def test_a_mean_of_two_models_knows_the_faces_of_both(request_: RunRequest, tmp_path: Path) -> None:
    for kind in ("ckplus", "ferplus"):
        start_file(tmp_path / kind, request_.config, kind)
    first, second = (load_checkpoint(tmp_path / kind) for kind in ("ckplus", "ferplus"))
    save_average(tmp_path / "mean", first, second, 0.5)
    assert load_checkpoint(tmp_path / "mean").trained_on == {"ckplus": ["train"], "ferplus": ["train"]}


def test_a_mean_of_two_folds_models_is_no_stranger_to_either_fold(
    request_: RunRequest, tmp_path: Path
) -> None:
    kdef = {"data": [{"kind": "kdef", "splits": ["test", "train", "valid"]}], "protocol": "made"}
    for fold in (0, 1):
        facts = {**kdef, "fold": fold, "folds_sha256": "of two"}
        save_checkpoint(tmp_path / f"{fold}", FMPN(request_.config.model), request_.config, facts)
    first, second = (load_checkpoint(tmp_path / name) for name in "01")
    assert not may_have_seen(first, kind="kdef", fold=0, division="of two")
    assert may_have_seen(first, kind="kdef", fold=1, division="of two")
    save_average(tmp_path / "mean", first, second, 0.5)
    mean = load_checkpoint(tmp_path / "mean")
    assert all(may_have_seen(mean, kind="kdef", fold=fold, division="of two") for fold in (0, 1))


def test_a_finished_run_is_another_where_the_set_has_changed(
    request_: RunRequest, faces: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "faces"
    shutil.copytree(faces, folder)
    dataset = Dataset.objects.create(name="changing", kind="folders", folder=str(folder))
    folds = replace(request_, dataset=dataset, protocol="made", fold_count=2)
    run = services.create_run(folds)
    assert services.find_unfinished(folds) == run
    divided = services.folds_of(dataset, "made", 2)
    fewer = [replace(fold, train=fold.train[1:]) for fold in divided]  # the same are held out
    assert run.folds_sha256 == services.division_sha256(divided, folder)
    assert run.folds_sha256 != services.division_sha256(fewer, folder)
    next(folder.rglob("*.png")).unlink()
    assert services.find_unfinished(folds) is None


# States -----------------------------------------------------------------------------------------------------


def test_a_fold_is_claimed_once(run: TrainingRun) -> None:
    claimed = claim(run)
    assert claimed.state == State.RUNNING
    assert claimed.heartbeat
    assert services.claim(claimed.pk, services.worker_name("worker")) is None  # a message delivered twice
    assert fold(run).worker == claimed.worker
    run.refresh_from_db()
    assert run.state == State.RUNNING
    assert run.started


def test_a_fold_that_is_no_more_is_not_claimed(run: TrainingRun) -> None:
    assert services.claim(123456, "worker@nowhere") is None


def test_a_run_ends_with_its_last_fold(run: TrainingRun) -> None:
    for number in range(3):
        run.refresh_from_db()
        assert run.finished is None
        assert services.leave(claim(run, number), State.SUCCEEDED, metrics={"accuracy": 1.0})
    run.refresh_from_db()
    assert run.state == State.SUCCEEDED
    assert run.finished
    assert run.started == fold(run).started
    assert fold(run).finished
    assert fold(run).metrics == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("of_folds", "of_run"),
    [
        (("running", "failed", "interrupted"), "running"),
        (("interrupted", "queued", "succeeded"), "interrupted"),
        (("queued", "succeeded", "failed"), "queued"),
        (("cancelled", "succeeded", "failed"), "cancelled"),
        (("failed", "succeeded", "succeeded"), "failed"),
    ],
)
def test_a_runs_state_follows_from_its_folds(
    run: TrainingRun, of_folds: tuple[str, ...], of_run: str
) -> None:
    for number, state in enumerate(of_folds):
        run.folds.filter(number=number).update(state=state)
    services.settle(run)
    assert run.state == of_run


def test_cancel_stops_what_waits_at_once_and_asks_what_runs(run: TrainingRun) -> None:
    running = claim(run)
    services.cancel(run)
    assert states(run) == ["running", "cancelled", "cancelled"]
    assert run.cancel_requested
    assert services.leave(running, State.CANCELLED)
    run.refresh_from_db()
    assert run.state == State.CANCELLED
    with pytest.raises(LaunchError, match="has ended already"):
        services.cancel(run)


def test_nothing_of_a_cancelled_run_is_claimed(run: TrainingRun) -> None:
    run.cancel_requested = True
    run.save()
    assert services.claim(fold(run).pk, "worker@here") is None


def test_a_cancel_that_comes_too_late_changes_nothing(run: TrainingRun) -> None:
    run.folds.update(state=State.SUCCEEDED)
    with pytest.raises(LaunchError, match="nothing to cancel"):
        services.cancel(run)
    run.refresh_from_db()
    assert not run.cancel_requested


def test_a_cancelled_run_is_resumed(
    run: TrainingRun,
    queue: Callable[[], int],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    running = claim(run)
    services.cancel(run)
    with pytest.raises(LaunchError, match="still stopping"):
        services.resume(run)
    services.leave(running, State.CANCELLED)
    with django_capture_on_commit_callbacks(execute=True):
        services.resume(run)
    assert states(run) == ["queued"] * 3
    assert queue() == 3
    claim(run)
    with pytest.raises(LaunchError, match="no cancelled, interrupted or failed fold"):
        services.resume(run)


def test_what_a_killed_command_left_goes_to_the_workers_as_a_whole(
    run: TrainingRun,
    queue: Callable[[], int],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    run.folds.update(heartbeat=None)  # no worker was told of them
    run.folds.filter(number=0).update(state=State.INTERRUPTED)
    services.settle(run)
    before = queue()
    with django_capture_on_commit_callbacks(execute=True):
        services.resume(run)
    assert queue() == before + 3
    assert not services.unsent(run).exists()
    run.folds.update(heartbeat=None)  # killed between two folds: none of them is interrupted
    with django_capture_on_commit_callbacks(execute=True):
        services.resume(run)
    assert queue() == before + 6


def test_one_failed_fold_is_run_again_alone(
    run: TrainingRun,
    queue: Callable[[], int],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    run.folds.update(state=State.FAILED, losses=3, error="It broke.")
    with django_capture_on_commit_callbacks(execute=True):
        services.retry(fold(run, 1))
    assert states(run) == ["failed", "queued", "failed"]
    assert (fold(run, 1).error, fold(run, 1).losses) == ("", 0)
    assert queue() == 1
    with pytest.raises(LaunchError, match="no cancelled, interrupted or failed fold"):
        services.retry(fold(run, 1))


def test_with_the_broker_down_nothing_is_resumed(
    run: TrainingRun, settings: Settings, tmp_path: Path
) -> None:
    settings.CELERY_BROKER_URL = f"redis+socket://{tmp_path / 'no.sock'}"
    run.folds.update(state=State.CANCELLED)
    actions: list[Callable[[], None]] = [lambda: services.resume(run), lambda: services.retry(fold(run))]
    for go_on in actions:
        with pytest.raises(LaunchError, match="The broker does not answer"):
            go_on()
    assert states(run) == ["cancelled"] * 3


# Lost workers -----------------------------------------------------------------------------------------------


def test_a_silent_worker_is_given_up_and_its_fold_queued_again(
    run: TrainingRun, queue: Callable[[], int]
) -> None:
    claim(run)
    let_time_pass(run, services.LOST_AFTER / 2, number=0)
    assert services.notice_lost_workers() == 0
    let_time_pass(run, services.LOST_AFTER + 1, number=0)
    assert services.notice_lost_workers() == 1
    assert states(run)[0] == State.INTERRUPTED
    run.refresh_from_db()
    assert run.state == State.INTERRUPTED

    assert services.notice_lost_workers() == 0
    assert states(run)[0] == State.QUEUED
    assert fold(run).losses == 1
    assert queue() == 1


def test_what_loses_its_worker_three_times_has_failed(run: TrainingRun, queue: Callable[[], int]) -> None:
    for _ in range(3):
        claim(run)
        let_time_pass(run, 60, number=0)
        services.notice_lost_workers()
        services.notice_lost_workers()
    assert states(run) == ["failed", "queued", "queued"]
    assert "died 3 times" in fold(run).error
    assert services.claim(fold(run).pk, "worker@here") is None


def test_with_the_broker_down_a_lost_fold_waits_interrupted(
    run: TrainingRun, queue: Callable[[], int], settings: Settings, tmp_path: Path
) -> None:
    claim(run)
    let_time_pass(run, 60, number=0)
    answering, settings.CELERY_BROKER_URL = (
        settings.CELERY_BROKER_URL,
        f"redis+socket://{tmp_path / 'no.sock'}",
    )
    for _ in range(3):
        services.notice_lost_workers()
    assert states(run)[0] == State.INTERRUPTED
    settings.CELERY_BROKER_URL = answering
    services.notice_lost_workers()
    assert states(run)[0] == State.QUEUED
    assert queue() == 1


def test_a_lost_fold_of_a_cancelled_run_is_cancelled(run: TrainingRun) -> None:
    claim(run)
    services.cancel(run)
    let_time_pass(run, 60, number=0)
    services.notice_lost_workers()
    services.notice_lost_workers()
    assert states(run) == ["cancelled"] * 3


def test_a_fold_of_the_foreground_waits_for_its_command(run: TrainingRun, queue: Callable[[], int]) -> None:
    claim(run, place="shell")
    let_time_pass(run, 60, number=0)
    for _ in range(3):
        services.notice_lost_workers()
    assert states(run) == ["interrupted", "queued", "queued"]
    assert queue() == 0


@pytest.mark.parametrize("rounds", [1, 2])  # while it is interrupted, and when it is queued again
def test_a_worker_that_only_slept_takes_its_fold_back(
    run: TrainingRun, queue: Callable[[], int], rounds: int
) -> None:
    sleeper = claim(run)
    let_time_pass(run, 60, number=0)
    for _ in range(rounds):
        services.notice_lost_workers()
    assert states(run)[0] == ("interrupted", "queued")[rounds - 1]
    assert services.keep(sleeper)
    assert states(run)[0] == State.RUNNING
    assert fold(run).losses == 0


def test_a_worker_whose_fold_another_has_writes_nothing_more(
    run: TrainingRun, queue: Callable[[], int]
) -> None:
    sleeper = claim(run)
    let_time_pass(run, 60, number=0)
    services.notice_lost_workers()
    services.notice_lost_workers()
    other = claim(run)
    assert not services.keep(sleeper)
    assert not services.leave(sleeper, State.FAILED, error="too late")
    assert (fold(run).state, fold(run).worker, fold(run).error) == (State.RUNNING, other.worker, "")


def test_folds_that_the_broker_forgot_are_sent_again(
    request_: RunRequest,
    queue: Callable[[], int],
    valkey: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    from redis import Redis

    with django_capture_on_commit_callbacks(execute=True):
        run = services.launch(request_)
    let_time_pass(run, services.UNHEARD_AFTER + 1)
    services.notice_lost_workers()
    assert queue() == 3  # they are still there
    Redis(unix_socket_path=str(valkey)).flushall()
    services.notice_lost_workers()
    assert queue() == 3
    services.notice_lost_workers()
    assert queue() == 3


def test_folds_that_the_foreground_has_yet_to_do_are_not_sent(
    run: TrainingRun, queue: Callable[[], int]
) -> None:
    services.notice_lost_workers()
    assert queue() == 0
