"""Accounts: who comes in, what is whose, how long it is kept, and that all of it can be taken along or go."""

import io
import json
import re
import threading
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import DatabaseError, connection
from django.db.models.deletion import Collector
from django.http import HttpResponse, StreamingHttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, expect
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings
from pytest_django.live_server_helper import LiveServer

from recognition.accounts import CHUNK, export_everything
from recognition.models import Analysis, ApiToken, DayNote, Face, Photo, Profile
from tests.figures import Figure
from tests.recognition.conftest import Keep

pytestmark = pytest.mark.django_db

PASSWORD = "correct-horse-battery"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD)


@pytest.fixture
def grace() -> User:
    return User.objects.create_user("grace", password=PASSWORD)


@pytest.fixture
def at_home(client: Client, ada: User) -> Client:
    """Ada's browser, logged in."""
    client.force_login(ada)
    return client


def log_in(client: Client, name: str = "ada", password: str = PASSWORD) -> HttpResponse:
    return client.post(reverse("login"), {"username": name, "password": password})  # type: ignore[return-value]


def sign_up(client: Client, **fields: str) -> HttpResponse:
    form = {"username": "ada", "password1": PASSWORD, "password2": PASSWORD} | fields
    return client.post(reverse("signup"), form)  # type: ignore[return-value]


def logged_in(client: Client) -> bool:
    return client.get(reverse("profile")).status_code == 200


# In and out ------------------------------------------------------------------------------------------------


def test_a_name_and_a_password_make_an_account(client: Client) -> None:
    response = sign_up(client)

    assert response["Location"] == reverse("history")
    assert User.objects.get().username == "ada"
    assert "ada" in client.get("/").content.decode()
    assert logged_in(client)


@pytest.mark.usefixtures("same_minute")
def test_nobody_asks_the_sign_up_for_many_names(client: Client, grace: User) -> None:
    asked = [sign_up(client, username="grace", password2="another") for _ in range(12)]

    assert "already exists" in asked[0].content.decode()
    assert asked[-1].status_code == 429
    assert "already exists" not in asked[-1].content.decode()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"username": "GRACE"}, "already exists"),
        ({"password1": "12345678", "password2": "12345678"}, "too common"),
        ({"password2": "another"}, "match"),
        ({"email": "nowhere"}, "valid email"),
    ],
)
def test_an_account_that_cannot_be_is_refused_with_the_reason(
    client: Client, grace: User, fields: dict[str, str], sentence: str
) -> None:
    response = sign_up(client, **fields)

    assert response.status_code == 400
    assert sentence in response.content.decode()
    assert User.objects.get() == grace
    assert not logged_in(client)


def test_where_nobody_may_sign_up_nothing_leads_there_and_an_account_made_for_one_works(
    client: Client, keep: Keep, settings: Settings
) -> None:
    settings.FER_SIGNUP = False
    session = client.session
    session["owner"] = "this browser"
    session.save()
    analysis = keep(owner="this browser", expires=timezone.now() + timedelta(hours=1))

    assert client.get(reverse("signup")).status_code == 404
    assert sign_up(client).status_code == 404
    assert not User.objects.exists()
    for address in ("/", reverse("login"), reverse("history"), analysis.get_absolute_url()):
        page = client.get(address)
        assert page.status_code == 200
        assert reverse("signup") not in page.content.decode(), address
    assert "Whoever runs this site makes one for you." in client.get(reverse("login")).content.decode()

    User.objects.create_user("ada", password=PASSWORD)
    log_in(client)
    assert logged_in(client)


def test_one_logs_in_and_out(client: Client, ada: User) -> None:
    assert log_in(client, password="wrong").status_code == 400
    assert not logged_in(client)

    assert log_in(client)["Location"] == reverse("history")
    assert logged_in(client)

    assert client.get(reverse("logout")).status_code == 405, "a link must not log anybody out"
    assert client.post(reverse("logout"))["Location"] == "/"
    assert not logged_in(client)


def test_after_logging_in_one_is_where_one_wanted_to_be_on_this_site(client: Client, ada: User) -> None:
    asked = client.get(reverse("profile"))
    assert asked["Location"] == f"{reverse('login')}?next={reverse('profile')}"

    for wanted, reached in ((reverse("profile"), reverse("profile")), ("https://evil.example/", "/history/")):
        form = {"username": "ada", "password": PASSWORD, "next": wanted}
        assert Client().post(reverse("login"), form)["Location"] == reached
    assert sign_up(client, username="eve", next="https://evil.example/")["Location"] == "/history/"


