"""The API as a program meets it, and the keys to it as a person does."""

import base64
import json
import os
import re
import subprocess
import sys
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from recognition import services
from recognition.access import Owner
from recognition.api_views import MOST_TOKENS
from recognition.models import Analysis, ApiToken, Face, Photo, Track
from recognition.services import PredictorError

pytestmark = pytest.mark.django_db

ANALYSES = "/api/v1/analyses"
PROBABILITIES = {
    "anger": 0.0,
    "contempt": 0.0,
    "disgust": 0.0,
    "fear": 0.0,
    "happiness": 0.9,
    "sadness": 0.0,
    "surprise": 0.0,
    "neutral": 0.1,
}


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="of a countess")


@pytest.fixture
def key(ada: User) -> str:
    return ApiToken.create_for(ada, "notebook")[1]


@pytest.fixture
def program(key: str) -> Client:
    """Ada's program: it has her key and no cookies."""
    return Client(headers={"authorization": f"Bearer {key}"}, enforce_csrf_checks=True)


@pytest.fixture
def stored(ada: User) -> Analysis:
    """An analysis of Ada's that no model had to read."""
    analysis = Owner(user=ada).new_analysis(model_name="compact 12345678")
    analysis.save()
    photo = Photo.objects.create(analysis=analysis, number=1, width=640, height=480)
    Face.objects.create(
        photo=photo,
        number=1,
        box=[10.0, 20.0, 110.0, 140.0],
        landmarks={"nose": [60.0, 80.0]},
        confidence=0.99,
        probabilities=PROBABILITIES,
    )
    analysis.folder.mkdir(parents=True)
    for name in ("photo-1.jpg", "photo-1-face-1.jpg", "photo-1-face-1-mask.png"):
        (analysis.folder / name).write_bytes(b"\xff\xd8 of a picture")
    (analysis.folder / "raw.mp4").write_bytes(b"no picture")
    return analysis


def upload(program: Client, *files: tuple[str, bytes]) -> Any:
    return program.post(ANALYSES, {"photos": [SimpleUploadedFile(name, data) for name, data in files]})


# Analyses ---------------------------------------------------------------------------------------------------


def test_photos_are_read_and_named_when_they_cannot_be(program: Client, portrait: bytes) -> None:
    response = upload(program, ("portrait.jpg", portrait), ("notes.txt", b"to do"))

    assert response.status_code == 201
    answer = response.json()
    assert response["Location"] == f"{ANALYSES}/{answer['token']}"
    assert response["Cache-Control"] == "private, no-store"
    read, refused = answer["report"]["photos"]
    (face,) = read["faces"]
    assert sum(face["probabilities"].values()) == pytest.approx(1)
    assert face["expression"] == max(face["probabilities"], key=face["probabilities"].get)
    assert "text file" in refused["error"]
    assert program.get(response["Location"]).json() == answer


def test_photos_may_come_in_json(program: Client, portrait: bytes) -> None:
    lines = base64.encodebytes(portrait).decode()  # as many programs write it

    response = program.post(
        ANALYSES, {"photos": [{"name": "p.jpg", "base64": lines}]}, content_type="application/json"
    )

    assert response.status_code == 201
    assert len(response.json()["report"]["photos"][0]["faces"]) == 1


def test_the_report_is_the_one_that_the_page_hands_out(
    program: Client, client: Client, ada: User, stored: Analysis
) -> None:
    client.force_login(ada)

    answer = program.get(f"{ANALYSES}/{stored.token}").json()

    download = client.get(reverse("download_json", args=[stored.token]))
    assert answer["report"] == json.loads(download.getvalue())
    assert answer["page"] == f"http://testserver{stored.get_absolute_url()}"


