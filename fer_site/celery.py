"""The Celery application; its settings are the `CELERY_` ones in `fer_site.settings`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fer_site.settings")

app = Celery("fer_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