def test_the_pages_of_an_account_lead_on_and_never_to_themselves(client: Client, ada: User) -> None:
    login, signup = reverse("login"), reverse("signup")
    for address in (login, signup):
        assert f'href="{login}"' in client.get(address).content.decode()
        wanted = client.get(address, {"next": reverse("profile")}).content.decode()
        assert f'href="{login}?next={reverse("profile")}"' in wanted
    log_in(client)
    assert client.get(login, {"next": f"{login}?next={login}"})["Location"] == reverse("history")


def test_the_eleventh_attempt_in_a_minute_has_to_wait(
    client: Client, ada: User, same_minute: None, figure: Figure
) -> None:
    for _ in range(10):
        assert log_in(client, password="wrong").status_code == 400

    refused = log_in(client)

    assert refused.status_code == 429
    assert 0 < int(refused["Retry-After"]) <= 60
    assert "tried too often" in refused.content.decode()
    assert not logged_in(client)
    assert log_in(client, name="somebody else").status_code == 400, "others are not held up"
    assert log_in(Client(REMOTE_ADDR="203.0.113.9")).status_code == 302, "nor is she by who guesses"
    figure("Who guesses passwords has to wait, also with the right one", "after 10 attempts a minute: 429")


def test_the_administrations_own_door_counts_too(
    client: Client, ada: User, same_minute: None, figure: Figure
) -> None:
    User.objects.filter(pk=ada.pk).update(is_staff=True)
    form = {"username": "ada", "password": "wrong", "next": "/admin/"}
    for _ in range(10):
        client.post("/admin/login/", form)

    refused = client.post("/admin/login/", form | {"password": PASSWORD})

    assert "tried too often" in refused.content.decode()
    assert not logged_in(client)
    figure("The administration's own login counts attempts as well", "refused after 10 a minute")


def test_a_changed_password_logs_other_browsers_out(at_home: Client, ada: User) -> None:
    elsewhere = Client()
    log_in(elsewhere)
    new = {"new_password1": "another-good-one", "new_password2": "another-good-one"}

    assert at_home.post(reverse("password"), {"old_password": "wrong", **new}).status_code == 400
    at_home.post(reverse("password"), {"old_password": PASSWORD, **new})

    assert logged_in(at_home)
    assert not logged_in(elsewhere)
    assert log_in(Client(), password="another-good-one").status_code == 302


# What is whose ---------------------------------------------------------------------------------------------


def browser_with_an_analysis(keep: Keep) -> tuple[Client, Analysis]:
    client = Client()
    session = client.session
    session["owner"] = "a word"
    session.save()
    return client, keep(owner="a word", expires=timezone.now() + timedelta(hours=1))


@pytest.mark.parametrize("way", ["log in", "sign up"])
def test_what_was_analysed_before_comes_along_and_is_kept_as_long_as_the_account_says(
    keep: Keep, way: str
) -> None:
    client, analysis = browser_with_an_analysis(keep)
    _, of_another_browser = browser_with_an_analysis(keep)
    Analysis.objects.filter(pk=of_another_browser.pk).update(owner="another word")
    outlived = keep(owner="a word", expires=timezone.now())
    if way == "log in":
        User.objects.create_user("ada", password=PASSWORD)
        log_in(client)
    else:
        sign_up(client)

    analysis.refresh_from_db()
    assert analysis.user is not None
    assert (analysis.user.username, analysis.owner) == ("ada", "")
    assert analysis.expires == analysis.created + timedelta(days=30)
    assert client.get(analysis.get_absolute_url()).status_code == 200
    for left in (of_another_browser, outlived):
        left.refresh_from_db()
        assert left.user is None

    client.post(reverse("logout"))
    assert client.get(analysis.get_absolute_url()).status_code == 404
    elsewhere = Client()
    log_in(elsewhere)
    assert elsewhere.get(analysis.get_absolute_url()).status_code == 200


