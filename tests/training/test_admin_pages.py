"""The admin's pages of runs and data sets: who may do what, what a form makes, what a page tells."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from PIL import Image
from pytest_django import Settings

from ml.checkpoint import save_checkpoint
from ml.config import PRESETS, TrainConfig
from ml.fmpn import FMPN
from training import services, tasks
from training.fold_numbers import parse_folds, write_folds
from training.models import Checkpoint, Dataset, EpochMetric, Fold, State, TrainingRun

pytestmark = pytest.mark.django_db

LAUNCH = reverse("admin:training_trainingrun_add")
WORDS = ("anger", "happiness", "sadness")


@pytest.fixture(autouse=True)
def places(settings: Settings, tmp_path: Path) -> None:
    """Folders of its own for every test, and a broker in memory."""
    settings.FER_VAR_DIR = tmp_path / "var"
    settings.FER_DATA_ROOT = tmp_path / "data"
    settings.FER_DATA_ROOT.mkdir()
    settings.CELERY_BROKER_URL = "memory://"


@pytest.fixture
def dataset(settings: Settings) -> Dataset:
    """Twelve different faces of three expressions, with two fold lists of which the second one leaks."""
    root = Path(settings.FER_DATA_ROOT) / "small"
    names = []
    random = np.random.default_rng(0)
    for word in WORDS:
        (root / word).mkdir(parents=True)
        for number in range(4):
            names.append(f"{word}-{number}.png")
            picture = random.integers(0, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(picture).save(root / word / names[-1])
    halves = (names[0::2], names[1::2])
    lists = {0: halves, 1: (names, halves[1])}
    for number, (train, test) in lists.items():
        (root / f"train_ids_{number}.csv").write_text("\n".join(train))
        (root / f"test_ids_{number}.csv").write_text("\n".join(test))
    return Dataset.objects.create(name="small", kind="folders", folder="small")


def staff(*permissions: str) -> User:
    user = User.objects.create_user(f"staff-{uuid4().hex[:8]}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


@pytest.fixture
def launcher(client: Client) -> Client:
    client.force_login(staff("view_trainingrun", "launch_trainingrun", "view_dataset"))
    return client


@pytest.fixture
def run(dataset: Dataset) -> TrainingRun:
    """A run of two folds, the first of which runs, with epochs, a log and pictures."""
    run = TrainingRun.objects.create(
        name="small compact",
        dataset=dataset,
        preset="compact",
        config=PRESETS["compact"].with_epochs(2, 4).to_dict(),
        protocol="lists",
        fold_count=2,
        state=State.RUNNING,
    )
    progress = {
        "doing": "joint stage",
        "stage": "joint",
        "epoch": 2,
        "epochs": 4,
        "step": 5,
        "steps": 10,
        "loss": 0.5,
        "rate": 120.0,
        "seconds_left": 60.0,
    }
    fold = Fold.objects.create(run=run, number=0, state=State.RUNNING, worker="worker@a", progress=progress)
    Fold.objects.create(run=run, number=1)
    for stage, epoch in (("mask", 1), ("mask", 2), ("joint", 1)):
        EpochMetric.objects.create(
            fold=fold,
            stage=stage,
            epoch=epoch,
            loss=1 / epoch,
            mask_loss=0.1,
            classifier_loss=0.4,
            rate=120,
            accuracy=0.75 if stage == "joint" else None,
            macro_f1=0.7 if stage == "joint" else None,
        )
    (fold.folder / "samples").mkdir(parents=True)
    (fold.folder / "log.txt").write_text("".join(f"line {number}\n" for number in range(1, 3001)))
    (fold.folder / "state.safetensors").write_bytes(b"secret")
    for name in ("faces", "truth", "mask-0001", "mask-0002", "joint-0001"):
        Image.new("RGB", (192, 96)).save(fold.folder / "samples" / f"{name}.png")
    return run


def address(name: str, *arguments: object) -> str:
    return reverse(f"admin:training_trainingrun_{name}", args=arguments)


def form(client: Client, query: str = "") -> dict[str, Any]:
    """What a browser would send of the launch form as it is served."""
    launch_form = client.get(LAUNCH + query).context["form"]
    values = {field.html_name: field.value() for field in launch_form}
    return {name: value for name, value in values.items() if value not in (None, "", [])}


def launch(client: Client, dataset: Dataset, **values: object) -> Any:
    return client.post(LAUNCH, {**form(client), "dataset": dataset.pk, **values})


def text(response: Any) -> str:
    return str(response.content.decode())


# Who may ----------------------------------------------------------------------------------------------------

RUN_PAGES = ("add", "changelist", "watch", "status", "file")
RUN_ACTIONS = ("cancel", "resume", "retry")
DATASET_PAGES = ("add", "changelist", "change", "status", "contact_sheet")


def run_address(name: str, run: TrainingRun) -> str:
    arguments = {"add": (), "changelist": (), "file": (run.pk, 0, "log.txt"), "retry": (run.pk, 0)}
    return address(name, *arguments.get(name, (run.pk,)))


def dataset_address(name: str, dataset: Dataset) -> str:
    return reverse(
        f"admin:training_dataset_{name}", args=() if name in ("add", "changelist") else [dataset.pk]
    )


def test_whoever_is_not_staff_is_sent_to_the_login(client: Client, run: TrainingRun) -> None:
    addresses = [run_address(name, run) for name in (*RUN_PAGES, *RUN_ACTIONS)]
    addresses += [dataset_address(name, run.dataset) for name in (*DATASET_PAGES, "inspect")]
    for user in (None, User.objects.create_user("visitor")):
        if user:
            client.force_login(user)
        for place in addresses:
            for response in (client.get(place), client.post(place)):
                assert response.status_code == 302, place
                assert response["Location"].startswith(reverse("admin:login")), place


def test_staff_without_the_permission_are_refused(client: Client, run: TrainingRun) -> None:
    client.force_login(staff())
    for place in [run_address(name, run) for name in RUN_PAGES]:
        assert client.get(place).status_code == 403, place
    for place in [dataset_address(name, run.dataset) for name in DATASET_PAGES]:
        assert client.get(place).status_code == 403, place
    assert client.post(dataset_address("inspect", run.dataset)).status_code == 403


def test_who_may_only_look_can_neither_launch_nor_stop(client: Client, run: TrainingRun) -> None:
    client.force_login(staff("view_trainingrun", "view_dataset", "add_trainingrun", "change_trainingrun"))
    for place in [LAUNCH, *(run_address(name, run) for name in RUN_ACTIONS)]:
        assert client.post(place).status_code == 403, place
    assert client.get(LAUNCH).status_code == 403
    page = client.get(address("watch", run.pk))
    assert page.status_code == 200
    assert 'value="Stop"' not in text(page)
    assert LAUNCH not in text(client.get(address("changelist")))
    run.refresh_from_db()
    assert (run.state, run.cancel_requested, TrainingRun.objects.count()) == (State.RUNNING, False, 1)


def test_who_had_to_log_in_again_is_told_to_press_the_button_again(
    launcher: Client, run: TrainingRun
) -> None:
    for name in RUN_ACTIONS:
        back = launcher.get(run_address(name, run), follow=True)
        assert back.redirect_chain == [(address("watch", run.pk), 302)]
        assert "Nothing was done: press the button again." in text(back)
    launcher.force_login(staff("change_dataset"))
    back = launcher.get(dataset_address("inspect", run.dataset))
    assert (back.status_code, back["Location"]) == (302, dataset_address("change", run.dataset))
    run.refresh_from_db()
    assert not run.cancel_requested


def test_a_form_of_another_site_does_nothing(run: TrainingRun) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(staff("view_trainingrun", "launch_trainingrun", "change_dataset", "view_dataset"))
    values = {**form(client), "dataset": run.dataset_id}
    places = [LAUNCH, *(run_address(name, run) for name in RUN_ACTIONS)]
    for place in [*places, dataset_address("inspect", run.dataset)]:
        assert client.post(place, values).status_code == 403, place
    run.refresh_from_db()
    assert (run.cancel_requested, TrainingRun.objects.count()) == (False, 1)


# Launch -----------------------------------------------------------------------------------------------------


def test_a_preset_and_a_data_set_are_enough(launcher: Client, dataset: Dataset) -> None:
    response = launch(launcher, dataset, preset="paper")

    run = TrainingRun.objects.get()
    assert response["Location"] == address("watch", run.pk)
    assert TrainConfig.from_dict(run.config) == PRESETS["paper"]
    assert (run.dataset, run.stages, run.protocol, run.state) == (dataset, "both", "split", State.QUEUED)
    assert run.launched_by == User.objects.get(pk=launcher.session["_auth_user_id"])
    assert [fold.number for fold in run.folds.all()] == [0]


def save_start(path: Path, config: TrainConfig) -> None:
    """A checkpoint to start from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, FMPN(config.model), config, {"preset": "compact", "data": []})


