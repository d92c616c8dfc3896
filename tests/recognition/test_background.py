"""Batches and videos whose worker or whose message is lost, with a real broker and no worker."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from pytest_django import Settings
from redis import Redis

from recognition import background
from recognition.background import JobError, Progress
from recognition.models import Analysis
from tests.training.conftest import start_broker

pytestmark = pytest.mark.django_db

SILENT = background.LOST_AFTER + timedelta(seconds=1)


@pytest.fixture
def broker(tmp_path: Path, settings: Settings) -> Iterator["Redis"]:
    path = tmp_path / "valkey.sock"
    process = start_broker(path)
    settings.CELERY_BROKER_URL = f"redis+socket://{path}"
    yield Redis(unix_socket_path=str(path))
    process.kill()
    process.wait()


def job(state: str, heartbeat: datetime | None = None, **fields: object) -> Analysis:
    return Analysis.objects.create(kind="batch", state=state, heartbeat=heartbeat, model_name="", **fields)


def test_what_a_lost_worker_left_is_queued_again_and_sent(broker: "Redis") -> None:
    now = timezone.now()
    lost = job("running", now - SILENT, attempts=1)
    alive = job("running", now - background.LOST_AFTER / 2, attempts=1)

    background.requeue_lost()

    for analysis in (lost, alive):
        analysis.refresh_from_db()
    assert (lost.state, alive.state) == ("queued", "running")
    (message,) = broker.lrange(background.QUEUE, 0, -1)
    assert lost.pk in str(message)


def test_what_ended_its_worker_three_times_is_given_up_with_a_sentence(broker: "Redis") -> None:
    poison = job("running", timezone.now() - SILENT, attempts=background.ATTEMPTS)

    background.requeue_lost()

    poison.refresh_from_db()
    assert poison.state == "failed"
    assert "It ended its worker three times" in poison.error
    assert not broker.llen(background.QUEUE)


def test_what_the_broker_forgot_is_sent_again_and_what_waits_there_is_not(broker: "Redis") -> None:
    job("queued", timezone.now() - SILENT)
    job("queued")  # of which nobody knows when it was sent
    background.requeue_lost()
    assert broker.llen(background.QUEUE) == 2

    for forgotten in (False, True):
        Analysis.objects.update(heartbeat=timezone.now() - SILENT)
        if forgotten:
            broker.flushall()
        background.requeue_lost()
        assert broker.llen(background.QUEUE) == 2


def test_with_the_broker_down_it_waits_for_the_next_round(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CELERY_BROKER_URL = f"redis+socket://{tmp_path}/none.sock"
    lost = job("running", timezone.now() - SILENT, attempts=1)

    background.requeue_lost()

    lost.refresh_from_db()
    assert (lost.state, lost.heartbeat) == ("queued", None)
    assert "workers cannot be reached" in caplog.text


def test_a_job_that_comes_twice_is_done_once() -> None:
    analysis, done = job("queued"), list[str]()

    def work(analysis: Analysis, progress: Progress) -> None:
        done.append(analysis.pk)
        background.run(analysis.pk, work)

    for _ in range(2):
        background.run(analysis.pk, work)

    analysis.refresh_from_db()
    assert (done, analysis.state, analysis.attempts) == ([analysis.pk], "done", 1)


@pytest.mark.parametrize("error", [None, JobError("It is broken."), KeyError("a slip")])
def test_who_was_thought_lost_says_nothing_of_a_job_that_another_has(error: Exception | None) -> None:
    analysis = job("queued")

    def work(analysis: Analysis, progress: Progress) -> None:
        Analysis.objects.update(attempts=2)  # as the other one began it
        if error:
            raise error

    background.run(analysis.pk, work)

    analysis.refresh_from_db()
    assert (analysis.state, analysis.error) == ("running", "")
