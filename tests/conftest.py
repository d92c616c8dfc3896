"""What tests of several packages share: photos of people, and a browser."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.cache import cache
from playwright.sync_api import Browser, expect, sync_playwright

pytest_plugins = ["tests.figures"]

ROOT = Path(__file__).resolve().parent.parent

expect.set_options(timeout=20_000)  # a busy machine is no fault of a page


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    """No test counts against the limits of another."""
    cache.clear()


@pytest.fixture
def same_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still: limits count by its minutes."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos with faces: the one beside the repository, or scikit-image's astronaut."""
    beside = ROOT.parent / "shared" / "photos"
    if beside.is_dir():
        return beside
    data = pytest.importorskip("skimage.data", reason="neither ../shared/photos nor scikit-image is here")
    folder = tmp_path_factory.mktemp("photos")
    from PIL import Image

    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window and without calls home."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            headless=True,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()