def test_two_people_do_not_see_each_others(at_home: Client, grace: User, keep: Keep) -> None:
    hers = keep(user=grace, note="hers alone")
    day = timezone.localdate(hers.created)
    DayNote.objects.create(user=grace, day=day, text="dear diary")

    for name in ("analysis", "download_json", "download_csv"):
        assert at_home.get(reverse(name, args=[hers.token])).status_code == 404
    assert at_home.get(reverse("picture", args=[hers.token, "photo-1.jpg"])).status_code == 404
    for name in ("delete", "note"):
        assert at_home.post(reverse(name, args=[hers.token]), {"note": "mine"}).status_code == 404
    for address in ("/", reverse("history"), reverse("history_day", args=[day.year, day.month, day.day])):
        page = at_home.get(address).content.decode()
        assert hers.token not in page
        assert "hers alone" not in page
        assert "dear diary" not in page
    everything = io.BytesIO(b"".join(export_everything(User.objects.get(username="ada"))))
    assert set(zipfile.ZipFile(everything).namelist()) == {"account.json", "notes.json", "notes.md"}
    hers.refresh_from_db()
    assert hers.note == "hers alone"


# How long --------------------------------------------------------------------------------------------------


def test_how_long_things_are_kept_is_changed_at_once_for_all(
    at_home: Client,
    ada: User,
    grace: User,
    keep: Keep,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    now = timezone.now()
    young, old = keep(user=ada), keep(user=ada, created=now - timedelta(days=10))
    hers = keep(user=grace, created=now - timedelta(days=10), expires=now + timedelta(days=20))

    at_home.post(reverse("profile"), {"keep": "never", "email": "ada@example.org"})
    assert set(ada.analyses.values_list("expires", flat=True)) == {None}
    assert User.objects.get(pk=ada.pk).email == "ada@example.org"

    with django_capture_on_commit_callbacks(execute=True):
        page = at_home.post(reverse("profile"), {"keep": "7"}, follow=True).content.decode()

    young.refresh_from_db()
    assert young.expires == young.created + timedelta(days=7)
    assert "1 analysis was older than that and is deleted." in page
    assert not Analysis.objects.filter(pk=old.pk).exists()
    assert not old.folder.exists()
    assert Profile.objects.get(user=ada).keep_days == 7
    hers.refresh_from_db()
    assert hers.expires == now + timedelta(days=20)


def test_a_browser_without_an_account_reaches_what_it_sent_for_as_long_as_that_is_kept(
    client: Client, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send() -> str:
        photo = SimpleUploadedFile("portrait.jpg", portrait)
        return client.post(reverse("analyse"), {"photos": photo})["Location"]

    now = timezone.now()
    assert client.get(send()).status_code == 200
    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(days=13.9))
    address = send()
    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(days=14.5))
    assert client.get(address).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_what_a_worker_adds_at_the_last_moment_does_not_stop_a_deletion(
    at_home: Client, ada: User, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = keep(user=ada)
    collect = Collector.collect
    workers: list[threading.Thread] = []

    def add() -> None:
        with suppress(DatabaseError):  # it waits for the lock, and finds the analysis gone
            Photo.objects.create(analysis=analysis, number=2, width=9, height=9)
        connection.close()

    def collected(self: Collector, rows: Any, *arguments: Any, **more: Any) -> Any:
        result = collect(self, rows, *arguments, **more)
        if not workers and rows and isinstance(rows[0], Photo):  # the photos to be deleted are listed now
            workers.append(threading.Thread(target=add))
            workers[0].start()
            workers[0].join(1)
        return result

    monkeypatch.setattr(Collector, "collect", collected)
    response = at_home.post(reverse("delete_account"), {"password": PASSWORD})
    workers[0].join()

    assert response.status_code == 302
    assert not User.objects.exists()
    assert not Analysis.objects.exists()
    assert not analysis.folder.exists()


@pytest.mark.parametrize("wish", ["", "0", "-1", "100000"])
def test_other_times_than_the_offered_are_refused(at_home: Client, ada: User, wish: str) -> None:
    assert at_home.post(reverse("profile"), {"keep": wish}).status_code == 400
    assert Profile.objects.get(user=ada).keep_days == 30


# Everything along, everything gone -------------------------------------------------------------------------


def unzip(response: Iterable[bytes]) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(b"".join(response)))
    assert archive.testzip() is None
    return archive


