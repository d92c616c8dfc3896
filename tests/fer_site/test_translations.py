"""The site in Vietnamese: complete, compiled, and what a person gets who asks for it."""

import gettext
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

ROOT = Path(__file__).resolve().parents[2]
CATALOG = ROOT / "locale" / "vi" / "LC_MESSAGES" / "django.po"
PLACEHOLDER = re.compile(r"%\([a-z_]+\)[sdg]|%d|\{[a-z]+\}|\[(?:count|percent|left|name)\]|</?[a-z]+")

Entries = dict[tuple[str, str], tuple[str, str]]


def entries(path: Path) -> Entries:
    """(context, msgid) → (its plural or the msgid again, the translation), obsolete ones left out."""
    found: Entries = {}
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        texts: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if match := re.match(r'(msg[a-z_]+)(?:\[0\])? (".*")$', line):
                key = match[1]
                texts[key] = json.loads(match[2])
            elif line.startswith('"') and key:
                texts[key] += json.loads(line)
        if texts.get("msgid"):
            source = texts.get("msgid_plural", texts["msgid"])
            found[texts.get("msgctxt", ""), texts["msgid"]] = (source, texts.get("msgstr", ""))
    return found


def test_every_text_is_translated_and_keeps_its_placeholders() -> None:
    catalog = entries(CATALOG)
    assert len(catalog) > 500
    assert "fuzzy" not in CATALOG.read_text(encoding="utf-8")
    assert [msgid for (_, msgid), (_, translated) in catalog.items() if not translated] == []
    changed = [
        source
        for source, translated in catalog.values()
        if set(PLACEHOLDER.findall(source)) != set(PLACEHOLDER.findall(translated))
    ]
    assert changed == []


def test_the_compiled_catalog_says_what_the_catalog_says() -> None:
    with CATALOG.with_suffix(".mo").open("rb") as stream:
        compiled = gettext.GNUTranslations(stream)
    for (context, msgid), (source, translated) in entries(CATALOG).items():
        if source != msgid:
            assert compiled.ngettext(msgid, source, 2) == translated
        else:
            assert (compiled.pgettext(context, msgid) if context else compiled.gettext(msgid)) == translated


@pytest.mark.skipif(shutil.which("xgettext") is None, reason="xgettext is not installed (Debian: gettext)")
def test_no_text_of_the_site_is_missing_in_the_catalog(tmp_path: Path) -> None:
    for part in ("fer_site", "recognition", "training", "ml", "templates"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (tmp_path / "locale" / "vi" / "LC_MESSAGES").mkdir(parents=True)
    command = (
        sys.executable,
        ROOT / "manage.py",
        "makemessages",
        "--locale=vi",
        "--no-wrap",
        "--no-location",
    )
    environment = {"PATH": "/usr/bin:/bin", "SECRET_KEY": "x", "FER_VAR_DIR": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    today = entries(tmp_path / "locale" / "vi" / "LC_MESSAGES" / "django.po")
    assert sorted(today.keys() - entries(CATALOG).keys()) == []
    assert sorted(entries(CATALOG).keys() - today.keys()) == []


@pytest.mark.django_db
def test_who_chooses_vietnamese_gets_it_on_every_page(client: Client) -> None:
    home = reverse("home")
    assert client.post(reverse("set_language"), {"language": "vi", "next": home})["Location"] == home
    titles = {}
    for name in ("home", "batch", "video", "live", "history", "login", "signup", "api_docs"):
        page = client.get(reverse(name)).content.decode()
        assert '<html lang="vi">' in page
        assert "Trang này đọc biểu cảm trên khuôn mặt" in page
        (titles[name],) = re.findall(r"<h1[^>]*>(.*?)</h1>", page, re.DOTALL)
    assert titles["home"] == "Đọc biểu cảm trong một ảnh"
    assert titles["batch"] == "Đọc nhiều ảnh"


@pytest.mark.django_db
def test_another_language_leads_back_to_the_same_page_or_where_that_was_an_answer_to_the_first(
    client: Client,
) -> None:
    login = reverse("login") + "?next=/history/"
    assert f'name="next" value="{login}"' in client.get(login).content.decode()
    refused = client.post(reverse("analyse"))
    assert refused.status_code == 400
    assert f'name="next" value="{reverse("home")}"' in refused.content.decode()


def test_the_browsers_own_language_is_heard(client: Client) -> None:
    page = client.get(reverse("home"), headers={"accept-language": "vi-VN,vi;q=0.9,en;q=0.5"})
    assert "Đọc các biểu cảm" in page.content.decode()
    other = client.get(reverse("home"), headers={"accept-language": "de"})
    assert "Read the expressions" in other.content.decode()


@pytest.mark.django_db
def test_numbers_inside_drawings_are_numbers_in_every_language(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    settings.MEDIA_ROOT = tmp_path
    address = client.post(reverse("sample", args=["eileen-collins"]))["Location"]
    pages = {
        language: client.get(address, headers={"accept-language": language}).content.decode()
        for language in ("en", "vi")
    }
    places = {
        language: re.findall(r' (?:x|y|width|height)="([^"]+)"', page) for language, page in pages.items()
    }
    assert any("." in place for place in places["vi"])
    assert not any("," in place for place in places["vi"])
    assert "vui vẻ" in pages["vi"]
    assert "23\N{NO-BREAK SPACE}giờ" in pages["vi"]
    assert "23\N{NO-BREAK SPACE}hours" in pages["en"]
