"""The pages. An analysis is seen by whom it belongs to (recognition.access) and is a 404 to all others."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import TooManyFilesSent
from django.core.files import File
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from ml.expressions import EXPRESSIONS
from recognition import exports, gallery, limits, services
from recognition.access import Owner, own_analysis
from recognition.admission import SECONDS_TO_COME_AGAIN, Busy, places
from recognition.answers import content_length, prefers_json, private
from recognition.batch_views import batch_page
from recognition.models import Analysis
from recognition.samples import SAMPLES
from recognition.services import PredictorError, UploadError
from recognition.video_views import video_csv, video_json, video_page

logger = logging.getLogger(__name__)

RECENT = 8
FACES_TO_COUNT = 4  # so many that one would count them oneself


@private
@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return _home(request)


@csrf_exempt  # `_analyse` is protected; nothing may read the body before its length was looked at
@private
@require_http_methods(["GET", "HEAD", "POST"])
def analyse(request: HttpRequest) -> HttpResponse:
    """Take the upload: to its result page, or back to the form with the reason.

    Answers in JSON to who prefers it: {"url"} or {"error", "rejections": [{"name", "reason"}]}.
    """
    if request.method != "POST":  # the address of a refusal, looked at once more
        return redirect("home")
    # Every file at its largest, and something for the form around them.
    most = (settings.FER_MAX_FILES * settings.FER_MAX_UPLOAD_MB + 1) * 1_000_000
    if content_length(request) > most:
        return _refuse_large(request)
    try:
        places.require()
        return _analyse(request)
    except Busy:
        return refuse_busy(request)
    except TooManyFilesSent:
        return _refuse(request, services.too_many_files())


@csrf_protect
def _analyse(request: HttpRequest) -> HttpResponse:
    return _answer(request, request.FILES.getlist("photos"))


@private
@require_http_methods(["GET", "HEAD", "POST"])
def sample(request: HttpRequest, slug: str) -> HttpResponse:
    """Analyse one of the photos that come with the site."""
    if slug not in SAMPLES:
        raise Http404
    if request.method != "POST":
        return redirect("home")
    with SAMPLES[slug].path.open("rb") as stream:
        return _answer(request, [File(stream, name=f"{slug}.jpg")])


def _answer(request: HttpRequest, files: "Sequence[File[bytes]]") -> HttpResponse:
    seconds = limits.upload_wait(request)
    if seconds is not None:
        return refuse_hasty(request, seconds)
    try:
        analysis = services.analyse_upload(files, Owner.of_upload(request))
    except UploadError as error:
        return _refuse(request, error)
    except Busy:
        return refuse_busy(request)
    except PredictorError as error:
        logger.error("The model cannot be loaded: %s", error)
        return _refuse_without_model(request)
    if prefers_json(request):
        return JsonResponse({"url": analysis.get_absolute_url()}, status=201)
    return redirect(analysis)


def _refuse(request: HttpRequest, error: UploadError) -> HttpResponse:
    if prefers_json(request):
        rejections = [{"name": name, "reason": reason} for name, reason in error.rejections]
        return JsonResponse({"error": str(error), "rejections": rejections}, status=400)
    return _home(request, error)


def _refuse_large(request: HttpRequest) -> HttpResponse:
    if prefers_json(request):
        sentence = gettext("This upload is too large: at most %(files)d photos of %(most)s MB go into one.")
        most = {"files": settings.FER_MAX_FILES, "most": f"{settings.FER_MAX_UPLOAD_MB:g}"}
        return JsonResponse({"error": sentence % most}, status=413)
    return render(request, "413.html", _limits(), status=413)


def refuse_hasty(request: HttpRequest, seconds: float) -> HttpResponse:
    """The answer to more uploads in a minute than one may send; `seconds` until the next may come."""
    wait = limits.whole(seconds)
    response: HttpResponse
    if prefers_json(request):
        sentence = gettext("That was too much for one minute. Wait %(seconds)d seconds and send it again.")
        response = JsonResponse({"error": sentence % {"seconds": wait}}, status=429)
    else:
        response = render(request, "429.html", {"seconds": wait}, status=429)
    limits.set_retry_after(response, seconds)
    return response


def refuse_busy(request: HttpRequest) -> HttpResponse:
    """The answer where other photos take all places at this moment."""
    response: HttpResponse
    if prefers_json(request):
        sentence = gettext("Many photos are being read at this moment. Send it again in a second.")
        response = JsonResponse({"error": sentence}, status=503)
    else:
        response = render(request, "busy.html", status=503)
    limits.set_retry_after(response, SECONDS_TO_COME_AGAIN)
    response._has_been_logged = True  # type: ignore[attr-defined]  # that many came at once is no error
    return response


def _refuse_without_model(request: HttpRequest) -> HttpResponse:
    if prefers_json(request):
        sentence = gettext(
            "The model that reads expressions is missing or damaged on this server. Nothing was kept."
        )
        return JsonResponse({"error": sentence}, status=503)
    return render(request, "503.html", status=503)


def _home(request: HttpRequest, error: UploadError | None = None) -> HttpResponse:
    recent = Paginator(Owner.of(request).analyses(), RECENT).get_page(request.GET.get("page"))
    context = {"recent": recent, "samples": SAMPLES.values(), "error": error, **_limits()}
    return render(request, "recognition/home.html", context, status=400 if error else 200)


@private
@require_safe
def analysis(request: HttpRequest, token: str) -> HttpResponse:
    """The page of one's own analysis, made by what it is one of."""
    own = own_analysis(request, token)
    return PAGES[Analysis.Kind(own.kind)](request, own)


