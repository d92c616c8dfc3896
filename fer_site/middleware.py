"""What every response of the site says, whichever view made it."""

from collections.abc import Callable
from typing import Final

from django.http import HttpRequest, HttpResponse

GetResponse = Callable[[HttpRequest], HttpResponse]

NOTHING: Final = "camera=(), microphone=(), geolocation=(), display-capture=()"


def permissions_policy(get_response: GetResponse) -> GetResponse:
    """No page may ask for camera or microphone, save one whose view says so in this header itself."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Permissions-Policy", NOTHING)
        return response

    return respond
