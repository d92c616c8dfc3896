"""The Celery application; its settings are the `CELERY_` ones in `fer_site.settings`."""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_prerun

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fer_site.settings")

app = Celery("fer_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect  # type: ignore[untyped-decorator]
def log_as_the_site_does(**_: Any) -> None:
    """Keep the log that Django has set up; without a receiver Celery would put its own in the place."""


@task_prerun.connect  # type: ignore[untyped-decorator]
def name_the_task(task_id: str, **_: Any) -> None:
    """Lines of the log that a task writes carry its id."""
    from fer_site.logs import request_id

    request_id.set(task_id)