def test_every_value_can_be_set(launcher: Client, dataset: Dataset, tiny: TrainConfig) -> None:
    checkpoint = Checkpoint.objects.create(name="older", file="older.safetensors", sha256="0" * 64)
    save_start(checkpoint.path, tiny)
    other = Dataset.objects.create(name="other", kind="folders", folder="small")
    launch(
        launcher,
        dataset,
        name="mine",
        extra=[other.pk],
        protocol="made",
        fold_count=3,
        folds="0,2",
        stages="joint",
        start=f"checkpoint-{checkpoint.pk}",
        seed=7,
        device="cpu",
        visdom="http://localhost:8097",
        model__backbone="resnet50",
        model__image_size=64,
        model__colour="True",
        mask_stage__epochs_full=3,
        joint_stage__lambda_mask=2.5,
        joint_stage__schedule="linear",
        augment__flip=0,
    )

    run, preset = TrainingRun.objects.get(), PRESETS["compact"]
    assert TrainConfig.from_dict(run.config) == TrainConfig(
        model=replace(preset.model, backbone="resnet50", image_size=64, colour=True),
        mask_stage=replace(preset.mask_stage, epochs_full=3),
        joint_stage=replace(preset.joint_stage, lambda_mask=2.5, schedule="linear"),
        augment=replace(preset.augment, flip=0.0),
        start=str(checkpoint.path),
    )
    assert (run.name, run.seed, run.device, run.visdom) == ("mine", 7, "cpu", "http://localhost:8097")
    assert (run.stages, run.protocol, run.fold_count) == ("joint", "made", 3)
    assert [fold.number for fold in run.folds.all()] == [0, 2]
    assert list(run.extra.all()) == [other]


