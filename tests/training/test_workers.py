"""Several processes at one run: a real broker, two workers and a clock, on a database of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from celery import Celery
from django.conf import settings as django_settings
from kombu import Connection  # type: ignore[attr-defined]

from tests.fer_site.test_deploy import postgresql
from tests.figures import Figure
from tests.reliability.servers import Site, wait_for
from tests.training.conftest import TINY, draw_faces

ROOT = Path(django_settings.BASE_DIR)
FOLDS = 4

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded broker does not run on Windows")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    started = Site(tmp_path)
    yield started
    started.stop()


# Twenty threads, each with a connection of its own, do the same thing at the same moment.
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
    barrier = Barrier(20)
    def do(number):
        connection.ensure_connection()
        barrier.wait()
        try:
            return act(number)
        finally:
            connection.close()
    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(do, range(20)))

dataset = Dataset.objects.create(name=uuid.uuid4().hex, kind="folders", folder=sys.argv[1])
for _ in range(5):
    request = services.RunRequest(
        dataset, "compact", replace(PRESETS["compact"], start="random"), launch_key=uuid.uuid4()
    )
    (run,) = set(at_once(lambda number: services.create_run(request)))
    (fold,) = run.folds.all()
    claims = at_once(lambda number: services.claim(fold.pk, services.worker_name("worker")))
    (winner,) = [claim for claim in claims if claim]
    Fold.objects.bulk_create(Fold(run=run, number=number) for number in range(1, 20))
    others = [services.claim(other.pk, f"worker@{other.number}") for other in run.folds.exclude(number=0)]
    claimed = [winner, *others]
    at_once(lambda number: services.leave(claimed[number], State.SUCCEEDED))
    run.refresh_from_db()
    assert run.state == State.SUCCEEDED, "the last of all folds ends the run"
print("all alone on", connection.vendor)
"""


@pytest.mark.parametrize("vendor", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_what_happens_at_the_same_moment_happens_once(
    site: Site, tmp_path: Path, vendor: str, figure: Figure
) -> None:
    with postgresql() if vendor == "postgresql" else nullcontext("") as address:
        if address:
            site.environment["DATABASE_URL"] = address
        site.manage("migrate", "--verbosity=0")
        command = [sys.executable, "-c", AT_ONCE, str(draw_faces(tmp_path / "faces", train=2))]
        environment = site.environment | {"DJANGO_SETTINGS_MODULE": "fer_site.settings"}
        said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert said.stdout.strip() == f"all alone on {vendor}", said.stderr
    figure(
        f"Twenty launches, claims and ends at the same moment, on {vendor}",
        "five times: one run, one runner, one end",
    )


def says_finished(log: Path) -> bool:
    return "Finished" in log.read_text()


def test_a_killed_worker_costs_nothing_but_time(site: Site, tmp_path: Path, figure: Figure) -> None:
    faces = draw_faces(tmp_path / "faces", train=8)
    command = ["train_fmpn", "--dataset", "folders", "--data", str(faces), "--device", "cpu", *TINY]
    command += ["--joint-epochs", "4", "--folds", "all", "--fold-count", str(FOLDS)]
    site.manage(*command)  # undisturbed, in the foreground: run 1

    site.start_clock()
    for name in ("one", "two"):
        site.start_hand(name)
    site.manage(*command, "--queue")  # the same again: run 2
    # Every message comes twice, as after a visibility timeout that was too short.
    with Connection(site.broker_url) as connection:  # type: ignore[no-untyped-call]
        for (fold,) in site.ask("SELECT id FROM training_fold WHERE run_id = 2"):
            Celery().send_task("training.tasks.train_fold", [fold], queue="training", connection=connection)

    # Both workers are at it, and one with an epoch behind and some of the five before it is killed.
    workers: dict[int, set[str]] = {number: set() for number in range(FOLDS)}

    def look() -> dict[str, int]:
        """Who trains which fold at this moment."""
        rows = site.ask("SELECT number, worker, state FROM training_fold WHERE run_id = 2")
        for number, worker, _ in rows:
            workers[number] |= {worker} - {""}
        return {worker: number for number, worker, state in rows if state == "running"}

    wait_for("two folds at once", lambda: len(look()) == 2, 120)

    begun = (
        "SELECT f.number, f.worker FROM training_fold f JOIN training_epochmetric e ON e.fold_id = f.id "
        "WHERE f.run_id = 2 AND f.state = 'running' GROUP BY f.number, f.worker HAVING count(*) < 4"
    )
    killed = -1

    def kill_one() -> bool:
        """In the moment in which it is found, for a fold lasts a second or two."""
        nonlocal killed
        look()
        for number, worker in site.ask(begun):
            process = int(worker.split(":")[1])
            assert process in [started.pid for started in site.processes]
            os.kill(process, signal.SIGKILL)
            killed = number
            return True
        return False

    wait_for("a first epoch", kill_one, 120)

    def given_up() -> bool:
        look()
        return site.ask("SELECT losses FROM training_fold WHERE run_id = 2 AND number = ?", killed) == [(1,)]

    # After twenty seconds, and the clock's next round; a busy machine leaves a round out.
    noticed = wait_for("the dead worker is noticed", given_up, 60)

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
        wait_for("the log's last line", partial(says_finished, log), 60)
        assert len(re.findall("Finished", log.read_text())) == 1
        assert (folders[0] / "predictions.json").read_text() == (folders[1] / "predictions.json").read_text()
    figure(
        "A worker killed, and every message delivered twice: each fold and epoch once, the same metrics",
        f"noticed after {noticed:.0f} s; {FOLDS} folds and {FOLDS * 5} epochs as in the undisturbed run",
    )
