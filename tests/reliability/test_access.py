"""Access: no one gets in where they don't belong.

access.txt is the table of every address and of what each asker gets there. It is held against the URL
configuration: a route without a row fails.
"""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from http.cookies import SimpleCookie
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final

import pytest
from django.conf import settings as site_settings
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache as counters
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import Resolver404, URLResolver, get_resolver, resolve
from django.utils import timezone
from PIL import Image
from pytest_django import Settings

from fer_site import health
from fer_site.bench.serving import free_port
from fer_site.health import ANSWERS
from ml.config import PRESETS
from ml.expressions import EXPRESSIONS
from recognition import background, compare_views, live_views, services
from recognition.access import Owner
from recognition.api import api
from recognition.models import Analysis, ApiToken, AuditEntry, DayNote, Face, Photo, Profile, Rejection, Track
from recognition.readiness import READY
from tests.fer_site.test_deploy import postgresql
from tests.fer_site.test_every_page import film
from tests.figures import Figure
from tests.reliability.servers import TOKEN, Site, Visitor, restarting, wait_for
from tests.training.conftest import draw_faces, shrink
from tests.training.test_admin_pages import LAUNCH, form
from tests.training.test_reports import measure
from training import checkpoints
from training.models import Checkpoint, Dataset, Fold, State, TrainingRun

ROOT: Final = Path(site_settings.BASE_DIR)
TABLE: Final = Path(__file__).with_name("access.txt")
REFUSALS: Final = {"401", "403", "404", "405", "login"}
LOGINS: Final = ("/accounts/login/", "/admin/login/")
METHODS: Final = ("GET", "POST", "PUT", "DELETE")
PASSWORD: Final = "correct-horse-battery"

# What stands in the owner's rows and files, and in nobody's else. A token alone opens nothing.
OWN: Final = ("note-of-ada", "diary-of-ada", "file-of-ada", "pixels-of-ada")
# What only staff with permissions may read.
STAFFS: Final = (
    "run-of-somebody",
    "set-of-somebody",
    "checkpoint-of-somebody",
    "log-of-somebody",
    "weights-of-somebody",
)


# The table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A request, with names in braces for what `World.names` has, and its outcome by who asks."""

    method: str
    address: str
    cells: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.method} {self.address}"


def read_table() -> list[Row]:
    lines = [line.split() for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    (_, _, *askers), *rows = lines
    return [Row(method, address, dict(zip(askers, cells, strict=True))) for method, address, *cells in rows]


ROWS: Final = read_table()


def routes(resolver: URLResolver, before: str = "") -> Iterator[str]:
    """Every route of the configuration, as `resolve` writes it."""
    for entry in resolver.url_patterns:
        route = before + (str(entry.pattern).removeprefix("^") if before else str(entry.pattern))
        if isinstance(entry, URLResolver):
            yield from routes(entry, route)
        else:
            yield route


def route_of(address: str) -> str:
    """The route that an address reaches; "" where that is none."""
    path = address.partition("?")[0]
    try:
        return path if path in ANSWERS else resolve(path).route
    except Resolver404:
        return ""


@cache
def a_film() -> bytes:
    data = film().read()
    assert isinstance(data, bytes)
    return data


def a_photo() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    return stream.getvalue()


# The world -------------------------------------------------------------------------------------------------


@dataclass
class World:
    """Everything that the table speaks of, and everybody who asks."""

    clients: dict[str, Client] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, Callable[[], dict[str, Any]]] = field(default_factory=dict)

    def fill(self, address: str) -> str:
        return address.format_map(self.names)

    def ask(self, asker: str, row: Row) -> tuple[str, bytes]:
        """What comes of a request, and what is in the answer; everything is as before afterwards.

        The outcome is "login" where a login is asked for, "done" where rows were written, else the status.
        "404, wrote" is a refusal that wrote all the same; and so is "200, wrote" of a GET.
        """
        client = self.clients[asker]
        cookies = client.cookies.output(header="", sep=";")
        counters.clear()  # no asker is counted with another
        body = self.bodies.get(row.place, dict)()
        with transaction.atomic(), written_rows() as written:
            if row.method == "POST":
                answer = client.post(self.fill(row.address), body)
            else:
                answer = client.generic(row.method, self.fill(row.address))
            content = b"".join(answer) if answer.streaming else answer.content
            answer.close()
            transaction.set_rollback(True)
        client.cookies = SimpleCookie(cookies)
        outcome = str(answer.status_code)
        if answer.status_code == 302 and answer.headers["Location"].startswith(LOGINS):
            outcome = "login"
        if written and row.method != "GET" and answer.status_code < 400 and outcome != "login":
            outcome = "done"
        elif written:
            outcome += ", wrote"
        return outcome, content


