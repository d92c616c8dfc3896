"""The site's web server and its clients, as the bench runs them."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from fer_site.bench.photos import ROOT, as_jpeg, portrait

SECONDS_TO_START: Final = 60
SECONDS_TO_ANSWER: Final = 120


@dataclass(frozen=True)
class Server:
    """A web process that answers."""

    pid: int
    port: int


@dataclass(frozen=True)
class Answer:
    """What a server answered. `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes


def waitress(port: int) -> list[str]:
    from fer_site.start import web_command

    return web_command(port)


@contextmanager
def web_servers(
    processes: int = 1,
    command: Callable[[int], list[str]] = waitress,
    variables: Mapping[str, str] | None = None,
) -> Iterator[list[Server]]:
    """Web processes of the site on one database and one folder, made for them; they answer already.

    variables: of their environment, in place of those that let the bench's clients do what they want.
    """
    from django.conf import settings

    from fer_site.start import WEB_ENVIRONMENT

    with tempfile.TemporaryDirectory() as folder:
        own = {
            "FER_VAR_DIR": folder,
            "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
            "FER_UPLOADS_PER_MINUTE": "1000000",  # all clients of the bench are one address
            "FER_PHOTOS_AT_ONCE": "1000000",  # and all of them wait
            "FER_HTTPS": "off",  # they speak to it themselves, whatever stands before this machine's own site
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
            **(variables or {}),
        }
        ours = WEB_ENVIRONMENT | os.environ | {"DJANGO_SETTINGS_MODULE": "fer_site.settings"}
        environment = ours | own
        manage = partial(subprocess.run, cwd=ROOT, check=True, capture_output=True)
        # The exports of the networks are made once, not for every measurement, and never in a web process.
        shared = settings.FER_VAR_DIR
        manage([sys.executable, "manage.py", "export_model"], env=ours | {"FER_VAR_DIR": str(shared)})
        shutil.copytree(shared / "exports", Path(folder) / "exports")
        manage([sys.executable, "manage.py", "migrate", "-v0"], env=environment)
        with ExitStack() as running:
            servers = []
            for _ in range(processes):
                port = free_port()
                process = subprocess.Popen(
                    command(port),
                    cwd=ROOT,
                    env=environment | {"PORT": str(port)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                running.callback(process.wait)
                running.callback(process.terminate)
                servers.append(Server(process.pid, port))
            for server in servers:
                _wait_for(server)
            yield servers


_ports = itertools.count()


def free_port() -> int:
    """A port at which nobody listens.

    The system would give the same one away again before a server listens there, to us or to others. So it is
    one below those that the system gives away, of forty that no other process started lately takes, in turns.
    """
    first = 20_000 + os.getpid() % 250 * 40
    for port in (first + number % 40 for number in itertools.islice(_ports, 40)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port from {first} to {first + 39} is free")


def _wait_for(server: Server) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            Client(server).post(as_jpeg(portrait(480, 640)))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


class Client:
    """A browser session that uploads photos and keeps its connection."""

    def __init__(self, server: Server) -> None:
        self._connection = HTTPConnection("127.0.0.1", server.port, timeout=SECONDS_TO_ANSWER)
        self._connection.request("GET", "/")
        response = self._connection.getresponse()
        page = response.read().decode()
        self._cookie = "; ".join(
            value.split(";")[0] for name, value in response.getheaders() if name.lower() == "set-cookie"
        )
        self._token = page.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]

    def post(self, photo: bytes) -> None:
        """Upload one photo and wait for its result; raises RuntimeError for any other answer than 201."""
        answer = self.send(photo)
        if answer.status != 201:
            raise RuntimeError(f"status {answer.status}: {answer.body[:300]!r}")

    def send(self, photo: bytes) -> Answer:
        """Upload one photo and return what is said to it."""
        boundary = "bench"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n'
            f"{self._token}\r\n"
            f'--{boundary}\r\nContent-Disposition: form-data; name="photos"; filename="photo.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Accept": "application/json",
            "Cookie": self._cookie,
        }
        self._connection.request(
            "POST", "/analyse/", head + photo + f"\r\n--{boundary}--\r\n".encode(), headers
        )
        return self._answer()

    def get(self, path: str) -> Answer:
        self._connection.request("GET", path, headers={"Cookie": self._cookie})
        return self._answer()

    def _answer(self) -> Answer:
        response = self._connection.getresponse()
        body = response.read()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie" and value.startswith("sessionid"):
                self._cookie = f"{self._cookie.split('; sessionid')[0]}; {value.split(';')[0]}"
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body)


def load(servers: Sequence[Server], clients: int, each: int) -> tuple[float, list[float]]:
    """Photos a second of `clients` that post `each`, spread over the servers; and every answer's seconds."""
    photo = as_jpeg(portrait(480, 640))
    sessions = [Client(servers[number % len(servers)]) for number in range(clients)]
    seconds: list[float] = []
    start = threading.Barrier(clients + 1, timeout=SECONDS_TO_ANSWER)

    def run(client: Client) -> None:
        client.post(photo)
        start.wait()
        for _ in range(each):
            began = time.perf_counter()
            client.post(photo)
            seconds.append(time.perf_counter() - began)

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(run, client) for client in sessions]
        start.wait()
        began = time.perf_counter()
        for future in running:
            future.result()
        whole = time.perf_counter() - began
    return clients * each / whole, seconds
