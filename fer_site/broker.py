"""Where the broker that `make run` embeds listens: a Unix socket, no port that a neighbour could reach.

And where the cache lies: on the broker's server, whichever that is.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from django.core.exceptions import ImproperlyConfigured

# The kernel's sockaddr_un holds 108 bytes on Linux and 104 on macOS, with the closing zero.
LONGEST_SOCKET_PATH: Final = 103
# Of a Redis that nobody told another number: one after it may not exist.
LAST_DATABASE: Final = 15


def socket_path(var_dir: Path) -> Path:
    """Return the socket's path: in `var_dir`, or in the temporary folder where that path is too long.

    The same `var_dir` gives the same path in every process, so the site and its worker agree without a word.
    """
    path = var_dir / "broker" / "valkey.sock"
    if len(bytes(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(bytes(var_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"fmpn-fer-{digest}", "valkey.sock")


def cache_settings(url: str, broker: str, var_dir: Path) -> dict[str, dict[str, Any]]:
    """Django's CACHES. url: FER_CACHE_URL, or "" for the server of the broker, where `broker` is its address
    or "" for the embedded one.

    A broker that is no Redis, and the url "locmem://", give every process a cache of its own. Raises
    ImproperlyConfigured for any other url: limits that every process counts for itself are no limits.
    """
    if url and not url.startswith(("redis://", "rediss://", "unix://", "locmem://")):
        raise ImproperlyConfigured("FER_CACHE_URL is not an address such as redis://host:6379/1.")
    url = url or (_other_database(broker) if broker else f"unix://{quote(str(socket_path(var_dir)))}?db=1")
    if not url.startswith(("redis://", "rediss://", "unix://")):
        return {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    return {
        "default": {
            "BACKEND": "fer_site.cache.ForgivingRedisCache",
            "LOCATION": url,
            "KEY_PREFIX": "fer",
        }
    }


def _other_database(broker: str) -> str:
    """A database beside the broker's: whoever clears the cache must not clear the queue."""
    parts = urlsplit(broker)
    if parts.scheme == "redis+socket":  # Celery's word for a Redis on a Unix socket
        number = parse_qs(parts.query).get("virtual_host", ["0"])[0]
        return f"unix://{parts.netloc}{parts.path}?db={_beside(number)}"
    return urlunsplit(parts._replace(path=f"/{_beside(parts.path)}"))


def _beside(number: str) -> int:
    number = number.strip("/")
    own = int(number) if number.isdecimal() else 0
    return own + 1 if own < LAST_DATABASE else own - 1