def test_the_list_has_one_s_own_the_newest_first(program: Client, ada: User, stored: Analysis) -> None:
    Analysis.objects.create(owner="of a session", model_name="m")
    Analysis.objects.create(user=User.objects.create_user("eve"), model_name="m")
    newest = Analysis.objects.create(user=ada, model_name="m", created=timezone.now() + timedelta(hours=1))

    whole = program.get(ANALYSES).json()
    second = program.get(ANALYSES, {"limit": 1, "offset": 1}).json()

    assert [one["token"] for one in whole["analyses"]] == [newest.token, stored.token]
    assert whole["count"] == second["count"] == 2
    assert [one["token"] for one in second["analyses"]] == [stored.token]


def test_pictures_are_listed_and_fetched(program: Client, stored: Analysis) -> None:
    for number in (10, 9):
        (stored.folder / f"photo-{number}.jpg").write_bytes(b"\xff\xd8 of a picture")

    pictures = program.get(f"{ANALYSES}/{stored.token}/pictures").json()["pictures"]

    names = [picture["name"] for picture in pictures]
    of_the_first = ["photo-1.jpg", "photo-1-face-1.jpg", "photo-1-face-1-mask.png"]
    assert names == [*of_the_first, "photo-9.jpg", "photo-10.jpg"]
    for picture in pictures:
        response = program.get(picture["url"])
        assert b"".join(response) == b"\xff\xd8 of a picture"
        assert response["Cache-Control"] == "private, no-store"
    assert program.get(f"{ANALYSES}/{stored.token}/pictures/raw.mp4").status_code == 404
    assert program.get(f"{ANALYSES}/{stored.token}/pictures/..%2F..%2Fdb.sqlite3").status_code == 404


def test_a_video_s_sightings_come_in_order(program: Client, stored: Analysis) -> None:
    stored.kind = Analysis.Kind.VIDEO
    stored.save()
    track = Track.objects.create(analysis=stored, number=1)
    for moment in (400, 200):
        track.sightings.create(
            milliseconds=moment, box=[1, 2, 3, 4], landmarks={}, confidence=0.9, probabilities=PROBABILITIES
        )

    response = program.get(f"{ANALYSES}/{stored.token}/sightings")

    sightings = json.loads(b"".join(response))["sightings"]
    assert [sighting["seconds"] for sighting in sightings] == [0.2, 0.4]
    assert program.get(f"{ANALYSES}/{stored.token}").json()["report"] is None


