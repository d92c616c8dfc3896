"""Hands strangers' files in at the doors of the site, and measures what each of them costs.

`python -m tests.reliability.strangers FOLDER DOOR…` does so in a process that they may try to end, and prints
a JSON line for each file and door (`Outcome`).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from django.test import Client

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What came of a file at a door. said: the sentence that refuses it, or the state in which its reading by
    a worker ended; seconds: of computing; megabytes: at most, above what the process had before;
    resident: megabytes of the process afterwards."""

    file: str
    door: str
    status: int
    said: str
    seconds: float
    megabytes: int
    resident: int

    @property
    def is_answer(self) -> bool:
        """Whether it was taken or refused, and nothing broke."""
        return 200 <= self.status < 300 or 400 <= self.status < 500

    @property
    def is_refused(self) -> bool:
        return 400 <= self.status < 500 or self.said.startswith("failed")


def hand_in(client: "Client", files: Iterable[tuple[str, bytes]], doors: Iterable[str]) -> Iterator[Outcome]:
    """What comes of (name, content) at each door; `client` has to take JSON, and 500 for an error."""
    from recognition.models import Analysis

    chosen = tuple(doors)
    for name, data in files:
        for door in chosen:
            _forget_peak()
            before, began = _memory("VmRSS"), time.process_time()
            status, said = DOORS[door](client, name, data)
            seconds, peak = time.process_time() - began, _memory("VmHWM")
            Analysis.objects.all().delete()
            yield Outcome(name, door, status, said, round(seconds, 3), peak - before, _memory("VmRSS"))


def hand_in_elsewhere(folder: Path, *doors: str, timeout: float) -> list[Outcome]:
    """What comes of every file below `folder`. Fails where one of them ended the process."""
    program = subprocess.run(
        [sys.executable, "-m", "tests.reliability.strangers", folder, *doors],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
    )
    lines = program.stdout.splitlines()
    assert program.returncode == 0, f"{program.returncode} after {lines[-1:]}"
    return [Outcome(**json.loads(line)) for line in lines]


def main(folder: Path, doors: list[str]) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.test import Client

    from recognition import background, services

    settings.FER_UPLOADS_PER_MINUTE = 1_000_000
    settings.ALLOWED_HOSTS = ["testserver"]
    call_command("migrate", verbosity=0)
    background._send = lambda tokens: None  # the workers' part is done here
    services.get_predictor()
    client = Client(raise_request_exception=False, headers={"accept": "application/json"})
    client.post("/sample/eileen-collins/")  # what is made once is there before anything is measured
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = ((str(path.relative_to(folder)), path.read_bytes()) for path in paths)
    for outcome in hand_in(client, files, doors):
        print(json.dumps(asdict(outcome)), flush=True)  # noqa: T201


# The doors --------------------------------------------------------------------------------------------------


def _photo(client: "Client", name: str, data: bytes) -> tuple[int, str]:
    return _said(client.post("/analyse/", {"photos": _upload(name, data)}))


def _frame(client: "Client", name: str, data: bytes) -> tuple[int, str]:
    return _said(client.post("/live/frame/", data, content_type="image/jpeg"))


def _batch(client: "Client", name: str, data: bytes) -> tuple[int, str]:
    return _in_background(client.post("/batch/", {"photos": _upload(name, data)}))


def _video(client: "Client", name: str, data: bytes) -> tuple[int, str]:
    return _in_background(client.post("/video/", {"video": _upload(name, data)}))


DOORS: Final[dict[str, Callable[["Client", str, bytes], tuple[int, str]]]] = {
    "photo": _photo,
    "frame": _frame,
    "batch": _batch,
    "video": _video,
}


def _upload(name: str, data: bytes) -> Any:
    from django.core.files.uploadedfile import SimpleUploadedFile

    return SimpleUploadedFile(name, data)


def _said(response: Any) -> tuple[int, str]:
    answer = response.json() if response["Content-Type"] == "application/json" else {}
    reasons = [rejection["reason"] for rejection in answer.get("rejections", ())]
    return response.status_code, " ".join([answer.get("error", ""), *reasons]).strip()


def _in_background(response: Any) -> tuple[int, str]:
    """And what a worker makes of it."""
    from recognition.models import Analysis
    from recognition.tasks import read_analysis

    if response.status_code == 201:
        token = response.json()["url"].split("/")[2]
        read_analysis(token)
        analysis = Analysis.objects.get(pk=token)
        rejected = analysis.rejections.values_list("reason", flat=True)
        return 201, " ".join([analysis.state, analysis.error, *rejected]).strip()
    return _said(response)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(what: str) -> int:
    """Megabytes of this process now (VmRSS) or at most since `_forget_peak` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{what}:"))
    return int(kilobytes) * 1024 // 1_000_000


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
