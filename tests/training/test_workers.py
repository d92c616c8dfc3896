"""Several processes at one run: a real broker, two workers and a clock, on a database of their own."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.conf import settings as django_settings
from kombu import Connection  # type: ignore[attr-defined]

from tests.training.conftest import TINY, draw_faces, start_broker

ROOT = Path(django_settings.BASE_DIR)
FOLDS = 4

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded broker does not run on Windows")


class Site:
    """The commands and workers of one site, with a var folder, a database and a broker of their own."""

    def __init__(self, folder: Path) -> None:
        self.var = folder / "var"
        self.var.mkdir()
        self.broker_url = f"redis+socket://{folder / 'valkey.sock'}"
        kept = {k: v for k, v in os.environ.items() if k not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL")}
        self.environment = {
            **kept,
            "SECRET_KEY": "for tests alone",
            "FER_ENV_FILE": os.devnull,
            "FER_VAR_DIR": str(self.var),
            "FER_BROKER_URL": self.broker_url,
            "OMP_NUM_THREADS": "1",
        }
        self.processes: list[subprocess.Popen[bytes]] = [start_broker(folder / "valkey.sock")]

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_worker(self, name: str, *options: str) -> None:
        command = [sys.executable, "-m", "celery", "--quiet", "--app=fer_site", "worker", "--pool=threads"]
        more = [f"--hostname={name}@%h", "--loglevel=WARNING", *options]
        with (self.var.parent / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [*command, *more], cwd=ROOT, env=self.environment, stderr=log, stdout=log
            )
        self.processes.append(process)

    def ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        address = f"file:{self.var / 'db.sqlite3'}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=20)) as database:
            return database.execute(question, values).fetchall()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()  # a worker that is killed leaves its clock behind
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    started = Site(tmp_path)
    yield started
    started.stop()


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} seconds"
        time.sleep(0.1)


# Eight threads, each with a connection of its own, do the same thing at the same moment.
AT_ONCE = """
import sys, uuid, django; django.setup()
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from django.db import connection
from ml.config import PRESETS
from training import services
from training.models import Dataset, Fold, State, TrainingRun

def at_once(act):
    barrier = Barrier(8)
    def do(number):
        connection.ensure_connection()
        barrier.wait()
        try:
            return act(number)
        finally:
            connection.close()
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(do, range(8)))

dataset = Dataset.objects.create(name=uuid.uuid4().hex, kind="folders", folder=sys.argv[1])
for _ in range(5):
    request = services.RunRequest(
        dataset, "compact", replace(PRESETS["compact"], start="random"), launch_key=uuid.uuid4()
    )
    (run,) = set(at_once(lambda number: services.create_run(request)))
    (fold,) = run.folds.all()
    claims = at_once(lambda number: services.claim(fold.pk, services.worker_name("worker")))
    (winner,) = [claim for claim in claims if claim]
    Fold.objects.bulk_create(Fold(run=run, number=number) for number in range(1, 8))
    others = [services.claim(other.pk, f"worker@{other.number}") for other in run.folds.exclude(number=0)]
    claimed = [winner, *others]
    at_once(lambda number: services.leave(claimed[number], State.SUCCEEDED))
    run.refresh_from_db()
    assert run.state == State.SUCCEEDED, "the last of all folds ends the run"
