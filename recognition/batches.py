"""Batches: many photos, or a ZIP of them, taken in by a request and read by a worker.

The request stores what was sent as it is, in the folder `incoming/` of the analysis, under names of our own.
The worker decodes photo after photo as every upload is decoded, stores what it read a few photos at a time,
and deletes each file that it has read; at the end the whole folder goes. One that takes over from a lost
worker goes on where rows say that it was, so nothing is read or stored twice.

Photos are numbered by their place in the upload, those inside a ZIP by their place in it.
"""

import io
import json
import logging
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Final, Self

from django.conf import settings
from django.db import transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from recognition import background, services
from recognition.background import JobError, Progress, Stopped, is_ours
from recognition.models import Analysis
from recognition.pictures import encode_photo
from recognition.reading import side_by_side
from recognition.services import Draft, PredictorError, UploadError, upload_limits
from recognition.uploads import PhotoError, decode_photo, display_name

if TYPE_CHECKING:
    from ml.predictor import PhotoPrediction, Predictor

logger = logging.getLogger(__name__)

MANIFEST: Final = "names.json"
AT_ONCE: Final = 16  # photos that are stored together, and read again where their worker is lost

# A ZIP may say anything of itself. Photos are packed already, so that one which grows is no album.
BYTES_A_MEMBER: Final = 2_000  # of its table of contents: room for a name, and for what macOS adds
UNPACKED: Final = 4  # times FER_MAX_BATCH_MB
RATIO: Final = 200
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # these two can be unpacked piece by piece
CLUTTER: Final = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})

State = Analysis.State


def too_many() -> UploadError:
    most = settings.FER_MAX_BATCH_PHOTOS
    sentence = ngettext(
        "At most %(most)d photo goes into one batch.", "At most %(most)d photos go into one batch.", most
    )
    return UploadError(sentence % {"most": most})


def too_large() -> UploadError:
    sentence = _("This batch is larger than %(most)s MB, the most that is accepted. Send it in parts.")
    return UploadError(sentence % {"most": f"{settings.FER_MAX_BATCH_MB:g}"})


# In the request -------------------------------------------------------------------------------------------


def incoming(analysis: Analysis) -> Path:
    """Where the uploaded files lie until they are read."""
    return analysis.folder / "incoming"


@contextmanager
def receiving(analysis: Analysis) -> Iterator[Path]:
    """A folder for the uploaded files of an unsaved analysis. Unless it is stored at the end, all goes."""
    folder = incoming(analysis)
    folder.mkdir(mode=0o700, parents=True)
    analysis.folder.chmod(0o700)
    try:
        yield folder
    finally:
        if not Analysis.objects.filter(pk=analysis.pk).exists():
            shutil.rmtree(analysis.folder, ignore_errors=True)


def take_upload(analysis: Analysis, names: Sequence[str]) -> None:
    """Store an analysis whose files lie in `incoming`, called 1, 2, 3…, and hand it to the workers.

    names: what the files were called. Of a ZIP its table of contents is looked at and nothing is unpacked.
    Raises UploadError where there is nothing to read or too much, QueueError where no worker can be reached.
    """
    if not names:
        raise UploadError(_("Choose a ZIP or at least one photo first."))
    folder = incoming(analysis)
    files = [File(display_name(name), is_zip(folder / str(place))) for place, name in enumerate(names, 1)]
    # The worker speaks the language of whoever waits for it.
    manifest = {"language": translation.get_language(), "files": [[file.name, file.zip] for file in files]}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with Incoming(folder) as sources:
        analysis.total = len(sources.items)
    if not analysis.total:
        raise UploadError(_("There is no file in this ZIP that could be a photo."))
    analysis.save(force_insert=True)
    background.submit(analysis)


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


# What lies there ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """An uploaded file: what it was called, and whether it is a ZIP."""

    name: str
    zip: bool


@dataclass(frozen=True)
class Item:
    """Something that may be a photo. path: its file, or, where it is `packed`, the ZIP; open: gives its
    bytes, and raises PhotoError or something else where it can't."""

    number: int
    name: str
    path: Path
    packed: bool
    open: Callable[[], IO[bytes]]


