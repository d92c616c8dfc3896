"""Work that must survive.

Real servers, on tiny networks and drawn faces. More of it stands in tests/training/test_workers.py.
"""

import json
import os
import signal
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
import torch
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from ml.checkpoint import Arrays, load_checkpoint, read_arrays
from ml.config import PRESETS, TrainConfig
from ml.engine import BatchReport, Callbacks
from tests.fer_site.test_deploy import postgresql
from tests.figures import Figure
from tests.reliability.servers import Broker, Site, Visitor, fill, restarting, small_disk, wait_for
from tests.training.conftest import TINY, draw_faces, shrink
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
    assert len(set(sent)) == 50

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


# Workers and servers ----------------------------------------------------------------------------------------

FOLDS = 2
EPOCHS = 1 + 3  # of a fold: mask stage, joint stage


@dataclass
class Scene:
    """A site with PostgreSQL or SQLite, and run 1 on it, which nothing disturbed."""

    site: Site
    command: list[str]

    def launch(self, *flags: str) -> int:
        """Hand the same run over to the workers again; returns its number."""
        self.site.manage(*self.command, *flags, "--queue")
        ((run,),) = self.site.ask("SELECT max(id) FROM training_trainingrun")
        return int(run)

    def fold(self, run: int, what: str = "number, state, worker, losses, progress") -> list[tuple[Any, ...]]:
        return self.site.ask(f"SELECT {what} FROM training_fold WHERE run_id = ? ORDER BY number", run)

    def wait_for_mid_epoch(self, run: int) -> tuple[int, int]:
        """Wait until a fold is amid a joint epoch that is not its last: its number and its process."""
        found: list[tuple[int, int]] = []

        def look() -> bool:
            for number, state, worker, _, progress in self.fold(run):
                at = json.loads(progress) if isinstance(progress, str) else progress
                in_joint = state == "running" and at.get("stage") == "joint"
                if in_joint and at["step"] < at["steps"] and at["epoch"] < at["epochs"]:
                    found.append((number, int(worker.split(":")[1])))
            return bool(found)

        wait_for("a fold in mid-epoch", look, 600)
        return found[0]

    def state(self, run: int) -> str:
        return str(self.site.ask("SELECT state FROM training_trainingrun WHERE id = ?", run)[0][0])

    def wait_for_end(self, run: int, state: str = "succeeded", seconds: float = 900) -> float:
        ended = ("succeeded", "failed", "cancelled")
        took = wait_for(f"the end of run {run}", lambda: self.state(run) in ended, seconds)
        assert self.state(run) == state, self.fold(run, "number, error")
        return took

    def log(self, run: int, number: int) -> str:
        return (self.site.var / "runs" / str(run) / f"fold_{number}" / "log.txt").read_text()

    def is_finished(self, run: int, number: int) -> bool:
        return "Finished" in self.log(run, number)

    def assert_as_undisturbed(self, run: int) -> None:
        """Every fold once and every epoch once, with the metrics and the weights of run 1."""
        assert self.fold(run, "number, state, metrics") == self.fold(1, "number, state, metrics")
        question = (
            "SELECT f.number, e.stage, e.epoch, e.loss, e.mask_loss, e.accuracy FROM training_epochmetric e "
            "JOIN training_fold f ON f.id = e.fold_id WHERE f.run_id = ? ORDER BY 1, 2, 3"
        )
        assert self.site.ask(question, run) == self.site.ask(question, 1)
        made = "training_checkpoint c JOIN training_fold f ON f.id = c.fold_id WHERE f.run_id = ? ORDER BY 1"
        assert self.site.ask(f"SELECT f.number FROM {made}", run) == [(number,) for number in range(FOLDS)]
        for number in range(FOLDS):
            folders = [self.site.var / "runs" / str(which) / f"fold_{number}" for which in (1, run)]
            wait_for("the log's last line", partial(self.is_finished, run, number), 10)
            assert self.log(run, number).count("Finished") == 1
            first, second = (load_checkpoint(folder / CHECKPOINT_NAME).weights for folder in folders)
            assert same(first, second)
            names = {path.name for path in folders[1].iterdir()}
            assert not [name for name in names if name.startswith(".")], "no half file is left"
            assert "state.safetensors" not in names