def test_a_double_click_makes_one_run(launcher: Client, dataset: Dataset) -> None:
    values = {**form(launcher), "dataset": dataset.pk}
    first, second = launcher.post(LAUNCH, values), launcher.post(LAUNCH, values)
    assert first["Location"] == second["Location"]
    assert TrainingRun.objects.count() == 1
    assert Fold.objects.count() == 1
    assert "made this run already" in text(launcher.get(second["Location"]))

    launch(launcher, dataset)  # a form opened anew is another run
    assert TrainingRun.objects.count() == 2


def test_without_a_broker_the_form_says_so_at_once(
    launcher: Client, dataset: Dataset, settings: Settings, tmp_path: Path
) -> None:
    settings.CELERY_BROKER_URL = f"redis+socket://{tmp_path / 'nobody.sock'}"
    began = time.monotonic()
    response = launch(launcher, dataset)
    assert time.monotonic() - began < 10  # on a busy machine; Celery itself would wait for twenty
    assert response.status_code == 400
    assert "The broker does not answer" in text(response)
    assert not TrainingRun.objects.exists()


def test_leaking_folds_are_refused_by_name_and_clean_ones_offered(launcher: Client, dataset: Dataset) -> None:
    values = {**form(launcher), "dataset": dataset.pk, "protocol": "lists", "fold_count": 2}
    refused = launcher.post(LAUNCH, values)
    assert refused.status_code == 400
    assert "Fold 1 is trained on what it is tested on" in text(refused)
    assert "Fold 0 is" not in text(refused)
    assert "Launch with 2 new, clean folds instead" in text(refused)
    assert not TrainingRun.objects.exists()

    offered = {field.html_name: field.value() for field in refused.context["form"]}
    sent = {name: value for name, value in offered.items() if value not in (None, "", [])}
    accepted = launcher.post(LAUNCH, {**sent, "clean_folds": "yes"})
    assert accepted.status_code == 302
    run = TrainingRun.objects.get()
    assert (run.protocol, [fold.number for fold in run.folds.all()]) == ("made", [0, 1])


def test_a_list_that_does_not_leak_is_trained_on_its_own(launcher: Client, dataset: Dataset) -> None:
    launch(launcher, dataset, protocol="lists", folds="0")
    assert [fold.number for fold in TrainingRun.objects.get().folds.all()] == [0]


