"""What was read, as plain data: the one shape of every JSON and CSV file of this project."""

import csv
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NotRequired, Protocol

# Pydantic, which describes these shapes to users of the API, reads no others on Python 3.11.
from typing_extensions import TypedDict

from ml.expressions import EXPRESSIONS
from recognition.models import Analysis, Face, Photo

if TYPE_CHECKING:
    from ml.predictor import FacePrediction, PhotoPrediction

LANDMARKS: Final = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class FaceReport(TypedDict):
    """One face. Box, landmarks and confidence are null for a picture that was given as a face cut out;
    expression and probabilities are null beside a `problem`, which is said instead of a guess."""

    box: list[float] | None  # left, top, right, bottom in pixels of the photo
    landmarks: dict[str, list[float]] | None  # x, y in pixels of the photo
    confidence: float | None
    expression: str | None
    probabilities: dict[str, float] | None
    problem: NotRequired[str]


class PhotoReport(TypedDict):
    """One photo, or one file that could not be read as one: then `error` says why, and there is no size."""

    photo: str
    width: int | None
    height: int | None
    error: str | None
    faces: list[FaceReport]


class Report(TypedDict):
    model: str
    photos: list[PhotoReport]


def report_face(prediction: "FacePrediction") -> FaceReport:
    face = prediction.face
    report = FaceReport(
        box=[float(side) for side in face.box] if face else None,
        landmarks={name: [float(x), float(y)] for name, (x, y) in face.landmarks.items()} if face else None,
        confidence=float(face.confidence) if face else None,
        expression=prediction.expression,
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
    entries = {
        rejection.number: report_error(rejection.name, rejection.reason)
        for rejection in analysis.rejections.all()
    }
    for photo in analysis.photos.prefetch_related("faces"):
        entries[photo.number] = _stored_photo(photo)
    return Report(model=analysis.model_name, photos=[entries[number] for number in sorted(entries)])


def _stored_photo(photo: Photo) -> PhotoReport:
    return PhotoReport(
        photo=photo.filename,
        width=photo.width,
        height=photo.height,
        error=None,
        faces=[_stored_face(face) for face in photo.faces.all()],
    )


def _stored_face(face: Face) -> FaceReport:
    report = FaceReport(
        box=face.box,
        landmarks=face.landmarks,
        confidence=face.confidence,
        expression=face.expression,
        probabilities=face.probabilities,
    )
    if face.problem:
        report["problem"] = face.problem
    return report


class Writable(Protocol):
    """An open text file (with newline=""), or a response."""

    def write(self, text: str, /) -> object: ...


def write_csv(report: Report, stream: Writable) -> None:
    """Write a header and one row a face."""
    writer = csv.writer(stream)
    writer.writerow(
        [
            *("photo", "face", "left", "top", "right", "bottom"),
            *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy"),
            *("confidence", "expression", *EXPRESSIONS, "problem", "model"),
        ]
    )
    for photo in report["photos"]:
        for number, face in enumerate(photo["faces"], 1):
            writer.writerow([photo["photo"], number, *_cells(face), report["model"]])


def _cells(face: FaceReport) -> Iterable[object]:
    landmarks, probabilities = face["landmarks"] or {}, face["probabilities"] or {}
    yield from face["box"] or ("",) * 4
    for name in LANDMARKS:
        yield from landmarks.get(name, (None, None))
    yield face["confidence"]
    yield face["expression"]
    yield from (probabilities.get(name) for name in EXPRESSIONS)
    yield face.get("problem")
