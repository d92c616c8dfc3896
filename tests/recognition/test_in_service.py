"""A checkpoint put in service reads the next photos, in the same process and without a restart."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from ml import in_service
from ml.checkpoint import load_checkpoint, save_checkpoint
from ml.config import PRESETS
from ml.fmpn import FMPN
from ml.predictor import Predictor
from recognition import services
from recognition.models import Analysis
from recognition.services import get_predictor
from tests.figures import Figure
from training import checkpoints
from training.models import Checkpoint

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh_process")]

CONFIG = PRESETS["compact"]
FACTS = {"data": [], "seed": 7, "git_revision": None, "metrics": {}}


@pytest.fixture(autouse=True)
def var(settings: Settings, tmp_path: Path) -> Path:
    settings.FER_VAR_DIR = tmp_path
    return tmp_path


@pytest.fixture
def make(var: Path) -> Callable[[str], Checkpoint]:
    """A small model of that name and seed, with its row."""

    def make_one(name: str) -> Checkpoint:
        torch.manual_seed(len(name))
        config = replace(CONFIG, model=replace(CONFIG.model, image_size=32, mask_channels=4, mask_blocks=1))
        path = var / f"{name}.safetensors"
        sha256 = save_checkpoint(path, FMPN(config.model), config, {"preset": name, **FACTS})
        return Checkpoint.objects.create(name=name, file=path.name, sha256=sha256)

    return make_one


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked every tenth of a second what is in service, so that a test need not wait."""
    monkeypatch.setattr(services, "SECONDS_BETWEEN_QUESTIONS", 0.1)


def wait_for(name: str, seconds: float = 5.0) -> float:
    """How long it takes until photos are read by the model of that name; fails after `seconds`."""
    begin = time.monotonic()
    while not get_predictor().name.startswith(name):
        assert time.monotonic() - begin < seconds, f"{get_predictor().name} still reads the photos"
        time.sleep(0.05)
    return time.monotonic() - begin


def test_the_next_photos_are_read_by_what_was_put_in_service(
    make: Callable[[str], Checkpoint], upload: Callable[..., Analysis], client: Client
) -> None:
    assert upload().model_name.startswith("compact ")
    new = make("newer")

    checkpoints.activate(new)
    wait_for("newer")

    analysis = upload()
    assert analysis.model_name == f"newer {new.sha256[:8]}"
    assert analysis.model_name in client.get(analysis.get_absolute_url()).content.decode()
    checkpoints.go_back(new)
    wait_for("compact ")


def test_a_process_that_starts_takes_what_is_in_service(make: Callable[[str], Checkpoint]) -> None:
    checkpoints.activate(make("newer"))

    assert get_predictor().name.startswith("newer ")


def test_the_command_takes_what_is_in_service_or_what_it_is_given(
    make: Callable[[str], Checkpoint], portrait: bytes, tmp_path: Path
) -> None:
    checkpoints.activate(make("newer"))
    other = make("other")
    (tmp_path / "portrait.jpg").write_bytes(portrait)

    def model(*options: str) -> str:
        report = tmp_path / "report.json"
        call_command("predict_fmpn", str(tmp_path / "portrait.jpg"), "--json", str(report), *options)
        return str(json.loads(report.read_text())["model"])

    assert model().startswith("newer ")
    assert model("--checkpoint", str(other.path)).startswith("other ")


@pytest.mark.parametrize("damage", ["missing", "flipped", "replaced"])
def test_what_does_not_load_changes_nothing_and_is_said_once(
    make: Callable[[str], Checkpoint],
    caplog: pytest.LogCaptureFixture,
    often: None,
    damage: str,
    figure: Figure,
) -> None:
    good, bad = make("good"), make("newer")
    checkpoints.activate(good)
    before = get_predictor()
    checkpoints.activate(bad)
    harm(bad, damage)

    asked = 20
    for _ in range(asked):  # in a second at least, in which it looks several times what is in service
        assert get_predictor() is before
        time.sleep(0.05)

    (said,) = [record.getMessage() for record in caplog.records if "cannot be used" in record.getMessage()]
    assert before.name in said
    assert "newer.safetensors" in said
    assert checkpoints.find_problem(bad), "the admin's list says it too"
    figure(
        f"A model file that {HARMED[damage]} is refused, and the old model keeps serving",
        f"{asked} of {asked} questions answered by the old model, said once in the log",
    )


def test_a_file_that_was_mended_is_used_without_another_word(
    make: Callable[[str], Checkpoint], often: None
) -> None:
    good, bad = make("good"), make("newer")
    checkpoints.activate(good)
    get_predictor()
    checkpoints.activate(bad)
    copy = bad.path.read_bytes()
    harm(bad, "missing")
    time.sleep(0.2)
    assert get_predictor().name.startswith("good ")

    bad.path.write_bytes(copy)

    wait_for("newer")