def test_a_number_of_folds_that_is_too_small_is_told_once(launcher: Client, dataset: Dataset) -> None:
    page = text(launch(launcher, dataset, protocol="made", fold_count=1))
    assert "greater than or equal to 2" in page
    assert "Say how many folds" not in page


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"folds": "zero"}, "names no folds"),
        ({"protocol": "lists", "folds": "0,7"}, "has no fold 7"),
        ({"protocol": "made", "fold_count": ""}, "Say how many folds"),
        ({"protocol": "made", "fold_count": 50}, "too few for 50 folds"),
        ({"joint_stage__epochs_falling": 0}, "joint stage needs at least one epoch"),
        ({"joint_stage__lr_mask": "nan"}, "Enter a number"),
        ({"model__image_size": 4096}, "less than or equal to 512"),
        ({"start": "/etc/passwd"}, "not one of the available choices"),
        ({"device": "cuda:1"}, "not one of the available choices"),
        ({"launch_key": ""}, "required"),
        ({"visdom": "file:///etc/passwd"}, "valid URL"),
    ],
)
def test_what_makes_no_sense_is_told_in_the_form(
    launcher: Client, dataset: Dataset, values: dict[str, object], sentence: str
) -> None:
    response = launch(launcher, dataset, **values)
    assert response.status_code == 400
    assert sentence in text(response)
    assert not TrainingRun.objects.exists()


def test_a_set_cannot_be_its_own_addition(launcher: Client, dataset: Dataset) -> None:
    assert "the data set itself" in text(launch(launcher, dataset, extra=[dataset.pk]))


def test_an_unreadable_set_is_not_offered(launcher: Client, dataset: Dataset) -> None:
    Dataset.objects.update(problem="There is no folder.")
    assert "Register a data set" in text(launcher.get(LAUNCH))
    assert launcher.post(LAUNCH, {"dataset": dataset.pk}).status_code == 400


def test_a_copy_begins_with_everything_as_it_was(launcher: Client, dataset: Dataset) -> None:
    launch(
        launcher,
        dataset,
        protocol="made",
        fold_count=4,
        folds="1-2",
        stages="joint",
        start="random",
        seed=3,
        model__colour="True",
        joint_stage__lr_fusion=0.0123,
        augment__flip=0,
    )
    first = TrainingRun.objects.get()

    query = f"?clone={first.pk}"
    launcher.post(LAUNCH + query, {**form(launcher, query), "seed": 4})

    copy = TrainingRun.objects.exclude(pk=first.pk).get()
    assert copy.config == first.config
    assert (copy.seed, first.seed) == (4, 3)
    for name in ("name", "dataset", "preset", "stages", "protocol", "fold_count", "device"):
        assert getattr(copy, name) == getattr(first, name), name
    assert [fold.number for fold in copy.folds.all()] == [1, 2]


def test_a_copy_keeps_the_file_it_started_from(
    launcher: Client, dataset: Dataset, tmp_path: Path, tiny: TrainConfig
) -> None:
    start = tmp_path / "by-shell.safetensors"
    save_start(start, tiny)
    run = services.create_run(
        services.RunRequest(dataset, "compact", replace(PRESETS["compact"], start=str(start)))
    )
    query = f"?clone={run.pk}"
    assert f"as run {run.pk}: by-shell.safetensors" in text(launcher.get(LAUNCH + query))
    launcher.post(LAUNCH + query, form(launcher, query))
    assert TrainingRun.objects.exclude(pk=run.pk).get().config["start"] == str(start)


def test_the_copy_of_a_run_of_another_version_leads_back_to_it_with_a_sentence(
    launcher: Client, run: TrainingRun
) -> None:
    model = {**run.config["model"], "attention": True}  # a setting of later times
    TrainingRun.objects.update(config={**run.config, "model": model})

    back = launcher.get(f"{LAUNCH}?clone={run.pk}", follow=True)

    assert back.redirect_chain == [(address("watch", run.pk), 302)]
    assert "Another version launched this run: its settings cannot be copied." in text(back)


def test_who_may_not_see_runs_copies_none(client: Client, run: TrainingRun) -> None:
    client.force_login(staff("launch_trainingrun"))
    assert client.get(LAUNCH).status_code == 200
    assert client.get(f"{LAUNCH}?clone={run.pk}").status_code == 403


@pytest.mark.parametrize("number", ["0", "99", "x", "-1"])
def test_there_is_no_copy_of_a_run_that_is_not_there(launcher: Client, number: str) -> None:
    assert launcher.get(f"{LAUNCH}?clone={number}").status_code == 404


@pytest.mark.parametrize(
    ("written", "numbers"),
    [("", None), ("all", None), ("0-3", (0, 1, 2, 3)), ("3, 0", (0, 3)), ("0-2,7,9", (0, 1, 2, 7, 9))],
)
def test_folds_are_read_and_written(written: str, numbers: tuple[int, ...] | None) -> None:
    assert parse_folds(written) == numbers
    if numbers:
        assert parse_folds(write_folds(numbers)) == numbers