def _photos_page(request: HttpRequest, analysis: Analysis) -> HttpResponse:
    photos = analysis.photos.prefetch_related("faces")
    found = gallery.summarise(analysis)
    counts = sorted((bar for bar in found.shown if bar.count), key=lambda bar: -bar.count)
    context = {
        "analysis": analysis,
        "photos": photos,
        "counts": counts if found.faces >= FACES_TO_COUNT else [],
        "expressions": EXPRESSIONS,
    }
    return render(request, "recognition/analysis.html", context)


PAGES: Final[dict[Analysis.Kind, Callable[[HttpRequest, Analysis], HttpResponse]]] = {
    Analysis.Kind.PHOTOS: _photos_page,
    Analysis.Kind.BATCH: batch_page,
    Analysis.Kind.VIDEO: video_page,
}


@private
@require_safe
def picture(request: HttpRequest, token: str, filename: str) -> HttpResponseBase:
    """Serve one of the analysis's pictures; the URL pattern allows only names that we give."""
    path = own_analysis(request, token).folder / filename
    if not path.is_file():
        raise Http404
    response = FileResponse(path.open("rb"))
    response["X-Content-Type-Options"] = "nosniff"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


@private
@require_safe
def download_json(request: HttpRequest, token: str) -> HttpResponseBase:
    own = own_analysis(request, token)
    if own.kind == Analysis.Kind.VIDEO:
        return video_json(own)
    return _attached(
        StreamingHttpResponse(exports.json_parts(own), content_type="application/json"), "expressions.json"
    )


@private
@require_safe
def download_csv(request: HttpRequest, token: str) -> HttpResponseBase:
    own = own_analysis(request, token)
    if own.kind == Analysis.Kind.VIDEO:
        return video_csv(own)
    return _attached(
        StreamingHttpResponse(exports.csv_lines(own), content_type="text/csv; charset=utf-8"),
        "expressions.csv",
    )


@private
@require_safe
def download_xlsx(request: HttpRequest, token: str) -> HttpResponseBase:
    own = own_analysis(request, token)
    if own.kind == Analysis.Kind.VIDEO:
        raise Http404
    response = FileResponse(exports.xlsx_file(own), content_type=exports.XLSX_TYPE)
    return _attached(response, "expressions.xlsx")


def _attached(response: HttpResponseBase, name: str) -> HttpResponseBase:
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@private
@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: HttpRequest, token: str) -> HttpResponse:
    """Delete one's own analysis; asked for with GET, which the pages of batches and videos do, ask first."""
    own = own_analysis(request, token)
    if request.method != "POST":
        return render(request, "recognition/delete.html", {"analysis": own})
    own.delete()
    messages.success(request, gettext("Deleted, with everything that was read in it."))
    return redirect("home")


def _limits() -> dict[str, object]:
    return {
        "max_files": settings.FER_MAX_FILES,
        "max_megabytes": settings.FER_MAX_UPLOAD_MB,
        "max_megapixels": settings.FER_MAX_MEGAPIXELS,
        "retention_hours": settings.FER_RETENTION_HOURS,
    }
