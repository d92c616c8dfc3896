"""Batches and videos that must survive.

A real worker is killed in the middle of them. They are made of the photos that the site ships.
"""

import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image

from recognition.samples import SAMPLES
from tests.figures import Figure
from tests.recognition.test_videos import film
from tests.reliability.servers import Site, Visitor, wait_for

PHOTOS = 100
SECONDS = 24  # of the video

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the embedded broker does not run on Windows"),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, durable=True)
    try:
        site.manage("migrate", "--verbosity=0")
        site.start_clock()
        yield site
    finally:
        site.stop()


def portrait(width: int) -> Image.Image:
    photo = Image.open(SAMPLES["eileen-collins"].path).convert("RGB")
    return photo.resize((width, width * photo.height // photo.width // 2 * 2))


def album() -> bytes:
    """Photos, each of another size, and a file that is none."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(PHOTOS):
            photo = io.BytesIO()
            portrait(400 + number).save(photo, "JPEG")
            archive.writestr(f"{number}.jpg", photo.getvalue())
        archive.writestr("notes.txt", b"not a photo")
    return stream.getvalue()


def video() -> bytes:
    """Somebody who comes slowly nearer."""
    pictures = []
    for index in range(5 * SECONDS):
        picture = np.full((400, 400, 3), 90, np.uint8)
        face = np.asarray(portrait(240 + index // 4 * 2))[:400, :400]
        picture[: face.shape[0], : face.shape[1]] = face
        pictures.append(picture)
    return film(pictures, rate=5)


def test_a_worker_killed_in_a_batch_and_in_a_video_leaves_both_whole(site: Site, figure: Figure) -> None:
    visitor = Visitor(site.start_web())

    def send(page: str, field: str, name: str, data: bytes) -> str:
        status, place, said = visitor.send(page, {field: SimpleUploadedFile(name, data)})
        assert status == 302, said.decode()
        return place.split("/")[2]

    def tell(token: str) -> tuple[str, int, int, int]:
        ((state, done, total, attempts),) = site.ask(
            "SELECT state, done, total, attempts FROM recognition_analysis WHERE token = ?", token
        )
        return state, done, total, attempts

    def found(token: str) -> list[list[tuple[object, ...]]]:
        """All that was read: photos and faces, rejections, or people and where they were seen."""
        joins = "recognition_photo p LEFT JOIN recognition_face f ON f.photo_id = p.id"
        seen = "recognition_track t JOIN recognition_sighting s ON s.track_id = t.id"
        return [
            site.ask(f"{question} WHERE analysis_id = ? ORDER BY 1, 2", token)
            for question in (
                f"SELECT p.number, f.number, p.name, f.box, f.probabilities FROM {joins}",
                "SELECT number, name FROM recognition_rejection",
                f"SELECT t.number, s.milliseconds, s.box, s.probabilities FROM {seen}",
            )
        ]

    def files(token: str) -> set[str]:
        folder = next(site.var.rglob(token))
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}

    uploads = [("/batch/", "photos", "album.zip", album()), ("/video/", "video", "film.mp4", video())]
    tokens, killed = [], []
    for name, upload in zip(("one", "two"), uploads, strict=True):
        tokens.append(send(*upload))
        hand = site.start_hand(name, "analyses")

        def in_the_middle(token: str = tokens[-1]) -> bool:
            state, done, total, _ = tell(token)
            return state == "running" and total / 4 < done < total

        wait_for(f"{name} in the middle", in_the_middle, 600)
        hand.kill()
        hand.wait()
        killed.append(tell(tokens[-1])[1])
        assert tell(tokens[-1])[0] == "running"

    site.start_hand("three", "analyses")
    seconds = wait_for("both done", lambda: all(tell(token)[0] == "done" for token in tokens), 600)
    undisturbed = [send(*upload) for upload in uploads]
    wait_for("the same undisturbed", lambda: all(tell(token)[0] == "done" for token in undisturbed), 900)
    for token, other in zip(tokens, undisturbed, strict=True):
        state, done, total, attempts = tell(token)
        assert (state, done, attempts) == ("done", total, 2)
        assert found(token) == found(other)
        assert files(token) == files(other)
    assert len({row[0] for row in found(tokens[0])[0]}) == PHOTOS
    assert [name for _, name in found(tokens[0])[1]] == ["notes.txt"]
    assert len(found(tokens[1])[2]) > 4 * SECONDS
    figure(
        "Workers killed -9 in a batch and in a video: both end whole, as undisturbed ones",
        f"killed after {killed[0]} of {PHOTOS + 1} files and {killed[1] / 1000:.0f} of {SECONDS} s, "
        f"both done {seconds:.0f} s later by the second worker, nothing twice",
    )
