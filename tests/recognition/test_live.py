"""The page with the camera: what its frames are answered, that nothing of them stays, and how it looks."""

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from pytest_django.live_server_helper import LiveServer

from ml.expressions import EXPRESSIONS
from ml.faces import LANDMARKS
from recognition import live, services
from recognition.models import Analysis
from recognition.services import PredictorError
from tests.recognition.conftest import as_jpeg

SIZE = (480, 360)
FACE_AT = (240, 82)  # the middle of the face in `frame`, in pixels


@pytest.fixture(scope="session")
def frame(portrait: bytes) -> bytes:
    """What a camera sees: the portrait, a little right of the middle."""
    picture = Image.new("RGB", SIZE, "dimgrey")
    picture.paste(Image.open(io.BytesIO(portrait)).resize((360, 360)), (84, 0))
    return as_jpeg(picture)


@pytest.mark.django_db
class TestFrames:
    def test_a_frame_is_answered_with_the_faces_in_it(self, client: Client, frame: bytes) -> None:
        response = client.post(reverse("live_frame"), frame, content_type="image/jpeg")

        assert response.status_code == 200
        assert "no-store" in response["Cache-Control"]
        answer = response.json()
        assert (answer["width"], answer["height"]) == SIZE
        assert answer["milliseconds"] > 0
        (face,) = answer["faces"]
        left, top, right, bottom = face["box"]
        assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx(FACE_AT, abs=12)
        assert set(face["landmarks"]) == set(LANDMARKS)
        assert list(face["probabilities"]) == list(EXPRESSIONS)
        assert sum(face["probabilities"].values()) == pytest.approx(1, abs=0.001)
        assert face["expression"] == max(EXPRESSIONS, key=face["probabilities"].__getitem__)
        assert face["sure"] is True
        assert face["problem"] is None
        assert face["mask"] is None, "it was not asked for"

    def test_a_mask_comes_where_asked_with_its_place_in_the_frame(self, client: Client, frame: bytes) -> None:
        response = client.post(reverse("live_frame") + "?mask=1", frame, content_type="image/jpeg")

        (face,) = response.json()["faces"]
        assert face["mask"].startswith("data:image/png;base64,")
        a, b, c, d, e, f = face["place"]
        middle = (a * 0.5 + c * 0.6 + e, b * 0.5 + d * 0.6 + f)
        assert middle == pytest.approx(face["landmarks"]["nose"], abs=6)

    def test_nothing_of_a_frame_stays(
        self, client: Client, frame: bytes, media: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        client.get(reverse("live"))
        client.post(reverse("live_frame"), frame, content_type="image/jpeg")  # loads the model, if first
        caplog.clear()

        response = client.post(reverse("live_frame") + "?mask=1", frame, content_type="image/jpeg")

        assert response.status_code == 200
        assert not Analysis.objects.exists()
        assert not Session.objects.exists()
        assert "sessionid" not in client.cookies
        assert not media.exists()
        assert not caplog.records

    @pytest.mark.parametrize(
        ("body", "status", "sentence"),
        [
            (b"", 400, "This file is empty."),
            (b"dear diary", 400, "This is a text file"),
            (b"\xff\xd8\xff\xe0 half a picture", 400, "damaged JPEG"),
            (b"\xff" * 600_000, 413, "at most 500 kB"),
        ],
    )
    def test_what_is_no_frame_is_refused_with_a_sentence(
        self, client: Client, body: bytes, status: int, sentence: str
    ) -> None:
        response = client.post(reverse("live_frame"), body, content_type="image/jpeg")

        assert response.status_code == status
        assert sentence in response.json()["error"]

    def test_a_frame_of_too_many_pixels_is_refused(self, client: Client) -> None:
        large = as_jpeg(Image.new("RGB", (1200, 1000)))

        response = client.post(reverse("live_frame"), large, content_type="image/jpeg")

        assert response.status_code == 400
        assert "megapixels" in response.json()["error"]

    def test_other_sites_cannot_send_frames(self, frame: bytes) -> None:
        client = Client(enforce_csrf_checks=True)

        assert client.post(reverse("live_frame"), frame, content_type="image/jpeg").status_code == 403
        assert client.get(reverse("live_frame")).status_code == 405
        client.get(reverse("live"))
        form = {"csrfmiddlewaretoken": client.cookies["csrftoken"].value}
        answer = client.post(reverse("live_frame"), form)
        assert answer.status_code == 400
        assert "not a form" in answer.json()["error"]

    def test_without_a_model_it_says_so(
        self, client: Client, frame: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing() -> None:
            raise PredictorError("There is no checkpoint.")

        monkeypatch.setattr(live, "get_predictor", missing)

        response = client.post(reverse("live_frame"), frame, content_type="image/jpeg")

        assert response.status_code == 503
        assert "missing or damaged" in response.json()["error"]

    def test_only_this_page_may_ask_for_the_camera(self, client: Client) -> None:
        assert "camera=(self)" in client.get(reverse("live"))["Permissions-Policy"]
        for address in (reverse("home"), "/static/css/site.css", "/nowhere"):
            assert "camera=()" in client.get(address)["Permissions-Policy"]


@pytest.fixture(scope="session")
def camera_browser(
    chromium: Browser, frame: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """Chromium with a camera that sees `frame` for ever; a page gets it where its context permits."""
    film = tmp_path_factory.mktemp("camera") / "frame.mjpeg"
    film.write_bytes(frame * 2)
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    browser = chromium.browser_type.launch(
        executable_path=program,
        args=[
            "--no-sandbox",
            "--disable-gpu",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={film}",
        ],
    )
    yield browser
    browser.close()


@pytest.fixture
def context(camera_browser: Browser) -> Iterator[BrowserContext]:
    context = camera_browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["camera"])
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, live_server: LiveServer) -> Iterator[Page]:
    """The live page with a camera; what a script complains of fails the test."""
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(live_server.url + "/live/")
    yield page
    assert not complaints


def start(page: Page) -> None:
    page.get_by_role("button", name="Start camera").click()
    expect(page.locator("#overlay .line")).to_be_visible(timeout=60_000)


def shares(page: Page, part: str) -> tuple[float, float]:
    """Where the middle of a part lies in the stage, across and down; both are asked at one moment."""
    found = page.evaluate(
        """(part) => {
            const place = (name) => document.querySelector(name).getBoundingClientRect();
            const [outer, inner] = [place("#stage"), place(part)];
            return [
                (inner.x + inner.width / 2 - outer.x) / outer.width,
                (inner.y + inner.height / 2 - outer.y) / outer.height,
            ];
        }""",
        part,
    )
    return found[0], found[1]


@pytest.mark.django_db(transaction=True)
class TestPage:
    @pytest.fixture(autouse=True)
    def loaded(self, transactional_db: None) -> None:
        """The model, which takes its time once: no page need wait for it."""
        services.get_predictor()

    def test_box_word_and_bars_lie_on_the_face_and_a_snapshot_is_kept_only_on_demand(
        self, page: Page
    ) -> None:
        assert page.evaluate("document.querySelector('video').srcObject") is None, "nobody asked for it yet"
        start(page)

        mirrored = 1 - FACE_AT[0] / SIZE[0], FACE_AT[1] / SIZE[1]
        assert shares(page, "#overlay .line") == pytest.approx(mirrored, abs=0.04)
        word = re.match(r"(\w+) >?\d+\s%", page.locator("#overlay .word").text_content() or "")
        assert word is not None
        assert word[1] in EXPRESSIONS
        expect(page.locator("#overlay .name")).to_have_text(list(EXPRESSIONS))
        expect(page.locator("#rate")).to_have_text(re.compile(r"[\d.]+ frames a second, \d+ ms to read one"))
        expect(page.locator("#said")).to_have_text(f"Face 1: {word[1]}")
        assert not Analysis.objects.exists()

        page.get_by_role("button", name="Keep a snapshot").click()
        page.get_by_role("link", name="Kept: see what was read in it").click()
        page.wait_for_url("**/a/*/")
        expect(page.get_by_role("heading", level=1)).to_have_text("1 face in 1 photo")
        expect(page.locator("article.face")).to_contain_text(word[1])

    def test_the_mask_can_be_laid_over_the_face_and_the_mirror_taken_away(self, page: Page) -> None:
        start(page)
        mask = page.locator("#overlay image")
        expect(mask).to_have_count(0)

        page.get_by_role("switch", name="Motion mask over the face").check(force=True)
        expect(mask).to_have_count(1)
        expect(page.get_by_role("img", name="from violet to yellow")).to_be_visible()
        page.get_by_role("switch", name="As in a mirror").uncheck(force=True)
        expect(page.locator("#overlay .masks")).to_have_attribute("transform", re.compile(r"matrix\(\d"))

        across, down = shares(page, "#overlay .line")
        assert (across, down) == pytest.approx((FACE_AT[0] / SIZE[0], FACE_AT[1] / SIZE[1]), abs=0.04)
        assert shares(page, "#overlay image") == pytest.approx((across, down), abs=0.04)

    def test_the_camera_is_off_once_stopped_or_out_of_sight(self, page: Page) -> None:
        start(page)
        page.evaluate("window.track = document.querySelector('video').srcObject.getVideoTracks()[0]")
        page.get_by_role("button", name="Stop").press("Enter")
        assert page.evaluate("track.readyState") == "ended"
        expect(page.locator("#overlay > *")).to_have_count(0)
        expect(page.get_by_role("button", name="Start camera")).to_be_focused()

        start(page)
        page.evaluate("window.track = document.querySelector('video').srcObject.getVideoTracks()[0]")
        page.evaluate(
            """() => {
                Object.defineProperty(document, "hidden", { get: () => true });
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
        assert page.evaluate("track.readyState") == "ended"
        expect(page.get_by_role("alert")).to_contain_text("out of sight")

    def test_on_a_phone_the_bars_stand_below_the_picture(self, page: Page) -> None:
        page.set_viewport_size({"width": 360, "height": 780})
        start(page)

        expect(page.locator("#overlay .name")).to_have_count(0)
        expect(page.locator("#faces article")).to_have_count(1)
        expect(page.locator("#faces tr")).to_have_count(8)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360

    def test_where_no_face_is_found_the_picture_says_so(self, page: Page) -> None:
        start(page)
        nobody = {"width": 640, "height": 480, "faces": [], "milliseconds": 5}
        page.route("**/live/frame/", lambda route: route.fulfill(json=nobody))
        expect(page.locator("#overlay")).to_have_text("No face in view")
        page.unroute("**/live/frame/")
        expect(page.locator("#overlay .line")).to_be_visible()
        expect(page.locator("#overlay .nobody")).to_have_count(0)

    def test_a_refused_camera_is_explained(self, camera_browser: Browser, live_server: LiveServer) -> None:
        context = camera_browser.new_context()
        page = context.new_page()
        page.goto(live_server.url + "/live/")

        page.get_by_role("button", name="Start camera").click()

        expect(page.get_by_role("alert")).to_contain_text("The camera was refused. Allow it for this site")
        expect(page.get_by_role("button", name="Start")).to_be_focused()
        expect(page.get_by_role("button", name="Start camera")).to_be_enabled()
        expect(page.get_by_role("link", name="upload a photo")).to_be_visible()
        context.close()

    def test_it_says_what_is_missing_without_a_camera_a_safe_address_or_scripts(
        self, chromium: Browser, live_server: LiveServer
    ) -> None:
        page = chromium.new_page()
        page.goto(live_server.url + "/live/")
        expect(page.get_by_role("alert")).to_contain_text("No camera was found.")
        page.add_init_script("Object.defineProperty(window, 'isSecureContext', { value: false })")
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("HTTPS")
        expect(page.get_by_role("button", name="Start camera")).to_be_disabled()
        page.close()

        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(live_server.url + "/live/")
        expect(page.get_by_text("can't be read without JavaScript")).to_be_visible()
        expect(page.get_by_role("button", name="Start camera")).to_be_hidden()
        context.close()

    def test_it_stops_with_a_sentence_when_the_server_does_not_answer(
        self, context: BrowserContext, live_server: LiveServer
    ) -> None:
        page = context.new_page()
        page.route("**/live/frame/**", lambda route: route.abort())
        page.goto(live_server.url + "/live/")

        page.get_by_role("button", name="Start camera").click()

        expect(page.get_by_role("alert")).to_contain_text("The server does not answer", timeout=60_000)
        expect(page.get_by_role("button", name="Start camera")).to_be_visible()

    @pytest.mark.parametrize("status", [429, 503])
    def test_who_is_told_to_come_again_comes_again(
        self, context: BrowserContext, live_server: LiveServer, status: int
    ) -> None:
        page = context.new_page()
        refused: list[str] = []

        def refuse_twice(route: Route) -> None:
            refused.append(route.request.url)
            if len(refused) < 3:
                # As nginx does, which knows nothing of our sentences.
                route.fulfill(status=status, headers={"Retry-After": "1"}, body="too much for one moment")
            else:
                route.continue_()

        page.route("**/live/frame/**", refuse_twice)
        page.goto(live_server.url + "/live/")

        start(page)

        expect(page.get_by_role("alert")).to_be_hidden()

    def test_a_snapshot_waits_for_its_place_and_says_where_it_got_none(
        self, context: BrowserContext, live_server: LiveServer
    ) -> None:
        page = context.new_page()
        page.goto(live_server.url + "/live/")
        start(page)
        sent: list[bytes | None] = []
        answers: list[tuple[int, str, str]] = []

        def answer(route: Route) -> None:
            sent.append(route.request.post_data_buffer)
            if answers:
                status, seconds, body = answers.pop(0)
                route.fulfill(status=status, headers={"Retry-After": seconds}, body=body)
            else:
                route.continue_()

        page.route("**/analyse/", answer)
        keep = page.get_by_role("button", name="Keep a snapshot")
        answers[:] = [(503, "1", '{"error": "Many photos are being read."}'), (429, "1", "plain text")]
        keep.click()
        expect(page.get_by_role("link", name="Kept: see what was read in it")).to_be_visible(timeout=60_000)
        expect(page.get_by_role("alert")).to_be_hidden()
        assert Analysis.objects.count() == 1
        pictures = [body[body.index(b"\xff\xd8") : body.rindex(b"\xff\xd9")] for body in sent if body]
        assert len(pictures) == 3
        assert len(set(pictures)) == 1

        answers[:] = [(429, "40", '{"error": "Wait 40 seconds and send it again."}')]
        keep.click()
        expect(page.get_by_role("alert")).to_have_text("Wait 40 seconds and send it again.")
        expect(keep).to_be_enabled()
        expect(keep).to_be_focused()
