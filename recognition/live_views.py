"""The page with the camera, and where it sends its frames."""

import logging

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse, RawPostDataException
from django.shortcuts import render
from django.utils.translation import gettext
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from ml.expressions import EXPRESSIONS
from recognition.admission import Busy
from recognition.answers import content_length, private
from recognition.live import LIMITS, read_frame
from recognition.services import PredictorError
from recognition.uploads import PhotoError
from recognition.views import refuse_busy

logger = logging.getLogger(__name__)


@private
@ensure_csrf_cookie
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    context = {"expressions": EXPRESSIONS, "retention_hours": settings.FER_RETENTION_HOURS}
    response = render(request, "recognition/live.html", context)
    response["Permissions-Policy"] = "camera=(self), microphone=(), geolocation=(), display-capture=()"
    return response


@private
@require_POST
def frame(request: HttpRequest) -> HttpResponse:
    """Read the picture that is the body of the request (`?mask=1`: with motion masks), and forget it.

    Answers {"width", "height", "faces", "milliseconds", "model"} (recognition.live.Frame) or {"error"}.
    """
    if content_length(request) > LIMITS.megabytes * 1_000_000:
        sentence = gettext("This frame is too large: at most %(kilobytes)d kB are read.")
        return _refuse(sentence % {"kilobytes": LIMITS.megabytes * 1000}, 413)
    try:
        return JsonResponse(read_frame(request.body, masks=request.GET.get("mask") == "1"))
    except RawPostDataException:  # a form, which was read for its token
        return _refuse(gettext("A frame is the body of its request, not a form."), 400)
    except Busy:
        return refuse_busy(request)
    except PhotoError as error:
        return _refuse(str(error), 400)
    except PredictorError as error:
        logger.error("The model cannot be loaded: %s", error)
        return _refuse(gettext("The model that reads expressions is missing or damaged on this server."), 503)


def _refuse(sentence: str, status: int) -> HttpResponse:
    return JsonResponse({"error": sentence}, status=status)
