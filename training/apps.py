"""The training application."""

from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"

    def ready(self) -> None:
        from ml.in_service import provide
        from training.checkpoints import in_service

        provide(in_service)
