"""Videos: taken in by a request, read by a worker frame after frame, kept as a copy of our own.

Of the file that was uploaded nothing stays: once it was read, there is our copy (H.264, at most `SHOWN_SIDE`
pixels a side, upright, without sound and notes), a row for every sighting of every person, and one crop a
person. Boxes and landmarks are in pixels of that copy, and times are counted from its first frame.

All is done in one pass, and no more than a few frames are in memory at any moment, however long it lasts.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from numpy.typing import NDArray
from PIL import Image

from ml.expressions import EXPRESSIONS
from recognition import background, mp4, services
from recognition.background import JobError, Progress, Stopped
from recognition.counters import count_faces
from recognition.models import Analysis, Sighting, Track
from recognition.pictures import encode_crop, encode_photo
from recognition.services import PredictorError, UploadError
from recognition.tracking import SECONDS_OF_ABSENCE, Box, Tracker
from recognition.uploads import MIN_SIDE

if TYPE_CHECKING:
    from ml.predictor import FacePrediction

logger = logging.getLogger(__name__)

RAW: Final = "upload.raw"  # what was uploaded, until it was read
LANGUAGE: Final = "upload.language"  # of who waits for it: the worker speaks it, should something be wrong
COPY: Final = "video.mp4"
PART: Final = "copy-{}.part"  # of an attempt; the copy, until it is whole
POSTER: Final = "poster.jpg"  # its first frame, and its size

SHOWN_SIDE: Final = 1280
SHORTEST_STEP: Final = 1 / 65  # seconds; frames that follow faster than 60 a second are passed over
FASTEST: Final = 240  # frames a second of a file whose frames say that no time passes
SECONDS_TO_STOP: Final = timedelta(seconds=15)
ROWS_AT_ONCE: Final = 200
BETTER: Final = 1.1  # by so much a crop must be better than the one before to take its place

# FFmpeg reads hundreds of formats, most of them never meant for strangers' files.
CODECS: Final = frozenset(
    {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "h263", "mjpeg", "prores", "theora", "dvvideo"}
)


def _decodes(name: str) -> bool:
    """Whether that is FFmpeg's name for something that decodes one of CODECS."""
    try:
        return av.Codec(name, "r").canonical_name in CODECS
    except ValueError:  # it encodes alone
        return False


DECODERS: Final = ",".join(name for name in sorted(av.codecs_available) if _decodes(name))
# Of all pictures together, a second of the longest video that is accepted: as many as 4K at 60 a second has.
PIXELS_A_SECOND: Final = 60 * 3840 * 2160
ATOMS: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})

State = Analysis.State


class VideoError(Exception):
    """A file that cannot be read as a video, or not to its end; the text is a sentence for its owner."""


@dataclass(frozen=True)
class VideoLimits:
    """What one video may cost: megabytes (10⁶ bytes), minutes, and megapixels a frame."""

    megabytes: float
    minutes: float
    megapixels: float

    @property
    def seconds(self) -> float:
        return self.minutes * 60


def video_limits() -> VideoLimits:
    return VideoLimits(settings.FER_MAX_VIDEO_MB, settings.FER_MAX_VIDEO_MINUTES, settings.FER_MAX_MEGAPIXELS)


# In the request -------------------------------------------------------------------------------------------


@contextmanager
def receiving(analysis: Analysis) -> Iterator[Path]:
    """A folder for the uploaded file of an unsaved analysis. Unless it is stored at the end, all goes."""
    analysis.folder.mkdir(mode=0o700, parents=True)
    try:
        yield analysis.folder
    finally:
        if not Analysis.objects.filter(pk=analysis.pk).exists():
            shutil.rmtree(analysis.folder, ignore_errors=True)


def take_upload(analysis: Analysis, size: int | None) -> None:
    """Store an analysis whose file lies in its folder, called 1, and hand it to the workers.

    size: the file's, in bytes; None where there is no file. Only its header is looked at. Raises UploadError
    where it is no video that is accepted, and QueueError where no worker can be reached.
    """
    limits = video_limits()
    if size is None:
        raise UploadError(_("Choose a video first."))
    if not size:
        raise UploadError(_("This file is empty."))
    if size > limits.megabytes * 1_000_000:
        raise too_large()
    raw = analysis.folder / RAW
    (analysis.folder / "1").rename(raw)
    try:
        with open_video(raw, limits):
            pass
    except VideoError as error:
        raise UploadError(str(error)) from error
    (analysis.folder / LANGUAGE).write_text(translation.get_language() or settings.LANGUAGE_CODE)
    analysis.save(force_insert=True)
    background.submit(analysis)


