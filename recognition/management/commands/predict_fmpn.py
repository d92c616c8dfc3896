"""Read the expressions in photos on this machine's disk."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from recognition.drawing import annotate
from recognition.reading import Reading, Source, find_photos, read_photos
from recognition.reports import COLUMNS, FaceReport, Report, as_csv, rows
from recognition.services import PredictorError, get_predictor, upload_limits
from recognition.templatetags.faces import percent
from recognition.uploads import PhotoError
from recognition.words import word_for


class Command(BaseCommand):
    help = "Find the faces in photos and read their expressions."
    requires_system_checks = ()  # what it needs it asks for itself, and says what is missing in a sentence

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "photos", nargs="+", type=Path, metavar="PHOTO_OR_FOLDER", help="folders are searched throughout"
        )
        parser.add_argument("--crops", action="store_true", help="the pictures are faces already cut out")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was read")
        parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row a face")
        parser.add_argument(
            "--annotate", type=Path, metavar="FOLDER", help="write copies with faces outlined"
        )
        parser.add_argument(
            "--checkpoint", type=Path, metavar="PATH", help="another model than the one in service"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        for file in filter(None, (options["json"], options["csv"])):
            if not file.parent.is_dir():  # told now, not after a thousand photos
                raise CommandError(f"There is no folder {file.parent} to write {file.name} into.")
        try:
            report = self._read(**options)
            self._write(report, options["json"], options["csv"])
        except (PhotoError, PredictorError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(
                f"{error.filename or 'What was read'} could not be written: {error.strerror}."
            ) from error
        self._tell(report, table=options["json"] is None)

    def _read(
        self,
        photos: list[Path],
        annotate: Path | None,
        checkpoint: Path | None,
        crops: bool,
        **options: Any,
    ) -> Report:
        sources = find_photos(photos)
        if annotate:
            refuse_overwriting(sources, annotate)
        predictor = get_predictor(checkpoint)
        report = Report(model=predictor.name, time=timezone.now().isoformat(timespec="seconds"), photos=[])
        with progress() as bar:
            task = bar.add_task("Reading photos", total=len(sources))
            for reading in read_photos(sources, predictor, upload_limits(), crops=crops):
                report["photos"].append(reading.report)
                if annotate:
                    save_copy(reading, annotate)
                bar.advance(task)
        return report

    def _write(self, report: Report, json_file: Path | None, csv_file: Path | None) -> None:
        if json_file:
            json_file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if csv_file:
            with csv_file.open("w", newline="", encoding="utf-8") as stream:
                faces = rows(report["photos"], report["model"], report["time"])
                stream.writelines(as_csv(COLUMNS, faces))

    def _tell(self, report: Report, *, table: bool) -> None:
        """Say what was read and what could not be; a CommandError where that is everything."""
        for photo in report["photos"]:
            if photo["error"]:
                self.stderr.write(f"{photo['photo']}: {photo['error']}")
        if all(photo["error"] for photo in report["photos"]):
            raise CommandError("None of the photos could be read.")
        if table:
            Console(file=cast(IO[str], self.stdout)).print(as_table(report))


def progress() -> Progress:
    """A bar on stderr, so that stdout holds the result alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def refuse_overwriting(sources: list[Source], folder: Path) -> None:
    originals = {source.path.resolve() for source in sources}
    for source in sources:
        if (folder / source.copy).resolve() in originals:
            raise CommandError(
                f"The copies in {folder} would take the place of the photos: choose another folder."
            )


def save_copy(reading: Reading, folder: Path) -> None:
    if reading.image is not None:
        copy = folder / reading.source.copy
        copy.parent.mkdir(parents=True, exist_ok=True)
        annotate(reading.image, reading.report["faces"]).save(copy, quality=90)


def as_table(report: Report) -> Table:
    table = Table(title=f"Read by {report['model']}", title_justify="left")
    table.add_column("photo", overflow="fold")
    for name in ("face", "expression", "probability"):
        table.add_column(name, justify="left" if name == "expression" else "right")
    for photo in report["photos"]:
        if not photo["error"] and not photo["faces"]:
            table.add_row(Text(photo["photo"]), "", "no face found")
        for number, face in enumerate(photo["faces"], 1):
            word, probabilities = face["expression"], face["probabilities"]
            table.add_row(
                Text(photo["photo"] if number == 1 else ""),
                str(number),
                _said(face),
                percent(probabilities[word]) if word and probabilities else "",
            )
    return table


def _said(face: FaceReport) -> str:
    if face["expression"] is None:
        return word_for(face["problem"])
    return f"not sure: perhaps {face['expression']}" if face["sure"] is False else face["expression"]
