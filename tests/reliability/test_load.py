"""Load.

Real web processes are asked for more than they can do. Waitress is what `make run` starts, gunicorn what a
server for others runs (docs/deploy.md).
"""

import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client as Browser
from django.urls import reverse
from pytest_django import Settings

from fer_site.bench.measuring import resident_megabytes
from fer_site.bench.photos import as_jpeg, portrait
from fer_site.bench.serving import Answer, Client, Server, waitress, web_servers
from ml.runtime import available_cores
from recognition.admission import Busy, places
from recognition.models import Analysis
from recognition.samples import SAMPLES
from tests.fer_site.test_deploy import SITE, nginx
from tests.fer_site.test_deploy import Server as Deployed
from tests.figures import Figure

PHOTO: Final = as_jpeg(portrait(480, 640))
REFUSALS: Final = (429, 503)

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run on Windows")


def gunicorn(port: int) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "--config", "deploy/gunicorn.conf.py"]
    return [*command, "fer_site.wsgi:application"]


SERVERS: Final[dict[str, Callable[[int], list[str]]]] = {"waitress": waitress, "gunicorn": gunicorn}


def places_of(name: str) -> dict[str, str]:
    """FER_PHOTOS_AT_ONCE as the server has it by default: the bench lets everybody in."""
    cores = available_cores()
    processes = {"waitress": 1, "gunicorn": max(2, cores // 4)}[name]
    return {"FER_PHOTOS_AT_ONCE": str(min(max(1, cores // processes), 6))}


# In one process ---------------------------------------------------------------------------------------------


@pytest.fixture
def one_place(settings: Settings, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path
    settings.FER_PHOTOS_AT_ONCE = 1


@pytest.mark.django_db
def test_who_comes_while_all_places_are_taken_is_asked_to_come_again_before_anything_is_read(
    client: Browser, one_place: None, figure: Figure
) -> None:
    client.force_login(User.objects.create_user("ada"))
    in_json = {"accept": "application/json"}
    unread: dict[str, Any] = {"data": b"no form at all", "content_type": "multipart/form-data; boundary=x"}
    frame: dict[str, Any] = {"data": b"no picture", "content_type": "image/jpeg"}

    with places.take():
        answers = {
            "page": client.post(reverse("analyse"), **unread),
            "script": client.post(reverse("analyse"), **unread, headers=in_json),
            "sample": client.post(reverse("sample", args=["eileen-collins"])),
            "API": client.post("/api/v1/analyses", **unread),
            "camera": client.post(reverse("live_frame"), **frame, headers=in_json),
        }

    said = {name: (answer.status_code, answer["Retry-After"]) for name, answer in answers.items()}
    assert said == dict.fromkeys(answers, (503, "1"))
    assert "Send it again in a moment" in answers["page"].content.decode()
    assert "Send it again" in answers["API"].json()["error"] == answers["camera"].json()["error"]
    assert not Analysis.objects.exists()
    photo = SimpleUploadedFile("a.jpg", SAMPLES["eileen-collins"].path.read_bytes())
    assert client.post(reverse("analyse"), {"photos": photo}, headers=in_json).status_code == 201
    figure(
        "Who sends a photo while all places are taken is refused before it is read",
        f"503 with Retry-After 1 for each of: {', '.join(answers)}",
    )


def test_a_second_photo_waits_for_the_place_that_the_first_one_had(settings: Settings) -> None:
    settings.FER_PHOTOS_AT_ONCE = 1
    entered = threading.Event()

    def second() -> None:
        with places.take(wait=True):
            entered.set()

    with places.take():
        with pytest.raises(Busy):
            places.require()
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not entered.wait(0.1)
    waiting.join(10)
    assert entered.is_set()
    places.require()


# At a real server -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """A waitress that answers, what /livez and /readyz said while it started, and its database's file."""

    server: Server
    said: list[tuple[int, int]]
    database: Path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    database = tmp_path_factory.mktemp("database") / "db.sqlite3"
    said: list[tuple[int, int]] = []
    watchers: list[threading.Thread] = []

    def watched(port: int) -> list[str]:
        watchers.append(threading.Thread(target=watch, args=(port, said)))
        watchers[-1].start()
        return waitress(port)

    variables = places_of("waitress") | {"DATABASE_URL": f"sqlite:///{database}"}
    with web_servers(command=watched, variables=variables) as (server,):
        for watcher in watchers:  # it may have the last answer before it
            watcher.join()
        yield Started(server, said, database)


def watch(port: int, said: list[tuple[int, int]]) -> None:
    """Ask until it is ready, or for two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not said or said[-1][1] != 200):
        with suppress(OSError):
            said.append((status(port, "/livez"), status(port, "/readyz")))
        time.sleep(0.02)


def status(port: int, path: str) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.fixture
def server(started: Started) -> Server:
    return started.server


def test_a_process_lives_at_once_and_is_ready_when_its_model_is_warm_and_its_database_answers(
    started: Started, figure: Figure
) -> None:
    assert set(started.said[:-1]) == {(200, 503)}
    assert started.said[-1] == (200, 200)

    away = started.database.rename(started.database.with_suffix(".away"))
    try:
        dead = status(started.server.port, "/livez"), status(started.server.port, "/readyz")
    finally:
        away.rename(started.database)

    assert dead == (200, 503)
    assert status(started.server.port, "/readyz") == 200
    figure(
        "`/livez` is 200 with the database dead, `/readyz` 503 until the model is warm",
        f"while it started {len(started.said) - 1} times 200 and 503, then 200 and 200; without its database "
        f"{dead[0]} and {dead[1]}",
    )


def send_until_taken(client: Client, photo: bytes) -> tuple[Answer, int]:
    """Send a photo as the page does, again where the site says when; the last answer and how many times."""
    times = 1
    while (answer := client.send(photo)).status == 503 and times < 120:
        time.sleep(float(answer.headers["retry-after"]) * np.random.default_rng().uniform(0.5, 1.5))
        times += 1
    return answer, times


def test_sixteen_identical_requests_at_once_get_identical_answers(server: Server, figure: Figure) -> None:
    clients = [Client(server) for _ in range(16)]
    together = threading.Barrier(len(clients), timeout=60)

    def ask(client: Client) -> tuple[str, int]:
        together.wait()
        answer, times = send_until_taken(client, PHOTO)
        assert answer.status == 201, answer.body
        page: str = json.loads(answer.body)["url"]
        report = json.loads(client.get(f"{page}expressions.json").body)
        return json.dumps(report["photos"], sort_keys=True), times

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(ask, clients))

    assert len({photos for photos, _ in answers}) == 1
    assert '"expression": "happiness"' in answers[0][0]
    sent = sum(times for _, times in answers)
    figure(
        "Sixteen identical requests at once: identical answers",
        f"16 answers equal to the last digit; {sent - 16} times one was asked to come again and did",
    )


def dribble(port: int, stop: threading.Event, tls: bool = False) -> None:
    """A client that sends an upload at one byte a second."""
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        if tls:
            context = ssl._create_unverified_context()
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname=SITE))
        host = SITE if tls else f"localhost:{port}"
        head = f"POST /analyse/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(PHOTO)}\r\n"
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode())
        for byte in PHOTO:
            if stop.wait(1):
                return
            connection.sendall(bytes([byte]))


def seconds_of(client: Client, count: int) -> list[float]:
    """How long each of so many photos took, one after the other; all are accepted."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        client.post(PHOTO)
        seconds.append(time.perf_counter() - began)
    return seconds


def test_clients_at_one_byte_a_second_harm_no_one(server: Server, figure: Figure) -> None:
    stop = threading.Event()
    client = Client(server)
    before = seconds_of(client, 10)
    with ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(dribble, server.port, stop) for _ in range(20)]
        try:
            time.sleep(1.5)
            with_them = seconds_of(client, 10)
            assert not any(one.done() for one in slow), "they are still there"
        finally:
            stop.set()
    # Twenty of them would hold all eight threads for a day: any answer shows that they hold none.
    assert max(with_them) < 10
    figure(
        "A client at one byte a second harms no one (waitress)",
        f"20 such clients at once: a photo takes {np.median(with_them) * 1e3:.0f} ms, "
        f"{np.median(before) * 1e3:.0f} ms without them",
    )


# For minutes ------------------------------------------------------------------------------------------------

Sent = tuple[Answer, float]  # what was answered, and after how many seconds


def rate_of(server: Server, seconds: float = 8) -> float:
    """How many photos a second it accepts from a few clients that send one after the other."""
    stop = time.monotonic() + seconds

    def keep_sending(client: Client) -> int:
        accepted = 0
        while time.monotonic() < stop:
            if client.send(PHOTO).status == 201:
                accepted += 1
            else:
                time.sleep(0.02)
        return accepted

    clients = [Client(server) for _ in range(4)]
    with ThreadPoolExecutor(len(clients)) as pool:
        return sum(pool.map(keep_sending, clients)) / seconds


def send_at(server: Server, rate: float, seconds: float) -> list[Sent]:
    """Send so many photos a second, whatever becomes of those before: seconds count from when one was due."""
    idle: SimpleQueue[Client] = SimpleQueue()
    for _ in range(64):
        idle.put(Client(server))
    began = time.perf_counter() + 0.5

    def send(due: float) -> Sent:
        client = idle.get()
        answer = client.send(PHOTO)
        took = time.perf_counter() - due
        idle.put(client)
        return answer, took

    with ThreadPoolExecutor(64) as pool:
        sent = []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            sent.append(pool.submit(send, due))
        return [future.result() for future in sent]


def seconds_until_normal(client: Client, normal: float) -> float:
    """From now until five photos, one after the other, take no longer than `normal` in the median."""
    began = time.monotonic()
    while True:
        at = time.monotonic() - began
        with suppress(RuntimeError):  # refused
            if np.median(seconds_of(client, 5)) <= normal:
                return at
        assert at < 60, "it does not come back"


def p99(seconds: list[float]) -> float:
    return float(np.quantile(seconds, 0.99))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SERVERS if name == "waitress" or sys.platform != "win32"])
def test_three_times_what_it_can_do_is_refused_and_harms_nobody_who_is_let_in(
    name: str, figure: Figure
) -> None:
    with web_servers(command=SERVERS[name], variables=places_of(name)) as (server,):
        client = Client(server)
        seconds_of(client, 10)
        before = seconds_of(client, 100)
        rate = rate_of(server)
        sent = send_at(server, 3 * rate, 60)
        client = Client(server)  # the other's connection was idle for longer than it is kept
        normal = seconds_until_normal(client, 2 * float(np.median(before)))
        after = seconds_of(client, 100)

    statuses = Counter(answer.status for answer, _ in sent)
    assert set(statuses) <= {201, *REFUSALS}
    assert all("retry-after" in answer.headers for answer, _ in sent if answer.status in REFUSALS)
    unloaded = p99([*before, *after])  # before and after: on a shared machine either may be a good moment
    accepted = [took for answer, took in sent if answer.status == 201]
    refused = [took for answer, took in sent if answer.status in REFUSALS]
    assert len(accepted) > 0.5 * rate * 60, "most of what it can do, it does"
    assert p99(accepted) <= 2 * unloaded
    assert normal <= 5
    figure(
        f"Three times what the machine can do, open loop, for 60 s ({name}): only 200, 429 and 503, refusals "
        "with Retry-After, accepted p99 at most twice the unloaded, back to normal within 5 s",
        f"{3 * rate:.0f} photos/s: {statuses[201]} accepted, p99 {p99(accepted) * 1e3:.0f} ms "
        f"({p99(accepted) / unloaded:.1f} × {unloaded * 1e3:.0f} ms unloaded); {len(refused)} refused, p99 "
        f"{p99(refused) * 1e3:.0f} ms; normal again after {normal:.1f} s",
    )


@pytest.mark.slow
def test_five_thousand_photos_of_two_hundred_sizes_leave_the_memory_flat(figure: Figure) -> None:
    sizes = np.random.default_rng(0).integers(240, 900, (200, 2))
    photos = [as_jpeg(portrait(int(width), int(height))) for width, height in sizes]
    with web_servers() as (server,):
        client = Client(server)
        after = []
        for number in range(5000):
            client.post(photos[number % len(photos)])
            if number % 1000 == 999:
                after.append(resident_megabytes(server.pid))
    assert max(after[1:]) / after[0] <= 1.05
    figure(
        "5,000 photos of 200 sizes: memory flat within 5 %",
        f"{after[0]:.0f} MB after 1,000 photos, {after[-1]:.0f} MB after 5,000 "
        f"({after[-1] / after[0] - 1:+.1%})",
    )


@posix_only
def test_a_refusal_leaves_the_connection_good_for_the_next_request() -> None:
    with (
        web_servers(command=gunicorn, variables=places_of("gunicorn")) as (server,),
        closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection,
    ):
        connection.request("POST", "/api/v1/analyses", bytes(5_000_000), {"Content-Type": "image/jpeg"})
        refused = connection.getresponse()
        refused.read()
        socket_of_it = connection.sock
        connection.request("GET", "/livez")
        after = connection.getresponse()
        after.read()

        assert (refused.status, after.status) == (401, 200)
        assert connection.sock is socket_of_it, "another connection had to be opened"


@posix_only
@pytest.mark.slow
def test_a_graceful_reload_under_load_fails_no_request(figure: Figure) -> None:
    with web_servers(command=gunicorn, variables=places_of("gunicorn")) as (server,):
        over = threading.Event()

        def visit(client: Client) -> list[int]:
            """Send photos and look at the first page, on one connection, until all reloads are over."""
            said = []
            while not over.is_set():
                said += [client.send(PHOTO).status, client.get("/").status]
            return said

        visitors = [Client(server) for _ in range(4)]
        with ThreadPoolExecutor(len(visitors)) as pool:
            visits = [pool.submit(visit, visitor) for visitor in visitors]
            for _ in range(3):
                time.sleep(10)
                os.kill(server.pid, signal.SIGHUP)
            time.sleep(20)
            over.set()
            statuses = Counter(status for said in visits for status in said.result())
    assert set(statuses) <= {200, 201, 503}  # 503: all places are taken, come again
    assert statuses[201] > 20
    figure(
        "Graceful reload under load (gunicorn, HUP): no failed request",
        f"3 reloads while 4 visitors ask on: {statuses[201]} photos read, {statuses[200]} pages, "
        f"{statuses[503]} photos asked to come again, none failed",
    )


@posix_only
@pytest.mark.slow
def test_clients_at_one_byte_a_second_do_not_get_past_nginx(tmp_path: Path, figure: Figure) -> None:
    with web_servers(command=gunicorn, variables=places_of("gunicorn")) as (server,):
        front = Deployed(tmp_path, {}, web_port=server.port)
        client, stop = Client(server), threading.Event()
        before = seconds_of(client, 20)
        with nginx(front), ThreadPoolExecutor(40) as pool:
            slow = [pool.submit(dribble, front.secure_port, stop, tls=True) for _ in range(40)]
            try:
                time.sleep(3)
                with_them = seconds_of(client, 20)
                assert not any(one.done() for one in slow), "they are still there"
            finally:
                stop.set()
    assert max(with_them) < 10
    figure(
        "A client at one byte a second harms no one (gunicorn behind nginx)",
        f"40 such clients at 16 threads: a photo takes {np.median(with_them) * 1e3:.0f} ms, "
        f"{np.median(before) * 1e3:.0f} ms without them",
    )