def too_large() -> UploadError:
    return UploadError(
        _("This video is larger than %(most)s MB, the most that is accepted.")
        % {"most": f"{settings.FER_MAX_VIDEO_MB:g}"}
    )


# A file that is opened ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Video:
    """An open file. seconds: how long it says it is, None where it does not say (and it may lie). is_cut:
    whether bytes are missing at its end."""

    container: InputContainer
    stream: VideoStream
    seconds: float | None
    bytes: int
    is_cut: bool


@contextmanager
def open_video(path: Path, limits: VideoLimits) -> Iterator[Video]:
    """Open the container and look at what it says of itself; none of its frames is given.

    Raises VideoError for what is no MP4, WebM or MOV, is damaged, holds no picture, or says that it is too
    large or too long.
    """
    form = _demuxer(path)
    damaged = _("This video is damaged or incomplete: it could not be opened.")
    if form == "mov" and not mp4.is_plausible(path, limits.seconds, FASTEST):
        raise VideoError(damaged)
    try:
        # `file:` and no other protocol: a file may name others, on this disk or elsewhere.
        # And no other decoder: to tell what a stream holds, FFmpeg decodes some of it already.
        options = {"protocol_whitelist": "file", "codec_whitelist": DECODERS}
        container = av.open(f"file:{path}", format=form, options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(damaged) from error
    with container:
        stream = _picture_stream(container)
        context = stream.codec_context
        most = int(limits.megapixels * 1_000_000)
        if context.width * context.height > most:
            raise VideoError(
                _("Each picture of this video has more than %(most)s megapixels, the most that is accepted.")
                % {"most": f"{limits.megapixels:g}"}
            )
        # What is larger than it says is refused by the decoder itself.
        context.options = {"max_pixels": str(most)}
        size = path.stat().st_size
        if form == "mov" and any(entry.pos + entry.size > size for entry in stream.index_entries):
            raise VideoError(_("This video is incomplete: its end is missing. Try to upload it again."))
        seconds = container.duration / 1_000_000 if container.duration else None
        if seconds is not None and seconds > limits.seconds + 1:
            raise _too_long(limits)
        yield Video(container, stream, seconds, size, form == "matroska" and _is_cut(path, size))


def _demuxer(path: Path) -> str:
    """FFmpeg's name for the format, by how the file begins."""
    with path.open("rb") as stream:
        start = stream.read(12)
    if start[4:8] in ATOMS:
        return "mov"
    if start.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    raise VideoError(_("This is not a video known here; MP4, WebM and MOV videos are accepted."))


def _is_cut(path: Path, size: int) -> bool:
    """Whether a Matroska file's segment, which holds all else, says that it ends beyond the file (RFC 9559).

    One that was written as it was recorded does not say where it ends.
    """
    with path.open("rb") as stream:
        _, segment, rest = stream.read(4096).partition(b"\x18\x53\x80\x67")
        begin = stream.tell() - len(rest)
    # A number of variable length (RFC 8794): its first byte's leading zeros tell of how many bytes.
    length = 9 - rest[0].bit_length() if segment and rest else 9
    if not length <= min(8, len(rest)):
        return False
    largest = (1 << 7 * length) - 1
    announced = int.from_bytes(rest[:length], "big") & largest
    return announced != largest and begin + length + announced > size


def _picture_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures, the only one that is read."""
    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & stream.disposition.attached_pic
    ]
    if not moving:
        raise VideoError(_("There is no picture in this file, only sound or nothing at all."))
    for stream in container.streams:
        if stream is not moving[0]:
            stream.discard = Discard.all
    codec = moving[0].codec_context
    if codec is None or codec.codec.canonical_name not in CODECS:
        raise VideoError(_("This video is coded in a way that is not read here; H.264 in an MP4 always is."))
    return moving[0]


def _too_long(limits: VideoLimits) -> VideoError:
    return VideoError(
        _("This video is longer than %(most)s minutes, the most that is accepted.")
        % {"most": f"{limits.minutes:g}"}
    )


def read_frames(
    video: Video, limits: VideoLimits, alive: Callable[[float, int], None]
) -> Iterator[tuple[float, VideoFrame]]:
    """Decode frame after frame: (seconds from the first one, the frame as it lies in the file).

    Times are the frames' own, so a rate that varies is no matter; they grow by `SHORTEST_STEP` at least, and
    what does not is passed over. Pictures that are damaged are left out. `alive` is called for every packet,
    with the seconds and the bytes read until then. Raises VideoError where the file breaks off, or goes on
    for longer than is allowed, whatever it said of its length.
    """
    start: float | None = None
    now, read, position, pixels = 0.0, 0, 0, 0
    yielded = -1.0
    step = 1 / float(video.stream.guessed_rate or 25)
    video.stream.thread_type = "AUTO"
    packets = _packets(video)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            raise _broken(now) from error
        if packet is None:
            break
        position = max(position, packet.pos or 0)
        alive(now, position)
        try:
            frames = packet.decode()
        except av.error.ArgumentError as error:  # as a decoder says it that was not even opened
            raise VideoError(_("This video is damaged: no picture in it could be read.")) from error
        except (av.error.InvalidDataError, av.error.EOFError):
            continue
        except av.FFmpegError as error:
            raise _broken(now) from error
        for frame in frames:
            read += 1
            pixels += frame.width * frame.height
            if pixels > limits.seconds * PIXELS_A_SECOND:
                raise VideoError(_("This video has too many and too large pictures: make it smaller first."))
            time = frame.time if frame.time is not None else (start or 0.0) + now + step
            start = time if start is None else start
            now = max(now, time - start)
            if now > limits.seconds or read > limits.seconds * FASTEST:
                raise _too_long(limits)
            if time - start >= yielded + SHORTEST_STEP:
                yielded = time - start
                yield yielded, frame
    # An MP4 lists its frames, and `open_video` looked; a WebM that was cut off just ends.
    if read and video.is_cut:
        raise _broken(now)
    if not read:
        raise VideoError(_("This video is empty or damaged: no picture in it could be read."))


def _packets(video: Video) -> Iterator["av.Packet[VideoStream]"]:
    return video.container.demux(video.stream)


def _broken(seconds: float) -> VideoError:
    if not seconds:
        return VideoError(_("This video is damaged: no picture in it could be read."))
    return VideoError(
        _("This video is damaged or incomplete: it could be read for its first %(seconds)s seconds only.")
        % {"seconds": f"{seconds:.0f}"}
    )


def shown_size(video: Video, frame: VideoFrame) -> tuple[int, int]:
    """Width and height that a frame is kept in: upright, square pixels, even sides, `SHOWN_SIDE` at most.

    Raises VideoError where that is too small to hold a face.
    """
    squeeze = float(video.stream.sample_aspect_ratio or 1)
    width = frame.width * (squeeze if 0.1 < squeeze < 10 else 1.0)
    height = float(frame.height)
    if _quarter_turns(frame) % 2:
        width, height = height, width
    scale = min(1.0, SHOWN_SIDE / max(width, height))
    size = round(width * scale / 2) * 2, round(height * scale / 2) * 2
    if min(size) < MIN_SIDE:
        raise VideoError(
            _(
                "The pictures of this video are too small to hold a face: "
                "at least %(least)d × %(least)d pixels are needed."
            )
            % {"least": MIN_SIDE}
        )
    return size


def upright(frame: VideoFrame, size: tuple[int, int]) -> VideoFrame:
    """The frame as it is to be seen, in `size` (width, height), yuv420p."""
    turns = _quarter_turns(frame)
    width, height = size if turns % 2 == 0 else size[::-1]
    if not turns:
        return frame.reformat(width, height, "yuv420p")
    pixels = np.rot90(pixels_of(frame.reformat(width, height)), turns)
    return VideoFrame.from_ndarray(np.ascontiguousarray(pixels, np.uint8), "rgb24").reformat(format="yuv420p")


def pixels_of(frame: VideoFrame) -> NDArray[np.uint8]:
    """The frame as RGB, uint8 (height, width, 3)."""
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _quarter_turns(frame: VideoFrame) -> int:
    """How often a quarter to the left a frame is to be turned, 0 to 3."""
    return round(frame.rotation / 90) % 4


# In the worker --------------------------------------------------------------------------------------------


def read_video(analysis: Analysis, progress: Progress) -> None:
    """Read a queued video: its faces, FER_VIDEO_RATE times a second, and our copy of all of its frames.

    What a lost worker left is thrown away first, so nothing is there twice. However it ends, what was read
    until then stays and the uploaded file goes. Raises JobError, with a sentence for the owner.
    """
    try:
        language = (analysis.folder / LANGUAGE).read_text()
    except FileNotFoundError:
        language = settings.LANGUAGE_CODE
    with translation.override(language):
        _read(analysis, progress)


def _read(analysis: Analysis, progress: Progress) -> None:
    limits = video_limits()
    if not (analysis.folder / RAW).exists():
        if (analysis.folder / COPY).exists() and 0 < analysis.total == analysis.done:
            return  # its worker was lost when all was done
        raise JobError(background.UPLOAD_IS_GONE)
    try:
        predictor = services.get_predictor()
    except PredictorError as error:
        logger.error("The model cannot be loaded: %s", error)
        raise JobError(_("The model that reads expressions is missing or damaged on this server.")) from error
    services.begin_reading(analysis, predictor.name)
    pause = 1 / settings.FER_VIDEO_RATE
    due = 0.0
    try:
        with _Result(analysis) as result, open_video(analysis.folder / RAW, limits) as video:
            longest = max(pause, 1 / float(video.stream.guessed_rate or 25))  # from one look to the next
            tracker: Tracker[_Seen] = Tracker(max(SECONDS_OF_ABSENCE, 1.5 * longest))

            def alive(seconds: float, position: int) -> None:
                """Say where we are. A file that does not say how long it is has told how large it is."""
                guess = min(seconds * video.bytes / max(position, 1), limits.seconds)
                whole = video.seconds or guess
                done = round(seconds * 1000)
                progress.report(done, max(round(whole * 1000), done + 1))

            seconds = 0.0
            for seconds, frame in read_frames(video, limits, alive):
                shown = result.show(seconds, frame, video)
                if seconds < due - SHORTEST_STEP / 2:
                    continue
                due = max(due + pause, seconds + pause / 2)
                image = pixels_of(shown)
                faces = predictor.predict([image])[0].faces
                count_faces(len(faces))
                seen = [_Seen(round(seconds * 1000), face) for face in faces]
                result.write(tracker.follow(seconds, seen))
            result.write(tracker.finish())
            progress.report(round(seconds * 1000), round(seconds * 1000))
    except VideoError as error:
        raise JobError(str(error)) from error
    except (IntegrityError, FileNotFoundError) as error:
        # Somebody deleted it under our hands, or another worker took it over.
        if background.is_ours(analysis):
            raise
        raise Stopped from error


@dataclass(frozen=True, eq=False)
class _Seen:
    milliseconds: int
    face: "FacePrediction"

    @property
    def box(self) -> Box:
        assert self.face.face is not None, "a face in a frame has its place there"
        return self.face.face.box

    @property
    def confidence(self) -> float:
        assert self.face.face is not None
        return float(self.face.face.confidence)

    @property
    def quality(self) -> float:
        """How good a picture of its person it is: large, sure, and readable."""
        left, top, right, bottom = self.box
        return float(max(right - left, bottom - top)) * self.confidence * (0.1 if self.face.problem else 1.0)


class _Result:
    """What comes of a video, written while it is read: rows, crops, the poster and our copy.

    The copy has a name of this attempt's own until it is whole: a worker that was thought lost may be
    writing still.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._folder = analysis.folder
        self._part = self._folder / PART.format(analysis.attempts)
        self._copy: _Copy | None = None
        self._tracks: dict[int, Track] = {}
        self._rows: list[Sighting] = []
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._best: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._analysis.tracks.all().delete()
        for left in (*self._folder.glob(PART.format("*")), *self._folder.glob("person-*.jpg")):
            left.unlink(missing_ok=True)
        return self

    def show(self, seconds: float, frame: VideoFrame, video: Video) -> VideoFrame:
        """Put a frame into the copy, and return it as it is there."""
        if self._copy is None:
            self._copy = _Copy(self._part, shown_size(video, frame))
        shown = upright(frame, self._copy.size)
        if not seconds:
            (self._folder / POSTER).write_bytes(encode_photo(pixels_of(shown)))
        self._copy.add(shown, round(seconds * 1000))
        return shown

    def write(self, sightings: list[tuple[int, _Seen]]) -> None:
        """Keep what was seen of whom."""
        for number, seen in sightings:
            if number not in self._tracks:
                self._tracks[number] = Track.objects.create(analysis=self._analysis, number=number)
            self._rows.append(_row(self._tracks[number], seen))
            if read := seen.face.probabilities:
                shares = np.array([read[name] for name in EXPRESSIONS])
                self._sums[number] = self._sums.get(number, 0) + shares
            if seen.quality > BETTER * self._best.get(number, 0.0):
                self._best[number] = seen.quality
                (self._folder / crop_name(number)).write_bytes(encode_crop(seen.face.crop))
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        with transaction.atomic():
            if not background.is_ours(self._analysis):
                raise Stopped
            Sighting.objects.bulk_create(self._rows)
        self._rows = []

    def _sum_up(self) -> None:
        """Keep each person's mean: a moment's probabilities sum to one, and so do sums over their own sum."""
        for number, sums in self._sums.items():
            means = (sums / sums.sum()).tolist()
            self._tracks[number].probabilities = dict(zip(EXPRESSIONS, means, strict=True))
        Track.objects.bulk_update(self._tracks.values(), ["probabilities"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._copy:
                self._copy.close()
            # A worker that is told to end at once leaves all to the next one.
            if (kind is None or issubclass(kind, Exception)) and background.is_ours(self._analysis):
                self._flush()
                self._sum_up()
                if self._copy:
                    self._part.replace(self._folder / COPY)
                _drop_upload(self._folder)
        finally:
            self._part.unlink(missing_ok=True)


def _row(track: Track, seen: _Seen) -> Sighting:
    face = seen.face.face
    assert face is not None
    return Sighting(
        track=track,
        milliseconds=seen.milliseconds,
        box=[round(float(side), 1) for side in face.box],
        landmarks={name: [round(float(x), 1), round(float(y), 1)] for name, (x, y) in face.landmarks.items()},
        confidence=float(face.confidence),
        probabilities=seen.face.probabilities,
        problem=seen.face.problem or "",
    )


class _Copy:
    """Our own MP4, written frame by frame, its index in front so that a browser can jump in it."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        from ml.runtime import available_cores  # torch

        self.size = size
        path.touch(mode=0o600)
        self._container = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"})
        # Frames come when they come; the rate only helps the encoder to share out its bits.
        self._stream = self._container.add_stream(
            "libx264", rate=30, options={"preset": "veryfast", "crf": "23", "bf": "0"}
        )
        context = self._stream.codec_context
        context.width, context.height = size
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, 1000)
        context.gop_size = 60  # a jump decodes two seconds at most
        context.thread_count = min(available_cores(), 4)

    def add(self, frame: VideoFrame, milliseconds: int) -> None:
        frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
        frame.pict_type = 0  # the encoder's own choice, not the uploaded file's
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        with suppress(av.error.EOFError):
            self._container.mux(self._stream.encode(None))
        self._container.close()


def drop_raw_files() -> None:
    """Delete uploaded files that no worker will read any more: of videos cancelled while they waited, or
    given up after three workers."""
    ended = Analysis.objects.filter(
        kind=Analysis.Kind.VIDEO, state__in=(State.DONE, State.FAILED, State.CANCELLED)
    )
    for analysis in ended.only("pk", "state", "started", "heartbeat").iterator():
        with suppress(OSError):
            if not is_stopping(analysis):  # what a lost worker had of its copy
                for part in analysis.folder.glob(PART.format("*")):
                    part.unlink(missing_ok=True)
            _drop_upload(analysis.folder)


def _drop_upload(folder: Path) -> None:
    for name in (RAW, LANGUAGE):
        (folder / name).unlink(missing_ok=True)


def is_stopping(analysis: Analysis) -> bool:
    """Whether it was cancelled a moment ago, and its worker is about to notice and to close our copy."""
    if analysis.state != State.CANCELLED or not analysis.started or not analysis.heartbeat:
        return False
    just_now = timezone.now() - analysis.heartbeat < SECONDS_TO_STOP
    return just_now and (analysis.folder / RAW).exists()


def crop_name(number: int) -> str:
    """The file of a person's best crop."""
    return f"person-{number}.jpg"


def picture_size(analysis: Analysis) -> tuple[int, int] | None:
    """Width and height of our copy in pixels, None where nothing was read."""
    if not (analysis.folder / COPY).exists():
        return None
    try:
        with Image.open(analysis.folder / POSTER, formats=("JPEG",)) as poster:
            return poster.size
    except OSError:
        return None
