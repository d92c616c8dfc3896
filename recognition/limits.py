"""How often somebody may do something in a minute: counts in the cache, shared by all processes."""

import hashlib
import ipaddress
import math
import time

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse

WINDOW = 60  # seconds


def limited(key: str, per_minute: float) -> float | None:
    """Count one more of `key`; return None where it may go on, else the seconds until it may again.

    Counted by the minutes of the clock. `key` is hashed: no address lies in the cache. Without a cache
    everything may go on.
    """
    minute, elapsed = divmod(time.time(), WINDOW)
    digest = hashlib.sha256(f"{key} {minute:.0f}".encode()).hexdigest()
    counted = count(f"limit-{digest[:32]}", seconds=2 * WINDOW)
    return WINDOW - elapsed if counted and counted > per_minute else None


def count(name: str, amount: int = 1, seconds: int | None = None) -> int | None:
    """Add to a counter, which is forgotten `seconds` after its first count (None: never); return its value,
    None where there is no cache."""
    cache.add(name, 0, seconds)
    try:
        return cache.incr(name, amount)
    except ValueError:  # the cache is down, or forgot it just now
        return None


def upload_wait(request: HttpRequest, what: str = "upload") -> float | None:
    """As `limited`, for what costs as much as an upload, each for itself: by person, or by address where
    nobody is logged in."""
    who = f"user {request.user.pk}" if request.user.is_authenticated else client_address(request)
    return limited(f"{what} {who}", settings.FER_UPLOADS_PER_MINUTE)


def whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))


def set_retry_after(response: HttpResponse, seconds: float) -> None:
    response["Retry-After"] = str(whole(seconds))


def client_address(request: HttpRequest) -> str:
    """Whose request it is, as the nearest proxy that we trust (FER_HTTPS says that there is one) saw it.

    Of an IPv6 address the first half: the second its owner chooses, and may choose anew each time.
    """
    address = str(request.META.get("REMOTE_ADDR", ""))
    if settings.FER_HTTPS:
        forwarded: str = request.headers.get("X-Forwarded-For", "")
        address = forwarded.rpartition(",")[2].strip() or address
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and not parsed.ipv4_mapped:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def is_local(request: HttpRequest) -> bool:
    """Whether it comes from this machine itself, and not through a proxy that runs on it."""
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