class Incoming:
    """What was uploaded for a batch, in its order. To be closed, as ZIPs stay open.

    Raises UploadError where a ZIP can't be opened, or holds more than is accepted.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        self.language: str = manifest["language"] or settings.LANGUAGE_CODE
        self._open = ExitStack()
        self._turn = Lock()
        self.items: list[Item] = []
        try:
            for place, (name, packed) in enumerate(manifest["files"], 1):
                path = folder / str(place)
                if packed:
                    self._list(self._open.enter_context(open_zip(path)), path)
                else:
                    self._append(name, path, False, partial(_open, path))
        except BaseException:
            self._open.close()
            raise

    def _list(self, archive: zipfile.ZipFile, path: Path) -> None:
        for info in visible(archive):
            self._append(
                display_name(info.filename), path, True, partial(open_member, archive, info, self._turn)
            )

    def _append(self, name: str, path: Path, packed: bool, opener: Callable[[], IO[bytes]]) -> None:
        if len(self.items) == settings.FER_MAX_BATCH_PHOTOS:
            raise too_many()
        self.items.append(Item(len(self.items) + 1, name, path, packed, opener))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


# ZIPs -----------------------------------------------------------------------------------------------------


class _Archive(io.FileIO):
    """A file that gives no more than `most` bytes at once: what a ZIP says of the size of its table of
    contents, which `ZipFile` reads in one go, may be anything."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.most:
            return super().read(size)
        wanted = self.most + 1 if size is None or size < 0 else min(size, self.most + 1)
        data = super().read(wanted)
        if len(data) > self.most:
            raise zipfile.BadZipFile("Its table of contents is too large.")
        return data


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a stranger's ZIP and judge it by its table of contents. Raises UploadError."""
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(_Archive(path))
            stream.most = max(100_000, settings.FER_MAX_BATCH_PHOTOS * BYTES_A_MEMBER)
            archive = stack.enter_context(zipfile.ZipFile(stream))
            stream.most = 0
        except Exception as error:  # broken files make parsers raise nearly anything
            raise UploadError(
                _("This ZIP is damaged or incomplete: it could not be opened. Pack it again, or send photos.")
            ) from error
        _judge(archive, path.stat().st_size)
        yield archive


def _judge(archive: zipfile.ZipFile, size: int) -> None:
    members = visible(archive)
    if len(members) > settings.FER_MAX_BATCH_PHOTOS:
        raise too_many()
    if members and all(info.flag_bits & 1 for info in members):
        raise UploadError(_("This ZIP is locked with a password. Pack the photos again without one."))
    unpacked, packed = (
        sum(getattr(info, part) for info in archive.infolist()) for part in ("file_size", "compress_size")
    )
    # Members that lie over each other are how a small file becomes a very large one.
    if unpacked > UNPACKED * settings.FER_MAX_BATCH_MB * 1_000_000 or packed > size:
        raise UploadError(_("This ZIP grows to far more than was sent when it is unpacked; it is not read."))


