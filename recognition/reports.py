"""What was read, as plain data: the one shape of every JSON and CSV file of this project."""

import csv
import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NotRequired

# Pydantic, which describes these shapes to users of the API, reads no others on Python 3.11.
from typing_extensions import TypedDict

from ml.expressions import EXPRESSIONS
from ml.spreadsheets import harmless
from recognition.models import Analysis, Face, Photo

if TYPE_CHECKING:
    from ml.predictor import FacePrediction, PhotoPrediction

AT_ONCE: Final = 100  # photos that are in memory together

LANDMARKS: Final = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class FaceReport(TypedDict):
    """One face. Box, landmarks and confidence are null for a picture that was given as a face cut out;
    expression, probabilities and sure are null beside a `problem`, which is said instead of a guess. sure is
    false where the model's first guess stayed below its threshold, null where that is not known."""

    box: list[float] | None  # left, top, right, bottom in pixels of the photo
    landmarks: dict[str, list[float]] | None  # x, y in pixels of the photo
    confidence: float | None
    expression: str | None
    sure: bool | None
    probabilities: dict[str, float] | None
    problem: NotRequired[str]


class PhotoReport(TypedDict):
    """One photo, or one file that could not be read as one: then `error` says why, and there is no size."""

    photo: str
    name: NotRequired[str]  # a batch's file, as it was called
    width: int | None
    height: int | None
    error: str | None
    faces: list[FaceReport]


class Report(TypedDict):
    """What one model read. time: when, as in 2026-01-31T12:00:00+00:00."""

    model: str
    time: str
    photos: list[PhotoReport]


def report_face(prediction: "FacePrediction") -> FaceReport:
    face = prediction.face
    report = FaceReport(
        box=[float(side) for side in face.box] if face else None,
        landmarks={name: [float(x), float(y)] for name, (x, y) in face.landmarks.items()} if face else None,
        confidence=float(face.confidence) if face else None,
        expression=prediction.expression,
        sure=None if prediction.problem else prediction.sure,
        probabilities=prediction.probabilities,
    )
    if prediction.problem:
        report["problem"] = prediction.problem
    return report


def report_photo(name: str, prediction: "PhotoPrediction") -> PhotoReport:
    return PhotoReport(
        photo=name,
        width=prediction.width,
        height=prediction.height,
        error=None,
        faces=[report_face(face) for face in prediction.faces],
    )


def report_error(name: str, reason: str) -> PhotoReport:
    return PhotoReport(photo=name, width=None, height=None, error=reason, faces=[])


def report_analysis(analysis: Analysis) -> Report:
    """The whole of a stored analysis, in the order of the upload."""
    return Report(model=analysis.model_name, time=time_of(analysis), photos=list(stored_photos(analysis)))


def time_of(analysis: Analysis) -> str:
    return analysis.created.isoformat(timespec="seconds")


def stored_photos(analysis: Analysis) -> Iterator[PhotoReport]:
    """The same photo after photo, read from the database `AT_ONCE` at a time."""
    rejections = analysis.rejections.iterator(chunk_size=AT_ONCE)
    numbered = heapq.merge(
        ((photo.number, _stored_photo(photo, faces)) for photo, faces in _with_faces(analysis)),
        ((rejection.number, report_error(rejection.name, rejection.reason)) for rejection in rejections),
        key=lambda entry: entry[0],
    )
    return (report for _, report in numbered)


def _with_faces(analysis: Analysis) -> Iterator[tuple[Photo, list[Face]]]:
    """Not by prefetch_related: there photos and faces know of each other, and what refers to itself stays in
    memory until Python looks for such."""
    photos = analysis.photos.iterator(chunk_size=AT_ONCE)
    while some := list(islice(photos, AT_ONCE)):
        faces = defaultdict(list)
        for face in Face.objects.filter(photo__in=some).order_by("number"):
            faces[face.photo_id].append(face)
        yield from ((photo, faces[photo.pk]) for photo in some)


def _stored_photo(photo: Photo, faces: Iterable[Face]) -> PhotoReport:
    report = PhotoReport(
        photo=photo.filename,
        width=photo.width,
        height=photo.height,
        error=None,
        faces=[_stored_face(face) for face in faces],
    )
    if photo.name:
        report["name"] = photo.name
    return report


def _stored_face(face: Face) -> FaceReport:
    report = FaceReport(
        box=face.box,
        landmarks=face.landmarks,
        confidence=face.confidence,
        expression=face.expression,
        sure=face.sure,
        probabilities=face.probabilities,
    )
    if face.problem:
        report["problem"] = face.problem
    return report


COLUMNS: Final = (
    *("photo", "name", "face", "left", "top", "right", "bottom"),
    *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy"),
    *("confidence", "expression", "sure", *EXPRESSIONS, "problem", "model", "time"),
)


def rows(photos: Iterable[PhotoReport], model: str, time: str) -> Iterator[list[object]]:
    """One row a face, its cells in the order of `COLUMNS`; None where there is nothing to say."""
    for photo in photos:
        for number, face in enumerate(photo["faces"], 1):
            yield [photo["photo"], photo.get("name"), number, *_cells(face), model, time]


class _Line:
    """csv writes into it, and it hands back the line."""

    def write(self, text: str) -> str:
        return text


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A header and the rows, a line each: a table of hours of video is never whole in memory."""
    writer = csv.writer(_Line())
    yield writer.writerow(columns)
    for row in rows:
        yield writer.writerow(map(harmless, row))


def _cells(face: FaceReport) -> Iterator[object]:
    landmarks, probabilities = face["landmarks"] or {}, face["probabilities"] or {}
    yield from face["box"] or (None,) * 4
    for name in LANDMARKS:
        yield from landmarks.get(name, (None, None))
    yield face["confidence"]
    yield face["expression"]
    yield face["sure"]
    yield from (probabilities.get(name) for name in EXPRESSIONS)
    yield face.get("problem")
