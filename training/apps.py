"""The training application."""

from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"

    def ready(self) -> None:
        from ml.in_service import provide, provide_available
        from training.checkpoints import available, in_service

        provide(in_service)
        provide_available(available)