@pytest.mark.parametrize("written", ["a", "3-1", "1-", "-1", "1,,2", "0-99999999", "²", "1.5"])
def test_other_words_name_no_folds(written: str) -> None:
    with pytest.raises(ValueError, match="names no folds"):
        parse_folds(written)


# Watch ------------------------------------------------------------------------------------------------------


def test_the_status_tells_where_a_run_stands(launcher: Client, run: TrainingRun) -> None:
    answer = launcher.get(address("status", run.pk)).json()

    assert answer["run"]["state"] == "running"
    first, second = answer["folds"]
    # Two of the mask stage's epochs, one and a half of the joint stage's four.
    assert first["share"] == pytest.approx(3.5 / 6)
    assert answer["run"]["share"] == pytest.approx(3.5 / 12)
    # 2.5 epochs take 60 s; 8.5 are to do.
    assert answer["run"]["seconds_left"] == pytest.approx(60 * 8.5 / 2.5)
    assert first["progress"]["rate"] == 120.0
    assert first["log"] == [f"line {number}" for number in range(2981, 3001)]
    assert first["curves"]["mask"] == {"epoch": [1, 2], "loss": [1.0, 0.5], "mask_loss": [0.1, 0.1]}
    assert first["curves"]["joint"]["accuracy"] == [0.75]
    assert (first["samples"]["stage"], first["samples"]["epoch"]) == ("joint", 1)
    for name in ("faces", "truth", "latest"):
        picture = launcher.get(first["samples"][name])
        assert picture["Content-Type"] == "image/png"
    assert (second["state"], second["share"], second["samples"], second["log"]) == ("queued", 0, None, [])


def test_curves_are_sent_only_when_they_changed(launcher: Client, run: TrainingRun) -> None:
    def ask(known: str) -> dict[str, Any]:
        answer: dict[str, Any] = launcher.get(address("status", run.pk), {"known": known}).json()
        return answer

    before = ask("")
    assert ask(before["version"])["folds"][0]["curves"] is None
    EpochMetric.objects.create(
        fold=run.folds.get(number=0), stage="joint", epoch=2, loss=1, mask_loss=1, classifier_loss=1, rate=1
    )
    after = ask(before["version"])
    assert after["folds"][0]["curves"]["joint"]["epoch"] == [1, 2]
    assert after["version"] != before["version"]


def test_a_fold_that_goes_on_keeps_its_share(launcher: Client, run: TrainingRun) -> None:
    run.folds.filter(number=0).update(state=State.QUEUED, progress={})
    answer = launcher.get(address("status", run.pk)).json()
    assert answer["folds"][0]["share"] == pytest.approx(3 / 6)
    assert answer["run"]["seconds_left"] is None


def test_the_page_holds_the_status_and_no_script_of_its_own(launcher: Client, run: TrainingRun) -> None:
    run.name = "</script><script>alert(1)</script>"
    run.save()
    page = text(launcher.get(address("watch", run.pk)))
    assert "<script>alert" not in page
    start = page.index('<script id="status" type="application/json">') + 44
    held = json.loads(page[start : page.index("</script>", start)])
    assert held["run"]["name"] == run.name
    assert " style=" not in page
    assert " onclick=" not in page


def test_a_fold_shows_its_log_and_its_pictures(launcher: Client, run: TrainingRun) -> None:
    log = launcher.get(address("file", run.pk, 0, "log.txt"))
    assert b"".join(log.streaming_content).startswith(b"line 1\n")  # type: ignore[attr-defined]
    assert log["Content-Type"].startswith("text/plain")
    assert launcher.get(address("file", run.pk, 0, "samples/faces.png")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "state.safetensors",
        "samples",
        "samples/",
        "samples/missing.png",
        "samples/../state.safetensors",
        "samples/../../fold_0/log.txt",
        "../../../../etc/passwd",
        "/etc/passwd",
        "..%2flog.txt",
        "samples/faces.png%00",
        "mistakes/../log.txt",
    ],
)
def test_nothing_else_of_the_disk_is_shown(launcher: Client, run: TrainingRun, path: str) -> None:
    place = f"/admin/training/trainingrun/{run.pk}/fold/0/file/{path}"
    assert launcher.get(place).status_code == 404


def test_pages_of_what_is_not_there_are_not_found(launcher: Client, run: TrainingRun) -> None:
    for place in (address("watch", 99), address("status", 99), address("file", run.pk, 5, "log.txt")):
        assert launcher.get(place).status_code == 404
    assert launcher.post(address("retry", run.pk, 5)).status_code == 404