def visible(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that people put there: files, and not what systems add to them."""
    return [
        info
        for info in archive.infolist()
        if not info.filename.endswith("/") and not _is_clutter(info.filename)  # is_dir() fails without a name
    ]


def _is_clutter(name: str) -> bool:
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."]  # as in ./a.jpg
    return any(part in CLUTTER or part.startswith(".") for part in parts)


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, turn: Lock) -> IO[bytes]:
    """A member as a file in memory: no more bytes than the table of contents says, and that is not too many.

    turn: held meanwhile, as threads share the archive. Raises PhotoError, or anything where it is damaged.
    """
    if info.flag_bits & 1:
        raise PhotoError(_("This file is locked with a password."))
    if info.compress_type not in METHODS:
        raise PhotoError(_("This file is packed in a way that is not read here."))
    if info.file_size > upload_limits().megabytes * 1_000_000:
        sentence = _("This file is larger than %(most)s MB, the most that is accepted.")
        raise PhotoError(sentence % {"most": f"{upload_limits().megabytes:g}"})
    if info.file_size > RATIO * max(info.compress_size, 10_000):
        raise PhotoError(_("This file grows to far more than was sent when it is unpacked; it is not read."))
    # ZipFile.read unpacks all there is, and only then sees whether that is what the table says.
    with turn, archive.open(info) as member:
        return io.BytesIO(member.read(info.file_size))


# In the worker --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """What came of an item: a picture to keep and what was found in it, or why there is neither."""

    item: Item
    picture: bytes = b""
    prediction: "PhotoPrediction | None" = None
    reason: str = ""


def read_batch(analysis: Analysis, progress: Progress) -> None:
    """Read a queued batch: all of it, or what a lost worker left of it.

    However it ends, what was read until then stays and the uploaded files go. Raises JobError, with a
    sentence for the owner.
    """
    folder = incoming(analysis)
    if not folder.is_dir():
        if len(_numbers(analysis)) < analysis.total:
            raise JobError(background.UPLOAD_IS_GONE)
        return  # its worker was lost when all was done
    try:
        predictor = services.get_predictor()
    except PredictorError as error:
        logger.error("The model cannot be loaded: %s", error)
        raise JobError(_("The model that reads expressions is missing or damaged on this server.")) from error
    services.begin_reading(analysis, predictor.name)
    try:
        with Incoming(folder) as sources, translation.override(sources.language):
            _read_all(analysis, sources.items, predictor, progress)
            if not analysis.photos.exists():
                raise JobError(_("There was no photo in this batch that could be read."))
    except FileNotFoundError as error:  # somebody deleted it under our hands
        if is_ours(analysis):
            raise
        raise Stopped from error
    except UploadError as error:
        raise JobError(str(error)) from error
    finally:
        # A worker that is told to end at once leaves all to the next one.
        if isinstance(sys.exception(), Exception | None) and is_ours(analysis):
            shutil.rmtree(folder, ignore_errors=True)


def _read_all(analysis: Analysis, items: Sequence[Item], predictor: "Predictor", progress: Progress) -> None:
    """Read and store what no row tells of yet. Raises Stopped, once what was read until then is stored."""
    known = _numbers(analysis)
    left = [item for item in items if item.number not in known]
    draft, in_draft = Draft(analysis), list[Item]()

    def store() -> None:
        nonlocal draft, in_draft
        with transaction.atomic():
            if not is_ours(analysis):
                raise Stopped
            draft.add()
        for item in in_draft:
            if not item.packed:
                item.path.unlink(missing_ok=True)
        draft, in_draft = Draft(analysis), []

    began, language = timezone.now(), translation.get_language()
    readings = side_by_side(lambda item: _read(item, predictor, language), left)
    try:
        for count, reading in enumerate(readings, 1):
            item = reading.item
            if reading.prediction is None:
                draft.add_rejection(item.number, item.name, reading.reason)
            else:
                draft.add_photo(item.number, reading.picture, reading.prediction, item.name)
            in_draft.append(item)
            if len(in_draft) == AT_ONCE:
                store()
                if known and count == AT_ONCE:
                    _begin_earlier(analysis, (timezone.now() - began) / count * len(known))
            progress.report(len(known) + count, len(items))
    finally:
        readings.close()
        if isinstance(sys.exception(), Exception | None):
            store()


def _numbers(analysis: Analysis) -> set[int]:
    """The items that were read by a worker that is lost."""
    return {
        *analysis.photos.values_list("number", flat=True),
        *analysis.rejections.values_list("number", flat=True),
    }


def _begin_earlier(analysis: Analysis, time: timedelta) -> None:
    """Say that it began as long ago as the photos of a lost worker would have taken us, so that the time left
    is not guessed too short."""
    started = analysis.started or timezone.now()
    Analysis.objects.filter(pk=analysis.pk, attempts=analysis.attempts).update(started=started - time)


def _read(item: Item, predictor: "Predictor", language: str) -> _Read:
    with translation.override(language):  # each thread has its own
        try:
            with item.open() as stream:
                image = decode_photo(stream, upload_limits())
        except PhotoError as error:
            return _Read(item, reason=str(error))
        except FileNotFoundError:
            raise
        except Exception:  # a damaged member makes its unpacker raise nearly anything
            return _Read(item, reason=_("This file is damaged: it could not be unpacked."))
    return _Read(item, encode_photo(image), predictor.predict([image])[0])


def drop_incoming() -> None:
    """Delete uploaded files that no worker will read any more: of batches cancelled while they waited, or
    given up after three workers."""
    ended = Analysis.objects.filter(
        kind=Analysis.Kind.BATCH, state__in=(State.DONE, State.FAILED, State.CANCELLED)
    )
    for analysis in ended.only("pk").iterator():
        shutil.rmtree(incoming(analysis), ignore_errors=True)
