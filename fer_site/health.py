"""What machines ask: /livez, /readyz and /metrics.

They are answered before all else, so that neither host names, HTTPS nor a session matter to who asks, and
/livez needs nothing but this process.
"""

from collections.abc import Callable
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.crypto import constant_time_compare
from prometheus_client import CONTENT_TYPE_LATEST

from fer_site.metrics import metrics_page
from recognition.limits import is_local
from recognition.readiness import READY, readiness


class HealthMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        answer = ANSWERS.get(request.path_info)
        if answer is None:
            return self.get_response(request)
        response = answer(request)
        response["Cache-Control"] = "no-store"
        response._has_been_logged = True  # type: ignore[attr-defined]  # a 503 while it starts is no error
        return response


def livez(request: HttpRequest) -> HttpResponse:
    """200 as long as the process can answer at all: what fails it should be started anew."""
    return HttpResponse("alive\n", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """200 when the database answers and the model is loaded, else 503: it should get no visitors yet."""
    parts = readiness()
    ready = set(parts.values()) == {READY}
    return JsonResponse({"ready": ready, **parts}, status=200 if ready else 503)


def metrics(request: HttpRequest) -> HttpResponse:
    """Figures for Prometheus: for this machine itself, and who knows FER_METRICS_TOKEN."""
    given = request.headers.get("Authorization", "")
    token: str = settings.FER_METRICS_TOKEN
    if not (is_local(request) or (token and constant_time_compare(given, f"Bearer {token}"))):
        return HttpResponse("Set FER_METRICS_TOKEN, and send it as a bearer token.\n", "text/plain", 403)
    return HttpResponse(metrics_page(), content_type=CONTENT_TYPE_LATEST)


ANSWERS: Final = {"/livez": livez, "/readyz": readyz, "/metrics": metrics}