def test_one_zip_holds_everything(at_home: Client, ada: User, keep: Keep) -> None:
    first = keep(user=ada, note="With Charles", expressions=("happiness", "anger"))
    waiting = keep(user=ada, kind="batch", state="queued")
    (waiting.folder / "incoming").mkdir()
    (waiting.folder / "incoming" / "1").write_bytes(b"as it was sent")
    outlived = keep(user=ada, note="of long ago", expires=timezone.now())
    today = timezone.localdate()
    DayNote.objects.create(user=ada, day=today, text="A long day.\n\nVery.")
    ApiToken.create_for(ada, "my script")

    response = at_home.get(reverse("export"))

    assert isinstance(response, StreamingHttpResponse)
    assert response["Content-Type"] == "application/zip"
    assert "attachment" in response["Content-Disposition"]
    archive = unzip(response)
    names = archive.namelist()
    (folder,) = {Path(name).parent for name in names if name.split("/")[1:2] and first.token[:6] in name}
    assert {Path(name).name for name in names if Path(name).parent == folder} == {
        *("analysis.json", "expressions.json", "expressions.csv"),
        *(file.name for file in first.folder.iterdir()),
    }
    assert any(waiting.token[:6] in name and name.endswith("/incoming/1") for name in names)
    assert not any(outlived.token[:6] in name for name in names)
    for file in first.folder.iterdir():
        assert archive.read(f"{folder}/{file.name}") == file.read_bytes()
    report = json.loads(archive.read(f"{folder}/expressions.json"))
    assert [face["expression"] for face in report["photos"][0]["faces"]] == ["happiness", "anger"]
    assert archive.read(f"{folder}/expressions.csv").count(b"\r\n") == 3
    notes = json.loads(archive.read("notes.json"))
    assert notes["days"] == [{"day": today.isoformat(), "text": "A long day.\n\nVery."}]
    assert [note["text"] for note in notes["analyses"]] == ["With Charles"]
    assert "A long day." in archive.read("notes.md").decode()
    account = json.loads(archive.read("account.json"))
    assert (account["name"], account["keep_days"]) == ("ada", 30)
    assert [token["name"] for token in account["api_tokens"]] == ["my script"]
    assert ada.password.encode() not in archive.read("account.json")


def test_the_zip_is_sent_while_it_is_made_and_its_size_costs_no_memory(ada: User, keep: Keep) -> None:
    video = keep(user=ada).folder / "video.mp4"
    video.write_bytes(bytes(40 * CHUNK))

    assert max(map(len, export_everything(ada))) <= 2 * CHUNK