print("all alone on", connection.vendor)
"""


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
def test_what_happens_at_the_same_moment_happens_once(site: Site, tmp_path: Path, vendor: str) -> None:
    if vendor == "postgresql":
        if "FER_TEST_POSTGRES" not in os.environ:
            pytest.skip("FER_TEST_POSTGRES=postgres://… names no empty database to test with")
        site.environment["DATABASE_URL"] = os.environ["FER_TEST_POSTGRES"]
    site.manage("migrate", "--verbosity=0")
    command = [sys.executable, "-c", AT_ONCE, str(draw_faces(tmp_path / "faces", train=2))]
    environment = site.environment | {"DJANGO_SETTINGS_MODULE": "fer_site.settings"}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == f"all alone on {vendor}", said.stderr


def test_a_killed_worker_costs_nothing_but_time(site: Site, tmp_path: Path) -> None:
    faces = draw_faces(tmp_path / "faces", train=8)
    command = ["train_fmpn", "--dataset", "folders", "--data", str(faces), "--device", "cpu", *TINY]
    command += ["--joint-epochs", "4", "--folds", "all", "--fold-count", str(FOLDS)]
    site.manage(*command)  # undisturbed, in the foreground: run 1

    site.start_worker("clock", "--beat", f"--schedule={site.var / 'beat'}")
    for name in ("one", "two"):
        site.start_worker(
            name, "--queues=training", "--concurrency=1", "--without-gossip", "--without-mingle"
        )
    site.manage(*command, "--queue")  # the same again: run 2
    # Every message comes twice, as after a visibility timeout that was too short.
    with Connection(site.broker_url) as connection:  # type: ignore[no-untyped-call]
        for (fold,) in site.ask("SELECT id FROM training_fold WHERE run_id = 2"):
            Celery().send_task("training.tasks.train_fold", [fold], queue="training", connection=connection)

    # Both workers are at it, and the first to have finished an epoch is killed.
    workers: dict[int, set[str]] = {number: set() for number in range(FOLDS)}

    def look() -> dict[str, int]:
        """Who trains which fold at this moment."""
        rows = site.ask("SELECT number, worker, state FROM training_fold WHERE run_id = 2")
        for number, worker, _ in rows:
            workers[number] |= {worker} - {""}
        return {worker: number for number, worker, state in rows if state == "running"}

    wait_for("two folds at once", lambda: len(look()) == 2, 120)

    def with_an_epoch() -> list[int]:
        question = "SELECT f.number FROM training_fold f JOIN training_epochmetric e ON e.fold_id = f.id"
        return [number for (number,) in site.ask(f"{question} WHERE f.run_id = 2 AND f.state = 'running'")]

    wait_for("a first epoch", lambda: bool(look()) and bool(with_an_epoch()), 120)
    killed = with_an_epoch()[0]
    victim = next(worker for worker, number in look().items() if number == killed)
    process = int(victim.split(":")[1])
    assert process in [started.pid for started in site.processes]
    os.kill(process, signal.SIGKILL)

    def given_up() -> bool:
        look()
        return site.ask("SELECT losses FROM training_fold WHERE run_id = 2 AND number = ?", killed) == [(1,)]

    wait_for("the dead worker is noticed", given_up, 30)

    def is_over() -> bool:
        look()
        return site.ask("SELECT state FROM training_trainingrun WHERE id = 2") == [("succeeded",)]

    wait_for("the run is over", is_over, 240)
    everyone = {worker.split(":")[1] for of_fold in workers.values() for worker in of_fold}
    assert len(everyone) == 2, "both workers took folds"
    assert len(workers[killed]) == 2, "the killed worker's fold went to the other one"

    # Every fold once, each epoch once, and all of it as if nothing had happened.
    of_run = "SELECT number, state, metrics FROM training_fold WHERE run_id = ? ORDER BY number"
    assert site.ask(of_run, 1) == site.ask(of_run, 2)
    curves = (
        "SELECT f.number, e.stage, e.epoch, e.loss, e.mask_loss, e.accuracy FROM training_epochmetric e "
        "JOIN training_fold f ON f.id = e.fold_id WHERE f.run_id = ? ORDER BY 1, 2, 3"
    )
    assert site.ask(curves, 1) == site.ask(curves, 2)
    assert len(site.ask(curves, 2)) == FOLDS * (1 + 4)
    for number in range(FOLDS):
        folders = [site.var / "runs" / run / f"fold_{number}" for run in ("1", "2")]
        # The row ends first and its log a moment later; a fold that were trained twice would say so twice.
        log = folders[1] / "log.txt"
        wait_for("the log's last line", lambda log=log: "Finished" in log.read_text(), 10)
        assert len(re.findall("Finished", log.read_text())) == 1
        assert (folders[0] / "predictions.json").read_text() == (folders[1] / "predictions.json").read_text()
