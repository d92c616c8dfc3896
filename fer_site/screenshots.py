"""The pictures of the site in docs/images, made anew from the real site: `make screenshots`.

python -m fer_site.screenshots [NAME …]

Starts the whole site in a folder of its own, drives it with Chromium, light and 1280 pixels wide, with the
photos that come with it. Look at what comes out before committing it.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import av
import django
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parent.parent
IMAGES: Final = ROOT / "docs" / "images"
PHOTOS: Final = [ROOT / "static" / "samples" / f"{name}.jpg" for name in ("eileen-collins", "grace-hopper")]

WIDTH: Final = 1280
TALLEST: Final = 1000  # of a page, its first pixels are enough
LARGEST: Final = 150_000  # bytes of a picture: git keeps every version for ever
COLOURS: Final = (256, 128, 64, 48, 32, 24, 16)
SECONDS_TO_START: Final = 180
TIME_TO_READ: Final = 240_000  # milliseconds, for a video on a busy machine


def main(names: Sequence[str]) -> None:
    unknown = set(names) - set(PICTURES)
    if unknown:
        sys.exit(f"There is no picture {', '.join(sorted(unknown))}: {', '.join(PICTURES)} are.")
    with (
        tempfile.TemporaryDirectory() as folder,
        site(Path(folder)) as address,
        chromium(Path(folder)) as browser,
    ):
        for name in names or PICTURES:
            context = browser.new_context(
                base_url=address,
                color_scheme="light",
                viewport={"width": WIDTH, "height": 900},
                permissions=["camera"],
            )
            page = context.new_page()
            PICTURES[name](Visit(page, Path(folder)))
            page.evaluate("document.activeElement.blur()")
            page.screenshot(path=Path(folder) / "page.png", full_page=True)
            save(Image.open(Path(folder) / "page.png"), IMAGES / f"{name}.png")
            context.close()


def save(picture: Image.Image, path: Path) -> None:
    """Write it in as many colours as fit into LARGEST bytes."""
    picture = picture.crop((0, 0, WIDTH, min(picture.height, TALLEST)))
    for colours in COLOURS:
        # By coverage: the few points of a legend keep their colours beside a photo's many.
        few = picture.convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        if path.stat().st_size < LARGEST:
            break
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB, {colours} colours\n")


# The site and the browser -----------------------------------------------------------------------------------


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """The whole site as `make run` starts it, with settings and files of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "SECRET_KEY": secrets.token_urlsafe(50),
        "DJANGO_SETTINGS_MODULE": "fer_site.settings",
        "FER_ENV_FILE": os.devnull,
        "DJANGO_ALLOW_ASYNC_UNSAFE": "true",  # Playwright keeps an event loop, which is not one to fear
        "FER_VAR_DIR": str(folder / "var"),
        "DATABASE_URL": f"sqlite:///{folder / 'var' / 'db.sqlite3'}",
    }
    exports = ROOT / "var" / "exports"
    if exports.is_dir():  # made ready once for this machine, and known by what they were made of
        shutil.copytree(exports, folder / "var" / "exports")
    log = folder / "site.log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "fer_site.start", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while "Ctrl-C stops it." not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"The site did not start:\n{log.read_text()}")
            time.sleep(0.2)
        django.setup()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Debian's Chromium, before whose camera sits somebody on a photo."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("Chromium is not installed (Debian: apt-get install chromium).")
    film = folder / "camera.mjpeg"
    frame = folder / "frame.jpg"
    as_camera(PHOTOS[0]).save(frame, quality=90)
    film.write_bytes(frame.read_bytes() * 30)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
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


def as_camera(photo: Path, zoom: float = 1.0) -> Image.Image:
    """The photo in the middle of 640 × 480."""
    picture = Image.open(photo).convert("RGB")
    scale = zoom * max(640 / picture.width, 480 / picture.height)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    left, top = (picture.width - 640) // 2, round((picture.height - 480) * 0.2)
    return picture.crop((left, top, left + 640, top + 480))


def write_film(path: Path) -> None:
    """Eight seconds of both people side by side, coming nearer."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for step in range(80):
            halves = [as_camera(photo, 1 + step / 400).crop((160, 0, 480, 480)) for photo in PHOTOS]
            picture = np.hstack([np.asarray(half) for half in halves])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


# What is shown ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visit:
    """One picture: a page in a browser without cookies, and a folder for what it sends."""

    page: Page
    folder: Path

    def upload(self) -> None:
        self.page.goto("/")
        self.page.set_input_files("#photos", PHOTOS)
        self.page.click("#send")
        self.page.wait_for_url("**/a/**")
        self.page.wait_for_load_state("networkidle")


def analysis(visit: Visit) -> None:
    visit.upload()


def live(visit: Visit) -> None:
    visit.page.goto("/live/")
    visit.page.click("#start")
    visit.page.wait_for_selector("#overlay .line", timeout=TIME_TO_READ)
    visit.page.wait_for_timeout(3000)


def batch(visit: Visit) -> None:
    """Both photos, whole and in parts, so that the gallery has something to sort."""
    folder = visit.folder / "batch"
    folder.mkdir()
    for photo in PHOTOS:
        picture = Image.open(photo)
        for degrees in (-8, 0, 8):
            picture.rotate(degrees, fillcolor="grey").save(folder / f"{photo.stem} {degrees}.jpg", quality=90)
    visit.page.goto("/batch/")
    visit.page.set_input_files("#photos", sorted(folder.iterdir()))
    visit.page.click("#send")
    visit.page.wait_for_url("**/a/**", timeout=TIME_TO_READ)
    visit.page.wait_for_selector("main .gallery img", timeout=TIME_TO_READ)
    visit.page.wait_for_load_state("networkidle")


def video(visit: Visit) -> None:
    film = visit.folder / "film.mp4"
    write_film(film)
    visit.page.goto("/video/")
    visit.page.set_input_files("#video", film)
    visit.page.click("#send")
    visit.page.wait_for_selector("#watch", timeout=TIME_TO_READ)
    visit.page.wait_for_load_state("networkidle")
    visit.page.evaluate("document.querySelector('#video').currentTime = 2")
    visit.page.wait_for_timeout(1500)


def history(visit: Visit) -> None:
    """An account with some days behind it."""
    from django.contrib.auth.models import User

    from recognition.models import Analysis

    password = secrets.token_urlsafe(12)
    somebody = User.objects.create_user("somebody", password=password)
    visit.page.goto("/accounts/login/")
    visit.page.fill("input[name=username]", somebody.username)
    visit.page.fill("input[name=password]", password)
    visit.page.click("main button[type=submit]")
    for day in (0, 1, 3, 4):
        visit.upload()
        newest = Analysis.objects.filter(user=somebody).latest("created")
        newest.created -= timedelta(days=day, minutes=day)
        newest.save()
    visit.page.goto("/history/")
    visit.page.wait_for_load_state("networkidle")


PICTURES: Final[dict[str, Callable[[Visit], None]]] = {
    "analysis": analysis,
    "live": live,
    "batch": batch,
    "video": video,
    "history": history,
}


if __name__ == "__main__":
    main([re.sub(r"\.png$", "", name) for name in sys.argv[1:]])
