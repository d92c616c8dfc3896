"""Privacy.

What is left of an upload when it is deleted or its time is over: searched for byte for byte.
"""

import io
import logging
import pickle
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from django.urls import reverse
from django.utils import timezone
from PIL import Image
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings
from redis import Redis

from fer_site.logs import PlainFormatter, WithRequest
from recognition.models import Analysis, AuditEntry
from recognition.purging import purge_expired
from recognition.services import get_predictor
from tests.figures import Figure
from tests.recognition.conftest import *  # noqa: F403 (its fixtures)
from tests.recognition.test_batches import packed
from tests.reliability.servers import TOKEN, Site, Visitor, wait_for

NAME = "ada-on-holiday"
NOTE = "Camera of Ada Lovelace"

Traces = dict[str, bytes]


@pytest.fixture(scope="module")
def large(portrait: bytes) -> bytes:
    """A photo so large that Django puts it on the disk while it comes in, with notes inside."""
    photo = Image.open(io.BytesIO(portrait)).convert("RGB").resize((1400, 1400))
    grain = np.random.default_rng(0).integers(-8, 8, (1400, 1400, 3))
    exif = Image.Exif()
    exif[0x010F] = NOTE
    stream = io.BytesIO()
    grainy = (np.asarray(photo) + grain).clip(0, 255).astype(np.uint8)
    Image.fromarray(grainy).save(stream, "JPEG", quality=100, exif=exif, subsampling=0)
    assert len(stream.getvalue()) > 2_600_000
    return stream.getvalue()