def test_what_is_deleted_is_gone(
    program: Client, stored: Analysis, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        assert program.delete(f"{ANALYSES}/{stored.token}").status_code == 204

    assert program.get(f"{ANALYSES}/{stored.token}").status_code == 404
    assert not stored.folder.exists()


def test_what_is_somebody_else_s_is_not_found(stored: Analysis) -> None:
    eve = Client(
        headers={"authorization": f"Bearer {ApiToken.create_for(User.objects.create_user('eve'), 'k')[1]}"}
    )
    addresses = [f"{ANALYSES}/{stored.token}{rest}" for rest in ("", "/pictures", "/pictures/photo-1.jpg")]

    answers = [eve.get(address) for address in addresses] + [eve.delete(addresses[0])]

    assert [answer.status_code for answer in answers] == [404] * 4
    assert answers[0].json() == {"error": "There is nothing of yours at this address."}
    assert Analysis.objects.filter(pk=stored.pk).exists()


# Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer fer_wrong"}, {"authorization": "Basic a"}])
def test_without_a_key_nobody_gets_in(client: Client, headers: dict[str, str]) -> None:
    response = client.get(ANALYSES, headers=headers)

    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert "Authorization: Bearer" in response.json()["error"]


def test_a_key_of_somebody_who_may_not_log_in_any_more_opens_nothing(program: Client, ada: User) -> None:
    User.objects.filter(pk=ada.pk).update(is_active=False)

    assert program.get(ANALYSES).status_code == 401


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("{", "Invalid JSON"),
        ('{"photos": [{}]}', "photos.0.base64: Field required"),
        ('{"photos": [{"base64": "@"}]}', "no Base64"),
        ('{"photos": []}', "at least one photo"),
        ('{"photos": [{"base64": "aGVsbG8="}]}', "no photo in this upload"),
    ],
)
def test_json_that_makes_no_sense_is_told_so(program: Client, body: str, sentence: str, loaded: None) -> None:
    response = program.post(ANALYSES, body, content_type="application/json")

    assert response.status_code == 400
    assert sentence in response.json()["error"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a model were there that no photo reaches."""

    class Nobody:
        name = "nobody"

    monkeypatch.setattr(services, "get_predictor", Nobody)


def test_files_that_cannot_be_used_are_named(program: Client, loaded: None) -> None:
    response = upload(program, ("notes.txt", b"to do"))

    assert response.status_code == 400
    (rejection,) = response.json()["rejections"]
    assert rejection["name"] == "notes.txt"


def test_too_much_is_refused_before_it_is_read(program: Client, settings: Settings) -> None:
    settings.FER_MAX_UPLOAD_MB = 0.001
    settings.FER_MAX_FILES = 1

    form = upload(program, ("large.jpg", b"x" * 1_100_000))
    in_json = program.post(ANALYSES, "x" * 4_000, content_type="application/json")

    assert (form.status_code, in_json.status_code) == (413, 413)
    assert "0.001 MB" in form.json()["error"]
    assert "multipart/form-data" in in_json.json()["error"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"])
def test_a_photo_that_is_no_file_of_a_form_is_answered_with_how_to_send_it(
    program: Client, loaded: None, kind: str
) -> None:
    field = b'--b\r\nContent-Disposition: form-data; name="photos"\r\n\r\n'
    response = program.generic(
        "POST", ANALYSES, field + b"x" * 3_000_000 + b"\r\n--b--\r\n", content_type=kind
    )

    assert response.status_code == 400
    assert "curl: -F photos=@photo.jpg" in response.json()["error"]


def test_names_are_kept_without_what_cannot_be_printed(program: Client, portrait: bytes) -> None:
    sent = [
        {"name": "p.jpg", "base64": base64.b64encode(portrait).decode()},
        {"name": "to\0do", "base64": "AAAA"},
    ]

    response = program.post(ANALYSES, {"photos": sent}, content_type="application/json")

    _, refused = response.json()["report"]["photos"]
    assert refused["photo"] == "todo"


def test_json_of_a_million_nothings_is_refused_before_it_becomes_objects(program: Client) -> None:
    body = b'{"photos": [%s]}' % b",".join([b'{"base64":""}'] * 300_000)
    tracemalloc.start()
    refused = program.post(ANALYSES, body, content_type="application/json")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.status_code == 400
    assert "At most 20 photos" in refused.json()["error"]
    assert peak < 5 * len(body)


def test_too_many_files_are_refused(program: Client, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_NUMBER_FILES = settings.FER_MAX_FILES = 1

    response = upload(program, ("a.jpg", b"a"), ("b.jpg", b"b"))

    assert response.status_code == 400
    assert "At most 1" in response.json()["error"]


@pytest.mark.usefixtures("same_minute")
def test_a_key_and_a_session_have_their_calls_a_minute_wherever_they_come_from(
    program: Client, settings: Settings, ada: User
) -> None:
    settings.FER_API_PER_MINUTE = 2
    browser = Client()
    browser.force_login(ada)
    for number, caller in enumerate((program, browser)):
        places = [f"203.0.113.{10 * number + host}" for host in range(3)]
        answers = [caller.get(ANALYSES, REMOTE_ADDR=place) for place in places]

        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 0 < int(answers[2]["Retry-After"]) <= 60
        assert "Wait" in answers[2].json()["error"]


@pytest.mark.usefixtures("same_minute")
def test_an_address_has_its_calls_a_minute_whatever_key_it_guesses(
    client: Client, settings: Settings
) -> None:
    settings.FER_API_PER_MINUTE = 2

    guesses = [client.get(ANALYSES, headers={"authorization": f"Bearer fer_{n}"}) for n in range(3)]

    assert [guess.status_code for guess in guesses] == [401, 401, 429]
    assert client.get("/api/v1/health").status_code == 429


def test_without_a_model_it_says_so(program: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise PredictorError("There is no checkpoint at /srv/model.")

    monkeypatch.setattr(services, "get_predictor", missing)

    response = upload(program, ("a.jpg", b"a"))

    assert response.status_code == 503
    assert "missing or damaged" in response.json()["error"]
    assert "/srv" not in response.json()["error"]


def test_an_error_that_nobody_expected_has_the_number_of_its_line_in_the_log(
    program: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("of holiday.jpg")

    monkeypatch.setattr(services, "analyse_upload", break_down)

    response = upload(program, ("holiday.jpg", b"a"))

    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert line.exc_info is not None
    assert response.status_code == 500
    assert response.json()["request"] == response["X-Request-ID"]
    assert "holiday" not in response.json()["error"]


def test_an_address_that_is_none_and_a_number_out_of_bounds_are_answered_in_json(program: Client) -> None:
    assert program.get("/api/v1/no/such").json() == {"error": "There is nothing of yours at this address."}
    refused = program.get(ANALYSES, {"limit": 1000})
    assert refused.status_code == 400
    assert "limit" in refused.json()["error"]
    assert program.get(ANALYSES, {"offset": 2**63}).status_code == 400


# The rest ---------------------------------------------------------------------------------------------------


def test_models_say_what_they_are_and_which_one_reads(program: Client) -> None:
    (model,) = program.get("/api/v1/models").json()["models"]

    assert model["in_service"] is model["bundled"] is True
    assert re.fullmatch(r"[0-9a-f]{64}", model["sha256"])
    assert model["name"] == f"{model['preset']} {model['sha256'][:8]}"
    assert 0.5 < model["measured"]["validation"]["accuracy"] < 1
    assert "ferplus" in model["data"]


def test_health_needs_no_key_and_not_to_be_ready_yet_is_no_error(
    client: Client, fresh_process: None, caplog: pytest.LogCaptureFixture
) -> None:
    response = client.get("/api/v1/health")

    assert response.status_code == 503
    assert response.json() == {"ready": False, "database": "ready", "model": "is being loaded"}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_session_may_call_too_but_not_from_another_site(ada: User, stored: Analysis) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ada)

    assert browser.get(ANALYSES).json()["count"] == 1
    refused = browser.delete(f"{ANALYSES}/{stored.token}")
    assert refused.status_code == 403
    assert "X-CSRFToken" in refused.json()["error"]

    browser.get(reverse("home"))
    word = browser.cookies["csrftoken"].value
    accepted = browser.delete(f"{ANALYSES}/{stored.token}", headers={"x-csrftoken": word})
    assert accepted.status_code == 204


def test_the_openapi_document_tells_of_every_call(client: Client) -> None:
    document = client.get("/api/v1/openapi.json").json()

    calls = {f"{method} {path}" for path, methods in document["paths"].items() for method in methods}
    assert calls == {
        "post /api/v1/analyses",
        "get /api/v1/analyses",
        "get /api/v1/analyses/{token}",
        "delete /api/v1/analyses/{token}",
        "get /api/v1/analyses/{token}/pictures",
        "get /api/v1/analyses/{token}/pictures/{name}",
        "get /api/v1/analyses/{token}/sightings",
        "get /api/v1/models",
        "get /api/v1/health",
    }
    bodies = document["paths"]["/api/v1/analyses"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"multipart/form-data", "application/json"}
    scheme = document["components"]["securitySchemes"]["Caller"]
    assert scheme == {"type": "http", "scheme": "bearer"}


# Keys -------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_kept_as_its_hash(client: Client, ada: User) -> None:
    client.force_login(ada)

    page = client.post(reverse("create_token"), {"name": "note\0book"})

    assert page["Cache-Control"] == "private, no-store"
    (shown,) = set(re.findall(r"fer_[\w-]{43}", page.content.decode()))
    token = ApiToken.objects.get(user=ada)
    assert token.sha256 == ApiToken.digest(shown)
    assert shown not in json.dumps(dict(client.session))
    assert reverse("set_language") not in page.content.decode(), "in another language it could not be shown"
    assert client.get(reverse("create_token"))["Location"] == reverse("profile") + "#keys"
    profile = client.get(reverse("profile")).content.decode()
    assert "notebook" in profile
    assert "never used" in profile
    assert shown not in profile


def test_nobody_has_more_keys_than_they_can_keep_in_mind(client: Client, ada: User) -> None:
    client.force_login(ada)
    for number in range(MOST_TOKENS):
        ApiToken.create_for(ada, f"{number}")

    refused = client.post(reverse("create_token"), {"name": "one more"}, follow=True)

    assert "as many keys as one may have" in refused.content.decode()
    assert ada.api_tokens.count() == MOST_TOKENS


def test_a_revoked_key_opens_nothing(client: Client, program: Client, ada: User) -> None:
    client.force_login(ada)

    client.post(reverse("revoke_token", args=[ApiToken.objects.get().pk]))

    assert program.get(ANALYSES).status_code == 401


def test_keys_of_others_cannot_be_revoked(client: Client, key: str) -> None:
    client.force_login(User.objects.create_user("eve"))

    assert client.post(reverse("revoke_token", args=[ApiToken.objects.get().pk])).status_code == 404
    assert ApiToken.objects.exists()


def test_the_last_use_of_a_key_is_known_by_the_minute(program: Client) -> None:
    program.get(ANALYSES)
    first = ApiToken.objects.get().used
    program.get(ANALYSES)
    assert ApiToken.objects.get().used == first is not None

    before = timezone.now() - timedelta(minutes=2)
    ApiToken.objects.update(used=before)
    program.get(ANALYSES)

    used = ApiToken.objects.get().used
    assert used is not None
    assert used > before


# As they are seen -------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_page_of_the_api_keeps_to_the_policy_and_the_screen(
    live_server: LiveServer, chromium: Browser
) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 800})
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))

    page.goto(f"{live_server.url}/api/v1/docs")

    assert page.get_by_role("heading", name="Analyse photos").is_visible()
    assert page.get_by_role("heading", name="FaceReport").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert not Axe().run(page).response["violations"]
    assert not problems
    context.close()


# The text of docs/api.md ------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_examples_in_the_docs_do_what_they_say(
    live_server: LiveServer, key: str, portrait: bytes, tmp_path: Path
) -> None:
    text = (Path(django_settings.BASE_DIR) / "docs" / "api.md").read_text()
    examples = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in examples] == ["bash"] * 5 + ["python"]
    (tmp_path / "portrait.jpg").write_bytes(portrait)
    (tmp_path / "notes.txt").write_text("to do")
    environment = os.environ | {"FER_SITE": live_server.url, "FER_TOKEN": key}
    programs = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}

    said = [
        subprocess.run(
            [*programs[language], example],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout
        for language, example in examples
    ]

    analysis = json.loads((tmp_path / "analysis.json").read_text())
    shown = json.loads(re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0])
    assert shapes(analysis) == shapes(shown)
    assert json.loads(said[1])["state"] == "done"
    assert json.loads(said[2])["count"] == 2
    assert (tmp_path / "face.jpg").read_bytes().startswith(b"\xff\xd8")
    assert "happiness: " in said[5]
    assert "photo-1-face-1-mask.png" in said[5]
    assert Analysis.objects.count() == 1  # two were deleted


def shapes(value: object) -> object:
    """The names in some JSON, without its values."""
    if isinstance(value, dict):
        return {name: shapes(inner) for name, inner in value.items()}
    return [shapes(inner) for inner in value] if isinstance(value, list) else None
