"""How many tasks wait at the broker."""

from typing import Final

from django.conf import settings
from kombu import Connection  # type: ignore[attr-defined]
from kombu.exceptions import OperationalError

QUEUES: Final = ("celery", "analyses", "training")
SECONDS_TO_ANSWER: Final = 0.5


def queue_lengths() -> dict[str, int] | None:
    """{queue: waiting tasks}, or None where the broker does not answer within SECONDS_TO_ANSWER."""
    options = {
        **settings.CELERY_BROKER_TRANSPORT_OPTIONS,
        "socket_timeout": SECONDS_TO_ANSWER,
        "socket_connect_timeout": SECONDS_TO_ANSWER,
        "connect_retries_timeout": SECONDS_TO_ANSWER,
        "max_retries": 0,
    }
    with Connection(settings.CELERY_BROKER_URL, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        try:
            channel = connection.default_channel
            return {name: channel.queue_declare(name).message_count for name in QUEUES}
        except (OperationalError, *connection.connection_errors):
            return None
