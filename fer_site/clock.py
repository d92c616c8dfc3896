"""The clock of the scheduled tasks, for machines whose own clock is put right now and then."""

from typing import Any

from celery.beat import PersistentScheduler


class Clock(PersistentScheduler):  # type: ignore[misc]
    """Celery's, which does not wait until the time comes again at which a task is said to have run.

    It remembers when each task ran last. Where the machine's clock was fast then and is right now, Celery's
    own would do nothing for as long as it was fast: nothing would be purged, and no lost worker noticed.
    """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        now = self.app.now()
        ahead = [entry for entry in self.schedule.values() if entry.last_run_at > now]
        for entry in ahead:
            entry.last_run_at = now
        if ahead:
            self._heap = None  # made anew, by the clock as it is
        seconds: float = super().tick(*args, **kwargs)
        return seconds
