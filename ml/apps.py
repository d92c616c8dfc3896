"""Registers the system checks of `ml`; the package itself knows nothing of Django."""

from pathlib import Path

from django.apps import AppConfig
from django.conf import settings


class MlConfig(AppConfig):
    name = "ml"

    def ready(self) -> None:
        from ml import checks, runtime  # importing `checks` registers them

        assert checks
        runtime.set_exports_folder(Path(settings.FER_VAR_DIR) / "exports")
