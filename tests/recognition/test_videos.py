"""Videos: uploaded, read by a worker, looked at and taken along. They are made of real photos here."""

import csv
import io
import json
import re
import struct
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, expect
from pytest_django import DjangoAssertNumQueries, Settings
from pytest_django.live_server_helper import LiveServer

from ml.expressions import EXPRESSIONS
from recognition import background, ranges, services, videos
from recognition.models import Analysis, Sighting, Track, analyses_folder
from recognition.purging import purge_expired
from recognition.samples import SAMPLES
from recognition.tasks import read_analysis
from recognition.timelines import stretches
from recognition.tracking import Box, Tracker

Picture = NDArray[np.uint8]

pytestmark = pytest.mark.django_db


def head(slug: str, box: tuple[int, int, int, int], side: int) -> Picture:
    """The head out of a sample photo, (side, side, 3)."""
    photo = Image.open(SAMPLES[slug].path).convert("RGB").crop(box)
    return np.asarray(photo.resize((side, side), Image.Resampling.LANCZOS))


def film(
    pictures: list[Picture],
    rate: int = 10,
    *,
    form: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    rotation: int = 0,
    sound: int = 0,
) -> bytes:
    """A video of these pictures, as bytes. times: in milliseconds, where they do not come at `rate`. sound:
    how many eighths of a second of silence."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=form) as container:
        pictures_out = container.add_stream(codec, rate=rate, options={"crf": "20", "preset": "ultrafast"})
        assert isinstance(pictures_out, VideoStream)
        pictures_out.height, pictures_out.width = pictures[0].shape[:2]
        pictures_out.pix_fmt = pix_fmt
        pictures_out.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            pictures_out.set_display_rotation(rotation)
        tone = container.add_stream("aac", rate=8000) if sound else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts = times[index] if times else index * 1000 // rate
            frame.time_base = Fraction(1, 1000)
            container.mux(pictures_out.encode(frame))
        container.mux(pictures_out.encode(None))
        if tone is not None:
            for piece in range(sound):
                container.mux(tone.encode(silence(piece)))
            container.mux(tone.encode(None))
    return stream.getvalue()


def silence(piece: int = 0) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 8000, 1024 * piece
    return frame


@pytest.fixture(scope="module")
def scene() -> list[Picture]:
    """Two seconds: a woman goes from left to right, and for the second of them a man stands at the right."""
    woman = head("eileen-collins", (100, 0, 340, 240), 200)
    man = head("grace-hopper", (130, 60, 400, 330), 160)
    pictures = []
    for index in range(20):
        picture = np.full((240, 560, 3), 90, np.uint8)
        left = 8 * index
        picture[20:220, left : left + 200] = woman
        if index >= 10:
            picture[40:200, 400:560] = man
        pictures.append(picture)
    return pictures


@pytest.fixture(scope="module")
def two_people(scene: list[Picture]) -> bytes:
    return film(scene, sound=1)


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No broker: what would be sent to the workers."""
    tokens: list[str] = []
    monkeypatch.setattr(background, "_send", tokens.extend)
    return tokens


Send = Callable[..., Analysis]


@pytest.fixture
def send(client: Client) -> Send:
    """Upload a video as a browser does and return what was stored; nobody has read it yet."""

    def send(data: bytes, name: str = "holiday.mp4") -> Analysis:
        response = client.post(reverse("video"), {"video": SimpleUploadedFile(name, data)})
        assert response.status_code == 302, response.content.decode()
        return Analysis.objects.get(pk=response["Location"].split("/")[2])

    return send


def work(analysis: Analysis) -> Analysis:
    """What the worker does when the message comes."""
    read_analysis(analysis.pk)
    analysis.refresh_from_db()
    return analysis