def test_what_did_not_load_is_tried_again_after_a_minute_and_said_once(
    make: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def reader(seconds: float) -> str:
        """The model that reads the photos at that moment."""
        monkeypatch.setattr(services, "time", SimpleNamespace(monotonic=lambda: seconds))
        return get_predictor().name.split()[0]

    def write(data: bytes) -> None:
        """So that only a look into the file tells of a change."""
        bad.path.write_bytes(data)
        os.utime(bad.path, ns=(before.st_atime_ns, before.st_mtime_ns))

    good, bad = make("good"), make("newer")
    before, sound = bad.path.stat(), bad.path.read_bytes()
    checkpoints.activate(good)
    assert reader(0) == "good"
    checkpoints.activate(bad)
    write(sound[:-1000])
    assert (reader(10), reader(80)) == ("good", "good")

    write(sound)

    assert reader(130) == "good", "it was tried less than a minute ago"
    assert reader(141) == "newer"
    assert caplog.text.count("cannot be used") == 1


def test_a_process_that_starts_without_the_file_in_service_takes_the_settings_model(
    make: Callable[[str], Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = make("newer")
    checkpoints.activate(checkpoint)
    harm(checkpoint, "flipped")

    assert get_predictor().name.startswith("compact ")
    assert get_predictor() is get_predictor()
    assert caplog.text.count("cannot be used") == 1


def test_it_asks_the_database_every_two_seconds(
    make: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(seconds: float) -> int:
        monkeypatch.setattr(services, "time", SimpleNamespace(monotonic=lambda: seconds))
        with CaptureQueriesContext(connection) as queries:
            get_predictor()
        return len(queries)

    checkpoints.activate(make("newer"))

    assert [asked(seconds) for seconds in (10, 10.1, 11.9, 12.1, 14, 14.2)] == [1, 0, 0, 1, 0, 1]


def test_without_a_database_the_model_that_is_there_goes_on(
    make: Callable[[str], Checkpoint], caplog: pytest.LogCaptureFixture, often: None, source: None
) -> None:
    def broken() -> None:
        raise OperationalError("no such table")

    in_service.provide(broken)

    assert get_predictor().name.startswith("compact ")
    time.sleep(0.2)
    assert get_predictor().name.startswith("compact ")
    assert caplog.text.count("no such table") == 1


@pytest.fixture
def source() -> Iterator[None]:
    """The site's own source comes back after the test."""
    yield
    in_service.provide(checkpoints.in_service)


def test_while_one_thread_loads_the_others_go_on_with_the_old_model(
    make: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch, often: None, source: None
) -> None:
    new = make("newer")
    answer: list[in_service.InService | None] = [None]
    in_service.provide(lambda: answer[0])
    old = get_predictor()
    loads: list[str] = []
    loading, may_finish = threading.Event(), threading.Event()
    build = Predictor.__init__

    def slowly(self: Predictor, *arguments: object) -> None:
        loads.append(threading.current_thread().name)
        loading.set()
        assert may_finish.wait(10)
        build(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "__init__", slowly)
    answer[0] = in_service.InService(new.path, new.sha256)
    time.sleep(0.2)
    got: list[Predictor] = []
    loader = threading.Thread(target=lambda: got.append(get_predictor()))
    loader.start()
    assert loading.wait(60)

    begin = time.monotonic()
    assert get_predictor() is old
    assert time.monotonic() - begin < 5, "it waited for the other thread's load"  # which lasts ten
    may_finish.set()
    loader.join()

    assert [predictor.name for predictor in got] == [get_predictor().name]
    assert got[0].name.startswith("newer ")
    assert len(loads) == 1


def test_threads_that_come_first_wait_for_one_load_and_share_it(source: None, settings: Settings) -> None:
    in_service.provide(lambda: None)
    got: list[Predictor] = []
    threads = [threading.Thread(target=lambda: got.append(get_predictor())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 4
    assert len(set(map(id, got))) == 1
    assert got[0].name == load_checkpoint(settings.FER_CHECKPOINT).name


HARMED = {"missing": "is gone", "flipped": "has one flipped bit", "replaced": "was replaced by another one"}


def harm(checkpoint: Checkpoint, damage: str) -> None:
    """Make its file unusable in one of these ways."""
    if damage == "missing":
        checkpoint.path.unlink()
    elif damage == "flipped":
        data = bytearray(checkpoint.path.read_bytes())
        data[-1000] ^= 1
        checkpoint.path.write_bytes(data)
    else:
        shutil.copy(Checkpoint.objects.get(name="good").path, checkpoint.path)