@contextmanager
def written_rows() -> Iterator[list[str]]:
    """The statements that wrote rows, but for sessions and the moment at which a key was used last."""
    written: list[str] = []

    def watch(execute: Any, sql: str, *arguments: Any) -> Any:
        if re.match(r"(INSERT|UPDATE|DELETE)\b(?! (INTO|FROM)? ?.django_session)", sql) and not re.match(
            "UPDATE .recognition_apitoken. SET .used.", sql
        ):
            written.append(sql)
        return execute(sql, *arguments)

    with connection.execute_wrapper(watch):
        yield written


@pytest.fixture
def world(db: None, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.FER_VAR_DIR = tmp_path / "var"
    settings.FER_DATA_ROOT = tmp_path / "data"
    settings.CELERY_BROKER_URL = "memory://"
    without_models(monkeypatch)
    world = World()
    add_people(world)
    add_analyses(world, Owner(user=User.objects.get(username="ada")))
    add_training(world, settings.FER_DATA_ROOT)
    return world


def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may ask for something does not hang on what a network says of it."""

    def analyse(files: object, owner: Owner) -> Analysis:
        analysis = owner.new_analysis(model_name="m")
        analysis.save()
        return analysis

    ready = {"database": READY, "model": READY}
    monkeypatch.setattr(services, "analyse_upload", analyse)
    monkeypatch.setattr(live_views, "read_frame", lambda body, masks: {"faces": []})
    monkeypatch.setattr(compare_views, "compare", lambda photo, models: None)
    monkeypatch.setattr(compare_views, "explain_face", lambda face, model, expression: None)
    monkeypatch.setattr(compare_views, "render", lambda *_, **__: HttpResponse("pixels-of-ada"))
    monkeypatch.setattr(checkpoints, "find_problem", lambda checkpoint: None)
    monkeypatch.setattr(background, "_send", lambda tokens: None)
    monkeypatch.setattr(health, "readiness", lambda: ready)
    monkeypatch.setattr("recognition.api.readiness", lambda: ready)


def add_people(world: World) -> None:
    ada, grace = (User.objects.create_user(name, password=PASSWORD) for name in ("ada", "grace"))
    staff = User.objects.create_user("staff", password=PASSWORD, is_staff=True)
    admin = User.objects.create_superuser("admin", password=PASSWORD)
    for user in (ada, grace, staff, admin):
        Profile.objects.create(user=user)
    entry = AuditEntry.objects.create(
        user=ada.pk, action=AuditEntry.Action.READ, kind=Analysis.Kind.PHOTOS, model_name="m"
    )
    DayNote.objects.create(user=ada, day=timezone.localdate(), text="diary-of-ada")
    of_ada, key = ApiToken.create_for(ada, "a key")
    _, other_key = ApiToken.create_for(grace, "a key")

    for name in ("nobody", "session", "user", "staff", "admin", "owner"):
        world.clients[name] = Client()
    world.clients["key"] = Client(headers={"authorization": f"Bearer {key}"})
    world.clients["other_key"] = Client(headers={"authorization": f"Bearer {other_key}"})
    for name, user in (("user", grace), ("staff", staff), ("admin", admin), ("owner", ada)):
        world.clients[name].force_login(user)
    own_word(world.clients["session"], "another browser")

    today = timezone.localdate()
    world.names |= {
        "user": str(ada.pk),
        "group": str(Group.objects.create(name="a group").pk),
        "audit": str(entry.pk),
        "key": str(of_ada.pk),
        "month": f"{today:%Y/%-m}",
        "day": f"{today:%Y/%-m/%-d}",
        "analyses": str(ContentType.objects.get_for_model(Analysis).pk),
        "runs": str(ContentType.objects.get_for_model(TrainingRun).pk),
    }
    new = {"new_password1": "another-good-one", "new_password2": "another-good-one"}
    world.bodies |= {
        "POST /language/": lambda: {"language": "vi"},
        "POST /accounts/signup/": lambda: {"username": "eve", "password1": PASSWORD, "password2": PASSWORD},
        "POST /accounts/login/": lambda: {"username": "ada", "password": PASSWORD},
        "POST /accounts/password/": lambda: {"old_password": PASSWORD, **new},
        "POST /accounts/profile/": lambda: {"keep": "7"},
        "POST /accounts/delete/": lambda: {"password": PASSWORD},
        "POST /history/{day}/": lambda: {"text": "mine"},
        "POST /a/{photos}/note/": lambda: {"note": "mine"},
        "POST /admin/login/": lambda: {"username": "admin", "password": PASSWORD},
        "POST /admin/password_change/": lambda: {"old_password": PASSWORD, **new},
        "POST /admin/auth/group/add/": lambda: {"name": "another"},
        "POST /admin/auth/group/{group}/change/": lambda: {"name": "another"},
        "POST /admin/auth/user/add/": lambda: {
            **{"username": "eve", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
        },
        "POST /admin/auth/user/{user}/change/": lambda: {
            **{"username": "ada", "is_superuser": "on", "date_joined_0": "2026-01-01"},
            **{"date_joined_1": "00:00:00", "is_active": "on"},
        },
        "POST /admin/auth/user/{user}/password/": lambda: {
            **{"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
        },
    }
    for row in ROWS:
        if row.address.startswith("/admin/") and row.address.endswith("/delete/"):
            world.bodies[row.place] = lambda: {"post": "yes"}


def own_word(client: Client, word: str) -> None:
    """Give a browser without an account the word that says what is its own."""
    session = client.session
    session["owner"] = word
    session.save()


def add_analyses(world: World, owner: Owner) -> None:
    """Photos that were read, a batch, a video and a batch that waits, all of one owner."""
    expires = timezone.now() + timedelta(hours=1)
    for name, kind, state in (
        ("photos", Analysis.Kind.PHOTOS, Analysis.State.DONE),
        ("batch", Analysis.Kind.BATCH, Analysis.State.DONE),
        ("video", Analysis.Kind.VIDEO, Analysis.State.DONE),
        ("waiting", Analysis.Kind.BATCH, Analysis.State.QUEUED),
    ):
        analysis = owner.new_analysis(kind=kind, state=state, model_name="m", note="note-of-ada")
        analysis.expires = expires
        analysis.save()
        world.names |= {name: analysis.token, f"{name}_quoted": quote(analysis.token)}
        analysis.folder.mkdir(parents=True)
        photo = Photo.objects.create(
            analysis=analysis, number=1, name="file-of-ada.jpg", width=320, height=240
        )
        read: dict[str, Any] = {
            "box": [10, 10, 90, 90],
            "landmarks": {},
            "confidence": 1,
            "probabilities": {name: float(name == "happiness") for name in EXPRESSIONS},
        }
        Face.objects.create(photo=photo, number=1, **read)
        Rejection.objects.create(analysis=analysis, number=2, name="file-of-ada.txt", reason="It is a text.")
        Track.objects.create(analysis=analysis, number=1).sightings.create(milliseconds=0, **read)
        for file in (
            *("photo-1.jpg", "photo-1-face-1.jpg", "photo-1-face-1-mask.png"),
            *("video.mp4", "person-1.jpg", "poster.jpg"),
        ):
            (analysis.folder / file).write_bytes(b"pixels-of-ada")

    def photos() -> dict[str, Any]:
        return {"photos": SimpleUploadedFile("a.jpg", a_photo())}

    recorded = a_film()
    world.bodies |= {
        "POST /analyse/": photos,
        "POST /api/v1/analyses": photos,
        "POST /batch/": photos,
        "POST /video/": lambda: {"video": SimpleUploadedFile("film.mp4", recorded, "video/mp4")},
        "POST /admin/recognition/analysis/": lambda: {
            "action": "delete_selected",
            "_selected_action": world.names["photos"],
            "post": "yes",
        },
        "POST /admin/recognition/apitoken/": lambda: {
            "action": "delete_selected",
            "_selected_action": world.names["key"],
            "post": "yes",
        },
    }


def add_training(world: World, data: Path) -> None:
    """A run that runs and one that was stopped, their data set and an unused one, and two checkpoints."""
    draw_faces(data / "faces", train=1)
    dataset, unused = (
        Dataset.objects.create(name=name, kind="folders", folder="faces", inspection=None)
        for name in ("set-of-somebody", "unused")
    )
    dataset.contact_sheet.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(dataset.contact_sheet)
    tiny = shrink(PRESETS["compact"])
    running, stopped = (
        TrainingRun.objects.create(
            name="run-of-somebody", dataset=dataset, preset="compact", config=tiny.to_dict(), state=state
        )
        for state in (State.RUNNING, State.CANCELLED)
    )
    measured = Fold.objects.create(run=running, number=0)
    measure(measured, 1)
    (measured.folder / "log.txt").write_text("log-of-somebody")
    Fold.objects.create(run=running, number=1, state=State.RUNNING)
    Fold.objects.create(run=stopped, number=0, state=State.CANCELLED)
    path = running.folder / "checkpoint.safetensors"
    path.write_bytes(b"weights-of-somebody")
    checkpoint, active = (
        Checkpoint.objects.create(
            name="checkpoint-of-somebody", file=str(path.relative_to(path.parents[2])), sha256="0" * 64
        )
        for _ in range(2)
    )
    checkpoints.activate(active)
    world.names |= {
        "run": str(running.pk),
        "stopped": str(stopped.pk),
        "dataset": str(dataset.pk),
        "unused": str(unused.pk),
        "checkpoint": str(checkpoint.pk),
        "active": str(active.pk),
    }
    launched = form(world.clients["admin"]) | {"dataset": dataset.pk}
    for name, row in (("trainingrun", stopped), ("dataset", unused), ("checkpoint", checkpoint)):
        selected = {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"}
        world.bodies[f"POST /admin/training/{name}/"] = partial(dict, selected)
    world.bodies |= {
        f"POST {LAUNCH}": lambda: launched,
        "POST /admin/training/dataset/add/": lambda: {
            **{"name": "another", "kind": "folders", "folder": "faces"}
        },
    }


# What must hold --------------------------------------------------------------------------------------------


def test_every_address_has_its_row(world: World, figure: Figure) -> None:
    reached = {(row.method, route_of(world.fill(row.address))) for row in ROWS}
    there = {*routes(get_resolver()), *ANSWERS}
    calls = {
        (method.upper(), path.lstrip("/").replace("{", "<").replace("}", ">"))
        for path, operations in api.get_openapi_schema()["paths"].items()
        for method in operations
    }

    assert there - {route for _, route in reached} == set()
    assert calls - reached == set()
    figure(
        "Every address of the site stands in the table of who gets what there (tests/reliability/access.txt)",
        f"{len(there)} routes, {len(ROWS)} requests by {len(world.clients)} askers each",
    )


def differences(world: World, rows: list[Row]) -> list[str]:
    """Where the site does something else than the table says, or shows somebody what is not theirs."""
    found = []
    for row in rows:
        for asker, expected in row.cells.items():
            outcome, content = world.ask(asker, row)
            if outcome != expected:
                found.append(f"{row.place}: {outcome} and not {expected} for {asker}")
            secrets: tuple[str, ...] = () if asker in ("owner", "key") else OWN
            secrets += () if asker == "admin" else STAFFS
            if row.address.startswith(("/admin/auth/", "/admin/recognition/")):
                secrets += ("happiness",)
            shown = [secret for secret in secrets if secret.encode() in content]
            if shown:
                found.append(f"{row.place}: shows {asker} {shown}")
    return found


def test_everybody_gets_what_the_table_says(world: World, figure: Figure) -> None:
    assert differences(world, ROWS) == []
    refused = [cell in REFUSALS for row in ROWS for cell in row.cells.values()]
    figure(
        "What is not theirs is 404 (in the administration and where an account is asked for: the login or "
        "403), shows nothing and writes no row",
        f"{len(refused)} requests, {sum(refused)} of them refused, 0 differences",
    )


def test_the_same_holds_for_what_a_browser_without_an_account_owns(world: World, figure: Figure) -> None:
    Analysis.objects.update(user=None, owner="the browser's own")
    world.clients["owner"] = Client()
    own_word(world.clients["owner"], "the browser's own")
    own = [row for row in ROWS if row.address.startswith("/a/") and row.cells["nobody"] == "404"]

    assert differences(world, own) == []
    assert len(own) > 20
    figure(
        "What a browser without an account uploaded is 404 to all others, its crops, masks, JSON, CSV, XLSX "
        "and video included",
        f"{len(own) * len(world.clients)} requests, 0 differences",
    )


def test_without_its_token_no_form_changes_anything(world: World, figure: Figure) -> None:
    wrong, sent = [], 0
    for client in world.clients.values():
        client.handler.enforce_csrf_checks = True
    for row in ROWS:
        for asker in ("nobody", "session", "user", "staff", "admin", "owner"):
            if row.method != "GET" and row.cells[asker] not in REFUSALS:
                outcome, _ = world.ask(asker, row)
                sent += 1
                if outcome != "403":
                    wrong.append(f"{row.place}: {outcome} for {asker}")

    assert wrong == []
    figure(
        "A form without its CSRF token makes no row, whoever sends it",
        f"{sent} requests that would be let in with it, {sent} answered 403",
    )


def test_nothing_that_is_for_its_owner_alone_stays_in_a_cache(world: World) -> None:
    kept = []
    for row in ROWS:
        for asker in ("owner", "key"):
            own = row.cells["nobody"] != "200" or row.address in ("/", "/history/")
            if own and row.method == "GET" and row.cells[asker] == "200":
                answer = world.clients[asker].get(world.fill(row.address))
                if "no-store" not in answer.get("Cache-Control", ""):
                    kept.append(f"{row.place} for {asker}")

    assert kept == []


def test_other_methods_do_nothing(world: World, figure: Figure) -> None:
    """So a launch, a deletion or a login by GET does nothing either."""
    wrong, sent = [], 0
    rows = {row.place: row for row in ROWS}
    for address in dict.fromkeys(row.address for row in ROWS):
        # Django's administration answers any method with a page.
        harmless = REFUSALS | ({"200", "302"} if address.startswith("/admin/") else set())
        cells = rows[f"GET {address}"].cells if f"GET {address}" in rows else {}
        for method in METHODS:
            if f"{method} {address}" in rows:
                continue
            for asker in ("admin", "owner"):
                outcome, _ = world.ask(asker, Row(method, address, {}))
                sent += 1
                # 400: its forms take a PUT for a POST.
                if outcome not in harmless | {"400", cells.get(asker, "")}:
                    wrong.append(f"{method} {address}: {outcome} for {asker}")

    assert wrong == []
    figure(
        "A method that has no row in the table does nothing: to launch or to log out by GET is 405",
        f"{sent} requests of the owner and an administrator, 0 rows",
    )


def test_administrators_cannot_ask_for_what_is_the_owners(world: World, figure: Figure) -> None:
    """A filter in the address would answer: whose is it, and what stands in the note?"""
    page = "/admin/recognition/analysis/"
    questions = (
        "note__contains=note",
        "user=1",
        "user__username=ada",
        "photos__name=a",
        "owner=a",
        "token=a",
    )
    answers = [world.clients["admin"].get(f"{page}?{question}").status_code for question in questions]

    assert answers == [400] * len(questions)
    assert world.clients["admin"].get(f"{page}?model_name=m").status_code == 200
    figure(
        "An administrator learns neither whose an analysis is nor what stands in it by filtering the list",
        f"{len(questions)} questions in the address, {len(questions)} refused",
    )


# Limits ----------------------------------------------------------------------------------------------------


def test_every_door_that_takes_files_asks_to_wait(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # limits count by the minutes of the clock
    settings.FER_UPLOADS_PER_MINUTE = settings.FER_API_PER_MINUTE = 2
    doors = ("/analyse/", "/batch/", "/video/", "/sample/eileen-collins/", "/api/v1/analyses")
    for door in doors:
        for asker in ("nobody", "owner") if door != "/api/v1/analyses" else ("owner", "key"):
            counters.clear()
            body = world.bodies.get(f"POST {door}", dict)
            answers = [world.clients[asker].post(door, body()) for _ in range(4)]
            assert [answer.status_code for answer in answers[2:]] == [429, 429], (door, asker)
            assert 0 < int(answers[2].headers["Retry-After"]) <= 60, (door, asker)
            assert max(answer.status_code for answer in answers[:2]) < 400, (door, asker)
    figure(
        "What is sent too often is refused with 429 and Retry-After, whoever sends it",
        f"{len(doors)} doors, the third upload in a minute where two are allowed",
    )


# Secrets ---------------------------------------------------------------------------------------------------

STARTS: Final = {
    "manage.py": ("manage.py", "check"),
    "the web server": ("-m", "gunicorn", "--config", "deploy/gunicorn.conf.py", "fer_site.wsgi:application"),
    "a worker": ("-m", "celery", "--app=fer_site", "worker", "--pool=solo"),
}


@pytest.mark.parametrize("key", [None, ""], ids=["none", "an empty one"])
@pytest.mark.parametrize("what", STARTS)
def test_without_a_secret_key_nothing_starts(
    what: str, key: str | None, tmp_path: Path, figure: Figure
) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = kept | {"FER_ENV_FILE": os.devnull, "FER_VAR_DIR": str(tmp_path), "PORT": str(free_port())}
    if key is not None:
        environment["SECRET_KEY"] = key

    done = subprocess.run(
        [sys.executable, *STARTS[what]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode != 0
    assert "SECRET_KEY is not set" in done.stdout + done.stderr
    figure(
        "Without a SECRET_KEY, or with an empty one, neither the web server nor a worker starts", "6 of 6 end"
    )


DEBUG_SETTINGS: Final = """
from fer_site.settings import *
LOGGING["root"]["level"] = "DEBUG"
for logger in LOGGING["loggers"].values():
    logger["level"] = "DEBUG"
"""


TO_KEEP: Final = ("SECRET_KEY", "database", "broker", "metrics", "password", "new password", "wrong password")


@pytest.mark.slow
def test_no_secret_is_ever_logged(tmp_path: Path, figure: Figure) -> None:
    """The web server and a worker log everything, while all goes well and while all breaks down.

    Only gunicorn's own level stays as deployed: at debug it would write every address.
    """
    secrets = {name: f"kept-{token_urlsafe(18)}" for name in TO_KEEP}
    (tmp_path / "debug_settings.py").write_text(DEBUG_SETTINGS)
    with postgresql() as database:
        site = Site(tmp_path, database=database)
        port = free_port()
        site.broker.client.config_set("port", port)
        site.broker.client.config_set("requirepass", secrets["broker"])
        site.environment |= {
            "DJANGO_SETTINGS_MODULE": "debug_settings",
            "PYTHONPATH": str(tmp_path),
            "SECRET_KEY": secrets["SECRET_KEY"],
            "DATABASE_URL": database.replace("@", f":{secrets['database']}@"),
            "FER_BROKER_URL": f"redis://:{secrets['broker']}@127.0.0.1:{port}/0",
            "FER_METRICS_TOKEN": secrets["metrics"],
        }
        try:
            site.manage("migrate", "--verbosity=0")
            web = site.start_web()
            site.start_worker("worker", "--queues=analyses,celery", "--loglevel=DEBUG")
            visitor = use_everything(web, secrets)
            unread = "SELECT count(*) FROM recognition_analysis WHERE state IN ('queued', 'running')"
            wait_for("the worker", lambda: site.ask(unread) == [(0,)], 300)
            site.broker.kill()
            assert send_batch(visitor) == 503
            with restarting(database):
                program = {"Authorization": f"Bearer {secrets['API key']}"}
                assert visitor.ask("GET", "/history/")[0] == 500
                assert Visitor(web).ask("GET", "/api/v1/analyses", b"", **program)[0] == 500
        finally:
            site.stop()
    logs = [path.read_text(errors="replace") for path in tmp_path.glob("*.log")]

    said = "\n".join(logs)
    assert "DEBUG" in said
    assert "OperationalError" in said
    assert [name for name, secret in secrets.items() if secret in said] == []
    figure(
        "Keys, passwords and cookies never come into a log, also where database and broker break down",
        f"{len(secrets)} secrets, {len(logs)} logs at DEBUG, {len(said.splitlines())} lines, 0 found",
    )


def use_everything(port: int, secrets: dict[str, str]) -> Visitor:
    """Do all that needs a secret; the ones that are made on the way are added to `secrets`."""
    visitor = Visitor(port)
    name = {"username": "ada"}
    password, new = secrets["password"], secrets["new password"]
    assert visitor.send("/accounts/signup/", {**name, "password1": password, "password2": password})[0] == 302
    changed = {"old_password": password, "new_password1": new, "new_password2": new}
    assert visitor.send("/accounts/password/", changed)[0] == 302
    for page in ("/accounts/login/", "/admin/login/"):
        for tried in (secrets["wrong password"], new):
            Visitor(port).send(page, {**name, "password": tried})

    token = TOKEN.search(visitor.ask("GET", "/accounts/profile/")[2])
    assert token
    form = f"csrfmiddlewaretoken={token[1].decode()}&name=k".encode()
    form_type = "application/x-www-form-urlencoded"
    shown = visitor.ask("POST", "/accounts/keys/", form, Content_Type=form_type)[2]
    key = re.search(r"fer_[\w-]{43}", shown.decode())
    assert key
    secrets |= {
        "API key": key[0],
        "wrong API key": f"fer_{token_urlsafe(32)}",
        "session": visitor.cookies["sessionid"],
        "CSRF cookie": visitor.cookies["csrftoken"],
    }
    program = Visitor(port)
    for name_, status in (("API key", 200), ("wrong API key", 401)):
        bearer = {"Authorization": f"Bearer {secrets[name_]}"}
        assert program.ask("GET", f"/api/v1/analyses?key={secrets[name_]}", b"", **bearer)[0] == status
    program.ask("GET", f"/{secrets['API key']}/{secrets['password']}")
    asked = {"Authorization": f"Bearer {secrets['metrics']}", "X_Forwarded_For": "192.0.2.1"}
    assert program.ask("GET", "/metrics", b"", **asked)[0] == 200
    assert send_batch(visitor) == 302
    return visitor


def send_batch(visitor: Visitor) -> int:
    return visitor.send("/batch/", {"photos": SimpleUploadedFile("a.jpg", a_photo())})[0]


# What is locked --------------------------------------------------------------------------------------------

# Advisories that do not touch this site: {its number: why}.
ARGUED: Final[dict[str, str]] = {}


@pytest.mark.slow
def test_no_locked_package_has_a_known_hole(figure: Figure) -> None:
    """By PyPI's database or by OSV's, whichever answers for all packages."""
    trouble = []
    for database in ("pypi", "osv"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--requirement", "requirements.txt", "--disable-pip"),
                *("--no-deps", "--format=json", "--vulnerability-service", database),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        packages = json.loads(done.stdout)["dependencies"] if done.stdout else []
        unknown = [package["name"] for package in packages if "skip_reason" in package]
        if packages and not unknown:
            break
        said = f"does not know {len(unknown)} of {len(packages)} packages" if unknown else "does not answer"
        trouble.append(f"{database} {said}")
    else:
        pytest.skip(f"no database of vulnerabilities can be asked from here: {', '.join(trouble)}")

    found = {hole["id"]: package["name"] for package in packages for hole in package["vulns"]}
    assert {number: name for number, name in found.items() if number not in ARGUED} == {}
    assert set(ARGUED) <= set(found), "an argument that is not needed any more"
    figure(
        "No locked package has a known vulnerability, or it is argued why it does not matter (pip-audit)",
        f"{len(packages)} packages, {len(found)} known, {len(ARGUED)} argued; database: {database}",
    )
