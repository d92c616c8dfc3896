"""The clock of the scheduled tasks, on a machine whose own clock is put back."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from celery.utils.imports import symbol_by_name
from django.conf import settings

from fer_site import celery_app


def test_a_clock_that_is_put_back_a_day_stops_no_task_for_a_day(tmp_path: Path) -> None:
    clock_class = symbol_by_name(celery_app.conf.beat_scheduler)
    clock = clock_class(app=celery_app, schedule_filename=str(tmp_path / "schedule"))
    try:
        clock.tick()  # it knows by now when each is to run
        for entry in clock.schedule.values():
            entry.last_run_at += timedelta(days=1)
        seconds = clock.tick()
        waits = {name: clock.schedule[name].is_due().next for name in settings.CELERY_BEAT_SCHEDULE}
    finally:
        clock.close()

    intervals: dict[str, Any] = {n: task["schedule"] for n, task in settings.CELERY_BEAT_SCHEDULE.items()}
    assert seconds <= min(intervals.values())
    for name, interval in intervals.items():
        assert waits[name] <= interval, name