def pieces(what: str, data: bytes) -> Traces:
    """Some of its bytes from here and there: whoever keeps it keeps one of these."""
    places = range(len(data) // 8, len(data), len(data) // 4)
    return {f"{what} at {place}": data[place : place + 24] for place in places}


def traces_of(upload: bytes, analysis: str, folder: Path) -> Traces:
    """By what something of the upload would be known. folder: where its pictures lie now."""
    traces = {"name": NAME.encode(), "note": NOTE.encode(), "address": analysis.encode()}
    traces |= pieces("upload", upload)
    for path in folder.iterdir():
        traces |= pieces(path.name, path.read_bytes())
    return traces


def found(traces: Traces, places: Iterable[tuple[str, bytes]]) -> list[str]:
    return [f"{what} in {where}" for where, data in places for what, trace in traces.items() if trace in data]


def files(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield path.name, str(path).encode() + path.read_bytes()


# In one process ---------------------------------------------------------------------------------------------


class Log(logging.Handler):
    """Keeps every line of any level as the site writes it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.addFilter(WithRequest())
        self.setFormatter(PlainFormatter())
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record) + "\n"


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def ask_to_delete(client: Client, analysis: Analysis) -> None:
    assert client.post(reverse("delete", args=[analysis.pk])).status_code == 302


def let_it_expire(client: Client, analysis: Analysis) -> None:
    Analysis.objects.update(expires=timezone.now() - timedelta(seconds=1))
    assert purge_expired() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("end", [ask_to_delete, let_it_expire], ids=["deleted", "expired"])
def test_nothing_of_an_upload_is_left(
    client: Client,
    large: bytes,
    tmp_path: Path,
    media: Path,
    log: Log,
    end: Callable[[Client, Analysis], None],
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    figure: Figure,
) -> None:
    get_predictor()  # what torch compiles for itself is no part of this
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def places() -> Iterator[tuple[str, bytes]]:
        yield from files(media, temporary)
        yield "log", log.text.encode()
        yield "cache", pickle.dumps(cache._cache)  # type: ignore[attr-defined]
        yield "rows", "\n".join(connection.connection.iterdump()).encode()

    photo = SimpleUploadedFile(f"{NAME}.jpg", large)
    address = client.post(reverse("analyse"), {"photos": [photo, SimpleUploadedFile(f"{NAME}.txt", b"x")]})[
        "Location"
    ]
    analysis = Analysis.objects.get()
    for page in ("", "expressions.json", "expressions.csv", "expressions.xlsx"):
        assert b"".join(client.get(address + page))
    traces = traces_of(large, analysis.pk, analysis.folder)
    before = found(traces, places())
    assert len(before) >= 4 * len(list(analysis.folder.iterdir())) + 2, before

    with django_capture_on_commit_callbacks(execute=True):
        end(client, analysis)

    assert client.get(address).status_code == 404
    assert found(traces, places()) == []
    assert not list(media.rglob("*.*"))
    assert not [path for path in temporary.rglob("*") if path.is_file()]
    how = "its deletion" if end is ask_to_delete else "its time"
    figure(
        f"After {how} nothing of an upload is left in files, rows, cache, log or temporary files",
        f"{len(traces)} traces of it (pieces of the upload and of all pictures, name, note, address) looked "
        f"for: found {len(before)} times before, 0 times after",
    )


@pytest.mark.django_db
def test_who_did_what_with_which_model_is_known_and_nothing_else(
    client: Client,
    admin_client: Client,
    landscape: bytes,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    figure: Figure,
) -> None:
    ada = User.objects.create_user("ada")
    at_home = Client()
    at_home.force_login(ada)
    for somebody, end in ((at_home, ask_to_delete), (client, let_it_expire)):
        somebody.post(reverse("analyse"), {"photos": SimpleUploadedFile(f"{NAME}.jpg", landscape)})
        end(somebody, Analysis.objects.get())

    entries = AuditEntry.objects.order_by("pk")
    said = list(entries.values_list("user", "action", "kind"))
    assert said == [
        (ada.pk, "read", "photos"),
        (ada.pk, "deleted", "photos"),
        (None, "read", "photos"),
        (None, "expired", "photos"),
    ]
    assert all(re.fullmatch(r"compact [0-9a-f]{8}", entry.model_name) for entry in entries)
    kept = {field.name for field in AuditEntry._meta.get_fields()}
    assert kept == {"id", "time", "user", "action", "kind", "model_name"}
    page = admin_client.get("/admin/recognition/auditentry/").content.decode()
    assert "ada" in page
    assert "a visitor" in page
    assert "deleted when its time had passed" in page
    address = f"/admin/recognition/auditentry/{entries[0].pk}/"
    assert admin_client.get(f"{address}change/").status_code == 200
    assert admin_client.post(f"{address}change/", {"user": 7}).status_code == 403
    assert admin_client.post(f"{address}delete/", {"post": "yes"}).status_code == 403

    ada.delete()
    assert AuditEntry.objects.filter(user__isnull=False).count() == 2
    assert "which is gone" in admin_client.get("/admin/recognition/auditentry/").content.decode()
    AuditEntry.objects.update(time=timezone.now() - timedelta(days=181))
    purge_expired()
    assert not AuditEntry.objects.exists()
    figure(
        "Audit rows say who did what with which model, without pixels, unchangeable, and end after 180 days",
        "read, deleted and expired, for an account and a visitor: 4 rows of "
        + ", ".join(sorted(kept - {"id"})),
    )


@pytest.mark.django_db
def test_what_becomes_of_a_picture_is_said_before_it_is_sent(
    client: Client, settings: Settings, figure: Figure
) -> None:
    settings.FER_RETENTION_HOURS = 37
    pages = {name: client.get(reverse(name)).content.decode() for name in ("home", "batch", "video", "live")}
    for name, page in pages.items():
        button = "start" if name == "live" else "send"
        form = page[page.index('id="main"') : page.index(f'id="{button}"')]
        for said in (
            "everybody who can be seen should know of it and agree",
            "deleted after 37 hours",
            "Not for use at work",
        ):
            assert said in form
    client.force_login(User.objects.create_user("ada"))
    for name in pages:
        assert "when the time you chose has passed" in client.get(reverse(name)).content.decode()
    live = pages["live"]
    assert live.index("read and forgotten at once") < live.index('id="start"')
    figure(
        "What becomes of a picture, and who should agree, stands before the button that sends it",
        "on the pages of photos, batches and videos, and before the camera's",
    )


# In processes of their own ----------------------------------------------------------------------------------


def in_redis(client: "Redis") -> Iterator[tuple[str, bytes]]:
    """All that the broker's server holds: the queue and the cache."""
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    for key in client.scan_iter():
        yield f"Redis {key!r}", key + pickle.dumps(readers[client.type(key)](key))  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["deleted", "expired"])
def test_nothing_is_left_on_a_real_site(tmp_path: Path, large: bytes, end: str, figure: Figure) -> None:
    site = Site(tmp_path, durable=True)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    site.environment |= {
        "TMPDIR": str(temporary),
        "FER_RETENTION_HOURS": "24" if end == "deleted" else "0.01",
    }

    def places() -> Iterator[tuple[str, bytes]]:
        yield from files(tmp_path)  # var, temporary files, logs, the broker's append-only file
        for number in (0, 1):
            yield from in_redis(Redis(unix_socket_path=str(site.broker.path), db=number))

    try:
        site.manage("migrate")
        visitor = Visitor(site.start_web())
        site.start_hand("worker", "analyses")
        traces: Traces = {}
        addresses = [
            send(visitor, "/analyse/", f"{NAME}.jpg", large),
            send(visitor, "/batch/", f"{NAME}.zip", packed({f"{NAME}.jpg": large, f"{NAME}.txt": b"x"})),
        ]
        wait_for(
            "the worker",
            lambda: ("batch", "done") in site.ask("SELECT kind, state FROM recognition_analysis"),
            300,
        )
        for address in addresses:
            token = address.split("/")[2]
            traces |= traces_of(large, token, site.var / "media" / "analyses" / token)
        # What the worker was told, an address that leads nowhere, stays in the broker's file for a while.
        told = {"address": traces.pop("address")}
        before = found(traces, places())
        assert before
        if end == "deleted":
            for address in addresses:
                form = {"csrfmiddlewaretoken": token_of(visitor)}
                body = encode_multipart(BOUNDARY, form)
                assert (
                    visitor.ask("POST", f"{address}delete/", body, Content_Type=MULTIPART_CONTENT)[0] == 302
                )
        else:
            wait_for("the end of its time", lambda: visitor.ask("GET", addresses[-1])[0] == 404, 120)
        # As the schedule has it, four times an hour.
        site.manage("shell", "-c", "from recognition.purging import purge_expired; purge_expired()")

        assert site.ask("SELECT count(*) FROM recognition_analysis") == [(0,)]
        assert found(traces, places()) == []
        assert found(told, ((where, data) for where, data in places() if not where.endswith(".aof"))) == []
    finally:
        site.stop()
    figure(
        f"On a real site nothing of a photo and a batch is left once they are {end}, byte for byte",
        f"{len(traces)} traces in var, the database's files, temporary files, logs, the broker and its file: "
        f"found {len(before)} times before, 0 times after",
    )


def token_of(visitor: Visitor) -> str:
    token = TOKEN.search(visitor.ask("GET", "/")[2])
    assert token
    return token[1].decode()


def send(visitor: Visitor, address: str, name: str, data: bytes) -> str:
    """Upload as a browser does; returns the address of the analysis."""
    form = {"photos": SimpleUploadedFile(name, data), "csrfmiddlewaretoken": token_of(visitor)}
    status, location, page = visitor.ask(
        "POST", address, encode_multipart(BOUNDARY, form), Content_Type=MULTIPART_CONTENT
    )
    assert status == 302, page
    return location
