"""Batches: what is taken in, how a worker reads it, and what its owner sees and takes along."""

import csv
import io
import json
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from openpyxl import load_workbook
from playwright.sync_api import Browser, FilePayload
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings
from pytest_django.live_server_helper import LiveServer

from recognition import background, batches, services
from recognition.models import Analysis, Face, Photo
from recognition.purging import purge_expired
from recognition.tasks import read_analysis
from tests.recognition.conftest import Keep

Files = dict[str, bytes]
Send = Callable[..., Analysis]

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens handed to the workers, of which there are none."""
    tokens: list[str] = []
    monkeypatch.setattr(background, "_send", tokens.extend)
    return tokens


def packed(files: Files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def post(client: Client, files: Files) -> tuple[int, dict[str, str]]:
    uploads = [SimpleUploadedFile(name, data) for name, data in files.items()]
    response = client.post("/batch/", {"photos": uploads}, headers={"accept": "application/json"})
    return response.status_code, response.json()


@pytest.fixture
def send(client: Client) -> Send:
    def send(files: Files) -> Analysis:
        status, answer = post(client, files)
        assert status == 201, answer
        return Analysis.objects.get(pk=answer["url"].split("/")[2])

    return send


@pytest.fixture
def read(send: Send) -> Send:
    """Send files and read them as a worker does."""

    def read(files: Files) -> Analysis:
        analysis = send(files)
        read_analysis(analysis.pk)
        analysis.refresh_from_db()
        return analysis

    return read


@pytest.fixture
def album(portrait: bytes, landscape: bytes, far_portrait: bytes) -> Files:
    return {
        "trip/a portrait.jpg": portrait,
        "trip/fields.jpg": landscape,
        "trip/far.jpg": far_portrait,
        "trip/notes.txt": b"not a photo",
        "__MACOSX/trip/._a portrait.jpg": b"clutter",
        "trip/.DS_Store": b"clutter",
    }


def test_the_first_page_leads_to_batches(client: Client) -> None:
    assert 'href="/batch/"' in client.get("/").content.decode().split("<main")[1]


# Taken in ---------------------------------------------------------------------------------------------------


def test_a_zip_is_queued_as_it_came_and_nothing_is_unpacked(
    send: Send, album: Files, queue: list[str]
) -> None:
    analysis = send({"album.zip": packed(album)})
    assert (analysis.kind, analysis.state, analysis.total) == ("batch", "queued", 4)
    assert queue == [analysis.pk]
    lying = sorted(path.name for path in batches.incoming(analysis).iterdir())
    assert lying == ["1", "names.json"]
    assert (batches.incoming(analysis) / "1").stat().st_mode & 0o777 == 0o600


def test_a_zip_that_was_packed_from_within_its_folder_holds_what_it_holds(send: Send, album: Files) -> None:
    assert send({"album.zip": packed({f"./{name}": data for name, data in album.items()})}).total == 4


def test_a_batch_that_waits_is_listed_as_queued(client: Client, send: Send, album: Files) -> None:
    send(album)
    listed = client.get("/").content.decode()
    assert "<strong>Queued</strong>" in listed
    assert "o faces in" not in listed


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "Choose a ZIP or at least one photo first"),
        ({"album.zip": packed({})}, "no file in this ZIP"),
        ({"album.zip": packed({"a.jpg": b"x"})[:-8]}, "damaged or incomplete"),
        ({"album.zip": packed({f"{n}.jpg": b"x" for n in range(6)})}, "At most 5 photos"),
        ({f"{n}.jpg": b"x" for n in range(6)}, "At most 5 photos"),
        ({"album.zip": packed({"bomb.jpg": b"\0" * 5_000_000})}, "grows to far more"),
    ],
    ids=["nothing", "empty", "cut", "crowded ZIP", "crowded form", "bomb"],
)
def test_what_cannot_be_read_is_refused_with_a_sentence_and_leaves_nothing(
    client: Client, settings: Settings, media: Path, files: Files, sentence: str
) -> None:
    settings.FER_MAX_BATCH_PHOTOS, settings.FER_MAX_BATCH_MB = 5, 1
    status, answer = post(client, files)
    assert status == 400
    assert sentence in answer["error"]
    assert not Analysis.objects.exists()
    assert not [path for path in media.rglob("*") if path.is_file()]


def test_more_megabytes_than_a_batch_may_have_are_refused_before_they_are_received(
    client: Client, settings: Settings, media: Path
) -> None:
    settings.FER_MAX_BATCH_PHOTOS, settings.FER_MAX_BATCH_MB = 5, 0.1
    status, answer = post(client, {"a.jpg": bytes(1_200_000)})
    assert (status, "larger than 0.1 MB" in answer["error"]) == (413, True)
    assert not media.exists()


def test_a_zip_with_a_password_is_refused(client: Client, portrait: bytes) -> None:
    data = bytearray(packed({"a.jpg": portrait}))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + place] |= 1  # "encrypted"
    status, answer = post(client, {"album.zip": bytes(data)})
    assert status == 400
    assert "locked with a password" in answer["error"]


def test_a_batch_that_no_worker_will_hear_of_is_not_kept(
    client: Client, portrait: bytes, monkeypatch: pytest.MonkeyPatch, media: Path
) -> None:
    def down(_: object) -> None:
        raise background.QueueError("No worker can be reached.")

    monkeypatch.setattr(background, "_send", down)
    status, answer = post(client, {"a.jpg": portrait})
    assert (status, answer) == (503, {"error": "No worker can be reached."})
    assert not Analysis.objects.exists()


def test_files_of_another_field_are_passed_over(client: Client, portrait: bytes, landscape: bytes) -> None:
    fields = {
        "other": SimpleUploadedFile("other.jpg", b"nothing of ours"),
        "photos": [SimpleUploadedFile("a.jpg", portrait), SimpleUploadedFile("b.jpg", landscape)],
    }

    assert client.post("/batch/", fields).status_code == 302

    analysis = Analysis.objects.get()
    read_analysis(analysis.pk)
    faces = [(photo.name, photo.faces.count()) for photo in analysis.photos.all()]
    assert faces == [("a.jpg", 1), ("b.jpg", 0)]
    assert not analysis.rejections.exists()


# Read -------------------------------------------------------------------------------------------------------


def test_every_photo_of_a_zip_is_read_and_the_zip_goes(read: Send, album: Files) -> None:
    analysis = read({"album.zip": packed(album)})
    assert (analysis.state, analysis.done, analysis.total) == ("done", 4, 4)
    assert [(photo.number, photo.name) for photo in analysis.photos.all()] == [
        (1, "trip/a portrait.jpg"),
        (2, "trip/fields.jpg"),
        (3, "trip/far.jpg"),
    ]
    (rejected,) = analysis.rejections.all()
    assert (rejected.number, rejected.name) == (4, "trip/notes.txt")
    (face,) = Face.objects.filter(photo__analysis=analysis, photo__number=1)
    assert face.expression == "happiness"
    assert (analysis.folder / face.crop_filename).is_file()
    assert not batches.incoming(analysis).exists()


def test_members_that_must_not_be_unpacked_are_not_and_each_says_why(
    send: Send, landscape: bytes, settings: Settings
) -> None:
    settings.FER_MAX_UPLOAD_MB, settings.FER_MAX_BATCH_PHOTOS = 5, 50
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("locked.jpg", landscape)
        archive.writestr("bomb.jpg", bytes(4_900_000))
        archive.writestr("large.jpg", bytes(5_100_000), zipfile.ZIP_STORED)
        archive.writestr("other.jpg", landscape, zipfile.ZIP_LZMA)
    data = bytearray(stream.getvalue())
    for header in (data.index(b"locked.jpg") - 24, data.rindex(b"locked.jpg") - 38):
        data[header] |= 1  # "encrypted"
    analysis = send({"album.zip": bytes(data)})
    services.get_predictor()

    tracemalloc.start()
    read_analysis(analysis.pk)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    reasons = dict(analysis.rejections.values_list("name", "reason"))
    for name, reason in {
        "locked.jpg": "locked with a password",
        "bomb.jpg": "grows to far more",
        "large.jpg": "larger than 5 MB",
        "other.jpg": "packed in a way that is not read here",
    }.items():
        assert reason in reasons[name]
    assert most < 3_000_000


def test_one_that_takes_over_from_a_lost_worker_reads_nothing_twice(
    send: Send, portrait: bytes, landscape: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "AT_ONCE", 1)
    analysis = send({"album.zip": packed({"a.jpg": portrait, "b.jpg": landscape, "c.jpg": portrait})})
    report = background.Progress.report

    def lost(progress: background.Progress, done: int, total: int) -> None:
        report(progress, done, total)
        if done == 2:
            raise SystemExit

    monkeypatch.setattr(background.Progress, "report", lost)
    with pytest.raises(SystemExit):
        read_analysis(analysis.pk)
    monkeypatch.setattr(background.Progress, "report", report)
    first = list(Photo.objects.values_list("pk", flat=True))
    assert len(first) == 2

    before = services.get_predictor().name
    monkeypatch.setattr(services.get_predictor(), "name", "another model")
    Analysis.objects.update(state="queued")
    read_analysis(analysis.pk)
    analysis.refresh_from_db()
    assert (analysis.state, analysis.done) == ("done", 3)
    assert list(analysis.photos.values_list("number", flat=True)) == [1, 2, 3]
    assert list(Photo.objects.filter(pk__in=first).values_list("number", flat=True)) == [1, 2]
    assert analysis.model_name == f"{before}, another model", "each read some of it"


def test_without_its_files_a_batch_is_done_where_all_of_it_was_read(read: Send, landscape: bytes) -> None:
    analysis = read({"a.jpg": landscape, "b.jpg": landscape})
    Analysis.objects.update(state="queued")
    read_analysis(analysis.pk)
    analysis.refresh_from_db()
    assert analysis.state == "done", "its worker was lost before it could say so"

    Analysis.objects.update(state="queued")
    Photo.objects.filter(number=2).delete()  # as in a backup made meanwhile
    read_analysis(analysis.pk)
    analysis.refresh_from_db()
    assert (analysis.state, analysis.error) == ("failed", background.UPLOAD_IS_GONE)


def test_what_was_read_until_it_is_cancelled_stays(
    client: Client, send: Send, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = send({f"{n}.jpg": portrait for n in range(4)})
    report = background.Progress.report

    def cancelling(progress: background.Progress, done: int, total: int) -> None:
        if done == 2:
            assert client.post(f"/a/{analysis.pk}/cancel/").status_code == 302
        progress._next_beat = 0.0
        report(progress, done, total)

    monkeypatch.setattr(background.Progress, "report", cancelling)
    read_analysis(analysis.pk)
    analysis.refresh_from_db()
    assert analysis.state == "cancelled"
    assert analysis.photos.count() == 2
    assert not batches.incoming(analysis).exists()
    assert "You stopped it" in client.get(analysis.get_absolute_url()).content.decode()


def test_purging_takes_the_files_that_nobody_will_read_and_leaves_those_that_wait(
    send: Send, landscape: bytes
) -> None:
    cancelled, waiting = send({"a.jpg": landscape}), send({"b.jpg": landscape})
    background.cancel(cancelled)

    purge_expired()

    assert not batches.incoming(cancelled).exists()
    read_analysis(waiting.pk)
    waiting.refresh_from_db()
    assert waiting.state == "done"


def test_a_batch_without_one_photo_fails_with_a_sentence(client: Client, read: Send) -> None:
    analysis = read({"a.txt": b"words", "b.txt": b"more words"})
    assert analysis.state == "failed"
    page = client.get(analysis.get_absolute_url()).content.decode()
    assert "There was no photo in this batch that could be read." in page
    assert "b.txt" in page
    assert "No face found" not in page


# Seen -------------------------------------------------------------------------------------------------------


def faces_on(client: Client, analysis: Analysis, query: str = "") -> list[str]:
    page = client.get(analysis.get_absolute_url() + query).content.decode()
    return re.findall(r'<small class="name">([^<]*)</small>', page)


@pytest.fixture
def gallery(read: Send, portrait: bytes, landscape: bytes, far_portrait: bytes) -> Analysis:
    """Four faces, whose answers are set: what is shown of them does not depend on the model."""
    analysis = read(
        {"c.jpg": portrait, "a.jpg": portrait, "b.jpg": portrait, "far.jpg": far_portrait, "z.jpg": landscape}
    )
    for name, (expression, most) in {
        "c.jpg": ("happiness", 0.9),
        "a.jpg": ("fear", 0.6),
        "b.jpg": ("happiness", 0.5),
    }.items():
        face = Face.objects.get(photo__name=name)
        rest = dict.fromkeys(face.probabilities or {}, (1 - most) / 7)
        face.probabilities = {**rest, expression: most}
        face.save()
    return analysis


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["c.jpg", "a.jpg", "b.jpg", "far.jpg"]),
        ("?sort=name", ["a.jpg", "b.jpg", "c.jpg", "far.jpg"]),
        ("?expression=happiness", ["c.jpg", "b.jpg"]),
        ("?expression=happiness&expression=fear&sort=name", ["a.jpg", "b.jpg", "c.jpg"]),
        ("?least=60", ["c.jpg", "a.jpg"]),
        ("?sort=fear", ["a.jpg", "b.jpg", "c.jpg", "far.jpg"]),
        ("?show=without", ["z.jpg"]),
        ("?expression=nonsense&least=x&sort=;&page=-1", ["c.jpg", "a.jpg", "b.jpg", "far.jpg"]),
    ],
)
def test_the_gallery_is_filtered_and_sorted(
    client: Client, gallery: Analysis, query: str, names: list[str]
) -> None:
    assert faces_on(client, gallery, query) == names


def test_a_large_gallery_comes_in_pages_that_keep_the_filter(client: Client, keep: Keep) -> None:
    word = client.session  # of a browser that has uploaded
    word["owner"] = "somebody"
    word.save()
    analysis = keep(("fear",) * 130 + ("anger",) * 5, owner="somebody", kind="batch")
    address = analysis.get_absolute_url()

    shown = [len(faces_on(client, analysis, f"?expression=fear&page={page}")) for page in (1, 2, 3)]
    assert shown == [60, 60, 10]
    assert "?expression=fear&amp;page=3" in client.get(f"{address}?expression=fear").content.decode()
    # One of a page that is no more is the last one's.
    assert len(faces_on(client, analysis, "?expression=fear&page=99")) == 10


def test_the_page_of_one_photo_has_its_faces_and_the_way_to_the_next(
    client: Client, gallery: Analysis
) -> None:
    page = client.get(f"/a/{gallery.pk}/photo/1/").content.decode()
    assert "c.jpg" in page
    assert page.count("data-face=") >= 1
    assert f"/a/{gallery.pk}/photo/2/" in page
    assert client.get(f"/a/{gallery.pk}/photo/99/").status_code == 404


def test_nobody_else_sees_a_batch(gallery: Analysis) -> None:
    stranger = Client()
    for end in ("", "photo/1/", "progress.json", "expressions.xlsx", "expressions.csv", "expressions.json"):
        assert stranger.get(f"/a/{gallery.pk}/{end}").status_code == 404
    assert stranger.post(f"/a/{gallery.pk}/cancel/").status_code == 404


def body(client: Client, address: str) -> bytes:
    response = client.get(address)
    assert response.status_code == 200
    return b"".join(response)


def test_tables_have_one_row_a_face_and_no_name_becomes_a_formula(
    client: Client, read: Send, portrait: bytes
) -> None:
    analysis = read({"=HYPERLINK(1).jpg": portrait, "plain.jpg": portrait})
    address = f"/a/{analysis.pk}/expressions"

    rows = list(csv.DictReader(io.StringIO(body(client, f"{address}.csv").decode())))
    assert [row["name"] for row in rows] == ["'=HYPERLINK(1).jpg", "plain.jpg"]
    assert {row["expression"] for row in rows} == {"happiness"}
    assert all(row["model"] == analysis.model_name and row["time"] for row in rows)

    sheet = load_workbook(io.BytesIO(body(client, f"{address}.xlsx"))).active
    cells = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert cells[0] == list(rows[0])
    names = [row[cells[0].index("name")] for row in sheet.iter_rows(min_row=2)]
    assert [cell.value for cell in names] == ["=HYPERLINK(1).jpg", "plain.jpg"]
    assert {cell.data_type for cell in names} == {"s"}  # text, not "f" for a formula

    report = json.loads(body(client, f"{address}.json"))
    assert [photo["name"] for photo in report["photos"]] == ["=HYPERLINK(1).jpg", "plain.jpg"]
    assert report["photos"][0]["faces"][0]["expression"] == "happiness"


@pytest.mark.parametrize("kind", ["csv", "json", "xlsx"])
def test_a_table_of_many_faces_is_never_whole_in_memory(client: Client, gallery: Analysis, kind: str) -> None:
    address = f"/a/{gallery.pk}/expressions.{kind}"

    def most_memory(photos: range) -> int:
        rows = Photo.objects.bulk_create(
            Photo(analysis=gallery, number=number, name=f"{number}.jpg", width=9, height=9)
            for number in photos
        )
        known = Face.objects.filter(photo__analysis=gallery).exclude(probabilities=None)[0]
        Face.objects.bulk_create(
            Face(
                photo=photo,
                number=1,
                box=known.box,
                landmarks=known.landmarks,
                confidence=1,
                probabilities=known.probabilities,
            )
            for photo in rows
        )
        tracemalloc.start()
        for _ in client.get(address):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few = most_memory(range(10, 310))
    assert most_memory(range(310, 1210)) < 1.2 * few


def test_one_tap_beside_the_downloads_deletes_no_batch(client: Client, gallery: Analysis) -> None:
    address = f"/a/{gallery.pk}/delete/"
    page = client.get(gallery.get_absolute_url()).content.decode()
    assert f'<a href="{address}"' in page
    assert f'action="{address}"' not in page

    asked = client.get(address)

    assert "nobody can bring it back" in asked.content.decode()
    assert f'href="{gallery.get_absolute_url()}"' in asked.content.decode(), "the way back"
    assert "no-store" in asked["Cache-Control"]
    assert Analysis.objects.filter(pk=gallery.pk).exists()


def test_a_batch_is_deleted_with_its_pictures(
    client: Client,
    gallery: Analysis,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    gallery.folder.mkdir(parents=True, exist_ok=True)
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(f"/a/{gallery.pk}/delete/").status_code == 302
    assert not Photo.objects.exists()
    assert not gallery.folder.exists()


# In a browser -----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_person_sends_photos_sees_how_far_it_is_and_gets_the_gallery(
    chromium: Browser, live_server: LiveServer, portrait: bytes, landscape: bytes, queue: list[str]
) -> None:
    page = chromium.new_page()
    page.goto(f"{live_server.url}/batch/")
    page.set_input_files("#photos", FilePayload(name="tiny.jpg", mimeType="image/jpeg", buffer=b"tiny"))
    assert page.inner_text("#chosen small") == "0.1 MB"
    page.set_input_files(
        "#photos",
        [
            FilePayload(name="one.jpg", mimeType="image/jpeg", buffer=portrait),
            FilePayload(name="two.jpg", mimeType="image/jpeg", buffer=landscape),
        ],
    )
    assert "2 files chosen" in page.inner_text("#chosen")
    page.click("#send")
    page.wait_for_selector("#job")
    read_analysis(queue[0])  # the page finds out by itself
    page.wait_for_selector(".gallery")
    assert "happiness" in page.inner_text(".gallery")
    page.click(".gallery a")
    page.wait_for_selector("article.face")
    page.close()


# What there is no room for ----------------------------------------------------------------------------------


def test_who_has_many_uploads_waiting_sends_the_next_one_later(
    client: Client, send: Send, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MOST_WAITING", 2)
    first = send({"a.jpg": portrait})
    send({"b.jpg": portrait})

    status, answer = post(client, {"c.jpg": portrait})
    assert (status, "not read yet" in answer["error"]) == (429, True)
    read_analysis(first.pk)
    assert post(client, {"c.jpg": portrait})[0] == 201


def test_an_upload_that_would_fill_the_disk_is_refused_before_it_is_received(
    client: Client, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "LEFT_FREE", 10**18)

    status, answer = post(client, {"a.jpg": portrait})

    assert (status, "disk is nearly full" in answer["error"]) == (503, True)
    assert not Analysis.objects.exists()
