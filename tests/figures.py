"""Tests that measure: what they found stands in docs/reliability.md.

A test takes the fixture `figure` and says what it measured. `pytest --docs` writes the page anew; rows of
tests that did not run stay as they were.
"""

import json
from collections.abc import Callable
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pytest

from fer_site.bench.telling import machine

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reliability.md"
KEPT: Final = ROOT / "docs" / "reliability.json"
FIGURE: Final = "figure"
MARKS: Final = ("<!-- figures -->", "<!-- /figures -->")

Figure = Callable[[str, str], None]
Rows = dict[str, dict[str, str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--docs", action="store_true", help="write what the tests measured into docs/reliability.md"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Measured(config))


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Keep a figure: figure("what must hold, as a sentence", "what was measured, with its unit").

    It counts only if the test passes. A test may keep several, each with a sentence of its own.
    """
    doc = request.node.module.__doc__ or request.node.module.__name__

    def keep(what: str, measured: str) -> None:
        row = {
            "section": doc.splitlines()[0].rstrip("."),
            "measured": measured,
            "test": request.node.nodeid,
            "date": date.today().isoformat(),
            "slow": "yes" if request.node.get_closest_marker("slow") else "",
        }
        # What a report carries, and so what reaches the process that prints, if tests run in several.
        request.node.user_properties.append((FIGURE, (what, row)))

    return keep


class Measured:
    """Collects the figures of the tests that passed, prints them, and writes them into the page."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.rows: Rows = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            kept: list[Any] = [value for name, value in report.user_properties if name == FIGURE]
            self.rows |= dict(kept)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.rows:
            terminalreporter.section("measured")
        for what, row in self.rows.items():
            terminalreporter.write_line(f"{what}: {row['measured']}")
        if self.config.getoption("--docs"):
            write_page(self.rows)


def write_page(new: Rows) -> None:
    """Put `new` among the rows that were kept, and all of them into the page."""
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    rows: Rows = {**kept, **new}
    KEPT.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    before, rest = PAGE.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n{as_tables(rows)}\n{MARKS[1]}{after}")


def as_tables(rows: Rows) -> str:
    about = machine()
    place = f"{about['processor']}, {about['cores']} cores, {about['system']}, Python {about['python']}"
    lines = [f"Last written on {place}."]
    ordered = sorted(rows.items(), key=lambda item: (item[1]["section"], item[1]["test"]))
    for section, group in groupby(ordered, key=lambda item: item[1]["section"]):
        lines += ["", f"## {section}", "", "| What must hold | Measured | Test | On |", "|---|---|---|---|"]
        for what, row in group:
            name = row["test"].split("::")[-1]
            where = f"`{row['test'].split('::')[0]}`"
            mark = ", slow" if row["slow"] else ""
            lines.append(f"| {what} | {row['measured']} | {where} {name}{mark} | {row['date']} |")
    return "\n".join(lines)
