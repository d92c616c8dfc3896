"""What README.md and docs/ name exists: links, commands and their options, make targets, settings, files."""

import functools
import re
import shlex
from pathlib import Path
from typing import Final

import pytest
from django.conf import settings
from django.core.management import get_commands, load_command_class

from fer_site.start import argument_parser

ROOT = Path(settings.BASE_DIR)
DOCS = ROOT / "docs"
PAGES: Final = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((ROOT / "ml" / "weights").glob("*.md")),
]

# Roots of paths that a page may name, and what of them is written by the site or downloaded.
FOLDERS: Final = (
    "deploy",
    "docs",
    "fer_site",
    "ml",
    "recognition",
    "static",
    "templates",
    "tests",
    "training",
)
NOT_SETTINGS: Final = {
    # variables that belong to others, or to the tools around the site
    *("FER_ENV_FILE", "SECRET_KEY_FILE", "DATABASE_PASSWORD", "CUDA_VISIBLE_DEVICES", "WEB_CONCURRENCY"),
    *("NAME", "FER_SITE", "FER_TOKEN", "PORT", "PYTHON", "BENCH_JSON", "VARIANT", "PROMETHEUS_MULTIPROC_DIR"),
    *("DATA_SETS", "OMP_NUM_THREADS", "FER_TEST_DATA", "FER_STRANGE_IMAGES"),
}


def identify(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=identify)


def code(page: Path) -> str:
    """All that stands in backticks, a line each, and the indented or fenced blocks."""
    text = page.read_text()
    blocks = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    fences = [
        line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()
    ]
    outside = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    return "\n".join([*blocks, *fences, *re.findall(r"`([^`\n]+)`", outside)])


@functools.cache
def options(command: str) -> frozenset[str]:
    """The options that a management command's parser knows."""
    app = get_commands()[command]
    assert isinstance(app, str)
    parser = load_command_class(app, command).create_parser("manage.py", command)
    return frozenset(parser._option_string_actions)


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{identify(page)} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{identify(page)} links to {target}"


@every_page
def test_commands_and_their_options_exist(page: Path) -> None:
    ours = {name for name, app in get_commands().items() if app in ("recognition", "training", "fer_site")}
    for line in code(page).splitlines():
        line = line.partition("  #")[0]
        named = re.search(r"(?:manage\.py|manage\.sh) ([a-z_]+)\b(.*)", line) or re.match(
            rf"({'|'.join(ours)})\b(.*)", line
        )
        if not named:
            continue
        command, rest = named.groups()
        assert command in get_commands(), f"{identify(page)}: {line}"
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest):
            assert option in options(command), f"{identify(page)}: {command} has no {option}"


@every_page
def test_options_named_alone_are_those_of_some_command(page: Path) -> None:
    known = frozenset[str]().union(
        *(options(name) for name, app in get_commands().items() if app in ("recognition", "training"))
    )
    elsewhere = {  # of celery, gunicorn, docker, the installer and the start
        *("--beat", "--hostname", "--queues", "--dev", "--port", "--docs", "--help", "--file"),
    }
    for text in re.findall(r"`(--[a-z][a-z-]*)[^`]*`", page.read_text()):
        if text.endswith("-"):  # `--joint-…`
            assert any(option.startswith(text) for option in known), f"{identify(page)}: {text}"
        elif page.name != "training.md" or not _is_old(page, text):
            assert text in known | elsewhere, f"{identify(page)}: {text}"


def _is_old(page: Path, option: str) -> bool:
    """Whether it is one of the old project's, which stand in the left column of the last table."""
    table = page.read_text().partition("## The old project's main.py")[2]
    left = "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    return f"`{option}" in left or option == "--beta1"


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code(page).splitlines():
        named = re.match(r"!?(?:[A-Z_]+=\S+ )?make ([a-z-]+)", line)
        if named:
            assert named[1] in targets, f"{identify(page)}: make {named[1]}"


@every_page
def test_settings_exist(page: Path) -> None:
    documented = set(re.findall(r"^\| `([A-Z_]+)`", (DOCS / "settings.md").read_text(), re.MULTILINE))
    text = code(page)
    named = set(re.findall(r"\b(FER_[A-Z_]*[A-Z])\b", text)) | set(
        re.findall(r"^(?:%env |\$env:)?([A-Z_]{4,})=", text, re.M)
    )

    assert named <= documented | NOT_SETTINGS, f"{identify(page)}"


@every_page
def test_files_and_folders_of_the_project_exist(page: Path) -> None:
    for name in re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./*-]*)", code(page)):
        if "NAME" not in name and name not in ("deploy/env", "deploy/nginx.local.conf"):  # the reader's own
            assert any(ROOT.glob(name.rstrip("./"))), f"{identify(page)}: {name}"


def test_every_page_stands_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()

    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_every_kind_of_data_set_has_its_tree() -> None:
    from ml.datasets import KINDS

    page = DOCS / "datasets.md"
    assert set(KINDS) <= anchors(page)
    assert set(re.findall(r"^\| \[`([\w-]+)`\]", page.read_text(), re.MULTILINE)) == set(KINDS)


def test_every_picture_is_small_and_used() -> None:
    texts = "".join(page.read_text() for page in PAGES)

    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size < 150_000, picture.name
        assert f"images/{picture.name}" in texts, picture.name


def test_the_command_of_windows_is_one_that_the_start_knows() -> None:
    page = (DOCS / "windows-macos.md").read_text()
    (line,) = re.findall(r"-m fer_site\.start (.*)", page)

    assert argument_parser().parse_args(shlex.split(line)).port == 8000
