"""The first page of the administration: how the site is doing."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from fer_site import overview
from fer_site.logs import RECENT_ERRORS, requests_counter
from fer_site.overview import analyses_kept, disk, requests_a_minute
from recognition.limits import count
from recognition.models import Analysis
from training.models import Dataset, State, TrainingRun

pytestmark = pytest.mark.django_db


@pytest.fixture
def runs() -> None:
    dataset = Dataset.objects.create(name="faces", kind="folders", folder="faces")
    for name, state in (("slow", State.RUNNING), ("next", State.QUEUED), ("broken", State.FAILED)):
        TrainingRun.objects.create(name=name, dataset=dataset, preset="compact", config={}, state=state)
    old = timezone.now() - timedelta(days=30)
    TrainingRun.objects.create(
        name="forgotten", dataset=dataset, preset="compact", config={}, state=State.FAILED, created=old
    )


@pytest.fixture
def errors() -> None:
    from django.core.cache import cache

    error = {"time": time.time(), "logger": "a.logger", "request": "0123456789abcdef", "text": "It broke"}
    cache.set(RECENT_ERRORS, [error])


def page(client: Client) -> str:
    return " ".join(client.get("/admin/").content.decode().split())


def test_it_shows_runs_the_model_errors_and_that_the_broker_is_down(
    admin_client: Client, runs: None, errors: None
) -> None:
    page(admin_client)  # the first one also loads what is loaded once
    begin = time.monotonic()
    shown = page(admin_client)
    assert time.monotonic() - begin < 3  # on a busy machine; a broker that is down costs nearly nothing

    assert "slow (run" in shown
    assert "next (run" in shown
    assert "broken (run" in shown
    assert "forgotten" not in shown
    assert "compact " in shown
    assert "It broke" in shown
    assert "0123456789abcdef" in shown
    assert "The broker does not answer" in shown


def test_it_asks_the_database_a_few_times(
    admin_client: Client, runs: None, django_assert_max_num_queries: object
) -> None:
    page(admin_client)  # the first one also reads the model

    with django_assert_max_num_queries(14):  # type: ignore[operator]
        page(admin_client)


def test_who_is_no_administrator_sees_nothing(client: Client) -> None:
    client.force_login(User.objects.create_user("ada"))

    assert client.get("/admin/").status_code == 302


@pytest.mark.usefixtures("same_minute")
def test_requests_are_counted_by_the_minute(client: Client) -> None:
    now = time.time()
    for minutes, number in ((1, 12), (2, 6), (20, 100)):
        count(requests_counter(now - 60 * minutes), number)

    requests = requests_a_minute()

    assert requests is not None
    assert (requests.last, requests.mean) == (12, 2.0)
    client.get("/")
    assert count(requests_counter(now), 0) == 1


def test_without_a_cache_requests_are_not_known(settings: Settings) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}

    assert requests_a_minute() is None


def test_analyses_are_counted_by_kind_and_age() -> None:
    now = timezone.now()
    for kind, days in (("photos", 0), ("photos", 3), ("photos", 30), ("video", 1.5)):
        Analysis.objects.create(kind=kind, model_name="m", created=now - timedelta(days=days))
    Analysis.objects.create(kind="batch", model_name="m", expires=now - timedelta(hours=1))

    kept = {one.kind: (one.day, one.week, one.older) for one in analyses_kept()}

    assert kept == {"photos": (1, 1, 1), "batch": (0, 0, 0), "video": (0, 1, 0)}


def test_the_disk_is_measured_to_the_last_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "SECONDS_TO_MEASURE", 60)  # a busy machine may not get far in a tenth
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" * 1000)
    (tmp_path / "file").write_bytes(b"x" * 500)

    measured = disk(tmp_path)

    assert (measured.used, measured.whole) == (1500, True)
    assert measured.free > 0


@pytest.mark.django_db(transaction=True)
def test_it_fits_a_phone_and_keeps_to_the_policy(
    live_server: LiveServer, chromium: Browser, admin_client: Client, runs: None, errors: None
) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 800})
    session = admin_client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
    screen = context.new_page()
    problems: list[str] = []
    screen.on("console", lambda message: problems.append(message.text))

    screen.goto(f"{live_server.url}/admin/")

    assert screen.get_by_role("heading", name="Last errors").is_visible()
    assert screen.evaluate("document.documentElement.scrollWidth") <= 360
    assert not Axe().run(screen).response["violations"]
    assert not problems
    context.close()
