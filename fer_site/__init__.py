"""The Django project: settings, addresses, the Celery application and the one-command start."""

# Shared tasks bind to this application in every process that loads Django.
from fer_site.celery import app as celery_app

__all__ = ["celery_app"]
