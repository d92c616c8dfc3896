"""The whole site as `make run` starts it: real processes, a real broker, a database of its own."""

import contextlib
import http.client
import http.cookiejar
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from pytest_django import Settings

from fer_site.bench.serving import free_port
from fer_site.start import create_admin, local_address
from ml import runtime
from ml.checkpoint import BUNDLED
from ml.predictor import load_predictor

ROOT = Path(settings.BASE_DIR)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded broker does not run on Windows")


@dataclass(frozen=True)
class Site:
    """A site that was started, in a process group of its own, as a shell starts `make run`."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    port: int
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def password(self) -> str:
        found = re.search(r"user admin, password (\S+)", self.output)
        return found[1] if found else ""

    def until_it_answers(self) -> "Site":
        wait_for(lambda: "Ctrl-C stops it." in self.output or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.output
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the whole group, as a terminal does; return the exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        return self.process.wait(120)  # of its parts one has 45 seconds, and four have 8

    def children(self) -> dict[int, str]:
        """The processes it started, and those they started, each with its command line."""
        found: dict[int, str] = {}
        ask = [self.process.pid]
        while ask:
            parent = ask.pop()
            listed = subprocess.run(
                ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True
            )
            for line in listed.stdout.splitlines():
                pid, command = line.split(maxsplit=1)
                found[int(pid)] = command
                ask.append(int(pid))
        return found


def alive(processes: Iterable[int]) -> str:
    """The lines of `ps` for those that run still; a dead one that nobody has asked about is none."""
    command = ["ps", "-o", "stat=,args=", "--pid", ",".join(map(str, processes))]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    return "\n".join(line for line in listed.splitlines() if not line.startswith("Z"))


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing came of it within {seconds} seconds"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def exports() -> Path:
    """The networks as a first start exports them, made once for all tests."""
    load_predictor(BUNDLED, "mtcnn", "cpu")
    return runtime.exports_folder()


@pytest.fixture
def start(tmp_path: Path, exports: Path) -> Iterator[Callable[..., Site]]:
    """Start the site; every start of one test has the same `.env` and the same var folder."""
    started: list[Site] = []
    shutil.copytree(exports, tmp_path / "var" / "exports")

    def begin(port: int | None = None, **variables: str) -> Site:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("SECRET_KEY", "DJANGO_SETTINGS_MODULE")
        }
        environment |= {
            "FER_ENV_FILE": str(tmp_path / ".env"),
            "FER_VAR_DIR": str(tmp_path / "var"),
            **variables,
        }
        port = port or free_port()
        log = tmp_path / f"start-{len(started)}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "fer_site.start", "--port", str(port)],
                cwd=ROOT,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        started.append(Site(process, environment, port, log))
        return started[-1]

    yield begin
    for site in started:
        site.stop()


def test_it_serves_logs_in_and_works_and_then_stops_without_a_trace(start: Callable[..., Site]) -> None:
    site = start().until_it_answers()

    # The page and the login that it printed.
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    address = f"http://127.0.0.1:{site.port}/admin/login/?next=/admin/"
    assert address.partition("admin/")[0] in site.output
    token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', browser.open(address).read())
    assert token
    form = {"username": "admin", "password": site.password, "csrfmiddlewaretoken": token[1].decode()}
    assert b"Log out" in browser.open(address, urllib.parse.urlencode(form).encode()).read()

    # Somebody else on this machine reads none of it, though the folder was there already, open to all.
    var = Path(site.environment["FER_VAR_DIR"])
    assert var.stat().st_mode & 0o077
    assert not (var / "db.sqlite3").stat().st_mode & 0o077

    # The worker, through the broker: what has outlived its time goes.
    run_django(site, EXPIRED_ANALYSIS)
    wait_for(lambda: run_django(site, COUNT_ANALYSES) == "0", 60)

    children = site.children()
    assert len(children) == 6, children  # broker, worker and its clock, two workers more, web server
    # Whoever waits for a page goes first.
    words = ("waitress", "--queues=analyses", "--queues=training")
    ranks = [os.getpriority(os.PRIO_PROCESS, the_one_with(word, children)) for word in words]
    assert ranks == [ranks[0], ranks[0] + 5, ranks[0] + 10]
    assert site.stop() == 0
    assert site.output.rstrip().endswith("Stopped.")
    assert "Traceback" not in site.output
    assert not alive(children)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", site.port))


EXPIRED_ANALYSIS = """
from datetime import timedelta
from django.utils import timezone
from recognition.models import Analysis
from recognition.tasks import purge_expired
Analysis.objects.create(owner="somebody", model_name="a model", expires=timezone.now() - timedelta(days=1))
purge_expired.delay()
"""
COUNT_ANALYSES = "from recognition.models import Analysis; print(Analysis.objects.count())"


def run_django(site: Site, program: str) -> str:
    """Run Python with Django in another process, with the settings of a running site."""
    environment = site.environment | {"DJANGO_SETTINGS_MODULE": "fer_site.settings"}
    command = [sys.executable, "-c", f"import django; django.setup()\n{program}"]
    return subprocess.check_output(command, cwd=ROOT, env=environment, text=True).strip()


def test_signals_that_come_one_upon_the_other_stop_it_all_the_same(start: Callable[..., Site]) -> None:
    site = start().until_it_answers()
    for _ in range(500):
        with contextlib.suppress(ProcessLookupError):
            os.kill(site.process.pid, signal.SIGTERM)
    assert site.process.wait(60) == 0


def test_told_to_stop_while_it_prepares_it_stops_without_starting_a_part(
    start: Callable[..., Site], tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "var" / "exports")  # so that preparing takes a while
    site = start()
    wait_for(lambda: "Preparing the model" in site.output, 60)

    assert site.stop(signal.SIGINT) == 0
    assert site.output.rstrip().endswith("Stopped.")
    assert "Traceback" not in site.output
    assert "Starting" not in site.output


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent was killed")
def test_killed_it_leaves_no_part_behind(start: Callable[..., Site]) -> None:
    site = start().until_it_answers()
    children = site.children()
    site.process.kill()

    wait_for(lambda: not alive(children), 90)


def test_a_second_start_keeps_key_and_admin(start: Callable[..., Site], tmp_path: Path) -> None:
    first = start().until_it_answers()
    key = (tmp_path / ".env").read_text()
    first.stop(signal.SIGINT)
    second = start().until_it_answers()

    assert first.password
    assert f"`{sys.executable} manage.py changepassword admin`" in first.output
    assert not second.password
    assert (tmp_path / ".env").read_text() == key


def test_a_second_start_beside_a_running_one_is_refused(start: Callable[..., Site]) -> None:
    running = start().until_it_answers()
    other = start()

    assert other.process.wait(60) == 1
    assert "running already" in other.output
    assert running.process.poll() is None


def test_of_two_that_start_at_the_same_moment_one_is_refused(start: Callable[..., Site]) -> None:
    both = start(), start()
    wait_for(lambda: any(site.process.poll() is not None for site in both), 60)
    refused, kept = sorted(both, key=lambda site: site.process.poll() is None)

    assert "running already" in refused.output
    kept.until_it_answers()


def test_a_part_that_dies_stops_the_rest(start: Callable[..., Site]) -> None:
    site = start().until_it_answers()
    children = site.children()
    os.kill(the_one_with("--beat", children), signal.SIGKILL)

    assert site.process.wait(60) == 1
    assert "The worker ended by itself" in site.output
    assert not alive(children)


def test_a_training_worker_that_dies_is_replaced(start: Callable[..., Site]) -> None:
    site = start().until_it_answers()
    first = the_one_with("--queues=training", site.children())
    os.kill(first, signal.SIGKILL)

    def second() -> bool:
        children = site.children()
        return any("--queues=training" in command for pid, command in children.items() if pid != first)

    wait_for(second, 60)
    assert "The training worker ended by itself (exit code -9): another one starts." in site.output
    assert site.process.poll() is None
    children = site.children()
    assert site.stop() == 0
    assert not alive(children)


def the_one_with(word: str, children: dict[int, str]) -> int:
    return next(pid for pid, command in children.items() if word in command)


def test_a_taken_port_is_said_and_another_one_suggested(start: Callable[..., Site]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        site = start(port)

        assert site.process.wait(60) == 1
    assert f"Port {port} is taken by another program. Take another one: make run PORT=8080" in site.output
    assert "Traceback" not in site.output


def test_who_hands_over_a_key_needs_no_file_for_it(start: Callable[..., Site], tmp_path: Path) -> None:
    nowhere = tmp_path / "none" / ".env"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        site = start(other.getsockname()[1], SECRET_KEY="handed over", FER_ENV_FILE=str(nowhere))

        assert site.process.wait(60) == 1
    assert "is taken by another program" in site.output


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "http://127.0.0.1:8000/"), ("::", "http://[::1]:8000/"), ("::1", "http://[::1]:8000/")],
)
def test_the_address_that_it_prints_is_one_for_a_browser(settings: Settings, host: str, address: str) -> None:
    settings.FER_HOST = host

    assert local_address(8000) == address


@pytest.mark.django_db
def test_a_visitor_who_is_called_admin_is_not_in_the_way_of_the_first_administrator() -> None:
    User.objects.create_user("admin", password="of a visitor")

    made = create_admin()

    assert made
    assert made[0] == "admin2"
    assert User.objects.get(is_superuser=True).check_password(made[1])


def test_a_folder_that_cannot_be_made_is_named(start: Callable[..., Site], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    site = start(FER_VAR_DIR=str(tmp_path / "file" / "var"))

    assert site.process.wait(60) == 1
    assert "Not a directory" in site.output
    assert "Traceback" not in site.output


def test_without_a_model_it_does_not_start(start: Callable[..., Site], tmp_path: Path) -> None:
    site = start(FER_CHECKPOINT=str(tmp_path / "none.safetensors"))

    assert site.process.wait(60) == 1
    assert "There is no model at" in site.output
    assert "Traceback" not in site.output


def test_with_a_damaged_model_it_stops_and_says_so(start: Callable[..., Site], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    *rest, last = settings.FER_CHECKPOINT.read_bytes()
    damaged.write_bytes(bytes([*rest, last ^ 1]))
    site = start(FER_CHECKPOINT=str(damaged))

    assert site.process.wait(120) == 1
    assert f"The checkpoint {damaged} is damaged" in site.output
    assert "Traceback" not in site.output


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fer_site.start import StartError, require_room

    full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)

    with pytest.raises(StartError, match="The disk is full: 1 MB are free"):
        require_room(tmp_path)


def test_with_a_broker_of_ones_own_none_is_started(start: Callable[..., Site], tmp_path: Path) -> None:
    site = start(FER_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0").until_it_answers()

    assert not [command for command in site.children().values() if "valkey-server" in command]
    assert not (tmp_path / "var" / "broker").exists()


def test_behind_a_proxy_that_speaks_https_plain_requests_are_redirected(start: Callable[..., Site]) -> None:
    site = start(FER_HTTPS="on").until_it_answers()

    def ask(**headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", site.port)
        connection.request("GET", "/", headers=headers)
        return connection.getresponse()

    plain = ask()
    assert plain.status == 301
    assert str(plain.headers["Location"]).startswith("https://")
    secure = ask(**{"X-Forwarded-Proto": "https"})
    assert secure.status == 200
    assert "Secure" in str(secure.headers["Set-Cookie"])
