"""What a table that is opened in a spreadsheet must not do."""

from typing import Final

# What begins so is a formula to a spreadsheet. Names come from strangers, and formulas can call home.
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def harmless(cell: object) -> object:
    """The cell, a text that would be a formula behind an apostrophe: spreadsheets take it as text then."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
