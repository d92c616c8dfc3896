"""What every page is told."""

from django.conf import settings
from django.http import HttpRequest


def contact(request: HttpRequest) -> dict[str, str]:
    """contact: where whoever runs the site can be reached, a link, or ""."""
    return {"contact": settings.FER_CONTACT}