def test_what_is_deleted_while_the_zip_is_sent_is_left_out(
    ada: User, keep: Keep, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    begun, later = keep(user=ada), keep(user=ada)
    for name in ("photo-2.jpg", "photo-3.jpg"):
        (begun.folder / name).write_bytes(bytes(2 * CHUNK))

    parts = export_everything(ada)
    first = next(parts)  # of the second photo
    with django_capture_on_commit_callbacks(execute=True):
        ada.analyses.all().delete()

    names = unzip([first, *parts]).namelist()
    assert any(name.endswith("/photo-2.jpg") for name in names), "it was under way"
    assert not any(name.endswith("/photo-3.jpg") or later.token[:6] in name for name in names)


@pytest.mark.django_db(transaction=True)
def test_who_is_slow_to_take_the_zip_holds_no_query_open(ada: User, keep: Keep) -> None:
    (keep(user=ada).folder / "video.mp4").write_bytes(bytes(2 * CHUNK))
    more = (Analysis(user=ada, model_name="m") for _ in range(2_001))  # than a query gives at once
    Analysis.objects.bulk_create(more)
    written: list[int] = []

    def write() -> None:
        """As another process does; SQLite in memory refuses it while somebody still reads the table."""
        written.append(Analysis.objects.update(note="a note"))
        connection.close()

    parts = export_everything(ada)
    next(parts)
    writer = threading.Thread(target=write)
    writer.start()
    writer.join()
    parts.close()  # type: ignore[attr-defined]

    assert written == [2_002]


def test_an_empty_account_has_an_export_too(at_home: Client) -> None:
    archive = unzip(at_home.get(reverse("export")))

    assert archive.namelist() == ["account.json", "notes.json", "notes.md"]


def test_everything_is_deleted_when_it_is_said_once_more(
    at_home: Client,
    ada: User,
    grace: User,
    keep: Keep,
    media: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    hers = keep(user=grace)
    mine = [keep(user=ada), keep(user=ada)]
    DayNote.objects.create(user=ada, day=timezone.localdate(), text="dear diary")

    asked = at_home.get(reverse("delete_everything"))
    assert "2 analyses" in asked.content.decode()
    assert ada.analyses.count() == 2
    with django_capture_on_commit_callbacks(execute=True):
        at_home.post(reverse("delete_everything"))

    assert Analysis.objects.get() == hers
    assert {photo.analysis for photo in Photo.objects.all()} == {hers}
    assert Face.objects.filter(photo__analysis=hers).count() == Face.objects.count()
    assert not DayNote.objects.exists()
    assert not any(analysis.folder.exists() for analysis in mine)
    assert [folder.name for folder in (media / "analyses").iterdir()] == [hers.token]
    assert logged_in(at_home)


def test_an_account_goes_with_all_that_is_its_own_once_the_password_is_given(
    at_home: Client,
    ada: User,
    keep: Keep,
    media: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    keep(user=ada)
    DayNote.objects.create(user=ada, day=timezone.localdate(), text="dear diary")
    ApiToken.create_for(ada, "my script")

    assert at_home.post(reverse("delete_account"), {"password": "wrong"}).status_code == 400
    assert User.objects.exists()
    with django_capture_on_commit_callbacks(execute=True):
        page = at_home.post(reverse("delete_account"), {"password": PASSWORD}, follow=True)

    assert "Your account and everything in it are deleted." in page.content.decode()
    for model in (User, Profile, Analysis, Photo, Face, DayNote, ApiToken):
        assert not model.objects.exists(), model
    assert not list((media / "analyses").iterdir())
    assert not logged_in(at_home)


def test_guessing_a_password_on_ones_own_pages_is_limited(
    at_home: Client, ada: User, same_minute: None
) -> None:
    for _ in range(5):
        at_home.post(reverse("delete_account"), {"password": "wrong"})
        at_home.post(reverse("password"), {"old_password": "wrong"})

    assert at_home.post(reverse("delete_account"), {"password": PASSWORD}).status_code == 429
    assert User.objects.filter(pk=ada.pk).exists()


# What the first page says ----------------------------------------------------------------------------------


def test_the_pages_say_truly_how_long_things_are_kept(client: Client, keep: Keep, ada: User) -> None:
    browser, analysis = browser_with_an_analysis(keep)
    assert "shown to this browser only" in browser.get("/").content.decode()
    assert "for this browser alone" in browser.get(analysis.get_absolute_url()).content.decode()

    client.force_login(ada)
    for expires, words in ((timezone.now() + timedelta(days=30), "kept for"), (None, "until you delete it")):
        mine = keep(user=ada, expires=expires)
        page = client.get(mine.get_absolute_url()).content.decode()
        assert words in page
        assert "this browser" not in page
        assert "this browser" not in client.get("/").content.decode()


@pytest.mark.django_db(transaction=True)
def test_the_whole_way_works_on_a_phone_by_keyboard_and_without_scripts(
    chromium: Browser, live_server: LiveServer, keep: Keep
) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 780}, java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(live_server.url + reverse("history"))
    page.get_by_role("button", name="Sign up").press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("ada")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password confirmation").fill(PASSWORD)
    page.get_by_label("Password confirmation").press("Enter")

    expect(page.get_by_text("Welcome, ada.")).to_be_visible()
    keep(user=User.objects.get(), note="")
    page.reload()
    expect(page.get_by_role("link", name=re.compile("1 analysis, mostly happiness"))).to_be_visible()
    page.get_by_label("Your note about this day").fill("A long day.")
    page.get_by_role("button", name="Save the note").last.press("Enter")
    expect(page.get_by_text("Your note is saved.")).to_be_visible()
    assert page.locator("html").evaluate("page => page.scrollWidth") <= 360

    page.get_by_role("link", name="Your account: ada").press("Enter")
    page.get_by_label("7 days").check()
    page.get_by_role("button", name="Save").press("Enter")
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.locator("a", has_text="Delete everything").press("Enter")
    expect(page.get_by_text("1 note about a day")).to_be_visible()
    page.get_by_role("button", name="Delete everything").press("Enter")
    expect(page.get_by_text("all notes are gone")).to_be_visible()
    context.close()
    assert not Analysis.objects.exists()
    assert Profile.objects.get().keep_days == 7
