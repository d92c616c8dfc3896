"""What a person with an account decides: how long things are kept, to take all of it along, to delete it."""

import io
import json
import time
import zipfile
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import BinaryIO, Final

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from recognition import exports, video_reports
from recognition.models import Analysis, Profile

KEEP_CHOICES: Final = (
    (1, gettext_lazy("1 day")),
    (7, gettext_lazy("7 days")),
    (30, gettext_lazy("30 days")),
    (365, gettext_lazy("1 year")),
    (None, gettext_lazy("until I delete it")),
)

CHUNK: Final = 256 * 1024  # bytes that are read, and sent, at once
TEXTS: Final = (".json", ".csv", ".md")


def keep_for(user: User, days: int | None) -> int:
    """Keep all analyses of `user` for `days` from when each was made, or until it is deleted (None).

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
    with transaction.atomic():
        delete_everything(user)
        user.delete()


# Everything as one ZIP -------------------------------------------------------------------------------------


class _Outbox(io.RawIOBase):
    """Where a ZIP is written to and taken from, piece by piece: it never lies anywhere as a whole."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0  # bytes that wait in it

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        self._pieces.append(bytes(data))
        self.size += len(data)
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        self.size = 0
        return taken


def export_everything(user: User) -> Iterator[bytes]:
    """All that is kept of `user`, as the bytes of one ZIP: a folder an analysis, with its pictures or video
    and what was read in them as JSON and CSV, and the notes in words and as JSON.

    It is sent while it is made, so that it never lies anywhere as a whole. What is deleted meanwhile is left
    out.
    """
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w") as archive:
        for name, pieces in _members(user):
            about = zipfile.ZipInfo(name, time.localtime()[:6])
            # Pictures and videos are packed already.
            about.compress_type = zipfile.ZIP_DEFLATED if name.endswith(TEXTS) else zipfile.ZIP_STORED
            with archive.open(about, "w", force_zip64=True) as member:
                for piece in pieces:
                    member.write(piece)
                    if outbox.size >= CHUNK:
                        yield outbox.take()
    yield outbox.take()


def _members(user: User) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The files of the ZIP, one after the other: (name, its bytes in pieces)."""
    for name, text in _about(user):
        yield name, [text.encode()]
    # One by one: a query that stays open for as long as somebody reads would show SQLite's old rows.
    for pk in list(user.analyses.live().order_by("created").values_list("pk", flat=True)):
        analysis = user.analyses.filter(pk=pk).first()
        if analysis is None:
            continue
        folder = f"analyses/{timezone.localtime(analysis.created):%Y-%m-%d-%H%M%S}-{analysis.token[:6]}"
        for name, lines in _reports(analysis):
            yield f"{folder}/{name}", (line.encode() for line in lines)
        for file in sorted(path for path in analysis.folder.rglob("*") if path.is_file()):
            try:
                stream = file.open("rb")
            except FileNotFoundError:
                continue
            with stream:
                yield f"{folder}/{file.relative_to(analysis.folder)}", _chunks(stream)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


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


def _reports(analysis: Analysis) -> Iterator[tuple[str, Iterable[str]]]:
    """What stands in an analysis's own row, and what was read in it: (name, text in pieces)."""
    about = {
        "analysis": analysis.token,
        "kind": analysis.kind,
        "state": analysis.state,
        "model": analysis.model_name,
        "created": analysis.created.isoformat(),
        "expires": analysis.expires.isoformat() if analysis.expires else None,
        "note": analysis.note,
    }
    yield "analysis.json", [_json(about)]
    tables = video_reports if analysis.kind == Analysis.Kind.VIDEO else exports
    yield "expressions.json", tables.json_parts(analysis)
    yield "expressions.csv", tables.csv_lines(analysis)


def _json(data: object) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
