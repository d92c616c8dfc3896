"""Files from strangers.

The pages as a browser meets them: what they show, to whom, and what they leave behind.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from PIL import Image
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings
from pytest_django.asserts import assertRedirects

from fer_site.bench.photos import as_jpeg, group
from ml.expressions import EXPRESSIONS
from recognition import tasks
from recognition.models import Analysis, Face, Photo, Rejection
from recognition.palette import COLOURS
from recognition.purging import purge_expired
from tests.figures import Figure
from tests.recognition.conftest import Keep

pytestmark = pytest.mark.django_db

Upload = Callable[..., Analysis]


def words(response: object) -> str:
    """What a page says, without its tags."""
    text = re.sub(r"<[^>]+>", " ", response.content.decode())  # type: ignore[attr-defined]
    return " ".join(text.split())


def post(client: Client, *files: tuple[str, bytes], **headers: str):  # type: ignore[no-untyped-def]
    uploads = [SimpleUploadedFile(name, data) for name, data in files]
    return client.post(reverse("analyse"), {"photos": uploads}, headers=headers)


def addresses(analysis: Analysis) -> list[str]:
    """Every address under which something of an analysis can be read."""
    face = Face.objects.filter(photo__analysis=analysis).first()
    assert face is not None
    pictures = (face.photo.filename, face.crop_filename, face.mask_filename)
    return [
        reverse("analysis", args=[analysis.token]),
        reverse("download_json", args=[analysis.token]),
        reverse("download_csv", args=[analysis.token]),
        *(reverse("picture", args=[analysis.token, name]) for name in pictures),
    ]


# What the pages show ---------------------------------------------------------------------------------------


def test_the_first_page_says_what_it_is_and_what_becomes_of_photos(client: Client) -> None:
    page = words(client.get("/"))

    assert "Read the expressions in a photo" in page
    assert "24 hours later everything is deleted" in page
    assert "not what somebody feels" in page
    assert "None yet." in page


def test_a_photo_leads_to_its_faces(client: Client, upload: Upload) -> None:
    analysis = upload()
    page = client.get(analysis.get_absolute_url())

    face = Face.objects.get(photo__analysis=analysis)
    said = words(page)
    assert "1 face in 1 photo" in said
    assert f"Face 1: {face.expression}" in said
    assert all(name in said for name in EXPRESSIONS)
    assert analysis.model_name in said
    assert "Expressions, not feelings" in said
    assert page.content.decode().count('class="box ') == 1


def test_many_faces_are_counted_by_what_they_show(client: Client, upload: Upload) -> None:
    analysis = upload(("group.jpg", as_jpeg(group(5, 1000, 700))))
    page = client.get(analysis.get_absolute_url()).content.decode()

    faces = Face.objects.filter(photo__analysis=analysis)
    shown = Counter(face.problem or face.expression for face in faces)
    listed = re.search(r'<ul class="counts".*?</ul>', page, re.DOTALL)
    assert listed
    said = re.findall(r"</span>([a-z ]+) <strong>(\d+)</strong>", listed[0])
    assert {word: int(count) for word, count in said} == shown
    assert [int(count) for _, count in said] == sorted(shown.values(), reverse=True)
    assert shown.total() == 5

    few = client.get(upload().get_absolute_url()).content.decode()
    assert 'class="counts"' not in few


def test_what_is_stored_of_a_face_is_whole(upload: Upload) -> None:
    face = Face.objects.get(photo__analysis=upload())

    left, top, right, bottom = face.box
    assert 150 < left < right < 320
    assert 20 < top < bottom < 220
    assert list(face.landmarks) == ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"]
    assert face.confidence > 0.9
    assert face.probabilities is not None
    assert tuple(face.probabilities) == EXPRESSIONS
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-4)


def test_no_face_is_said_and_not_guessed(client: Client, upload: Upload, landscape: bytes) -> None:
    analysis = upload(("landscape.jpg", landscape))

    said = words(client.get(analysis.get_absolute_url()))
    assert "No face found" in said
    assert "no faces in 1 photo" in said.lower()


@pytest.mark.parametrize(("photo", "problem"), [("far", "too small"), ("blurred", "too blurred")])
def test_a_face_that_cannot_be_read_is_said_and_not_guessed(
    client: Client, upload: Upload, request: pytest.FixtureRequest, photo: str, problem: str
) -> None:
    analysis = upload(("photo.jpg", request.getfixturevalue(f"{photo}_portrait")))

    page = client.get(analysis.get_absolute_url())
    face = Face.objects.get(photo__analysis=analysis)
    assert face.problem == problem
    assert face.probabilities is None
    assert f"Face 1: {problem} to tell" in words(page)
    assert "Motion mask" not in words(page)
    assert client.get(reverse("picture", args=[analysis.token, face.mask_filename])).status_code == 404


def test_rejected_files_are_named_with_the_reason_and_the_good_ones_go_through(
    client: Client, upload: Upload, portrait: bytes
) -> None:
    analysis = upload(("notes.jpg", b"dear diary"), ("portrait.jpg", portrait), ("empty.png", b""))

    said = words(client.get(analysis.get_absolute_url()))
    assert "notes.jpg This is a text file; JPEG, PNG and WebP photos are accepted." in said
    assert "empty.png This file is empty." in said
    assert "1 face in 1 photo" in said
    assert "Photo 2" in said


def test_a_file_name_is_shown_as_text(client: Client, upload: Upload, portrait: bytes) -> None:
    analysis = upload(("<script>alert(1).gif", b"GIF89a"), ("portrait.jpg", portrait))

    page = client.get(analysis.get_absolute_url()).content.decode()
    assert "&lt;script&gt;alert(1).gif" in page
    assert "<script>" not in page


def test_a_very_long_file_name_is_no_obstacle(upload: Upload, portrait: bytes) -> None:
    analysis = upload((f"{'x' * 250}.txt", b"words"), ("portrait.jpg", portrait))

    assert len(Rejection.objects.get(analysis=analysis).name) <= 100


def test_a_sample_photo_needs_no_file_of_ones_own(client: Client) -> None:
    for slug in ("eileen-collins", "grace-hopper"):
        response = client.post(reverse("sample", args=[slug]), follow=True)
        assert "1 face in 1 photo" in words(response)


def test_an_unknown_sample_is_not_found(client: Client) -> None:
    assert client.post(reverse("sample", args=["mona-lisa"])).status_code == 404


def test_the_first_page_lists_this_browsers_analyses_alone(client: Client, upload: Upload) -> None:
    analysis = upload()

    assert analysis.token in client.get("/").content.decode()
    assert analysis.token not in Client().get("/").content.decode()


def test_a_guest_finds_the_oldest_analysis_by_the_link_to_older_ones(client: Client, keep: Keep) -> None:
    session = client.session
    session["owner"] = "somebody"
    session.save()
    oldest, *_ = [keep(owner="somebody") for _ in range(9)]

    newest = client.get("/").content.decode()
    assert oldest.token not in newest
    link = re.search(r'<a href="([^"]+)" rel="next">Older</a>', newest)
    assert link is not None
    assert oldest.token in client.get(link[1]).content.decode()


def test_where_there_is_nothing_a_guest_is_led_to_the_login_and_back(client: Client) -> None:
    response = client.get("/nowhere/?page=2")

    assert response.status_code == 404
    assert f'href="{reverse("login")}?next=/nowhere/%3Fpage%3D2"' in response.content.decode()
    assert "log in first" in words(response)
    client.force_login(User.objects.create_user("ada"))
    assert "log in first" not in words(client.get("/nowhere/"))


def test_every_page_carries_its_own_styles_and_scripts_only_as_files(client: Client, upload: Upload) -> None:
    for address in ("/", upload().get_absolute_url()):
        page = client.get(address).content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)


def test_every_picture_keeps_its_room_and_says_what_it_shows(client: Client, upload: Upload) -> None:
    for address in ("/", upload().get_absolute_url()):
        for picture in re.findall(r"<img[^>]*>", client.get(address).content.decode()):
            assert re.search(r'width="\d+" height="\d+"', picture), picture
            assert " alt=" in picture, picture


def test_colours_are_the_same_in_the_style_sheet_and_in_annotated_copies() -> None:
    sheet = Path("static/css/site.css").read_text(encoding="utf-8")

    for name, colour in COLOURS.items():
        assert re.search(rf"\.expression-{name}\b[^{{]*{{ --expression: {colour};", sheet)


# To whom ---------------------------------------------------------------------------------------------------


def test_nobody_else_sees_anything_of_an_analysis(client: Client, upload: Upload) -> None:
    analysis = upload()
    stranger = Client()
    stranger.post(reverse("sample", args=["grace-hopper"]))  # one with photos of its own

    for address in addresses(analysis):
        assert client.get(address).status_code == 200, address
        assert Client().get(address).status_code == 404, address
        assert stranger.get(address).status_code == 404, address


def test_nobody_else_deletes_an_analysis(upload: Upload) -> None:
    analysis = upload()

    assert Client().post(reverse("delete", args=[analysis.token])).status_code == 404
    assert Analysis.objects.filter(pk=analysis.pk).exists()


def test_a_staff_member_sees_how_much_is_kept_but_no_photo(
    upload: Upload, client: Client, admin_client: Client
) -> None:
    analysis = upload()

    assert analysis.model_name in words(admin_client.get("/admin/recognition/analysis/"))
    for address in addresses(analysis):
        assert admin_client.get(address).status_code == 404


def test_analyses_stay_a_persons_own_after_logging_in(client: Client, upload: Upload) -> None:
    analysis = upload()

    client.force_login(User.objects.create_user("ada"))

    assert client.get(analysis.get_absolute_url()).status_code == 200


def test_only_our_own_pictures_are_served(client: Client, upload: Upload, tmp_path: Path) -> None:
    analysis = upload()
    (analysis.folder / "secret.jpg").write_bytes(b"x")
    start = reverse("analysis", args=[analysis.token])

    for name in ("secret.jpg", "photo-9.jpg", "../photo-1.jpg", "..%2f..%2fphoto-1.jpg", "photo-1.jpg/"):
        assert client.get(start + name).status_code == 404, name


def test_nothing_is_left_in_caches(client: Client, upload: Upload, figure: Figure) -> None:
    everything = ("/", *addresses(upload()))
    for address in everything:
        response = client.get(address)
        assert "no-store" in response["Cache-Control"], address
        assert response["X-Content-Type-Options"] == "nosniff", address
        assert "unsafe" not in response["Content-Security-Policy"], address
    figure(
        "Results are no-store and nosniff, under a Content-Security-Policy without unsafe-inline",
        f"{len(everything)} addresses of an analysis: its page, tables and pictures",
    )


def test_pictures_are_served_as_what_they_are(client: Client, upload: Upload) -> None:
    *_, photo, crop, mask = (client.get(address) for address in addresses(upload()))

    assert [picture["Content-Type"] for picture in (photo, crop, mask)] == ["image/jpeg"] * 2 + ["image/png"]
    assert Image.open(io.BytesIO(photo.getvalue())).size == (512, 512)


# What is refused -------------------------------------------------------------------------------------------


def test_looking_at_a_link_changes_nothing(client: Client, upload: Upload) -> None:
    analysis = upload()

    for address in (reverse("analyse"), reverse("sample", args=["grace-hopper"])):
        assertRedirects(client.get(address), reverse("home"))
    asked = client.get(reverse("delete", args=[analysis.token]))
    assert "Delete this analysis?" in words(asked)
    assert Analysis.objects.get() == analysis


def test_a_form_from_elsewhere_is_refused_with_a_page(portrait: bytes) -> None:
    careful = Client(enforce_csrf_checks=True)

    for response in (
        post(careful, ("portrait.jpg", portrait)),
        careful.post(reverse("sample", args=["grace-hopper"])),
    ):
        assert response.status_code == 403
        assert "This form has grown old" in words(response)
    assert not Analysis.objects.exists()


def test_an_upload_without_a_file_says_what_to_do(client: Client) -> None:
    response = post(client)

    assert response.status_code == 400
    assert "Choose at least one photo first." in words(response)


def test_an_upload_of_nothing_but_bad_files_is_refused_with_every_reason(client: Client) -> None:
    response = post(client, ("notes.txt", b"dear diary"), ("empty.jpg", b""), ("old.gif", b"GIF89a"))

    assert response.status_code == 400
    said = words(response)
    assert "notes.txt This is a text file" in said
    assert "empty.jpg This file is empty." in said
    assert "old.gif This is a GIF image" in said
    assert not Analysis.objects.exists()


def test_a_script_gets_the_reasons_as_json(client: Client, portrait: bytes) -> None:
    refused = post(client, ("notes.txt", b"dear diary"), accept="application/json")
    taken = post(client, ("portrait.jpg", portrait), accept="application/json")

    assert refused.status_code == 400
    assert refused.json()["rejections"][0]["name"] == "notes.txt"
    assert taken.status_code == 201
    assert taken.json() == {"url": Analysis.objects.get().get_absolute_url()}


def test_more_files_than_allowed_are_refused_together(client: Client, settings: Settings) -> None:
    for most, files in ((2, 3), (2, 300)):
        settings.FER_MAX_FILES = settings.DATA_UPLOAD_MAX_NUMBER_FILES = most
        response = post(client, *[(f"{number}.jpg", b"x") for number in range(files)])

        assert response.status_code == 400
        assert "At most 2 photos go into one upload." in words(response)
    assert not Analysis.objects.exists()


def test_the_limit_on_files_holds_without_djangos(client: Client, settings: Settings) -> None:
    settings.FER_MAX_FILES = 2

    response = post(client, *[(f"{number}.jpg", b"x") for number in range(3)])

    assert response.status_code == 400
    assert "At most 2 photos go into one upload." in words(response)


def test_an_upload_too_large_to_hold_photos_is_refused_before_it_is_read(
    client: Client, settings: Settings
) -> None:
    settings.FER_MAX_FILES, settings.FER_MAX_UPLOAD_MB = 1, 0.1
    large = ("large.jpg", bytes(1_200_000))

    page, answer = post(client, large), post(client, large, accept="application/json")

    assert (page.status_code, answer.status_code) == (413, 413)
    assert "This upload is too large" in words(page)
    assert "This upload is too large" in answer.json()["error"]


def test_a_missing_address_gets_a_friendly_page(client: Client) -> None:
    response = client.get("/a/nowhere/")

    assert response.status_code == 404
    assert "There is nothing here" in words(response)


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_without_a_model_it_says_so_and_keeps_nothing(
    client: Client,
    portrait: bytes,
    settings: Settings,
    tmp_path: Path,
    media: Path,
    fresh_process: None,
    accept: str,
) -> None:
    whole = settings.FER_CHECKPOINT.read_bytes()
    flipped = bytearray(whole)
    flipped[-1000] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(flipped)

    for name in ("missing.safetensors", "flipped.safetensors"):
        settings.FER_CHECKPOINT = tmp_path / name
        response = post(client, ("portrait.jpg", portrait), accept=accept)

        assert response.status_code == 503
        assert "missing or damaged" in response.content.decode()
        assert str(tmp_path) not in response.content.decode()
    assert not Analysis.objects.exists()
    assert not media.exists()


def test_a_failure_while_storing_leaves_neither_files_nor_rows(
    client: Client, portrait: bytes, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Face.objects, "bulk_create", fail)
    client.raise_request_exception = False

    response = post(client, ("portrait.jpg", portrait))

    assert response.status_code == 500
    assert "Something broke on our side" in words(response)
    assert "<form" not in response.content.decode(), "made without the request, none could be sent"
    assert not Analysis.objects.exists()
    assert not any(media.rglob("*.*"))


# What is left behind ---------------------------------------------------------------------------------------


def test_nothing_that_was_noted_inside_a_photo_is_kept(
    client: Client, upload: Upload, portrait: bytes
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera of Ada Lovelace"
    exif.get_ifd(0x8825)[2] = (51.0, 30.0, 0.0)
    stream = io.BytesIO()
    Image.open(io.BytesIO(portrait)).save(stream, "JPEG", exif=exif, comment=b"Ada at home")
    assert b"Ada at home" in stream.getvalue()
    assert b"Lovelace" in stream.getvalue()

    analysis = upload(("ada-at-home.jpg", stream.getvalue()))

    for file in analysis.folder.iterdir():
        assert b"Lovelace" not in file.read_bytes()
        assert b"at home" not in file.read_bytes()
        assert not Image.open(file).getexif()
        assert "at-home" not in file.name
    assert "ada-at-home" not in client.get(analysis.get_absolute_url()).content.decode()


def test_a_photo_is_kept_in_no_greater_size_than_shown(upload: Upload, portrait: bytes) -> None:
    stream = io.BytesIO()
    Image.open(io.BytesIO(portrait)).resize((3000, 2000)).save(stream, "JPEG")

    analysis = upload(("large.jpg", stream.getvalue()))

    photo = Photo.objects.get(analysis=analysis)
    assert (photo.width, photo.height) == (3000, 2000)
    assert Image.open(analysis.folder / photo.filename).size == (2048, 1365)


def test_deleting_takes_rows_and_files_at_once(
    client: Client,
    upload: Upload,
    media: Path,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    analysis = upload()
    assert any(media.rglob("*.jpg"))

    with django_capture_on_commit_callbacks(execute=True):
        response = client.post(reverse("delete", args=[analysis.token]), follow=True)

    assert "Deleted, with everything that was read in it." in words(response)
    for model in (Analysis, Photo, Face, Rejection):
        assert not model.objects.exists()
    assert not analysis.folder.exists()
    assert client.get(analysis.get_absolute_url()).status_code == 404


def test_what_has_outlived_its_time_is_gone_even_before_it_is_purged(client: Client, upload: Upload) -> None:
    analysis = upload()
    Analysis.objects.update(expires=timezone.now())

    for address in addresses(analysis):
        assert client.get(address).status_code == 404
    assert analysis.token not in client.get("/").content.decode()


def test_purging_takes_what_has_outlived_its_time_and_nothing_else(
    upload: Upload, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    old, young = upload(), upload()
    now = timezone.now()
    Analysis.objects.filter(pk=old.pk).update(expires=now - timedelta(hours=1))
    Session.objects.create(session_key="old", session_data="", expire_date=now - timedelta(hours=1))
    staff = User.objects.create_user("staff")
    for days in (179, 181):
        time = now - timedelta(days=days)
        LogEntry.objects.create(user=staff, action_flag=ADDITION, action_time=time, object_repr=f"{days}")

    with django_capture_on_commit_callbacks(execute=True):
        assert purge_expired() == 1

    assert Analysis.objects.get() == young
    assert not old.folder.exists()
    assert young.folder.exists()
    assert Session.objects.exclude(session_key="old").get(), "of the browser that sent them"
    assert not Session.objects.filter(session_key="old").exists()
    assert LogEntry.objects.get().object_repr == "179"


def test_purging_sweeps_folders_that_no_row_knows(upload: Upload, media: Path) -> None:
    known = upload()
    orphan, received = (media / "analyses" / name for name in ("orphan", "received"))
    orphan.mkdir()
    received.mkdir()
    (received / "1").write_bytes(b"what has come of a slow upload until now")
    (media / "analyses" / "gone").symlink_to("deleted since the folder was listed")
    long_ago = (timezone.now() - timedelta(hours=48)).timestamp()
    for folder in (orphan, received, known.folder):
        os.utime(folder, (long_ago, long_ago))

    purge_expired()

    assert not orphan.exists()
    assert known.folder.exists()
    assert received.exists()


def test_the_schedules_task_purges(upload: Upload) -> None:
    upload()
    Analysis.objects.update(expires=timezone.now())

    assert tasks.purge_expired() == 1


# What can be taken along -----------------------------------------------------------------------------------


def test_the_json_holds_all_that_was_read(client: Client, upload: Upload, portrait: bytes) -> None:
    analysis = upload(("notes.txt", b"dear diary"), ("portrait.jpg", portrait))

    response = client.get(reverse("download_json", args=[analysis.token]))

    report = json.loads(response.getvalue())
    notes, photo = report["photos"]
    assert "attachment" in response["Content-Disposition"]
    assert report["model"] == analysis.model_name
    assert notes["photo"] == "notes.txt"
    assert "text file" in notes["error"]
    assert (photo["photo"], photo["width"], photo["height"], photo["error"]) == (
        "photo-2.jpg",
        512,
        512,
        None,
    )
    (face,) = photo["faces"]
    assert set(face) == {"box", "landmarks", "confidence", "expression", "sure", "probabilities"}
    assert face["expression"] == max(face["probabilities"], key=face["probabilities"].get)


def test_the_csv_has_one_row_a_face(client: Client, upload: Upload) -> None:
    response = client.get(reverse("download_csv", args=[upload().token]))

    (row,) = csv.DictReader(io.StringIO(response.getvalue().decode()))
    assert (row["photo"], row["face"]) == ("photo-1.jpg", "1")
    assert row["expression"] == max(EXPRESSIONS, key=lambda name: float(row[name]))
    assert 150 < float(row["left"]) < float(row["right"]) < 320
