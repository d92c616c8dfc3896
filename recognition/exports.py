"""The downloads of photos and batches, made row by row: a large one is never whole in memory."""

import json
import tempfile
from collections.abc import Iterator
from typing import IO, Final

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Font

from recognition.models import Analysis
from recognition.reports import COLUMNS, as_csv, rows, stored_photos, time_of

XLSX_TYPE: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def table(analysis: Analysis) -> Iterator[list[object]]:
    """One row a face, its cells in the order of `reports.COLUMNS`."""
    return rows(stored_photos(analysis), analysis.model_name, time_of(analysis))


def csv_lines(analysis: Analysis) -> Iterator[str]:
    """A header, and one row a face."""
    return as_csv(COLUMNS, table(analysis))


def json_parts(analysis: Analysis) -> Iterator[str]:
    """A `reports.Report`, one photo a line."""
    head = {"model": analysis.model_name, "time": time_of(analysis)}
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "photos": ['
    separator = "\n"
    for photo in stored_photos(analysis):
        yield separator + json.dumps(photo, ensure_ascii=False)
        separator = ",\n"
    yield "\n]}\n"


def xlsx_file(analysis: Analysis) -> IO[bytes]:
    """A workbook of one sheet, one row a face, as an open file without a name, at its beginning."""
    book = Workbook(write_only=True)
    sheet = book.create_sheet("expressions")
    sheet.freeze_panes = "A2"
    sheet.column_dimensions["B"].width = 30
    sheet.append([_heading(sheet, name) for name in COLUMNS])
    for row in table(analysis):
        sheet.append([_text(sheet, cell) if isinstance(cell, str) else cell for cell in row])
    stream: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (whoever asked closes it)
    try:
        book.save(stream)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _heading(sheet: object, name: str) -> WriteOnlyCell:
    cell = WriteOnlyCell(sheet, name)
    cell.font = Font(bold=True)
    return cell


def _text(sheet: object, text: str) -> WriteOnlyCell:
    """A cell that is text whatever it begins with, and never a formula."""
    cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", text))
    cell.data_type = "s"
    return cell
