"""What the pages' answers have in common."""

from django.http import HttpRequest
from django.views.decorators.cache import cache_control

# Nobody's photos stay in a cache, neither on the way nor in the browser.
private = cache_control(private=True, no_store=True)


def prefers_json(request: HttpRequest) -> bool:
    """Whether a script asks: its answer is JSON, and a person's a page."""
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"


def content_length(request: HttpRequest) -> int:
    """The bytes that the request says it has, without reading any; 0 where it does not say."""
    return int(request.META.get("CONTENT_LENGTH") or 0)
