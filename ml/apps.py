"""Registers the system checks of `ml`; the package itself knows nothing of Django."""

from contextlib import suppress
from pathlib import Path

from django.apps import AppConfig
from django.conf import settings


class MlConfig(AppConfig):
    name = "ml"

    def ready(self) -> None:
        from ml import checks, runtime  # importing `checks` registers them

        assert checks
        folder = Path(settings.FER_VAR_DIR)
        # Before any command writes into it: people's photos will lie there. (Where that fails, a check says.)
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        runtime.set_exports_folder(folder / "exports")
