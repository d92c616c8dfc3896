import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from fer_site.broker import LONGEST_SOCKET_PATH, cache_settings, socket_path
from fer_site.dotenv import ensure_dotenv

ROOT = Path(settings.BASE_DIR)


def manage(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run manage.py with the environment of these tests, changed by `variables`; empty ones go."""
    environment = {name: value for name, value in (os.environ | variables).items() if value}
    environment["DJANGO_SETTINGS_MODULE"] = "fer_site.settings"
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_table_of_settings_is_what_the_code_reads() -> None:
    table = (ROOT / "docs" / "settings.md").read_text()
    code = (ROOT / "fer_site" / "settings.py").read_text()

    documented = re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE)
    read = re.findall(r'(?:env\.\w+|positive|switch|words|time_zone)\(\s*"([A-Z_]+)"', code)

    assert sorted(documented) == sorted(read)
    assert len(set(read)) == len(read), "a variable is read in one place"


def test_without_a_secret_key_it_says_what_to_do_and_shows_no_traceback() -> None:
    refused = manage("check", SECRET_KEY="")

    assert refused.returncode == 1
    assert refused.stderr.startswith("SECRET_KEY is not set. `make install`")
    assert "Traceback" not in refused.stderr


def test_a_secret_may_come_from_a_file_with_a_newline_at_its_end(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")

    shown = manage(
        "diffsettings", SECRET_KEY="", SECRET_KEY_FILE=str(secret), FER_METRICS_TOKEN_FILE=str(secret)
    )

    assert "SECRET_KEY = 'from a file'" in shown.stdout
    assert "FER_METRICS_TOKEN = 'from a file'" in shown.stdout


def test_a_file_of_a_secret_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused = manage("check", SECRET_KEY="", SECRET_KEY_FILE=str(tmp_path / "none"))

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"SECRET_KEY_FILE: {tmp_path / 'none'} cannot be read (No such file")


def test_names_in_a_list_may_have_spaces_around_their_commas() -> None:
    shown = manage("diffsettings", ALLOWED_HOSTS="a.example.org, b.example.org ,")

    assert "ALLOWED_HOSTS = ['a.example.org', 'b.example.org']" in shown.stdout


def test_a_browser_s_word_outlives_what_it_sent() -> None:
    shown = manage("diffsettings", FER_RETENTION_HOURS="1000")

    assert "SESSION_COOKIE_AGE = 3603600" in shown.stdout


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("FER_MAX_UPLOAD_MB", "much", "FER_MAX_UPLOAD_MB=much is not a number above zero."),
        ("FER_RETENTION_HOURS", "-1", "FER_RETENTION_HOURS=-1 is not a number above zero."),
        ("FER_MAX_FILES", "0", "FER_MAX_FILES=0 is not a number above zero."),
        ("FER_MAX_BATCH_PHOTOS", "40000", "FER_MAX_BATCH_PHOTOS=40000 is not between 1 and 32767."),
        ("FER_PHOTOS_AT_ONCE", "0.5", "FER_PHOTOS_AT_ONCE=0.5 is not between 1 and"),
        ("DATABASE_URL", "here", "DATABASE_URL is not an address"),
        ("DATABASE_URL", "postgres://ada:secret@host:port/faces", "DATABASE_URL is not an address"),
        ("FER_CACHE_URL", "redis:/host", "FER_CACHE_URL is not an address such as redis://host:6379/1."),
        ("FER_HTTPS", "enabled", "FER_HTTPS=enabled is neither on nor off."),
        ("FER_SIGNUP", "never", "FER_SIGNUP=never is neither on nor off."),
        ("TIME_ZONE", "Mars", "TIME_ZONE=Mars is no time zone such as Asia/Ho_Chi_Minh."),
        ("TIME_ZONE", "Europe", "TIME_ZONE=Europe is no time zone such as Asia/Ho_Chi_Minh."),
        ("FER_LOG_FORMAT", "xml", "FER_LOG_FORMAT=xml is neither plain nor json."),
    ],
)
def test_a_value_that_makes_no_sense_is_named(name: str, value: str, sentence: str) -> None:
    refused = manage("check", **{name: value})

    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "secret" not in refused.stderr


@pytest.mark.parametrize(
    ("broker", "cache"),
    [
        ("redis://:word@host:6379/4", "redis://:word@host:6379/5"),
        ("redis://host:6379/14", "redis://host:6379/15"),
        ("redis://host:6379/15", "redis://host:6379/14"),  # Redis has databases 0 to 15
        ("redis+socket:///run/redis.sock?virtual_host=15", "unix:///run/redis.sock?db=14"),
        ("redis://host:6379/63", "redis://host:6379/62"),  # or as many as it was told to have
        ("redis+socket:///run/redis.sock", "unix:///run/redis.sock?db=1"),
        ("redis+socket://:word@/run/redis.sock?virtual_host=4", "unix://:word@/run/redis.sock?db=5"),
    ],
)
def test_the_cache_lies_on_the_brokers_server_also_on_its_socket(broker: str, cache: str) -> None:
    assert cache_settings("", broker, Path("/var/fer"))["default"]["LOCATION"] == cache


def test_a_database_that_takes_the_call_and_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgres://ada@127.0.0.1:{silent.getsockname()[1]}/faces"
        refused = manage("migrate", "--check", DATABASE_URL=address)

    assert refused.returncode == 1
    assert "timeout expired" in refused.stderr


def test_dotenv_is_written_once_with_a_key_of_its_own_for_its_owner_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "first.env", tmp_path / "second.env"

    assert ensure_dotenv(first)
    assert ensure_dotenv(second)
    written = first.read_text()
    assert not ensure_dotenv(first)

    assert first.read_text() == written != second.read_text()
    assert re.search(r"^SECRET_KEY=[\w-]{50,}$", written, re.MULTILINE)
    assert first.stat().st_mode & 0o777 == 0o600


def test_the_broker_listens_in_var_or_where_the_path_is_short_enough(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-long-name-of-a-folder"] * 6)

    assert socket_path(Path("/srv/faces/var")) == Path("/srv/faces/var/broker/valkey.sock")
    assert len(bytes(socket_path(deep))) <= LONGEST_SOCKET_PATH
    assert socket_path(deep) == socket_path(deep) != socket_path(deep.parent)


@pytest.mark.django_db
def test_every_change_of_a_model_has_its_migration() -> None:
    call_command("makemigrations", check=True, dry_run=True)


@pytest.mark.django_db
def test_sqlite_waits_for_its_turn() -> None:
    with connection.cursor() as cursor:
        timeout = cursor.execute("PRAGMA busy_timeout").fetchone()

    assert timeout == (20_000,)


def test_loading_django_imports_neither_torch_nor_tensorflow() -> None:
    program = "import django, sys; django.setup(); import fer_site.urls; print(*sys.modules)"
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "fer_site.settings"}

    loaded = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, env=environment, text=True)

    assert {"torch", "tensorflow"}.isdisjoint(loaded.split())
