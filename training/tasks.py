"""Celery's way into `services` and `runner`. Torch is imported when a fold begins: nothing forks after it."""

from celery import shared_task
from celery.signals import worker_shutting_down

from training import inspecting, services
from training.models import Dataset


@shared_task(ignore_result=True)
def train_fold(fold_id: int) -> None:
    """Train one fold, if it waits for a worker; what came of it stands in its row."""
    # Before the claim: on a busy machine torch takes longer to load than a claim lives without a heartbeat.
    from training.runner import run_claimed

    fold = services.claim(fold_id, services.worker_name("worker"))
    if fold is not None:
        run_claimed(fold)


@shared_task(ignore_result=True)
def inspect_dataset(dataset_id: int) -> None:
    """Look through a data set and store what was found; nothing where it was removed meanwhile."""
    dataset = Dataset.objects.filter(pk=dataset_id).first()
    if dataset is not None:
        inspecting.inspect(dataset)


@shared_task(ignore_result=True)
def watch_workers() -> None:
    """Notice workers that died, and queue again what they left."""
    services.notice_lost_workers()


@worker_shutting_down.connect
def let_go(**_: object) -> None:
    """A worker that is told to end leaves its fold at the next batch, for another one to go on with."""
    services.shutting_down.set()
