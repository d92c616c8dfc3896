"""The cache: counts of the last minutes, which no page may depend on.

It lies on the broker's server, in a database of its own. While that is down the cache is empty and forgets
what it is told, at once and without an exception.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.redis import RedisCache
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

logger = logging.getLogger(__name__)

SECONDS_TO_ANSWER: Final = 0.5
SECONDS_UNTIL_ASKED_AGAIN: Final = 5.0

Answer = TypeVar("Answer")


class JsonSerializer:
    """How values lie on the server: numbers as they are, which it can add to, all else as JSON.

    Django's own way is pickle, which would run what whoever reaches the server had written there.
    """

    def dumps(self, value: Any) -> int | str:
        return value if type(value) is int else json.dumps(value)

    def loads(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:  # an older version's, or a stranger's
            return None


class ForgivingRedisCache(RedisCache):
    """Django's Redis cache, which raises nothing while the server is down: every key is missing then.

    A server that did not answer is left alone for SECONDS_UNTIL_ASKED_AGAIN by all threads, so that a page
    waits for it once, and the log has one line for the whole time.
    """

    _asked_again: ClassVar[float] = 0.0  # when, on the monotonic clock
    _down: ClassVar[bool] = False

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        patience = {
            "socket_timeout": SECONDS_TO_ANSWER,
            "socket_connect_timeout": SECONDS_TO_ANSWER,
            "retry": Retry(NoBackoff(), 0),
            "serializer": JsonSerializer,
        }
        super().__init__(server, params | {"OPTIONS": patience | params.get("OPTIONS", {})})

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return self._ask(lambda: super(ForgivingRedisCache, self).add(key, value, timeout, version), False)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return self._ask(lambda: super(ForgivingRedisCache, self).get(key, default, version), default)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._ask(lambda: super(ForgivingRedisCache, self).set(key, value, timeout, version), None)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return self._ask(lambda: super(ForgivingRedisCache, self).touch(key, timeout, version), False)

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self._ask(lambda: super(ForgivingRedisCache, self).delete(key, version), False)

    def get_many(self, keys: Any, version: int | None = None) -> dict[Any, Any]:
        return self._ask(lambda: super(ForgivingRedisCache, self).get_many(keys, version), {})

    def set_many(self, data: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> list[Any]:
        return self._ask(lambda: super(ForgivingRedisCache, self).set_many(data, timeout, version), [*data])

    def delete_many(self, keys: Any, version: int | None = None) -> None:
        self._ask(lambda: super(ForgivingRedisCache, self).delete_many(keys, version), None)

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self._ask(lambda: super(ForgivingRedisCache, self).has_key(key, version), False)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Raises ValueError for a missing key, as every cache does."""
        count = self._ask(lambda: super(ForgivingRedisCache, self).incr(key, delta, version), None)
        if count is None:
            raise ValueError(f"Key {key!r} not found.")
        return count

    def clear(self) -> None:
        self._ask(super().clear, None)

    def _ask(self, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        here = ForgivingRedisCache
        if time.monotonic() < here._asked_again:
            return otherwise
        try:
            answer = question()
        except RedisError as error:
            here._asked_again = time.monotonic() + SECONDS_UNTIL_ASKED_AGAIN
            if not here._down:
                logger.warning("The cache does not answer, and the site goes on without it: %s", error)
            here._down = True
            return otherwise
        if here._down:
            logger.warning("The cache answers again.")
        here._down = False
        return answer
