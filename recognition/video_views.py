"""The pages of videos. They are seen by whom they belong to (recognition.access), and are a 404 to others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from ml.expressions import EXPRESSIONS
from recognition import timelines, video_reports, videos
from recognition.access import own_analysis
from recognition.answers import private
from recognition.large_uploads import LargeUpload, receive
from recognition.models import Analysis, Face, Sighting
from recognition.ranges import serve_part
from recognition.words import word_for

# The room for a video on a usual screen, in pixels.
SHOWN_WIDTH: Final = 1150
SHOWN_HEIGHT: Final = 560


@csrf_exempt  # `receive` makes that check
@private
@require_http_methods(["GET", "HEAD", "POST"])
def video(request: HttpRequest) -> HttpResponse:
    """The form, and what it sends (`large_uploads.receive`)."""
    if request.method != "POST":
        return _form(request)
    upload = LargeUpload(
        kind=Analysis.Kind.VIDEO,
        field="video",
        most_bytes=(settings.FER_MAX_VIDEO_MB + 1) * 1_000_000,  # and something for the form around it
        most_files=1,
        too_large=str(videos.too_large()),
        too_many=_("Send one video at a time."),
        receiving=videos.receiving,
        take=lambda analysis, files: videos.take_upload(analysis, files[0].size if files else None),
        form=_form,
    )
    return receive(request, upload)


def _form(request: HttpRequest, error: str = "", status: int = 200) -> HttpResponse:
    context = {
        "error": error,
        "max_megabytes": settings.FER_MAX_VIDEO_MB,
        "max_minutes": settings.FER_MAX_VIDEO_MINUTES,
        "retention_hours": settings.FER_RETENTION_HOURS,
    }
    return render(request, "recognition/video.html", context, status=status)


@dataclass(frozen=True)
class PersonShown:
    """A person as the page shows them: what they showed how often, and when."""

    number: int
    shares: list[tuple[str, float, float]]  # what, its share, and where its piece of the bar begins
    stretches: list[timelines.Stretch]

    @property
    def crop(self) -> str:
        return videos.crop_name(self.number)


def video_page(request: HttpRequest, analysis: Analysis) -> HttpResponse:
    """The page of a video: how far its reading is, then what came of it."""
    context: dict[str, object] = {"analysis": analysis}
    if videos.is_stopping(analysis):
        context["stopping"] = True
    elif analysis.ended:
        size = videos.picture_size(analysis)
        context |= {
            "size": size and _fitted(*size),
            "people": list(_people(analysis)),
            # In the order of the eight probabilities, and what is said of a face that cannot be read.
            "words": {name: word_for(name) for name in (*EXPRESSIONS, *Face.Problem.values)},
        }
    return render(request, "recognition/video_result.html", context)


def _fitted(width: int, height: int) -> tuple[int, int]:
    """The size to show a video in, so that it fits a screen beside its people."""
    scale = min(SHOWN_WIDTH / width, SHOWN_HEIGHT / height, 1)
    return round(width * scale), round(height * scale)


def _people(analysis: Analysis) -> Iterator[PersonShown]:
    for track in analysis.tracks.all():
        seen = list(track.sightings.only("track", "milliseconds", "probabilities", "problem"))
        if seen:
            yield PersonShown(track.number, list(_pieces(seen)), timelines.stretches(seen))


def _pieces(seen: list[Sighting]) -> Iterator[tuple[str, float, float]]:
    start = 0.0
    for name, share in timelines.shares(seen):
        yield name, share, start
        start += share


def _own_video(request: HttpRequest, token: str) -> Analysis:
    analysis = own_analysis(request, token)
    if analysis.kind != Analysis.Kind.VIDEO:
        raise Http404
    return analysis


@private
@require_safe
def video_file(request: HttpRequest, token: str) -> HttpResponseBase:
    """Our copy of the video, whole or in the part that the browser asks for."""
    path = _own_video(request, token).folder / videos.COPY
    if not path.is_file():
        raise Http404
    return serve_part(request, path, "video/mp4")


@private
@require_safe
def timeline(request: HttpRequest, token: str) -> JsonResponse:
    """What the page draws over the video and beside it (`video_reports.timeline`)."""
    return JsonResponse(
        video_reports.timeline(_own_video(request, token)), json_dumps_params={"separators": (",", ":")}
    )


def video_csv(analysis: Analysis) -> StreamingHttpResponse:
    return _attached(video_reports.csv_lines(analysis), "text/csv; charset=utf-8", "expressions.csv")


def video_json(analysis: Analysis) -> StreamingHttpResponse:
    return _attached(video_reports.json_parts(analysis), "application/json", "expressions.json")


def _attached(parts: Iterator[str], content_type: str, name: str) -> StreamingHttpResponse:
    response = StreamingHttpResponse(parts, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
