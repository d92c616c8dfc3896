"""What the pages, the command and the scheduled task do, in plain functions."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.files import File
from django.db import transaction
from django.utils import timezone

from recognition.models import Analysis, Face, Photo, Rejection, analyses_folder, retention
from recognition.pictures import encode_crop, encode_mask, encode_photo
from recognition.uploads import Limits, PhotoError, decode_photo

if TYPE_CHECKING:
    from ml.predictor import PhotoPrediction, Predictor

logger = logging.getLogger(__name__)


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
    return UploadError(f"At most {settings.FER_MAX_FILES} photos go into one upload.")


_loading = Lock()


@lru_cache(maxsize=1)
def _load(checkpoint: Path, detector: str, device: str) -> "Predictor":
    # Here and not above: torch takes seconds to import, and must not have run in a process that forks.
    from ml.checkpoint import CheckpointError
    from ml.predictor import load_predictor

    try:
        return load_predictor(checkpoint, detector, device)
    except (CheckpointError, ValueError) as error:
        raise PredictorError(str(error)) from error


def get_predictor(checkpoint: Path | None = None) -> "Predictor":
    """The predictor the settings ask for, loaded once a process, by whoever comes first.

    `checkpoint` takes the place of FER_CHECKPOINT. Raises PredictorError; the next call tries again.
    """
    with _loading:
        return _load(checkpoint or Path(settings.FER_CHECKPOINT), settings.FER_DETECTOR, settings.FER_DEVICE)


def upload_limits() -> Limits:
    return Limits(megabytes=settings.FER_MAX_UPLOAD_MB, megapixels=settings.FER_MAX_MEGAPIXELS)


@dataclass
class _Draft:
    """An analysis before it is stored: rows unsaved, pictures encoded."""

    analysis: Analysis
    photos: list[Photo] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def add_photo(self, number: int, picture: bytes, prediction: "PhotoPrediction") -> None:
        photo = Photo(analysis=self.analysis, number=number, width=prediction.width, height=prediction.height)
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
                problem=found.problem or "",
            )
            self.faces.append(face)
            self.pictures[face.crop_filename] = encode_crop(found.crop)
            if found.mask is not None:
                self.pictures[face.mask_filename] = encode_mask(found.mask)

    def add_rejection(self, number: int, name: str, reason: str) -> None:
        rejection = Rejection(analysis=self.analysis, number=number, name=name[:100], reason=reason)
        self.rejections.append(rejection)

    def store(self) -> Analysis:
        """Write all of it or nothing."""
        folder = self.analysis.folder
        folder.mkdir(mode=0o700, parents=True)
        try:
            for name, data in self.pictures.items():
                (folder / name).write_bytes(data)
            with transaction.atomic():
                self.analysis.save(force_insert=True)
                Photo.objects.bulk_create(self.photos)
                Face.objects.bulk_create(self.faces)
                Rejection.objects.bulk_create(self.rejections)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.analysis


def analyse_upload(files: "Sequence[File[bytes]]", owner: str) -> Analysis:
    """Read every face in the uploaded photos and store the result as `owner`'s.

    Files that cannot be used are listed with the reason, and the others go through. Photos are decoded and
    read one by one, so that twenty cost no more memory than one. Raises UploadError where there is no file,
    more than FER_MAX_FILES or not one that could be used, PredictorError without a model; then nothing is
    stored.
    """
    if not files:
        raise UploadError("Choose at least one photo first.")
    if len(files) > settings.FER_MAX_FILES:
        raise too_many_files()
    predictor = get_predictor()
    draft = _Draft(Analysis(owner=owner, model_name=predictor.name))
    for number, file in enumerate(files, 1):
        try:
            image = decode_photo(file, upload_limits())
        except PhotoError as error:
            draft.add_rejection(number, file.name or "a file without a name", str(error))
            continue
        draft.add_photo(number, encode_photo(image), predictor.predict([image])[0])
    if not draft.photos:
        raise UploadError(
            "There was no photo in this upload that could be read.",
            [(rejection.name, rejection.reason) for rejection in draft.rejections],
        )
    return draft.store()


def purge_expired() -> int:
    """Delete every analysis whose time has passed, and folders a killed process left without a row.

    Returns how many analyses were deleted.
    """
    _, by_model = Analysis.objects.expired().delete()
    _sweep_orphans()
    purged = by_model.get(Analysis._meta.label, 0)
    if purged:
        logger.info("Purged %d expired analyses.", purged)
    return purged


def _sweep_orphans() -> None:
    if not analyses_folder().is_dir():
        return
    oldest = (timezone.now() - retention()).timestamp()
    for folder in analyses_folder().iterdir():
        abandoned = folder.stat().st_mtime < oldest and not Analysis.objects.filter(pk=folder.name).exists()
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)
