"""What holds for every page: by axe's rules, on a phone and a desk, in dark and light, from here alone."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import get_resolver, reverse
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from recognition import background
from recognition.models import ApiToken
from recognition.samples import SAMPLES
from recognition.tasks import read_analysis

PHONE: Final = {"width": 360, "height": 740}
DESK: Final = {"width": 1280, "height": 900}
FIRST_PAGE: Final = 200_000  # bytes
SHIFT: Final = 0.02  # of the layout; web.dev calls 0.1 good

# Addresses that answer with something else than a page.
NO_PAGES: Final = {
    *("download_json", "download_csv", "download_xlsx", "picture", "progress", "timeline", "video_file"),
    *("export", "note", "logout", "analyse", "sample", "live_frame", "cancel"),
    *("create_token", "revoke_token", "history_month"),
}
OF_EVERYBODY: Final = ("home", "batch", "video", "live", "history", "login", "signup", "api_docs")
OF_A_PERSON: Final = ("history", "profile", "password", "delete_everything", "delete_account")
OF_AN_ANALYSIS: Final = ("analysis", "photo", "compare", "explain", "delete", "history_day")

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def alone(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder of its own for pictures, and no broker: what would be sent to the workers."""
    settings.MEDIA_ROOT = tmp_path / "media"
    tokens: list[str] = []
    monkeypatch.setattr(background, "_send", tokens.extend)
    return tokens


def sample() -> SimpleUploadedFile:
    return SimpleUploadedFile("portrait.jpg", SAMPLES["eileen-collins"].path.read_bytes(), "image/jpeg")


def film() -> SimpleUploadedFile:
    """A second of the same portrait."""
    portrait = Image.open(SAMPLES["eileen-collins"].path).convert("RGB").resize((320, 320))
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        pictures = container.add_stream("libx264", rate=10)
        assert isinstance(pictures, VideoStream)
        pictures.width, pictures.height, pictures.pix_fmt = 320, 320, "yuv420p"
        for _ in range(10):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.asarray(portrait))))
        container.mux(pictures.encode())
    return SimpleUploadedFile("film.mp4", stream.getvalue(), "video/mp4")


@pytest.fixture
def pages(client: Client, alone: list[str]) -> dict[str, str]:
    """The address of every page, by a name for it; `client` is logged in as an administrator."""
    ada = User.objects.create_superuser("ada", password="lovelace 1815")
    ApiToken.create_for(ada, "k" * 50)
    client.force_login(ada)
    photos = client.post(reverse("analyse"), {"photos": [sample()]})["Location"]
    batch = client.post(reverse("batch"), {"photos": [sample(), sample()]})["Location"]
    video = client.post(reverse("video"), {"video": film()})["Location"]
    for token in alone:
        read_analysis(token)
    waiting = client.post(reverse("batch"), {"photos": [sample()]})["Location"]
    found = {name: reverse(name) for name in dict.fromkeys((*OF_EVERYBODY, *OF_A_PERSON))}
    (day,) = set(re.findall(r"/history/\d+/\d+/\d+/", client.get(photos).content.decode()))
    return {
        **found,
        "analysis": photos,
        "batch result": batch,
        "batch by expression": f"{batch}?expression=happiness&sort=fear",
        "batch that waits": waiting,
        "video result": video,
        "photo": f"{batch}photo/1/",
        "compare": f"{photos}photo/1/compare/",
        "delete": f"{batch}delete/",
        "explain": f"{photos}photo/1/face/1/explain/",
        "history_day": day,
        "administration": reverse("admin:index"),
        "missing": "/nowhere/",
    }


def opened(
    chromium: Browser, live_server: LiveServer, client: Client, size: dict[str, int], scheme: str
) -> BrowserContext:
    context = chromium.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(120_000)  # one page loads torch
    for name, cookie in client.cookies.items():
        context.add_cookies([{"name": name, "value": cookie.value, "url": live_server.url}])
    return context


def complaints(page: Page, address: str) -> list[str]:
    """What is wrong with a page: axe's violations, sideways scroll, and what stands in it and should not."""
    html = page.content()
    found = [
        f"axe: {violation['id']}: {violation['nodes'][0]['html'][:120]}"
        for violation in Axe().run(page).response["violations"]
    ]
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        found.append("it scrolls sideways")
    if re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>|<style\b|\son[a-z]+=\"", html):
        found.append("a script or style stands in it")
    return [f"{address}: {what}" for what in found]


