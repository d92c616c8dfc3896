"""`manage.py write_results`: docs/results.md and its pictures, from the results stored beside them."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from training.reproduction import RecipeError
from training.results import Document
from training.results_page import make_page


class Command(BaseCommand):
    help = "Write docs/results.md and its pictures from docs/results/*.json; nothing is run for it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        docs = Path(settings.BASE_DIR) / "docs"
        parser.add_argument("--results", type=Path, default=docs / "results", metavar="DIR")
        parser.add_argument("--output", type=Path, default=docs / "results.md", metavar="FILE")

    def handle(self, *args: Any, **options: Any) -> None:
        folder, output = options["results"], options["output"]
        try:
            page = make_page({path.stem: _read(path) for path in sorted(folder.glob("*.json"))})
            pictures = output.parent / "results"
            pictures.mkdir(parents=True, exist_ok=True)
            for old in set(pictures.glob("*.svg")) - {pictures / name for name in page.pictures}:
                old.unlink()
            for name, data in page.pictures.items():
                (pictures / name).write_bytes(data)
            output.write_text(page.text, encoding="utf-8")
        except (OSError, ValueError, KeyError, RecipeError) as error:
            raise CommandError(f"The page cannot be written: {error!r}") from error
        self.stdout.write(f"{output}, with {len(page.pictures)} pictures.")


def _read(path: Path) -> Document:
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document
