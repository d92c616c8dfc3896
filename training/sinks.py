"""Where a fold's curves go besides its rows: TensorBoard's event files, and a visdom server."""

import json
import urllib.request
from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from ml.engine import EpochReport

VISDOM_TIMEOUT: Final = 3.0  # seconds
# What stands in one chart of visdom.
CHARTS: Final = {
    "losses": ("loss", "mask_loss", "classifier_loss"),
    "held-out faces": ("accuracy", "macro_f1"),
}

Numbers = dict[str, float]


class Sink(Protocol):
    """Told after every epoch; masks: the strip of drawn ones, RGB (height, width, 3)."""

    def write(self, report: EpochReport, masks: NDArray[np.uint8] | None) -> None: ...

    def close(self) -> None: ...


def numbers_of(report: EpochReport) -> Numbers:
    """What an epoch's report says in numbers."""
    numbers = {"loss": report.loss, "mask_loss": report.mask_loss, "rate": report.rate}
    if report.stage == "joint":
        numbers["classifier_loss"] = report.classifier_loss
    if report.metrics:
        numbers |= {"accuracy": report.metrics.accuracy, "macro_f1": report.metrics.macro_f1}
    return numbers


class TensorBoard:
    """Event files in `folder`: `tensorboard --logdir var/runs` shows every run and fold.

    tensorboardX writes them, for torch's own writer imports TensorFlow where it is installed.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder), flush_secs=5)

    def write(self, report: EpochReport, masks: NDArray[np.uint8] | None) -> None:
        for name, value in numbers_of(report).items():
            self._writer.add_scalar(f"{report.stage}/{name}", value, report.epoch)
        if masks is not None:
            self._writer.add_image(f"{report.stage}/masks", masks, report.epoch, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Visdom:
    """Charts on a visdom server, one environment a run, drawn anew after every epoch.

    They are sent as plain JSON, as visdom's own client does: no package is needed. A server that does not
    answer costs the curves there, said once by `complain`, and never the training.
    earlier: (stage, epoch, numbers) of the epochs before a resumed run's first.
    """

    def __init__(
        self,
        url: str,
        environment: str,
        title: str,
        earlier: Iterable[tuple[str, int, Numbers]],
        complain: Callable[[str], None],
    ) -> None:
        self._url, self._environment, self._title = url.rstrip("/"), environment, title
        self._points = {(stage, epoch): numbers for stage, epoch, numbers in earlier}
        self._complain, self._is_down = complain, False

    def write(self, report: EpochReport, masks: NDArray[np.uint8] | None) -> None:
        self._points[report.stage, report.epoch] = numbers_of(report)
        for chart, names in CHARTS.items():
            lines = [line for name in names if (line := self._line(report.stage, name))]
            if lines:
                self._draw(f"{self._title}, {report.stage} stage: {chart}", lines)

    def close(self) -> None:
        pass

    def _line(self, stage: str, name: str) -> dict[str, object] | None:
        points = [
            (epoch, numbers[name])
            for (of, epoch), numbers in self._points.items()
            if of == stage and name in numbers
        ]
        if not points:
            return None
        x, y = zip(*sorted(points), strict=True)
        return {"x": x, "y": y, "name": name, "type": "scatter", "mode": "lines+markers"}

    def _draw(self, title: str, lines: list[dict[str, object]]) -> None:
        message = {
            "data": lines,
            "win": title,
            "eid": self._environment,
            "layout": {"title": title, "xaxis": {"title": "epoch"}},
            "opts": {"title": title},
        }
        request = urllib.request.Request(
            f"{self._url}/events", json.dumps(message).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=VISDOM_TIMEOUT) as answer:
                answer.read(65536)  # what it says does not matter, and shall not fill the memory
        except (OSError, ValueError, HTTPException) as error:  # the last: it is no web server at all
            if not self._is_down:
                self._complain(f"The visdom server at {self._url} does not answer ({error}).")
            self._is_down = True
        else:
            self._is_down = False