# Stop, go on ------------------------------------------------------------------------------------------------


def test_stop_and_go_on(launcher: Client, run: TrainingRun) -> None:
    watch = address("watch", run.pk)
    assert launcher.post(address("cancel", run.pk))["Location"] == watch
    run.refresh_from_db()
    assert run.cancel_requested
    assert run.folds.get(number=1).state == State.CANCELLED
    assert launcher.get(address("status", run.pk)).json()["run"]["stopping"]

    # The worker leaves at its next batch.
    services.leave(run.folds.get(number=0), State.CANCELLED)
    run.refresh_from_db()
    assert run.state == State.CANCELLED

    assert launcher.post(address("resume", run.pk))["Location"] == watch
    run.refresh_from_db()
    assert {fold.state for fold in run.folds.all()} == {State.QUEUED}
    assert not run.cancel_requested


def test_one_failed_fold_goes_on_alone(launcher: Client, run: TrainingRun) -> None:
    run.folds.filter(number=1).update(state=State.FAILED, error="The disk is full.")
    launcher.post(address("retry", run.pk, 1))
    assert {fold.number: fold.state for fold in run.folds.all()} == {0: State.RUNNING, 1: State.QUEUED}


def test_what_cannot_be_done_is_told(launcher: Client, run: TrainingRun) -> None:
    run.folds.update(state=State.SUCCEEDED)
    services.settle(run)
    for name in ("cancel", "resume"):
        response = launcher.post(address(name, run.pk), follow=True)
        assert 'class="error"' in text(response), name
    run.refresh_from_db()
    assert run.state == State.SUCCEEDED


# The list ---------------------------------------------------------------------------------------------------


def test_the_list_leads_to_the_pages_of_runs(launcher: Client, run: TrainingRun) -> None:
    run.folds.filter(number=0).update(state=State.SUCCEEDED, metrics={"accuracy": 0.875})
    page = text(launcher.get(address("changelist")))
    assert "1 of 2" in page
    assert "87.5%" in page
    assert LAUNCH in page
    change = address("change", run.pk)
    assert change in page
    assert launcher.get(change)["Location"] == address("watch", run.pk)


def test_empty_lists_say_what_to_do_first(admin_client: Client) -> None:
    assert "Register a data set" in text(admin_client.get(address("changelist")))
    sets = text(admin_client.get(reverse("admin:training_dataset_changelist")))
    assert "Lay one into the data folder" in sets


def test_selected_runs_are_compared(launcher: Client, run: TrainingRun) -> None:
    values = {"action": "compare", "_selected_action": [run.pk, run.pk + 1]}
    TrainingRun.objects.create(
        pk=run.pk + 1, name="b", dataset=run.dataset, preset="compact", config=run.config
    )
    response = launcher.post(address("changelist"), values)
    assert response["Location"] == f"{address('compare')}?run={run.pk}&run={run.pk + 1}"