@pytest.mark.parametrize(
    ("size", "scheme"), [(PHONE, "dark"), (DESK, "light")], ids=["phone, dark", "desk, light"]
)
def test_every_page_is_sound(
    chromium: Browser,
    live_server: LiveServer,
    client: Client,
    pages: dict[str, str],
    size: dict[str, int],
    scheme: str,
) -> None:
    context = opened(chromium, live_server, client, size, scheme)
    page, wrong = context.new_page(), list[str]()
    page.on(
        "request", lambda request: wrong.append(request.url) if not ours(request.url, live_server) else None
    )
    page.on("console", lambda said: wrong.append(f"{page.url}: {said.text}") if policy(said.text) else None)
    for address in pages.values():
        page.goto(live_server.url + address, wait_until="load")
        wrong += complaints(page, address)
    context.close()

    nobody = opened(chromium, live_server, Client(), size, scheme)
    page = nobody.new_page()
    for name in OF_EVERYBODY:
        page.goto(live_server.url + reverse(name), wait_until="load")
        wrong += complaints(page, f"{name}, nobody logged in")
    nobody.close()
    assert wrong == []


def ours(address: str, live_server: LiveServer) -> bool:
    return address.startswith((live_server.url, "blob:", "data:"))


def policy(text: str) -> bool:
    return "Content Security Policy" in text or "Content-Security-Policy" in text


def test_every_address_that_is_a_page_is_among_them() -> None:
    names = {
        name
        for pattern in get_resolver("recognition.urls").url_patterns
        if (name := getattr(pattern, "name", None))
    }
    assert names - NO_PAGES == {*OF_EVERYBODY, *OF_A_PERSON, *OF_AN_ANALYSIS}


def test_links_lead_somewhere(client: Client, pages: dict[str, str]) -> None:
    links = {
        link.partition("#")[0]
        for address in pages.values()
        for link in re.findall(r'<a [^>]*href="(/[^"]*)"', client.get(address).content.decode())
    }
    assert len(links) > 30
    assert [link for link in links if client.get(link.replace("&amp;", "&")).status_code >= 400] == []


def test_the_first_page_is_light_and_nothing_moves_while_it_loads(
    chromium: Browser, live_server: LiveServer, client: Client, pages: dict[str, str]
) -> None:
    context = opened(chromium, live_server, client, PHONE, "light")
    for name, most in (("home", FIRST_PAGE), ("analysis", None), ("batch result", None)):
        page, sizes = context.new_page(), list[int]()
        page.add_init_script(
            "window.shift = 0; new PerformanceObserver((list) => { for (const entry of list.getEntries())"
            " window.shift += entry.value; }).observe({ type: 'layout-shift', buffered: true });"
        )
        page.on("requestfinished", weigh(sizes))
        page.goto(live_server.url + pages[name], wait_until="networkidle")
        assert page.evaluate("window.shift") < SHIFT, name
        assert most is None or 0 < sum(sizes) < most, sizes
        page.close()
    context.close()


def weigh(sizes: list[int]) -> "Callable[[object], None]":
    def add(request: object) -> None:
        sizes.append(request.sizes()["responseBodySize"])  # type: ignore[attr-defined]

    return add


def test_a_keyboard_gets_to_everything_on_the_first_page_and_sees_where_it_is(
    chromium: Browser, live_server: LiveServer, client: Client
) -> None:
    context = opened(chromium, live_server, client, DESK, "light")
    page = context.new_page()
    page.goto(live_server.url)
    can = page.locator("a:visible, button:visible:enabled, input[type=file]").count()
    reached = set()
    for _ in range(can + 5):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """() => { const at = document.activeElement, box = at.closest("label") ?? at;
                const shown = [at, box].some((element) => { const style = getComputedStyle(element);
                  return style.outlineStyle !== "none" || style.boxShadow !== "none"; });
                const where = at === document.body ? "" : at.outerHTML.slice(0, 90);
                return where && (shown ? where : `unseen ${where}`); }"""
            )
        )
    reached.discard("")
    assert [element for element in reached if element.startswith("unseen")] == []
    assert len(reached) >= can - 3  # the camera's input and both of its kind share their labels
    context.close()