def set_scene(site: Site, faces: Path) -> Scene:
    draw_faces(faces, train=40)
    command = ["train_fmpn", "--dataset", "folders", "--data", str(faces), "--device", "cpu", *TINY]
    command += ["--joint-epochs", str(EPOCHS - 1), "--folds", "all", "--fold-count", str(FOLDS)]
    site.manage("migrate", "--verbosity=0")
    site.manage(*command)  # undisturbed, in the foreground: run 1
    return Scene(site, command)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """PostgreSQL, a durable broker, gunicorn, the clock, and one worker for training."""
    folder = tmp_path_factory.mktemp("scene")
    with postgresql() as address:
        site = Site(folder, durable=True, database=address)
        try:
            scene = set_scene(site, folder / "faces")
            with site.watched(site.start_clock(), site.start_hand("training")):
                yield scene
        finally:
            site.stop()


@pytest.fixture(scope="module")
def launcher(scene: Scene) -> Visitor:
    """Somebody in the administration who may launch."""
    scene.site.environment["DJANGO_SUPERUSER_PASSWORD"] = "for tests alone"
    scene.site.manage("createsuperuser", "--noinput", "--username=launcher", "--email=l@example.org")
    visitor = Visitor(scene.site.start_web())
    visitor.log_in("launcher", "for tests alone")
    return visitor


LAUNCH = "/admin/training/trainingrun/add/"


def launch_form(visitor: Visitor) -> bytes:
    """What a browser would send of the form for a copy of run 1."""
    fields = FormFields()
    fields.feed(visitor.ask("GET", f"{LAUNCH}?clone=1")[2].decode())
    return encode_multipart(BOUNDARY, fields.values)


def click(launcher: Visitor, body: bytes) -> tuple[int, str, bytes]:
    visitor = Visitor(launcher.port)
    visitor.cookies = dict(launcher.cookies)
    return visitor.ask("POST", LAUNCH, body, Content_Type=MULTIPART_CONTENT)