def test_a_run_is_deleted_with_its_files_once_it_has_ended(
    client: Client, run: TrainingRun, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    client.force_login(staff("view_trainingrun", "delete_trainingrun"))
    delete = address("delete", run.pk)
    selected = {"action": "delete_selected", "_selected_action": [run.pk], "post": "yes"}
    for state in (State.QUEUED, State.INTERRUPTED, State.RUNNING):
        TrainingRun.objects.update(state=state)
        assert client.post(delete, {"post": "yes"}).status_code == 403, state
    refusal = text(client.post(address("changelist"), selected))
    assert f"{run}, which has not ended: stop it first" in refusal
    assert "your account" not in refusal, "it is the run that cannot go yet"
    assert run.folder.is_dir()
    assert TrainingRun.objects.filter(pk=run.pk).exists()

    TrainingRun.objects.update(state=State.CANCELLED)
    with django_capture_on_commit_callbacks(execute=True):
        client.post(address("changelist"), selected)
        assert run.folder.exists(), "until that can't be undone"
    assert not TrainingRun.objects.filter(pk=run.pk).exists()
    assert not run.folder.exists()


def test_the_pages_say_that_they_are_english_where_the_frame_is_not(
    admin_client: Client, run: TrainingRun
) -> None:
    tasks.inspect_dataset(run.dataset_id)
    for address in (
        run.get_absolute_url(),
        LAUNCH,
        reverse("admin:training_trainingrun_report", args=[run.pk]),
        reverse("admin:training_trainingrun_compare"),
        reverse("admin:training_dataset_change", args=[run.dataset_id]),
    ):
        page = text(admin_client.get(address, headers={"accept-language": "vi"}))
        assert '<html lang="vi"' in page
        assert "Đăng xuất" in page, "the frame's own words"
        assert "Tháng" not in page, "no date of another language in it"
        for own in ('<div class="breadcrumbs" lang="en">', '<h1 lang="en">', '<div lang="en">'):
            assert own in page, address


# Data sets --------------------------------------------------------------------------------------------------

ADD_DATASET = reverse("admin:training_dataset_add")


@pytest.fixture
def keeper(client: Client) -> Client:
    client.force_login(staff("view_dataset", "add_dataset", "change_dataset"))
    return client


def test_a_data_set_is_registered_and_looked_at(
    keeper: Client, dataset: Dataset, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    dataset.delete()
    sent: Any = Connection("memory://").SimpleQueue("celery")  # type: ignore[no-untyped-call]
    sent.clear()
    with django_capture_on_commit_callbacks(execute=True):
        response = keeper.post(ADD_DATASET, {"name": "mine", "kind": "folders", "folder": "small/"})
    row = Dataset.objects.get()
    assert (row.name, row.kind, row.folder) == ("mine", "folders", "small")
    page = reverse("admin:training_dataset_change", args=[row.pk])
    assert response["Location"] == page
    assert "Waiting for a worker" in text(keeper.get(page))
    status = reverse("admin:training_dataset_status", args=[row.pk])
    assert keeper.get(status).json()["progress"]["doing"] == "Waiting for a worker"

    message = sent.get(block=False)
    assert message.headers["task"] == tasks.inspect_dataset.name
    assert message.payload[0] == [row.pk]
    tasks.inspect_dataset(row.pk)  # what a worker does with the message

    assert keeper.get(status).json()["progress"] is None
    assert keeper.get(status).json()["inspected"]
    shown = text(keeper.get(page))
    assert "Fold 1 is trained on what it is tested on" in shown
    for count in (
        '<th scope="row">anger</th><td class="number">4</td>',
        '<th scope="row">fear</th><td class="number">0',
    ):
        assert count in shown
    sheet = keeper.get(reverse("admin:training_dataset_contact_sheet", args=[row.pk]))
    assert sheet["Content-Type"] == "image/jpeg"
    assert "1 leaking fold" in text(keeper.get(reverse("admin:training_dataset_changelist")))


def test_an_inspection_whose_worker_was_killed_is_told_as_stopped(keeper: Client, dataset: Dataset) -> None:
    status = reverse("admin:training_dataset_status", args=[dataset.pk])
    page = reverse("admin:training_dataset_change", args=[dataset.pk])
    file = dataset.contact_sheet.with_name("progress.json")

    def told(doing: str, seconds_ago: float) -> bool:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"doing": doing, "done": 7, "total": 9}))
        os.utime(file, (time.time() - seconds_ago,) * 2)
        stopped: bool = keeper.get(status).json()["progress"]["stopped"]
        assert ('id="stopped" role="alert" hidden' in text(keeper.get(page))) is not stopped
        return stopped

    assert not told("Reading the pictures", 30)
    assert not told("Waiting for a worker", 3600), "others are before it"
    assert told("Reading the pictures", 90)
    assert "Press “Look now” to begin it again." in text(keeper.get(page))


def test_what_was_found_is_shown(keeper: Client, dataset: Dataset) -> None:
    folder = dataset.path / "anger"
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (folder / "twin.png").write_bytes((folder / "anger-0.png").read_bytes())
    tasks.inspect_dataset(dataset.pk)
    page = text(keeper.get(reverse("admin:training_dataset_change", args=[dataset.pk])))
    assert "Unreadable (1)" in page
    assert "anger/broken.png" in page
    assert "more than once (1 group)" in page
    assert "anger/twin.png" in page
    row = text(keeper.get(reverse("admin:training_dataset_changelist")))
    assert "1 unreadable, 1 group of duplicates<" in row


def test_a_set_that_cannot_be_read_says_why(keeper: Client, dataset: Dataset) -> None:
    Dataset.objects.update(kind="ferplus")
    tasks.inspect_dataset(dataset.pk)
    dataset.refresh_from_db()
    assert dataset.problem
    page = keeper.get(reverse("admin:training_dataset_change", args=[dataset.pk]))
    assert '<p class="errornote">' in text(page)
    assert "cannot be read" in text(keeper.get(reverse("admin:training_dataset_changelist")))