@pytest.fixture
def read(send: Send) -> Send:
    return lambda data, name="holiday.mp4": work(send(data, name))


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that finds no faces, for tests of what is around it."""

    class Predictor:
        name = "nobody"

        def predict(self, images: list[Picture]) -> list[object]:
            class Found:
                faces = ()

            return [Found() for _ in images]

    monkeypatch.setattr(services, "get_predictor", Predictor)


def refused(client: Client, data: bytes, name: str = "film.mp4") -> str:
    response = client.post(
        reverse("video"), {"video": SimpleUploadedFile(name, data)}, headers={"Accept": "application/json"}
    )
    assert response.status_code == 400
    return str(response.json()["error"])


def grey(count: int, height: int = 64, width: int = 64) -> list[Picture]:
    return [np.full((height, width, 3), index % 256, np.uint8) for index in range(count)]


# Who is who -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    left: float
    top: float = 0
    side: float = 50
    confidence: float = 0.99

    @property
    def box(self) -> Box:
        return self.left, self.top, self.left + self.side, self.top + self.side


def people(*frames: tuple[float, list[Spot]]) -> dict[int, list[float]]:
    """Where everybody was, frame after frame."""
    tracker: Tracker[Spot] = Tracker()
    found: dict[int, list[float]] = defaultdict(list)
    for seconds, spots in frames:
        for number, spot in tracker.follow(seconds, spots):
            found[number].append(spot.left)
    for number, spot in tracker.finish():
        found[number].append(spot.left)
    return dict(found)


def test_people_who_pass_each_other_stay_who_they_are() -> None:
    steps = range(0, 11)
    frames = [(step / 5, [Spot(20 * step), Spot(200 - 20 * step, top=30)]) for step in steps]

    assert people(*frames) == {1: [20 * step for step in steps], 2: [200 - 20 * step for step in steps]}


def test_a_face_may_be_hidden_for_a_second_but_not_for_longer() -> None:
    assert people((0, [Spot(0)]), (0.2, [Spot(1)]), (0.4, []), (1.2, [Spot(2)])) == {1: [0, 1, 2]}
    assert people((0, [Spot(0)]), (0.2, [Spot(1)]), (1.4, [Spot(2)]), (1.6, [Spot(3)])) == {
        1: [0, 1],
        2: [2, 3],
    }


def test_what_jumps_or_grows_at_once_is_somebody_else() -> None:
    assert people((0, [Spot(0)]), (0.2, [Spot(0)]), (0.4, [Spot(200)]), (0.6, [Spot(200)])) == {
        1: [0, 0],
        2: [200, 200],
    }
    assert list(
        people((0, [Spot(0)]), (0.2, [Spot(0)]), (0.4, [Spot(0, side=150)]), (0.6, [Spot(0, side=150)]))
    ) == [1, 2]


def test_a_glimpse_is_nobody_save_in_a_single_picture() -> None:
    assert people((0, [Spot(0), Spot(200)]), (0.2, [Spot(1)])) == {1: [0, 1]}
    assert people(*((step / 5, [Spot(0, confidence=0.9)]) for step in range(9))) == {}
    assert people((0, [Spot(0), Spot(200), Spot(400, confidence=0.8)])) == {1: [0], 2: [200]}


def moment(milliseconds: int, happiness: float | None) -> Sighting:
    rest = None if happiness is None else (1 - happiness) / 7
    read = None if happiness is None else dict.fromkeys(EXPRESSIONS, rest) | {"happiness": happiness}
    return Sighting(milliseconds=milliseconds, probabilities=read, problem="" if read else "too small")


def test_time_is_told_in_stretches_without_every_blink() -> None:
    smile = [moment(200 * step, 0.9) for step in range(5)]
    blink = [moment(1000, 0.05)]
    after = [moment(1200 + 200 * step, 0.9) for step in range(5)]
    away = [moment(5000, 0.9), moment(5200, None)]

    told = stretches([*smile, *blink, *after, *away])

    assert [(one.start, one.end, one.shows) for one in told] == [
        (0, 2000, "happiness"),
        (5000, 5000, "happiness"),
        (5200, 5200, "too small"),
    ]
    assert told[0].share == pytest.approx(0.82, abs=0.05)
    assert told[2].share is None


def test_where_there_is_a_look_every_other_second_nobody_was_away_in_between() -> None:
    told = stretches([moment(milliseconds, 0.9) for milliseconds in (0, 2000, 4000, 10_000)])

    assert [(one.start, one.end) for one in told] == [(0, 4000), (10_000, 10_000)]


# Reading --------------------------------------------------------------------------------------------------


def test_people_are_followed_and_read_over_time(
    client: Client, send: Send, two_people: bytes, sent: list[str]
) -> None:
    waiting = send(two_people)
    assert "Cancel" in client.get(waiting.get_absolute_url()).content.decode()
    assert waiting.state == "queued"
    assert sent == [waiting.pk]
    raw = waiting.folder / "upload.raw"
    assert raw.stat().st_mode & 0o777 == 0o600

    done = work(waiting)

    assert (done.state, done.error) == ("done", "")
    assert done.done == done.total == 1900
    assert done.model_name
    woman, man = done.tracks.all()
    assert [one.milliseconds for one in woman.sightings.all()] == list(range(0, 2000, 200))
    assert [one.milliseconds for one in man.sightings.all()] == list(range(1000, 2000, 200))
    lefts = [one.box[0] for one in woman.sightings.all()]
    assert lefts == sorted(lefts)
    assert lefts[-1] - lefts[0] == pytest.approx(144, abs=12)
    for one in Sighting.objects.all():
        assert one.probabilities is not None
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-3)
    shown = [max(one.probabilities, key=one.probabilities.get) for one in woman.sightings.all()]  # type: ignore[union-attr,arg-type]
    assert shown.count("happiness") >= 8
    for name in EXPRESSIONS:
        read = [one.probabilities[name] for one in woman.sightings.all() if one.probabilities]
        assert (woman.probabilities or {})[name] == pytest.approx(sum(read) / len(read), abs=1e-3)
    assert not raw.exists()
    assert sorted(file.name for file in done.folder.iterdir()) == [
        "person-1.jpg",
        "person-2.jpg",
        "poster.jpg",
        "video.mp4",
    ]


def test_our_copy_keeps_the_times_and_nothing_else(read: Send, scene: list[Picture], nobody: None) -> None:
    times = [0, 40, 400, 1000, 1010, 1900]  # a frame a hundredth after another is more than anybody sees
    large = [np.kron(picture, np.ones((3, 3, 1), np.uint8)) for picture in scene[:6]]

    done = read(film(large, times=times, sound=True))

    with av.open(str(done.folder / "video.mp4")) as container:
        assert len(container.streams) == 1
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height) == (1280, 548)
        assert [round(frame.time * 1000) for frame in container.decode(video)] == [0, 40, 400, 1000, 1900]
    data = (done.folder / "video.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_no_other_decoder_is_opened_for_a_strangers_file(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[str | None] = []  # what FFmpeg has found out of the pictures when a file is open
    open_file = av.open

    def watched(*args: Any, **options: Any) -> Any:
        container = open_file(*args, **options)
        known.extend(stream.codec_context.pix_fmt for stream in container.streams.video)
        return container

    data = film(grey(6), form="mov", codec="qtrle", pix_fmt="rgb24")
    watched(io.BytesIO(data))
    monkeypatch.setattr(av, "open", watched)

    assert "coded in a way that is not read here" in refused(client, data, "film.mov")
    assert known == ["rgb24", None]


def test_a_video_of_more_pixels_than_4k_has_is_given_up(
    read: Send, nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "PIXELS_A_SECOND", 1)

    failed = read(film(grey(6)))

    assert (failed.state, "too many and too large pictures" in failed.error) == ("failed", True)


@pytest.mark.parametrize(("form", "codec"), [("webm", "libvpx"), ("mov", "libx264"), ("matroska", "libx264")])
def test_other_containers_are_read_too(read: Send, nobody: None, form: str, codec: str) -> None:
    done = read(film(grey(6), form=form, codec=codec), f"film.{form}")

    assert (done.state, done.done) == ("done", 500)


def test_a_video_filmed_upright_is_turned_upright(read: Send, scene: list[Picture]) -> None:
    lying = [np.ascontiguousarray(np.rot90(picture)) for picture in scene[:6]]

    done = read(film(lying, rotation=-90))

    assert videos.picture_size(done) == (560, 240)
    track = done.tracks.get()
    assert track.sightings.first().box[0] == pytest.approx(67, abs=8)  # type: ignore[union-attr]


def test_a_second_worker_begins_anew_and_leaves_nothing_twice(send: Send, scene: list[Picture]) -> None:
    waiting = send(film(scene[:10]))

    def lost(analysis: Analysis, progress: background.Progress) -> None:
        """As a worker that is killed: after it wrote a little."""
        track = analysis.tracks.create(number=1)
        track.sightings.create(
            milliseconds=0, box=[0, 0, 9, 9], landmarks={}, confidence=1, problem="too small"
        )
        (analysis.folder / "copy-1.part").write_bytes(b"half")
        (analysis.folder / "person-7.jpg").write_bytes(b"somebody")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        background.run(waiting.pk, lost)
    Analysis.objects.update(state="queued")

    done = work(waiting)

    assert (done.state, done.attempts) == ("done", 2)
    assert [one.milliseconds for one in Sighting.objects.all()] == [0, 200, 400, 600, 800]
    assert sorted(file.name for file in done.folder.iterdir()) == ["person-1.jpg", "poster.jpg", "video.mp4"]


def test_without_its_file_a_video_is_done_where_all_of_it_was_read(send: Send, nobody: None) -> None:
    waiting = work(send(film(grey(10))))
    Analysis.objects.update(state="queued")
    assert work(waiting).state == "done", "its worker was lost before it could say so"

    Analysis.objects.update(state="queued", done=300)  # as in a backup made meanwhile
    failed = work(waiting)
    assert (failed.state, failed.error) == ("failed", background.UPLOAD_IS_GONE)
    assert (failed.folder / "video.mp4").exists()


def test_a_worker_that_is_told_to_end_leaves_the_file_to_the_next(
    send: Send, monkeypatch: pytest.MonkeyPatch, nobody: None
) -> None:
    waiting = send(film(grey(10)))
    monkeypatch.setattr(background.Progress, "report", lambda *_: (_ for _ in ()).throw(SystemExit))

    with pytest.raises(SystemExit):
        work(waiting)

    assert sorted(file.name for file in waiting.folder.iterdir()) == ["upload.language", "upload.raw"]


def test_a_cancelled_video_stops_at_once_and_keeps_what_was_read(
    send: Send, scene: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = send(film(scene))
    report = background.Progress.report

    def cancelled(progress: background.Progress, done: int, total: int) -> None:
        assert done <= 1000, "it goes on after it was cancelled"
        if done == 1000:
            background.cancel(waiting)
            progress._next_beat = 0
        report(progress, done, total)

    monkeypatch.setattr(background.Progress, "report", cancelled)

    stopped = work(waiting)

    assert stopped.state == "cancelled"
    assert [one.milliseconds for one in Sighting.objects.all()] == [0, 200, 400, 600, 800, 1000]
    with av.open(str(stopped.folder / "video.mp4")) as container:
        assert len(list(container.decode(video=0))) == 11
    assert not (stopped.folder / "upload.raw").exists()


def test_a_page_costs_as_many_questions_for_an_hour_as_for_a_moment(
    client: Client, send: Send, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    done = send(film(grey(3)))
    Analysis.objects.update(state="done")
    track = Track.objects.create(analysis=done, number=1)
    Sighting.objects.bulk_create(
        Sighting(
            track=track, milliseconds=n, box=[0, 0, 9, 9], landmarks={}, confidence=1, problem="too small"
        )
        for n in range(100)
    )

    with django_assert_max_num_queries(15):
        client.get(done.get_absolute_url())


def test_a_page_waits_for_the_worker_to_stop(client: Client, send: Send, nobody: None) -> None:
    waiting = send(film(grey(10)))
    Analysis.objects.update(state="running", started=timezone.now())
    background.cancel(waiting)

    page = client.get(waiting.get_absolute_url()).content.decode()
    assert 'http-equiv="refresh"' in page
    (waiting.folder / "upload.raw").unlink()
    page = client.get(waiting.get_absolute_url()).content.decode()
    assert "You stopped it before anything was read." in page


def test_what_was_cancelled_before_it_began_leaves_no_file(send: Send) -> None:
    waiting, other = send(film(grey(3))), send(film(grey(3)))

    (waiting.folder / "copy-1.part").write_bytes(b"what a worker had of it that was lost")
    background.cancel(waiting)
    work(waiting)
    purge_expired()

    assert list(waiting.folder.iterdir()) == []
    assert (other.folder / "upload.raw").exists(), "which waits still"


def test_a_video_deleted_while_it_is_read_is_gone(
    send: Send,
    scene: list[Picture],
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Callable[..., object],
) -> None:
    waiting = send(film(scene[:12]))
    show = videos._Result.show

    def deleted(result: videos._Result, seconds: float, *rest: object) -> object:
        if seconds == 0.5:
            with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
                Analysis.objects.get().delete()
        return show(result, seconds, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(videos._Result, "show", deleted)
    read_analysis(waiting.pk)

    assert not Analysis.objects.exists()
    assert not waiting.folder.exists()


def test_memory_does_not_grow_with_the_length(
    send: Send, nobody: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FER_VIDEO_RATE = 2
    first, short, long = (send(film(grey(count, 240, 320))) for count in (5, 40, 600))
    statm = Path("/proc/self/statm")
    resident: list[int] = []
    report = background.Progress.report

    def watched(*arguments: object) -> None:
        resident.append(int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0)
        report(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(background.Progress, "report", watched)

    def most(analysis: Analysis) -> tuple[int, int]:
        """Bytes at most of Python's, arrays among them, and of the whole process."""
        resident.clear()
        tracemalloc.start()
        assert work(analysis).state == "done"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, max(resident)

    most(first)  # loads what is loaded once
    # 560 frames more would be 129 MB as arrays, and 65 as the decoder's.
    (peak, whole), (peak_long, whole_long) = most(short), most(long)
    assert peak_long < peak + 500_000
    assert whole_long < whole + 15_000_000


