"""What every page is told of what may be done here."""

from django.conf import settings
from django.http import HttpRequest


def signup(request: HttpRequest) -> dict[str, bool]:
    """signup: whether anybody may make an account."""
    return {"signup": settings.FER_SIGNUP}
