"""The pages of batches. Each is seen by whom it belongs to (recognition.access), and is a 404 to others."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import TooManyFilesSent
from django.core.paginator import Page, Paginator
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from ml.expressions import EXPRESSIONS
from recognition import background, batches, gallery
from recognition.access import Owner, own_analysis
from recognition.answers import prefers_json, private
from recognition.background import QueueError
from recognition.gallery import Choice
from recognition.limits import set_retry_after, upload_wait
from recognition.models import Analysis
from recognition.services import UploadError
from recognition.upload_handlers import FolderHandler


@csrf_exempt  # `_take` is protected; nothing may read the body before its length was looked at
@private
@require_http_methods(["GET", "HEAD", "POST"])
def batch(request: HttpRequest) -> HttpResponse:
    """The form, and what it sends: to the batch's own page, or back to the form with the reason.

    Answers in JSON to who prefers it: {"url"} or {"error"}.
    """
    if request.method != "POST":
        return _form(request)
    # The batch at its largest, and something for the form around it: a few lines a file.
    form = 1_000_000 + 500 * settings.FER_MAX_BATCH_PHOTOS
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.FER_MAX_BATCH_MB * 1_000_000 + form:
        return _refuse(request, str(batches.too_large()), 413)
    wait = upload_wait(request)
    if wait is not None:
        response = _refuse(request, _("These are many uploads at once. Try again in a minute."), 429)
        set_retry_after(response, wait)
        return response
    owner = Owner.of_upload(request)
    try:
        background.require_room(owner, int(request.META.get("CONTENT_LENGTH") or 0))
    except QueueError as error:
        return _refuse(request, str(error), 503)
    analysis = owner.new_analysis(kind=Analysis.Kind.BATCH, state=Analysis.State.QUEUED, model_name="")
    with batches.receiving(analysis) as folder:
        request.upload_handlers = [FolderHandler("photos", folder, settings.FER_MAX_BATCH_PHOTOS)]
        try:
            return _take(request, analysis)
        except TooManyFilesSent:
            return _refuse(request, str(batches.too_many()), 400)


@csrf_protect
def _take(request: HttpRequest, analysis: Analysis) -> HttpResponse:
    try:
        batches.take_upload(analysis, [file.name or "" for file in request.FILES.getlist("photos")])
    except UploadError as error:
        return _refuse(request, str(error), 400)
    except QueueError as error:
        return _refuse(request, str(error), 503)
    if prefers_json(request):
        return JsonResponse({"url": analysis.get_absolute_url()}, status=201)
    return redirect(analysis)


def _refuse(request: HttpRequest, sentence: str, status: int) -> HttpResponse:
    if prefers_json(request):
        return JsonResponse({"error": sentence}, status=status)
    return _form(request, sentence, status)


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
        choice = Choice.of(request.GET)
        found = _found(analysis, choice)
        context |= {
            "choice": choice,
            "summary": gallery.summarise(analysis),
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
