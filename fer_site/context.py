"""What every page is told."""

from django.conf import settings
from django.http import HttpRequest


def site(request: HttpRequest) -> dict[str, str | bool]:
    """contact: where whoever runs the site can be reached, a link, or ""; signup: whether anybody may make an
    account."""
    return {"contact": settings.FER_CONTACT, "signup": settings.FER_SIGNUP}
