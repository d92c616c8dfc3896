"""What every response of the site says and does, whichever view made it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, UnreadablePostError

from recognition.answers import content_length

GetResponse = Callable[[HttpRequest], HttpResponse]

NOTHING: Final = "camera=(), microphone=(), geolocation=(), display-capture=()"


def permissions_policy(get_response: GetResponse) -> GetResponse:
    """No page may ask for camera or microphone, save one whose view says so in this header itself."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Permissions-Policy", NOTHING)
        return response

    return respond


def take_in_what_is_refused(get_response: GetResponse) -> GetResponse:
    """What was sent with a refused request is read and forgotten, up to what an upload may hold.

    Gunicorn says that it keeps a connection, and then closes it where much of a body was left unread: the
    next request on it, as nginx may send one, would be lost.
    """
    photos = settings.FER_MAX_FILES * settings.FER_MAX_UPLOAD_MB
    most = (max(photos, settings.FER_MAX_BATCH_MB, settings.FER_MAX_VIDEO_MB) + 1) * 1_000_000

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if response.status_code >= 400 and content_length(request) <= most:
            with suppress(UnreadablePostError):  # they left
                while request.read(64 * 1024):
                    pass
        return response

    return respond
