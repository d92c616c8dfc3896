"""What the API takes and gives, as its OpenAPI page describes it."""

from datetime import datetime
from typing import Literal

from django.utils.translation import gettext_noop as _
from ninja import Field, Schema

from recognition.reports import Report

Kind = Literal["photos", "batch", "video"]
State = Literal["queued", "running", "done", "failed", "cancelled"]


class PhotoIn(Schema):
    """A photo inside JSON."""

    name: str = Field("", max_length=200, description=_("What to call it in answers."))
    base64: str = Field(description=_("The file's bytes in Base64."))


class PhotosIn(Schema):
    photos: list[PhotoIn]


class AnalysisSummary(Schema):
    token: str = Field(description=_("Names the analysis in addresses."))
    page: str = Field(description=_("Where people see it."))
    kind: Kind
    state: State
    done: int = Field(description=_("Photos of a batch read, or milliseconds of a video."))
    total: int = Field(
        description=_(
            "How many that will be; 0 where it is not known yet, and for photos that were read at once."
        )
    )
    error: str = Field(description=_("Why it failed, else empty."))
    created: datetime
    expires: datetime | None = Field(description=_("When it is deleted; null: when you do it."))


class AnalysisDetail(AnalysisSummary):
    report: Report | None = Field(description=_("What was read; null for a video (see its sightings)."))


class AnalysisPage(Schema):
    count: int = Field(description=_("How many there are in all."))
    analyses: list[AnalysisSummary] = Field(description=_("The newest first."))


class Picture(Schema):
    name: str = Field(
        description=_("photo-1.jpg, photo-1-face-2.jpg or photo-1-face-2-mask.png, for example.")
    )
    url: str


class Pictures(Schema):
    pictures: list[Picture]


class Measured(Schema):
    accuracy: float
    macro_f1: float


class ModelCard(Schema):
    name: str
    sha256: str
    in_service: bool = Field(description=_("Whether it reads the photos that come now."))
    bundled: bool = Field(description=_("Whether it came with the program."))
    preset: str
    backbone: str
    image_size: int = Field(description=_("Pixels a side of the faces that it sees."))
    expressions: list[str]
    data: list[str] = Field(description=_("The data sets it was trained on."))
    measured: dict[str, Measured] = Field(description=_("By the part of the data it was measured on."))


class Models(Schema):
    models: list[ModelCard]


class Health(Schema):
    ready: bool
    database: str
    model: str


class Rejected(Schema):
    name: str
    reason: str


class Error(Schema):
    error: str = Field(description=_("What is wrong and what to do, in a sentence."))
    rejections: list[Rejected] = Field([], description=_("The files that could not be used, and why."))
    request: str = Field(
        "", description=_("After a fault of ours: the number of the call in the site's log.")
    )
