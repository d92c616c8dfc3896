import json
import logging
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from fer_site.logs import JsonFormatter, PlainFormatter, RecentErrors, WithRequest, recent_errors
from recognition import services
from recognition.models import ApiToken

pytestmark = pytest.mark.django_db


class Kept(logging.Handler):
    """Formats as the site does, and keeps the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, object]] = []
        self.addFilter(WithRequest())
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def log() -> Iterator[list[dict[str, object]]]:
    """The lines of the JSON log."""
    handler = Kept()
    logging.getLogger().addHandler(handler)
    yield handler.lines
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def broken(client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A site on which every upload meets an error that nobody expected."""

    def break_down(*_: object) -> None:
        raise RuntimeError("could not store holiday.jpg")

    monkeypatch.setattr(services, "analyse_upload", break_down)
    client.raise_request_exception = False
    return client


def send(client: Client) -> object:
    return client.post(reverse("analyse"), {"photos": SimpleUploadedFile("holiday.jpg", b"x")})


def test_a_request_is_one_line_that_says_where_and_how_long(
    client: Client, log: list[dict[str, object]]
) -> None:
    response = client.get("/a/nobodys-own-token-000/?secret=1")

    (line,) = log
    assert line["method"] == "GET"
    assert line["route"] == "/a/<str:token>/"
    assert line["status"] == 404
    assert isinstance(line["milliseconds"], float)
    assert line["user"] is None
    assert line["request"] == response["X-Request-ID"]
    assert "nobodys-own" not in str(line)
    assert "secret" not in str(line)


def test_a_person_is_a_number(client: Client, log: list[dict[str, object]]) -> None:
    ada = User.objects.create_user("lovelace", "lovelace@example.org")  # no name that hex digits can spell
    client.force_login(ada)

    client.get(reverse("home"))
    assert log[-1]["user"] == ada.pk
    assert "lovelace" not in json.dumps(log[-1])

    key = ApiToken.create_for(ada, "notebook")[1]
    Client(headers={"authorization": f"Bearer {key}"}).get("/api/v1/analyses")
    assert log[-1]["user"] == ada.pk
    assert key not in json.dumps(log)


def test_the_id_of_a_request_comes_in_and_goes_out(client: Client, log: list[dict[str, object]]) -> None:
    assert client.get("/", headers={"x-request-id": "from-the-proxy.1"})["X-Request-ID"] == "from-the-proxy.1"
    assert log[-1]["request"] == "from-the-proxy.1"

    forged = client.get("/", headers={"x-request-id": 'a"} {"level": "no'})["X-Request-ID"]

    assert forged.isalnum()


def test_files_of_the_page_and_probes_are_not_logged(client: Client, log: list[dict[str, object]]) -> None:
    for address in ("/static/css/site.css", "/livez", "/readyz"):
        client.get(address)

    assert not log


def test_the_page_of_an_error_names_the_line_in_the_log(broken: Client, log: list[dict[str, object]]) -> None:
    response = send(broken)

    assert response.status_code == 500  # type: ignore[attr-defined]
    number = response["X-Request-ID"]  # type: ignore[index]
    assert number in response.content.decode()  # type: ignore[attr-defined]
    error = next(line for line in log if line["level"] == "ERROR")
    assert error["request"] == number
    assert "RuntimeError" in str(error["exception"])


def test_the_last_errors_are_kept_without_what_may_be_somebody_s(broken: Client) -> None:
    logging.getLogger().addHandler(handler := RecentErrors(logging.ERROR))
    handler.addFilter(WithRequest())
    try:
        number = send(broken)["X-Request-ID"]  # type: ignore[index]
    finally:
        logging.getLogger().removeHandler(handler)

    error = recent_errors()[0]
    assert error["request"] == number
    assert error["logger"] == "django.request"
    assert error["text"] == "Internal Server Error: /analyse/ (RuntimeError)"


def test_an_error_told_in_a_wrong_way_is_no_second_one() -> None:
    told = logging.LogRecord("a.library", logging.ERROR, "file.py", 1, "%d faces", ("many",), None)

    RecentErrors(logging.ERROR).handle(told)

    assert recent_errors() == []


def test_who_asks_for_a_foreign_name_is_no_error_of_ours(client: Client) -> None:
    assert client.get("/", headers={"host": "scanner.example.org"}).status_code == 400
    assert recent_errors() == []


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("key fer_0123456789abcdef was used", "key fer_… was used"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer …"),
        ("redis://:word@queue:6379 is down", "redis://…@queue:6379 is down"),
        ("in /var/media/analyses/ZSw-oN6r1b_XkJ4V2mG0aQ", "in /var/media/analyses/…"),
        ("mail to ada@example.org failed", "mail to …@… failed"),
    ],
)
def test_secrets_are_taken_out_of_every_line(said: str, kept: str) -> None:
    error = (RuntimeError, RuntimeError(said), None)
    plain, broken = (
        logging.LogRecord("a.logger", logging.INFO, "file.py", 1, message, None, info)
        for message, info in ((said, None), ("It broke", error))
    )
    for record in (plain, broken):
        WithRequest().filter(record)

    assert PlainFormatter().format(plain).endswith(f"INFO a.logger [-]: {kept}")
    assert json.loads(JsonFormatter().format(plain))["message"] == kept
    assert PlainFormatter().format(broken).endswith(f"RuntimeError: {kept}")
    assert json.loads(JsonFormatter().format(broken))["exception"] == f"RuntimeError: {kept}"