# Files that are none --------------------------------------------------------------------------------------


def test_only_videos_are_taken(client: Client, portrait: bytes) -> None:
    accepted = "MP4, WebM and MOV videos are accepted"
    assert accepted in refused(client, b"dear diary, " * 100)
    assert accepted in refused(client, portrait)
    assert accepted in refused(client, b"#EXTM3U\nfile:///etc/passwd\n")
    assert refused(client, b"") == "This file is empty."
    assert "damaged or incomplete" in refused(client, b"\0\0\0\x18ftypisom" + b"\0" * 500)
    assert "damaged or incomplete" in refused(client, b"\x1aE\xdf\xa3" + b"\x07" * 500)
    assert not Analysis.objects.exists()
    assert not any(analyses_folder().iterdir())


def test_no_file_at_all_is_said_on_the_form(client: Client) -> None:
    response = client.post(reverse("video"))

    assert response.status_code == 400
    assert "Choose a video first." in response.content.decode()


def test_videos_are_sent_one_by_one(client: Client) -> None:
    response = client.post(
        reverse("video"), {"video": [SimpleUploadedFile("a.mp4", b"a"), SimpleUploadedFile("b.mp4", b"b")]}
    )

    assert response.status_code == 400
    assert "Send one video at a time." in response.content.decode()
    assert not any(analyses_folder().iterdir())