def test_a_set_that_a_run_trains_on_as_well_is_not_deleted(
    admin_client: Client, dataset: Dataset, run: TrainingRun
) -> None:
    other = Dataset.objects.create(name="other", kind="folders", folder="other")
    run.extra.add(other)
    delete = reverse("admin:training_dataset_delete", args=[other.pk])
    assert f"{run}, which trains on it as well" in admin_client.get(delete).content.decode()
    admin_client.post(delete, {"post": "yes"})
    chosen = {"action": "delete_selected", "_selected_action": [other.pk], "post": "yes"}
    admin_client.post(reverse("admin:training_dataset_changelist"), chosen)
    assert list(run.extra.all()) == [other]
    run.extra.clear()
    admin_client.post(delete, {"post": "yes"})
    assert list(Dataset.objects.all()) == [dataset]


def test_a_deleted_set_leaves_its_pictures_where_they_lie(
    client: Client, dataset: Dataset, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    client.force_login(staff("view_dataset", "delete_dataset"))
    tasks.inspect_dataset(dataset.pk)
    assert dataset.contact_sheet.is_file()
    with django_capture_on_commit_callbacks(execute=True):
        client.post(reverse("admin:training_dataset_delete", args=[dataset.pk]), {"post": "yes"})
    assert not Dataset.objects.exists()
    assert not dataset.contact_sheet.exists()
    assert (dataset.path / "anger" / "anger-0.png").is_file()


@pytest.mark.parametrize(
    "folder",
    [
        *("/etc", "..", "../outside", "small/../../outside", ".", "", "nowhere", "small/anger/anger-0.png"),
        "longer-than-a-folder-s-name" * 10,
    ],
)
def test_only_folders_under_the_data_root_can_be_registered(
    keeper: Client, dataset: Dataset, settings: Settings, folder: str
) -> None:
    (Path(settings.FER_DATA_ROOT).parent / "outside").mkdir()
    response = keeper.post(ADD_DATASET, {"name": "mine", "kind": "folders", "folder": folder})
    assert response.status_code == 200
    assert 'class="errorlist"' in text(response)
    assert not Dataset.objects.filter(name="mine").exists()


def test_the_form_offers_the_folders_that_there_are(
    keeper: Client, dataset: Dataset, settings: Settings
) -> None:
    (Path(settings.FER_DATA_ROOT) / ".hidden").mkdir()
    page = text(keeper.get(ADD_DATASET))
    assert '<option value="small">' in page
    assert '<option value="small/anger">' in page
    assert ".hidden" not in page


def test_without_a_broker_a_set_is_registered_but_not_looked_at(
    keeper: Client, dataset: Dataset, settings: Settings, tmp_path: Path
) -> None:
    settings.CELERY_BROKER_URL = f"redis+socket://{tmp_path / 'nobody.sock'}"
    response = keeper.post(ADD_DATASET, {"name": "mine", "kind": "folders", "folder": "small"}, follow=True)
    assert "The broker does not answer" in text(response)
    assert "Nobody has looked at this data set yet" in text(response)

    # Where there is a result already, it stays.
    tasks.inspect_dataset(dataset.pk)
    keeper.post(reverse("admin:training_dataset_inspect", args=[dataset.pk]))
    dataset.refresh_from_db()
    assert dataset.inspection is not None


@pytest.mark.django_db(transaction=True)
def test_what_a_broker_answers_but_does_not_take_changes_nothing_and_is_told(
    keeper: Client, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OperationalError("MISCONF: the disk is full")

    tasks.inspect_dataset(dataset.pk)
    monkeypatch.setattr("celery.app.base.Celery.send_task", refuse)
    page = text(keeper.post(reverse("admin:training_dataset_inspect", args=[dataset.pk]), follow=True))
    assert "The broker does not take it: MISCONF: the disk is full" in page
    assert "Waiting for a worker" not in page
    dataset.refresh_from_db()
    assert dataset.inspected
    assert dataset.inspection is not None

    page = text(keeper.post(ADD_DATASET, {"name": "mine", "kind": "folders", "folder": "small"}, follow=True))
    assert "It is registered, but could not be looked at" in page
    assert Dataset.objects.filter(name="mine", inspected=None).exists()


@pytest.mark.parametrize("name", ["launch", "1x", "99", "٣", "9" * 5000])
def test_an_address_that_names_no_run_is_not_found(admin_client: Client, name: str) -> None:
    change = reverse("admin:training_trainingrun_change", args=[name])
    for place in (change, f"{LAUNCH}?clone={name}"):
        assert admin_client.get(place, follow=True).status_code == 404
