"""How something is measured: in turns with its reference, and where need be in a process of its own."""

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fer_site.bench.photos import ROOT

RUNS: Final = 30
WARM_UP: Final = 3
PAUSE: Final = 0.05  # seconds: OpenMP's and Eigen's threads go on spinning after the work that they did


@dataclass(frozen=True)
class Row:
    """One comparison. ours and reference in `unit`; ratio: ours / reference; reach: what it is held to."""

    what: str
    against: str
    unit: str
    ours: float
    reference: float | None
    reach: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.reference if self.reference else None


def take_turns(*tasks: Callable[[], object], runs: int = RUNS) -> list[float]:
    """Median seconds of each task, the tasks in turn, after a warm-up and each after a pause."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for turn in range(WARM_UP + runs):
        for task, times in zip(tasks, seconds, strict=True):
            time.sleep(PAUSE)
            began = time.perf_counter()
            task()
            if turn >= WARM_UP:
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in seconds]


def in_process(function: Callable[..., Any], *arguments: str) -> Any:
    """Call a function of a module in a fresh process and return its JSON.

    Raises RuntimeError, with the end of what it said, where it failed.
    """
    done = subprocess.run(
        _command(function, *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if done.returncode:
        raise RuntimeError(f"{function.__name__} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def beside(function: Callable[[], None], *prefix: str) -> Iterator[str]:
    """A function of a module runs in a process of its own while the block does; it says a line first.

    prefix: what its command begins with. Gives that line; raises RuntimeError where there is none.
    """
    process = subprocess.Popen(
        [*prefix, *_command(function)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{function.__name__} ended before it had begun.")
        yield line.strip()
    finally:
        process.kill()
        process.wait()


def _command(function: Callable[..., Any], *arguments: str) -> list[str]:
    name = f"{function.__module__}:{function.__name__}"
    return [sys.executable, "-m", "fer_site.bench", "--call", name, *arguments]


def call(name: str, arguments: Sequence[str]) -> None:
    """What such a process does: call "module:function" and print its result as a line of JSON."""
    module, function = name.split(":")
    result = getattr(importlib.import_module(module), function)(*arguments)
    if result is not None:
        say(json.dumps(result))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def resident_megabytes(pid: int | str = "self") -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Reference:
    """PyPI's `mtcnn` detecting alone, in a process of its own, on request: a line in, a line out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            _command(serve_reference),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def detect(self, image: NDArray[np.uint8]) -> tuple[float, list[list[float]]]:
        """Seconds that it took, and the boxes."""
        path = self._folder / "reference.npy"
        np.save(path, image)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["boxes"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve_reference() -> None:
    from ml.faces import load_detector

    detector = load_detector("mtcnn-tensorflow")
    for line in sys.stdin:
        image = np.load(line.strip())
        began = time.perf_counter()
        faces = detector.detect(image)
        seconds = time.perf_counter() - began
        say(json.dumps({"seconds": seconds, "boxes": [face.box for face in faces]}))
