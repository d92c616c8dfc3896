import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.test import Client, RequestFactory
from django.urls import reverse
from pytest_django import Settings
from redis import Redis

from fer_site.broker import cache_settings
from fer_site.cache import SECONDS_TO_ANSWER, ForgivingRedisCache
from recognition.limits import client_address, is_local, limited
from tests.training.conftest import start_broker


@pytest.fixture
def server(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache on a server that has not been started yet; its socket."""
    settings.CACHES = cache_settings(f"unix://{tmp_path}/valkey.sock?db=1", "", tmp_path)
    monkeypatch.setattr(ForgivingRedisCache, "_asked_again", 0.0)
    monkeypatch.setattr(ForgivingRedisCache, "_down", False)
    return tmp_path / "valkey.sock"


@pytest.fixture
def running_server(server: Path) -> Iterator[Path]:
    process = start_broker(server)
    yield server
    process.kill()
    process.wait()


@pytest.mark.usefixtures("same_minute")
def test_what_is_over_the_limit_waits_until_the_next_minute() -> None:
    assert [limited("somebody", 2) for _ in range(2)] == [None, None]

    seconds = limited("somebody", 2)

    assert seconds is not None
    assert 0 < seconds <= 60
    assert limited("somebody else", 2) is None


@pytest.mark.usefixtures("same_minute")
def test_a_new_minute_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    assert [limited("somebody", 1) is None for _ in range(2)] == [True, False]

    monkeypatch.setattr(time, "time", lambda: now + 60)

    assert limited("somebody", 1) is None


@pytest.mark.usefixtures("same_minute")
def test_all_processes_count_on_one_server(running_server: Path) -> None:
    assert [limited("somebody", 2) is None for _ in range(3)] == [True, True, False]
    (counted,) = (server := Redis(unix_socket_path=str(running_server), db=1)).keys()
    assert 60 <= server.ttl(counted) <= 120, "for its minute, and no longer than for another one"

    caches["default"].set("key", ["value"])
    of_another_process = ForgivingRedisCache(f"unix://{running_server}?db=1", {"KEY_PREFIX": "fer"})

    assert of_another_process.get("key") == ["value"]


def test_nothing_that_lies_in_the_cache_is_run(running_server: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "run",)

    Redis(unix_socket_path=str(running_server), db=1).set("fer:1:key", pickle.dumps(Trap()))

    assert caches["default"].get("key") is None
    assert not (tmp_path / "run").exists()


def test_an_ipv6_network_counts_as_one_address(rf: RequestFactory) -> None:
    def of(address: str) -> str:
        return client_address(rf.get("/", REMOTE_ADDR=address))

    assert of("2001:db8:1:2::1") == of("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert of("2001:db8:1:3::1") != of("2001:db8:1:2::1")
    assert of("::ffff:203.0.113.9") != of("::ffff:203.0.113.10")


def test_a_cache_that_is_down_lets_everything_through_and_says_so_once(
    server: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin = time.monotonic()

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(server))
        silent.listen()  # it takes connections, and never says a word
        assert [limited("somebody", 1) for _ in range(20)] == [None] * 20
        cache = caches["default"]
        cache.set("key", 1)
        cache.set_many({"key": 1})
        assert cache.get("key", "none") == "none"
        assert cache.get_many(["key"]) == {}
        assert not any([cache.add("key", 1), cache.touch("key"), cache.delete("key"), cache.has_key("key")])

    assert time.monotonic() - begin < 10 * SECONDS_TO_ANSWER, "it was asked again each of fifty times"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "goes on without it" in caplog.text


def test_the_cache_lies_beside_the_queue_and_never_in_it() -> None:
    def place(url: str, broker: str) -> object:
        return cache_settings(url, broker, Path("/srv/faces/var"))["default"].get("LOCATION")

    assert place("", "") == "unix:///srv/faces/var/broker/valkey.sock?db=1"
    assert place("", "redis://queue:6379/0") == "redis://queue:6379/1"
    assert place("", "redis://:word@queue") == "redis://:word@queue/1"
    assert place("redis://cache:6379/0", "redis://queue:6379/0") == "redis://cache:6379/0"
    assert place("", "amqp://queue") is None


def test_a_client_s_address_is_what_the_trusted_proxy_saw(rf: RequestFactory, settings: Settings) -> None:
    request = rf.get("/", headers={"x-forwarded-for": "198.51.100.7, 203.0.113.9"})

    assert client_address(request) == "127.0.0.1"
    assert not is_local(request)
    assert not is_local(rf.get("/", headers={"forwarded": "for=198.51.100.7"}))
    assert is_local(rf.get("/"))
    settings.FER_HTTPS = True
    assert client_address(request) == "203.0.113.9"


@pytest.mark.django_db
@pytest.mark.usefixtures("same_minute")
def test_uploads_over_the_limit_are_asked_to_wait(client: Client, settings: Settings) -> None:
    settings.FER_UPLOADS_PER_MINUTE = 1
    client.post(reverse("analyse"))

    page = client.post(reverse("analyse"))
    answer = client.post(reverse("analyse"), headers={"accept": "application/json"})
    of_a_sample = client.post(reverse("sample", args=["eileen-collins"]))

    assert page.status_code == answer.status_code == of_a_sample.status_code == 429
    assert 0 < int(page["Retry-After"]) <= 60
    assert "Too much for one minute" in page.content.decode()
    assert "Wait" in answer.json()["error"]


@pytest.mark.django_db
def test_who_is_logged_in_is_not_counted_with_the_neighbours(client: Client, settings: Settings) -> None:
    settings.FER_UPLOADS_PER_MINUTE = 1
    client.post(reverse("analyse"))
    client.force_login(User.objects.create_user("ada"))

    assert client.post(reverse("analyse")).status_code == 400  # no photo was chosen, and that is all
