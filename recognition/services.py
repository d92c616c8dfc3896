"""What pages, commands and workers share: the model in service, and what is stored of a reading."""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.core.files import File
from django.db import Error as DatabaseError
from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ml.in_service import InService, checkpoint_in_service
from recognition.access import Owner
from recognition.admission import places
from recognition.counters import count_faces
from recognition.models import Analysis, AuditEntry, Face, Photo, Rejection
from recognition.pictures import encode_crop, encode_mask, encode_photo
from recognition.uploads import Limits, PhotoError, decode_photo, display_name

if TYPE_CHECKING:
    from ml.predictor import PhotoPrediction, Predictor

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES: Final = 60.0  # to load a checkpoint that could not be: a full GPU may have room again
SECONDS_BETWEEN_QUESTIONS: Final = 2.0  # how long a checkpoint may be in service before a process notices


class PredictorError(Exception):
    """The model cannot be loaded; the text says why, in a sentence for whoever runs the site."""


class UploadError(Exception):
    """An upload that gave nothing to analyse; the text is a sentence for the person who sent it.

    `rejections` are (name, reason) of each file, where there were files.
    """

    def __init__(self, sentence: str, rejections: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(sentence)
        self.rejections = list(rejections)


def too_many_files() -> UploadError:
    most = settings.FER_MAX_FILES
    sentence = ngettext(
        "At most %(most)d photo goes into one upload.", "At most %(most)d photos go into one upload.", most
    )
    return UploadError(sentence % {"most": most})


@dataclass(frozen=True)
class _Recipe:
    """What a predictor is made from. `changed`: when the checkpoint's file was, None where there is none."""

    checkpoint: Path
    sha256: str | None
    changed: int | None
    detector: str
    device: str

    @classmethod
    def of(cls, checkpoint: Path, sha256: str | None = None) -> "_Recipe":
        try:
            changed = checkpoint.stat().st_mtime_ns
        except OSError:
            changed = None
        return cls(checkpoint, sha256, changed, settings.FER_DETECTOR, settings.FER_DEVICE)

    def load(self) -> "Predictor":
        # Here and not above: a command that reads nothing need not load what does.
        from ml.checkpoint import CheckpointError
        from ml.predictor import load_predictor

        try:
            return load_predictor(self.checkpoint, self.detector, self.device, self.sha256)
        except (CheckpointError, ValueError, OSError, RuntimeError) as error:  # a full GPU is a RuntimeError
            raise PredictorError(str(error)) from error


class ServedPredictor:
    """The predictor of this process, in step with the checkpoint in service; without one, FER_CHECKPOINT.

    One thread loads what is new, and meanwhile the others go on with what there is; they wait only where
    there is nothing yet. What does not load is said once in the log and changes nothing.
    """

    def __init__(self) -> None:
        self._turn = Lock()
        self._current: tuple[_Recipe, Predictor] | None = None
        self._refused: _Recipe | None = None
        self._next_try = 0.0
        self._in_service: InService | None = None
        self._next_question = 0.0
        self._unanswered = False

    def get(self) -> "Predictor":
        """Raises PredictorError where no model can be loaded at all; the next call tries again."""
        if self._turn.acquire(blocking=self._current is None):
            try:
                self._refresh()
            finally:
                self._turn.release()
        assert self._current is not None
        return self._current[1]

    @property
    def is_loaded(self) -> bool:
        return self._current is not None

    def _refresh(self) -> None:
        own = _Recipe.of(Path(settings.FER_CHECKPOINT))
        active = self._ask()
        wanted = _Recipe.of(active.path, active.sha256) if active else own
        if self._current and wanted == self._current[0]:
            return
        if wanted == self._refused and time.monotonic() < self._next_try:
            return
        try:
            self._current = (wanted, wanted.load())
        except PredictorError as error:
            if self._current is None and wanted == own:
                raise
            self._current = self._current or (own, own.load())
            if wanted != self._refused:
                name = self._current[1].name
                logger.error("The checkpoint in service cannot be used, %s goes on: %s", name, error)
            self._refused, self._next_try = wanted, time.monotonic() + SECONDS_BETWEEN_TRIES
        else:
            self._refused = None
            logger.info("Photos are read by %s from now on.", self._current[1].name)

    def _ask(self) -> InService | None:
        """What is in service, asked every SECONDS_BETWEEN_QUESTIONS; the last answer if there is none now."""
        if time.monotonic() >= self._next_question:
            try:
                self._in_service, self._unanswered = checkpoint_in_service(), False
            except DatabaseError as error:
                if not self._unanswered:
                    logger.warning("The database does not say which checkpoint is in service: %s", error)
                self._unanswered = True
            self._next_question = time.monotonic() + SECONDS_BETWEEN_QUESTIONS
        return self._in_service


_served = ServedPredictor()


def get_predictor(checkpoint: Path | None = None, sha256: str | None = None) -> "Predictor":
    """The predictor in service, which all threads of the process share; or one of `checkpoint`, just loaded.

    sha256: the one that `checkpoint` has to state, if that is known. Raises PredictorError, with a sentence.
    """
    return _Recipe.of(checkpoint, sha256).load() if checkpoint else _served.get()


def predictor_is_loaded() -> bool:
    """Whether this process has a model, so that `get_predictor` answers at once."""
    return _served.is_loaded


def upload_limits() -> Limits:
    return Limits(megabytes=settings.FER_MAX_UPLOAD_MB, megapixels=settings.FER_MAX_MEGAPIXELS)


@dataclass
class Draft:
    """What was read of an analysis and is not stored yet: rows unsaved, pictures encoded."""

    analysis: Analysis
    photos: list[Photo] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def add_photo(self, number: int, picture: bytes, prediction: "PhotoPrediction", name: str = "") -> None:
        count_faces(len(prediction.faces))
        size = {"width": prediction.width, "height": prediction.height}
        photo = Photo(analysis=self.analysis, number=number, name=name, **size)
        self.photos.append(photo)
        self.pictures[photo.filename] = picture
        for face_number, found in enumerate(prediction.faces, 1):
            assert found.face is not None, "a face in a photo has its place there"
            face = Face(
                photo=photo,
                number=face_number,
                box=[float(side) for side in found.face.box],
                landmarks={name: [float(x), float(y)] for name, (x, y) in found.face.landmarks.items()},
                confidence=float(found.face.confidence),
                probabilities=found.probabilities,
                sure=None if found.problem else found.sure,
                problem=found.problem or "",
            )
            self.faces.append(face)
            self.pictures[face.crop_filename] = encode_crop(found.crop)
            if found.mask is not None:
                self.pictures[face.mask_filename] = encode_mask(found.mask)

    def add_rejection(self, number: int, name: str, reason: str) -> None:
        rejection = Rejection(analysis=self.analysis, number=number, name=display_name(name), reason=reason)
        self.rejections.append(rejection)

    def store(self) -> Analysis:
        """Write all of it or nothing."""
        folder = self.analysis.folder
        folder.mkdir(mode=0o700, parents=True)
        try:
            with transaction.atomic():
                self.analysis.save(force_insert=True)
                self.add()
                AuditEntry.of(self.analysis, AuditEntry.Action.READ).save()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.analysis

    def add(self) -> None:
        """Write it beside what is stored of the analysis already; to be called in a transaction."""
        for name, data in self.pictures.items():
            (self.analysis.folder / name).write_bytes(data)
        Photo.objects.bulk_create(self.photos)
        Face.objects.bulk_create(self.faces)
        Rejection.objects.bulk_create(self.rejections)


def analyse_upload(files: "Sequence[File[bytes]]", owner: Owner) -> Analysis:
    """Read every face in the uploaded photos and store the result as `owner`'s.

    Files that cannot be used are listed with the reason, and the others go through. Photos are decoded and
    read one by one, so that twenty cost no more memory than one, and each takes a place: others get in
    between. Raises UploadError where there is no file, more than FER_MAX_FILES or not one that could be used,
    PredictorError without a model, Busy where there is no place for the first photo; then nothing is stored.
    """
    if not files:
        raise UploadError(_("Choose at least one photo first."))
    if len(files) > settings.FER_MAX_FILES:
        raise too_many_files()
    places.require()
    predictor = get_predictor()
    draft = Draft(owner.new_analysis(model_name=predictor.name))
    for number, file in enumerate(files, 1):
        with places.take(wait=number > 1):
            try:
                image = decode_photo(file, upload_limits())
            except PhotoError as error:
                draft.add_rejection(number, file.name or "", str(error))
                continue
            draft.add_photo(number, encode_photo(image), predictor.predict([image])[0])
    if not draft.photos:
        raise UploadError(
            _("There was no photo in this upload that could be read."),
            [(rejection.name, rejection.reason) for rejection in draft.rejections],
        )
    return draft.store()


def begin_reading(analysis: Analysis, model_name: str) -> None:
    """Say which model reads a batch or a video from now on; one that read photos of it before stays named."""
    before = analysis.model_name.split(", ") if analysis.photos.exists() else []
    analysis.model_name = ", ".join(dict.fromkeys([*before, model_name]))[:100]
    with transaction.atomic():
        Analysis.objects.filter(pk=analysis.pk).update(model_name=analysis.model_name)
        AuditEntry.of(analysis, AuditEntry.Action.READ).save()
