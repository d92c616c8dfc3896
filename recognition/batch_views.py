"""The pages of batches. Each is seen by whom it belongs to (recognition.access), and is a 404 to others."""

from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.core.paginator import Page, Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from ml.expressions import EXPRESSIONS
from recognition import batches, gallery
from recognition.access import own_analysis
from recognition.answers import private
from recognition.gallery import Choice
from recognition.large_uploads import LargeUpload, receive
from recognition.models import Analysis


@csrf_exempt  # `receive` makes that check
@private
@require_http_methods(["GET", "HEAD", "POST"])
def batch(request: HttpRequest) -> HttpResponse:
    """The form, and what it sends (`large_uploads.receive`)."""
    if request.method != "POST":
        return _form(request)
    # Something for the form around the photos: a few lines a file.
    form = 1_000_000 + 500 * settings.FER_MAX_BATCH_PHOTOS
    upload = LargeUpload(
        kind=Analysis.Kind.BATCH,
        field="photos",
        most_bytes=settings.FER_MAX_BATCH_MB * 1_000_000 + form,
        most_files=settings.FER_MAX_BATCH_PHOTOS,
        too_large=str(batches.too_large()),
        too_many=str(batches.too_many()),
        receiving=batches.receiving,
        take=lambda analysis, files: batches.take_upload(analysis, [file.name or "" for file in files]),
        form=_form,
    )
    return receive(request, upload)


def _form(request: HttpRequest, error: str = "", status: int = 200) -> HttpResponse:
    context = {
        "error": error,
        "max_photos": settings.FER_MAX_BATCH_PHOTOS,
        "max_megabytes": settings.FER_MAX_BATCH_MB,
        "max_photo_megabytes": settings.FER_MAX_UPLOAD_MB,
        "retention_hours": settings.FER_RETENTION_HOURS,
    }
    return render(request, "recognition/batch.html", context, status=status)


@dataclass(frozen=True)
class Link:
    """A link to another view of the same batch. current: whether it is the one that is seen."""

    label: str
    query: str
    current: bool = False


def batch_page(request: HttpRequest, analysis: Analysis) -> HttpResponse:
    """The page of a batch: how far its reading is, then the gallery of its faces."""
    context: dict[str, object] = {"analysis": analysis}
    if analysis.ended:
        choice, summary = Choice.of(request.GET), gallery.summarise(analysis)
        if not summary.photos:  # then why is all there is to see
            choice = replace(choice, show="unused")
        found = _found(analysis, choice)
        context |= {
            "choice": choice,
            "summary": summary,
            "found": found,
            "pages": _pages(choice, found),
            "all": choice.query(expressions=(), least=0, page=1),
            "tabs": {show: choice.query(show=show, page=1) for show in gallery.SHOWN},
            "expressions": EXPRESSIONS,
            "problems": gallery.PROBLEMS,
            "least": gallery.LEAST,
        }
    return render(request, "recognition/batch_result.html", context)


def _found(analysis: Analysis, choice: Choice) -> "Page[Any]":
    shown = {
        "faces": lambda: gallery.chosen_faces(analysis, choice),
        "without": lambda: gallery.photos_without_faces(analysis, choice),
        "unused": lambda: analysis.rejections.all(),
    }
    return Paginator(shown[choice.show](), gallery.A_PAGE).get_page(choice.page)  # type: ignore[no-untyped-call]


def _pages(choice: Choice, found: "Page[Any]") -> list[Link]:
    """The links to the pages: the first, the last, those around this one, "…" between."""
    if found.paginator.num_pages == 1:
        return []
    return [
        Link(
            str(number), choice.query(page=number) if isinstance(number, int) else "", number == found.number
        )
        for number in found.paginator.get_elided_page_range(found.number, on_each_side=2, on_ends=1)
    ]


@private
@require_safe
def photo(request: HttpRequest, token: str, number: int) -> HttpResponse:
    """One photo with its faces, as the page of a few photos shows it."""
    analysis = own_analysis(request, token)
    shown = get_object_or_404(analysis.photos.prefetch_related("faces"), number=number)
    context = {
        "analysis": analysis,
        "photo": shown,
        "before": analysis.photos.filter(number__lt=number).last(),
        "after": analysis.photos.filter(number__gt=number).first(),
    }
    return render(request, "recognition/batch_photo.html", context)
