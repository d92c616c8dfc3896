"""Registers the system checks of `ml`; the package itself knows nothing of Django."""

from django.apps import AppConfig


class MlConfig(AppConfig):
    name = "ml"

    def ready(self) -> None:
        from ml import checks  # noqa: F401  (importing it registers the checks)
