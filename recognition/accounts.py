"""What a person with an account decides: how long things are kept, to take all of it along, to delete it."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from recognition.models import Analysis, Profile
from recognition.reports import report_analysis, write_csv

KEEP_CHOICES: Final = (
    (1, gettext_lazy("1 day")),
    (7, gettext_lazy("7 days")),
    (30, gettext_lazy("30 days")),
    (365, gettext_lazy("1 year")),
    (None, gettext_lazy("until I delete it")),
)

CHUNK: Final = 256 * 1024  # bytes of a file that are in memory at once


def keep_for(user: User, days: int | None) -> int:
    """Keep all analyses of `user`, earlier ones as well, for `days` from when they were made; None: until they
    are deleted.

    What is older than that already is deleted at once. Returns how many analyses that were.
    """
    with transaction.atomic():
        Profile.objects.update_or_create(user=user, defaults={"keep_days": days})
        user.analyses.update(expires=None if days is None else F("created") + timedelta(days=days))
        _, by_model = user.analyses.expired().delete()
    return by_model.get(Analysis._meta.label, 0)


def delete_everything(user: User) -> None:
    """Delete all that `user` made here: analyses with their pictures and videos, and every note. The account
    itself stays, and with it what it decided and its tokens."""
    with transaction.atomic():
        user.analyses.all().delete()
        user.day_notes.all().delete()


def delete_account(user: User) -> None:
    """Delete `user` and everything that is theirs: analyses with their folders, notes, tokens."""
    user.delete()


# Everything as one ZIP -------------------------------------------------------------------------------------


class _Outbox(io.RawIOBase):
    """Where a ZIP is written to and taken from, piece by piece: it never lies anywhere as a whole."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def export_everything(user: User) -> Iterator[bytes]:
    """All that is kept of `user`, as the bytes of one ZIP: a folder an analysis, with its pictures or video
    and what was read in them as JSON and CSV, and the notes in words and as JSON.

    Memory stays bounded: one file's CHUNK and one analysis's report at a time. A file that is deleted
    meanwhile is left out.
    """
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:
        for member, text in _about(user):
            _add_text(archive, member, text)
            yield outbox.take()
        for analysis in user.analyses.live().order_by("created").iterator(chunk_size=20):
            folder = f"analyses/{timezone.localtime(analysis.created):%Y-%m-%d-%H%M%S}-{analysis.token[:6]}"
            for name, text in _reports(analysis):
                _add_text(archive, f"{folder}/{name}", text)
                yield outbox.take()
            for file in sorted(path for path in analysis.folder.rglob("*") if path.is_file()):
                for _piece in _add_file(archive, f"{folder}/{file.relative_to(analysis.folder)}", file):
                    yield outbox.take()
    yield outbox.take()


def _about(user: User) -> Iterator[tuple[str, str]]:
    """The members of the ZIP that are about the account as a whole: (name, text)."""
    profile, _created = Profile.objects.get_or_create(user=user)
    account = {
        "name": user.username,
        "email": user.email,
        "joined": user.date_joined.isoformat(),
        "keep_days": profile.keep_days,
        "api_tokens": [
            {
                "name": token.name,
                "created": token.created.isoformat(),
                "used": token.used.isoformat() if token.used else None,
            }
            for token in user.api_tokens.all()
        ],
    }
    days = list(user.day_notes.order_by("day"))
    noted = list(user.analyses.live().exclude(note="").order_by("created"))
    notes = {
        "days": [{"day": note.day.isoformat(), "text": note.text} for note in days],
        "analyses": [
            {"analysis": analysis.token, "created": analysis.created.isoformat(), "text": analysis.note}
            for analysis in noted
        ],
    }
    pages = [f"# {_('Notes')}"]
    pages += [f"## {note.day.isoformat()}\n\n{note.text}" for note in days]
    pages += [
        f"## {timezone.localtime(analysis.created):%Y-%m-%d %H:%M}\n\n{analysis.note}" for analysis in noted
    ]
    yield "account.json", _json(account)
    yield "notes.json", _json(notes)
    yield "notes.md", "\n\n".join(pages) + "\n"


def _reports(analysis: Analysis) -> Iterator[tuple[str, str]]:
    """What was read in an analysis, and its own row, as members of the ZIP: (name, text)."""
    about = {
        "analysis": analysis.token,
        "kind": analysis.kind,
        "state": analysis.state,
        "model": analysis.model_name,
        "created": analysis.created.isoformat(),
        "expires": analysis.expires.isoformat() if analysis.expires else None,
        "note": analysis.note,
    }
    yield "analysis.json", _json(about)
    report = report_analysis(analysis)
    yield "expressions.json", _json(report)
    table = io.StringIO(newline="")
    write_csv(report, table)
    yield "expressions.csv", table.getvalue()


def _json(data: object) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _add_text(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(name, text, compress_type=zipfile.ZIP_DEFLATED)


def _add_file(archive: zipfile.ZipFile, name: str, file: Path) -> Iterator[None]:
    """Put a file in, CHUNK by CHUNK, as it is: pictures and videos are packed already."""
    try:
        stream = file.open("rb")
    except FileNotFoundError:
        return
    about = zipfile.ZipInfo(name, time.localtime()[:6])
    with stream, archive.open(about, "w", force_zip64=True) as member:
        while chunk := stream.read(CHUNK):
            member.write(chunk)
            yield
