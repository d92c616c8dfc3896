"""Files served in parts, so that a browser can jump in a video without loading it whole (RFC 9110, 14)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

# A browser asks for "all from here", reads a little and stops: it gets so much, and asks for the rest when it
# wants it. So no thread of the server waits for a person who watches.
MOST_AT_ONCE: Final = 4_000_000
CHUNK: Final = 65_536


def serve_part(request: HttpRequest, path: Path, content_type: str) -> HttpResponseBase:
    """The file, or the one range of it that is asked for: 200, 206, or 416 where there is no such part.

    Of a range at most `MOST_AT_ONCE` bytes are sent. Several ranges at once, and what is no range in bytes,
    are not regarded: the whole file is the answer then, as it is to an If-Range, since no version was told.
    """
    size = path.stat().st_size
    asked = None if "If-Range" in request.headers else request.headers.get("Range")
    part = _part(asked, size) if asked else None
    if part is not None and part.start >= part.stop:
        response: HttpResponseBase = HttpResponse(status=416)
        response["Content-Range"] = f"bytes */{size}"
    else:
        sent = range(size) if part is None else part
        body = () if request.method == "HEAD" else _read(path, sent)
        response = StreamingHttpResponse(body, content_type=content_type, status=200 if part is None else 206)
        response["Content-Length"] = str(len(sent))
        if part is not None:
            response["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    response["Accept-Ranges"] = "bytes"
    response["X-Content-Type-Options"] = "nosniff"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


def _part(asked: str, size: int) -> range | None:
    """The bytes that a Range header asks for; an empty range where the file has none of them, None where
    the header is not one to regard."""
    found = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", asked, re.ASCII | re.IGNORECASE)
    if not found or found[1] == found[2] == "":
        return None
    if not found[1]:
        start, stop = max(size - int(found[2]), 0), size
        if not int(found[2]):
            return range(0)
    else:
        start, stop = int(found[1]), size
        if found[2]:
            if int(found[2]) < start:
                return None
            stop = min(int(found[2]) + 1, size)
    return range(start, min(stop, start + MOST_AT_ONCE))


def _read(path: Path, part: range) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(part.start)
        left = len(part)
        while left and (data := stream.read(min(CHUNK, left))):
            left -= len(data)
            yield data
