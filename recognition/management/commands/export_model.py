"""Export the networks of the model in service for this machine's runtime: what `make run` does first."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from recognition.services import PredictorError, get_predictor


class Command(BaseCommand):
    help = "Prepare detector and model for this machine, so that the web server starts without torch."
    requires_system_checks = ()

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            self.stdout.write(f"{get_predictor().name} is ready.")
        except PredictorError as error:
            raise CommandError(str(error)) from error