class FormFields(HTMLParser):
    """What the forms of a page would send as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._select = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "select":
            self._select = name
        elif tag == "option" and "selected" in found:
            self.values[self._select] = value
        elif (
            tag == "input" and name and (found.get("type") not in ("checkbox", "radio") or "checked" in found)
        ):
            self.values[name] = value


@pytest.mark.slow
def test_twenty_launches_of_one_form_at_once_make_one_run(
    scene: Scene, launcher: Visitor, figure: Figure
) -> None:
    body = launch_form(launcher)
    runs = "SELECT count(*), max(id) FROM training_trainingrun"
    ((before, _),) = scene.site.ask(runs)
    begin = Barrier(20)

    def click_at_once(_: int) -> tuple[int, str]:
        begin.wait()
        return click(launcher, body)[:2]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(click_at_once, range(20)))
    ((after, run),) = scene.site.ask(runs)
    assert set(answers) == {(302, f"/admin/training/trainingrun/{run}/watch/")}
    assert after == before + 1
    scene.wait_for_end(run)
    scene.assert_as_undisturbed(run)
    figure(
        "Twenty launches of one form at once, by gunicorn on PostgreSQL",
        f"1 run, {FOLDS} folds, each trained once",
    )


@pytest.mark.slow
def test_with_redis_down_a_launch_is_refused_at_once_and_leaves_no_row(
    scene: Scene, launcher: Visitor, figure: Figure
) -> None:
    body = launch_form(launcher)
    rows = "SELECT (SELECT count(*) FROM training_trainingrun), (SELECT count(*) FROM training_fold)"
    before = scene.site.ask(rows)
    scene.site.broker.kill()
    try:
        began = time.monotonic()
        status, _, page = click(launcher, body)
        took = time.monotonic() - began
    finally:
        scene.site.broker.start()
    assert status == 400
    assert b"The broker does not answer" in page
    assert took < 3
    assert scene.site.ask(rows) == before
    assert click(launcher, body)[0] == 302, "the same form is taken when Redis is back"
    ((run,),) = scene.site.ask("SELECT max(id) FROM training_trainingrun")
    scene.wait_for_end(run)
    figure(
        "A launch with Redis down, by gunicorn, is refused and leaves no row",
        f"told after {took:.1f} s, 0 rows",
    )


@pytest.mark.slow
def test_a_run_goes_on_while_redis_is_killed_and_started_again(scene: Scene, figure: Figure) -> None:
    run = scene.launch()
    scene.wait_for_mid_epoch(run)
    scene.site.broker.kill()
    time.sleep(3)
    scene.site.broker.start()
    scene.wait_for_end(run)
    scene.assert_as_undisturbed(run)
    assert {losses for _, _, _, losses, _ in scene.fold(run)} == {0}
    figure(
        "Redis killed for 3 s in mid-run: the run goes on",
        "0 workers lost, the undisturbed metrics and weights",
    )


@pytest.mark.slow
def test_a_run_goes_on_while_postgresql_is_restarted(scene: Scene, figure: Figure) -> None:
    run = scene.launch()
    scene.wait_for_mid_epoch(run)
    with restarting(scene.site.database):
        time.sleep(3)
    scene.wait_for_end(run)
    scene.assert_as_undisturbed(run)
    assert {losses for _, _, _, losses, _ in scene.fold(run)} == {0}
    figure(
        "PostgreSQL stopped for 3 s and started in mid-run: the run goes on",
        "0 workers lost, the undisturbed metrics and weights",
    )


@pytest.mark.slow
def test_a_worker_that_gets_sigterm_saves_its_fold_and_ends(scene: Scene, figure: Figure) -> None:
    run = scene.launch()
    number, pid = scene.wait_for_mid_epoch(run)
    worker = next(process for process in scene.site.processes if process.pid == pid)
    worker.terminate()
    began = time.monotonic()
    worker.wait(30)
    took = time.monotonic() - began
    (left,) = [state for found, state, *_ in scene.fold(run) if found == number]
    assert left in ("interrupted", "queued")
    assert scene.fold(run, "losses")[number] == (0,), "nobody died"
    _, header = read_arrays(scene.site.var / "runs" / str(run) / f"fold_{number}" / "state.safetensors")
    scene.wait_for_end(run)
    scene.assert_as_undisturbed(run)
    log = scene.log(run, number)
    assert log.count("joint stage, epoch") == EPOCHS - 1, "nothing is repeated"
    figure(
        "A training worker that gets SIGTERM saves its fold and ends within 30 s",
        f"ended after {took:.1f} s at step {json.loads(header['state'])['step']}, 0 epochs repeated, "
        "then the undisturbed weights",
    )


@pytest.mark.slow
def test_a_fold_that_lasts_longer_than_the_visibility_timeout_has_one_runner(
    scene: Scene, tmp_path: Path, figure: Figure
) -> None:
    ((seconds,),) = scene.site.ask("SELECT min(finished - started) FROM training_fold WHERE run_id = 1")
    timeout = max(1, int(seconds.total_seconds() / 8))
    (tmp_path / "impatient.py").write_text(
        "from fer_site.settings import *\n"
        f"CELERY_BROKER_TRANSPORT_OPTIONS['visibility_timeout'] = {timeout}\n"
        "CELERY_BROKER_TRANSPORT_OPTIONS |= {'unacked_restore_interval': 1, 'unacked_restore_throttle': 1}\n"
    )
    own = {"DJANGO_SETTINGS_MODULE": "impatient", "PYTHONPATH": str(tmp_path)}
    impatient = scene.site.start_hand("impatient", **own)
    run = scene.launch()
    # What is delivered again is dropped by whoever gets it: then no message is left while the fold goes on.
    again: set[int] = set()

    def look() -> bool:
        number = next((number for number, state, *_ in scene.fold(run) if state == "running"), None)
        if number is not None and not scene.site.broker.client.hlen("unacked"):
            again.add(number)
        return scene.state(run) == "succeeded"

    wait_for("the end of the run", look, 900)
    impatient.terminate()
    scene.assert_as_undisturbed(run)
    assert again, "messages were delivered again"
    for number in range(FOLDS):
        assert scene.log(run, number).count(" begins.") == 1
    shortest = min(took.total_seconds() for (took,) in scene.fold(run, "finished - started"))
    assert shortest > 3 * timeout
    figure(
        "A fold that lasts more than three visibility timeouts has one runner and one set of rows",
        f"{shortest:.0f} s at a timeout of {timeout} s; delivered again: {len(again)} of {FOLDS} folds",
    )


@pytest.mark.slow
def test_a_job_that_kills_its_worker_is_given_up_and_others_go_on(scene: Scene, figure: Figure) -> None:
    poison = scene.launch("--folds", "0", "--joint-epochs", "500")  # it does not end before it is killed
    other = scene.launch()
    kills = 0

    def kill_whoever_has_it() -> bool:
        nonlocal kills
        ((_, state, worker, losses, _),) = scene.fold(poison)
        if state == "running" and losses == kills:
            os.kill(int(worker.split(":")[1]), signal.SIGKILL)  # as the kernel does where the memory is full
            kills += 1
            wait_for("the death is noticed", lambda: scene.fold(poison, "losses") == [(kills,)], 60)
        return bool(state == "failed")

    wait_for("the job is given up", kill_whoever_has_it, 1200)
    scene.wait_for_end(other)
    scene.assert_as_undisturbed(other)
    ((error,),) = scene.fold(poison, "error")
    assert error.startswith("Its worker died 3 times")
    time.sleep(7)  # another round of the clock
    assert (kills, scene.state(poison)) == (3, "failed")
    figure(
        "A job that kills its worker is tried three times, then FAILED, and others go on", f"{kills} tries"
    )


@pytest.mark.slow
def test_the_sweeper_puts_back_what_redis_forgot(tmp_path: Path, figure: Figure) -> None:
    faces = draw_faces(tmp_path / "faces", train=50)
    site = Site(tmp_path)

    def waiting() -> list[int]:
        """The folds whose messages wait."""
        messages: list[bytes] = site.broker.client.lrange("training", 0, -1)  # type: ignore[assignment]
        return sorted(json.loads(b64decode(json.loads(message)["body"]))[0][0] for message in messages)

    try:
        site.manage("migrate", "--verbosity=0")
        site.start_clock()
        data = ("--dataset", "folders", "--data", str(faces), "--device", "cpu", *TINY)
        site.manage("train_fmpn", *data, "--folds", "all", "--fold-count", "50", "--queue")
        folds = [fold for (fold,) in site.ask("SELECT id FROM training_fold ORDER BY id")]
        assert waiting() == folds
        site.broker.kill()
        site.broker.start()
        assert waiting() == []
        seconds = wait_for("all are back", lambda: len(waiting()) >= 50, 180)
        time.sleep(12)  # further rounds of the sweeper
        assert waiting() == folds
    finally:
        site.stop()
    figure(
        "Redis without persistence, killed and started: the clock's sweeper puts back what was queued",
        f"50 of 50 folds after {seconds:.0f} s, each once",
    )


@pytest.mark.slow
def test_a_site_whose_whole_disk_was_full_goes_on_when_there_is_room(tmp_path: Path, figure: Figure) -> None:
    with small_disk(tmp_path / "var", 200) as disk:
        site = Site(tmp_path)  # its SQLite lies on that disk as well
        try:
            scene = set_scene(site, tmp_path / "faces")
            site.start_clock()
            site.start_hand("training")
            run = scene.launch()
            scene.wait_for_mid_epoch(run)
            ballast = fill(disk)
            time.sleep(45)  # longer than a worker needs to count as dead
            during = scene.state(run)
            ballast.unlink()
            wait_for("an end", lambda: scene.state(run) in ("succeeded", "failed"), 900)
            by_hand = scene.state(run) == "failed"
            if by_hand:
                assert all(
                    "space" in error or "full" in error for (error,) in scene.fold(run, "error") if error
                )
                site.manage(*scene.command, "--queue")  # the same command goes on with the same run
                scene.wait_for_end(run)
            scene.assert_as_undisturbed(run)
        finally:
            site.stop()
    figure(
        "A full disk under everything, the database too, for 45 s in mid-run: it goes on when there is room",
        f"{during} meanwhile, went on {'when told to' if by_hand else 'by itself'}, the undisturbed weights",
    )


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch_ten_times_costs_nothing_but_time(scene: Scene, figure: Figure) -> None:
    noticed, again, lines = [], [], []
    # A second worker, so that one is free while the other trains.
    with scene.site.watched(scene.site.start_hand("second")):
        for _ in range(10):
            run = scene.launch()
            number, pid = scene.wait_for_mid_epoch(run)
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()

            def is_noticed(run: int = run, number: int = number) -> bool:
                return scene.fold(run, "losses")[number] == (1,)

            def runs_again(run: int = run, number: int = number) -> bool:
                return scene.fold(run, "state")[number] in (("running",), ("succeeded",))

            wait_for("INTERRUPTED", is_noticed, 30)
            noticed.append(time.monotonic() - killed)
            wait_for("running again", runs_again, 120)
            again.append(time.monotonic() - killed)
            scene.wait_for_end(run)
            scene.assert_as_undisturbed(run)
            lines.append(scene.log(run, number).count(" stage, epoch ") - EPOCHS)
    assert max(again) < 120
    assert set(lines) <= {0, 1}, "at most one epoch is repeated"
    figure(
        "A worker killed -9 in mid-epoch, ten times: each fold once, undisturbed metrics and weights",
        f"10 of 10; INTERRUPTED within {max(noticed):.0f} s, running again within {max(again):.0f} s; "
        f"epochs reported twice: {sum(lines)}",
    )