def test_sound_alone_is_no_video(client: Client) -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        tone = container.add_stream("aac", rate=8000)
        container.mux(tone.encode(silence()))
        container.mux(tone.encode(None))

    assert "no picture in this file" in refused(client, stream.getvalue())


def test_a_video_that_is_too_large_or_too_long_is_refused(client: Client, settings: Settings) -> None:
    settings.FER_MAX_VIDEO_MINUTES = 1 / 60
    assert "longer than" in refused(client, film(grey(40)))
    settings.FER_MAX_VIDEO_MINUTES = 10
    settings.FER_MAX_MEGAPIXELS = 0.001
    assert "more than 0.001 megapixels" in refused(client, film(grey(2)))
    settings.FER_MAX_VIDEO_MB = 0.0001
    assert "larger than 0.0001 MB" in refused(client, film(grey(2)))
    assert not Analysis.objects.exists()


def test_what_a_file_says_of_its_length_does_not_matter(read: Send, nobody: None, settings: Settings) -> None:
    settings.FER_MAX_VIDEO_MINUTES = 1 / 60
    data = bytearray(film(grey(40)))
    for atom, skipped in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        struct.pack_into(">I", data, data.index(atom) + skipped, 100)

    done = read(bytes(data))

    assert done.state == "failed"
    assert "longer than" in done.error
    assert not (done.folder / "upload.raw").exists()


