"""Celery's way into `services`; fer_site.settings schedules it."""

from celery import shared_task

from recognition import services


@shared_task(ignore_result=True)
def purge_expired() -> int:
    """Delete what has outlived FER_RETENTION_HOURS; returns how many analyses that were."""
    return services.purge_expired()
