"""The log: one line an event, with the request it belongs to, and nothing in it about anybody's photos.

Lines hold route patterns instead of addresses, no query, no names of files, users by number. FER_LOG_FORMAT
makes them sentences (plain) or JSON objects.
"""

import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseServerError
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string

from recognition.limits import count

logger = logging.getLogger("fer_site.requests")

# The request, or the task, that this thread works for.
request_id: ContextVar[str] = ContextVar("request_id", default="")

OURS: Final = ("method", "route", "status", "milliseconds", "user")
PROBES: Final = ("/livez", "/readyz", "/metrics")
FREQUENT: Final = ("/live/frame/", "/a/<str:token>/progress.json")  # a page asks again and again
FRAMES: Final = "/live/frame/"  # twenty a second from every open camera

SECRETS: Final = (
    (re.compile(r"\bfer_[\w-]{8,}"), "fer_…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 …"),
    (re.compile(r"(?<=://)[^/@\s]+@"), "…@"),  # the password in a server's address
    (re.compile(r"\b(a|analyses)/[\w-]{22}\b"), r"\1/…"),  # an analysis's address
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+"), "…@…"),
)


def redact(text: str) -> str:
    """Take out what looks like a key, a password, an analysis's address or somebody's e-mail address."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


class WithRequest(logging.Filter):
    """Tells every record which request it belongs to, and Django's own the route in place of the path."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = record.__dict__.get("request")
        # Django tells of some answers only when they have left our middleware.
        record.request_id = request_id.get() or getattr(request, "request_id", "-")
        if isinstance(request, HttpRequest) and isinstance(record.args, tuple):
            paths = (request.path, request.get_full_path())
            record.args = tuple(route(request) if part in paths else part for part in record.args)
        return True


class PlainFormatter(logging.Formatter):
    """A line for people."""

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name} [{request_id}]: {message}", style="{")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """A line for machines: a JSON object with time, level, logger, request, message, and what is known of
    method, route, status, milliseconds, user (its number, or null) and exception (its traceback)."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request": record.__dict__.get("request_id", "-"),
            "message": redact(record.getMessage()),
            **{name: record.__dict__[name] for name in OURS if name in record.__dict__},
        }
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False)


# Requests ---------------------------------------------------------------------------------------------------


class RequestLogMiddleware:
    """Gives each request an id, or keeps that of its X-Request-ID; sends it back, and logs the request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        own = _id_of(request)
        request.request_id = own  # type: ignore[attr-defined]
        before = request_id.set(own)
        begin = time.perf_counter()
        try:
            response = self.get_response(request)
            response["X-Request-ID"] = own
            _log(request, response.status_code, (time.perf_counter() - begin) * 1000)
        finally:
            request_id.reset(before)
        return response


def _id_of(request: HttpRequest) -> str:
    given = request.headers.get("X-Request-ID", "")
    return given if re.fullmatch(r"[\w.-]{8,64}", given, re.ASCII) else secrets.token_hex(8)


def _log(request: HttpRequest, status: int, milliseconds: float) -> None:
    where = route(request)
    quiet = where in ("-", FRAMES) and status < 400  # files of the page, and frames
    if quiet or request.path in PROBES:
        return
    count(requests_counter(time.time()), seconds=600)
    logger.log(
        logging.DEBUG if where in FREQUENT and status < 400 else logging.INFO,
        "%s %s: %d in %.0f ms",
        request.method,
        where,
        status,
        milliseconds,
        extra={
            "method": request.method,
            "route": where,
            "status": status,
            "milliseconds": round(milliseconds, 1),
            "user": _user_id(request),
        },
    )


def requests_counter(moment: float) -> str:
    """The counter of the requests in the minute of `moment`, in seconds since 1970."""
    return f"requests-{moment // 60:.0f}"


def route(request: HttpRequest) -> str:
    """The pattern that the request's address matched, "-" where none did."""
    match = request.resolver_match
    return f"/{match.route}" if match else "-"


def _user_id(request: HttpRequest) -> int | None:
    # The owner of the API's key; or whom Django keeps once a view asked: to ask now might ask the database.
    user = getattr(request, "auth", None) or request.__dict__.get("_cached_user")
    return getattr(user, "pk", None)


def server_error(request: HttpRequest) -> HttpResponse:
    """The page of an error that nobody expected: it names the request, and asks nothing of the database."""
    return HttpResponseServerError(render_to_string("500.html", {"request_id": request_id.get()}))


# The last errors --------------------------------------------------------------------------------------------

RECENT_ERRORS: Final = "recent-errors"
MOST_RECENT: Final = 20


class RecentError(TypedDict):
    """time: seconds since 1970; text: its first line, without what may be somebody's."""

    time: float
    logger: str
    request: str
    text: str


class RecentErrors(logging.Handler):
    """Keeps the last errors in the cache, for the administrators' first page.

    An exception's own words stay in the log: they may quote what somebody sent.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # who tells of an error must not make another
            text = next(iter(redact(record.getMessage()).splitlines()), "")[:200]
            if record.exc_info and record.exc_info[0]:
                text = f"{text} ({record.exc_info[0].__name__})"
            error = RecentError(
                time=record.created,
                logger=record.name,
                request=record.__dict__.get("request_id", "-"),
                text=text,
            )
            cache.set(RECENT_ERRORS, [error, *recent_errors()][:MOST_RECENT], None)


def recent_errors() -> list[RecentError]:
    """The newest first."""
    errors: list[RecentError] | None = cache.get(RECENT_ERRORS)
    return errors or []