def test_a_video_whose_end_is_missing_is_refused(client: Client, read: Send, nobody: None) -> None:
    whole = read(film(grey(30)))
    data = (whole.folder / "video.mp4").read_bytes()  # its index in front, so it can be opened still

    assert "its end is missing" in refused(client, data[:-100])
    assert "could not be opened" in refused(client, film(grey(30))[:-1500])


def test_pictures_too_small_for_a_face_are_no_video(read: Send, nobody: None) -> None:
    done = read(film(grey(3, 16, 128)))

    assert done.state == "failed"
    assert "at least 20 × 20 pixels are needed" in done.error
    assert list(done.folder.iterdir()) == []


def test_a_webm_that_was_cut_off_says_so(read: Send, nobody: None) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), np.uint8)
    data = film(list(noise), form="webm", codec="libvpx")

    done = read(data[: len(data) // 2])

    assert done.state == "failed", done.done
    assert re.search("could be read for its first [234] seconds only", done.error)


def test_sound_that_goes_on_longer_is_no_damage(read: Send, nobody: None) -> None:
    done = read(film(grey(10), form="matroska", sound=60))

    assert (done.state, done.error) == ("done", "")


def test_who_is_in_a_picture_every_few_seconds_is_one_person(
    client: Client, read: Send, scene: list[Picture]
) -> None:
    done = read(film(scene[:1] * 4, 1, times=[0, 3000, 6000, 9000]))

    (person,) = done.tracks.all()
    assert person.sightings.count() == 4
    (drawn,) = client.get(reverse("timeline", args=[done.pk])).json()["people"]
    assert drawn["gap"] > 3000, "who was seen every time was never away"


def test_a_video_that_breaks_off_says_so_and_keeps_what_was_read(
    read: Send, monkeypatch: pytest.MonkeyPatch, nobody: None
) -> None:
    demux = av.container.InputContainer.demux

    class Broken:
        """As a disk or a file that can be read no further."""

        def __init__(self, video: videos.Video) -> None:
            self.packets = demux(video.container, video.stream)
            self.left = 20

        def __iter__(self) -> "Broken":
            return self

        def __next__(self) -> "av.Packet[VideoStream]":
            self.left -= 1
            if not self.left:
                raise av.error.InvalidDataError(1, "broken")
            return next(self.packets)

    monkeypatch.setattr(videos, "_packets", Broken)

    done = read(film(grey(30)))

    assert done.state == "failed"
    assert "it could be read for its first 2 seconds only" in done.error
    assert videos.picture_size(done) == (64, 64)
    assert not (done.folder / "upload.raw").exists()


def test_a_file_without_a_frame_is_no_video(read: Send, nobody: None) -> None:
    data = bytearray(film(grey(5)))
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = b"\0" * (data.index(b"moov") - 4 - start)

    done = read(bytes(data))

    assert done.state == "failed"
    assert "no picture in it could be read" in done.error


# What comes of it -----------------------------------------------------------------------------------------


def body(response: object) -> bytes:
    return b"".join(response.streaming_content)  # type: ignore[attr-defined]


def test_the_page_the_table_and_the_file_say_the_same(client: Client, read: Send, two_people: bytes) -> None:
    done = read(two_people)

    page = client.get(done.get_absolute_url()).content.decode()
    assert "2 people in a video" in page
    assert 'data-jump="1000"' in page
    response = client.get(reverse("download_csv", args=[done.pk]))
    rows = list(csv.DictReader(io.StringIO(body(response).decode())))
    assert [(row["seconds"], row["person"]) for row in rows[5:7]] == [("1.000", "1"), ("1.000", "2")]
    assert len(rows) == 15
    assert {row["model"] for row in rows} == {done.model_name}
    assert rows[0]["expression"] == max(EXPRESSIONS, key=lambda name: float(rows[0][name]))
    file = json.loads(body(client.get(reverse("download_json", args=[done.pk]))))
    assert (file["model"], file["width"], file["height"]) == (done.model_name, 560, 240)
    assert [str(one["box"][0]) for one in file["sightings"]] == [row["left"] for row in rows]
    drawn = client.get(reverse("timeline", args=[done.pk])).json()
    assert [(len(person["times"]), person["gap"]) for person in drawn["people"]] == [(10, 1000), (5, 1000)]


def test_the_video_is_handed_out_in_parts(
    client: Client, read: Send, nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = read(film(grey(20)))
    data = (done.folder / "video.mp4").read_bytes()
    address = reverse("video_file", args=[done.pk])

    def ask(asked: str) -> tuple[int, str | None, bytes]:
        response = client.get(address, headers={"Range": asked})
        return (
            response.status_code,
            response.get("Content-Range"),
            body(response) if response.streaming else b"",
        )

    size = len(data)
    whole = client.get(address)
    assert (whole.status_code, body(whole), whole["Accept-Ranges"]) == (200, data, "bytes")
    assert "no-store" in whole["Cache-Control"]
    assert "private" in whole["Cache-Control"]
    assert whole["X-Content-Type-Options"] == "nosniff"
    assert ask("bytes=0-9") == (206, f"bytes 0-9/{size}", data[:10])
    assert ask("bytes=10-") == (206, f"bytes 10-{size - 1}/{size}", data[10:])
    assert ask("bytes=-7") == (206, f"bytes {size - 7}-{size - 1}/{size}", data[-7:])
    assert ask(f"bytes=5-{10 * size}") == (206, f"bytes 5-{size - 1}/{size}", data[5:])
    assert ask(f"bytes={size}-") == (416, f"bytes */{size}", b"")
    assert ask("bytes=-0") == (416, f"bytes */{size}", b"")
    for unregarded in ("bytes=9-3", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=x-"):
        assert ask(unregarded) == (200, None, data)
    assert client.head(address)["Content-Length"] == str(size)
    since = client.get(address, headers={"Range": "bytes=0-9", "If-Range": '"of before"'})
    assert (since.status_code, body(since)) == (200, data)
    monkeypatch.setattr(ranges, "MOST_AT_ONCE", 100)
    assert ask("bytes=10-") == (206, f"bytes 10-109/{size}", data[10:110])


def test_a_video_is_its_owners_alone(client: Client, read: Send, nobody: None) -> None:
    done = read(film(grey(5)))
    addresses = [
        done.get_absolute_url(),
        *(
            reverse(name, args=[done.pk])
            for name in ("video_file", "timeline", "download_csv", "download_json")
        ),
        reverse("picture", args=[done.pk, "poster.jpg"]),
    ]
    stranger = Client()

    assert [client.get(address).status_code for address in addresses] == [200] * 6
    assert [stranger.get(address).status_code for address in addresses] == [404] * 6


def test_deleting_a_video_takes_its_files_along(
    client: Client, read: Send, nobody: None, django_capture_on_commit_callbacks: Callable[..., object]
) -> None:
    done = read(film(grey(5)))
    address = reverse("delete", args=[done.pk])
    assert f'<a href="{address}"' in client.get(done.get_absolute_url()).content.decode()
    assert "Delete this analysis?" in client.get(address).content.decode()
    assert done.folder.exists(), "it was only asked"

    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
        client.post(address)

    assert not done.folder.exists()


# In a browser ---------------------------------------------------------------------------------------------


def wait_for(video: Locator, seconds: float) -> None:
    """Until the video stands there."""
    for _ in range(400):
        now = video.evaluate("video => video.seeking ? -1 : video.currentTime")
        if now == pytest.approx(seconds, abs=0.01):
            return
        video.page.wait_for_timeout(50)
    pytest.fail(f"The video stands at {now} s, not at {seconds} s.")


@pytest.mark.django_db(transaction=True)
def test_the_video_plays_with_its_boxes_and_the_timeline_jumps_in_it(
    chromium: Browser, live_server: LiveServer, two_people: bytes
) -> None:
    services.get_predictor()  # which takes its time, once
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(live_server.url + reverse("video"))
    page.set_input_files("#video", {"name": "holiday.mp4", "mimeType": "video/mp4", "buffer": two_people})
    expect(page.get_by_text("holiday.mp4")).to_be_visible()
    # The worker has done its part before the browser asks for the page.
    page.route("**/a/*/", lambda route: (work(Analysis.objects.get()), route.continue_()), times=1)
    page.get_by_role("button", name="Read the video").click()
    page.wait_for_url("**/a/*/", timeout=120_000)
    expect(page.locator("#watch[data-ready]")).to_be_attached()
    video, boxes = page.locator("video"), page.locator(".boxes .box:visible")

    # Of two people one is there from the start.
    expect(boxes).to_have_count(1)
    expect(boxes.locator("text")).to_have_text(re.compile(r"^1 happiness >?\d+\s%$"))
    screen, box = video.bounding_box(), boxes.locator(".line").bounding_box()
    assert screen is not None
    assert box is not None
    left = Sighting.objects.filter(track__number=1).first().box[0]  # type: ignore[union-attr]
    assert (box["x"] - screen["x"]) / screen["width"] * 560 == pytest.approx(left, abs=3)

    page.evaluate("document.querySelector('video').play()")
    expect(video).to_have_js_property("ended", True)
    expect(boxes).to_have_count(2)

    # By mouse, by keyboard, and by what is said in words.
    timeline = page.get_by_role("slider", name="Timeline of person 1")
    area = timeline.locator(".u-over").bounding_box()
    assert area is not None
    page.mouse.click(area["x"] + area["width"] * 0.2, area["y"] + 30)
    wait_for(video, 0.4)
    expect(boxes).to_have_count(1)
    head = page.locator("#person-1 .playhead").bounding_box()
    assert head is not None
    assert head["x"] - area["x"] == pytest.approx(area["width"] * 0.4 / 1.9, rel=0.08)
    timeline.focus()
    page.keyboard.press("ArrowRight")
    wait_for(video, 0.6)
    expect(timeline).to_have_attribute("aria-valuetext", re.compile(r"^0:01: happiness "))
    page.locator("#person-2 summary").click()
    # Whatever is read from that face: how long its first stretch is depends on the model.
    page.get_by_role("button", name=re.compile(r"^From 0:01 to 0:0[12]: jump there$")).click()
    wait_for(video, 1)
    expect(boxes).to_have_count(2)

    page.get_by_role("switch", name="Boxes over the faces").uncheck()
    expect(boxes).to_have_count(0)
    context.close()
    assert not complaints


@pytest.mark.django_db(transaction=True)
def test_a_page_without_its_timeline_says_so_and_its_words_still_jump(
    chromium: Browser, live_server: LiveServer, client: Client, read: Send, two_people: bytes
) -> None:
    done = read(two_people)
    context = chromium.new_context()
    session = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.route("**/timeline.json", lambda route: route.fulfill(status=500, body="Server Error"))

    page.goto(live_server.url + done.get_absolute_url())

    expect(page.get_by_role("alert")).to_contain_text("The boxes and the timelines could not be loaded.")
    page.locator("#person-2 summary").click()
    page.get_by_role("button", name=re.compile(r"^From 0:01 to .*: jump there$")).first.click()
    wait_for(page.locator("video"), 1)
    context.close()
    assert not complaints
