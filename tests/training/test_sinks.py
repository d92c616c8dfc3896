"""The visdom sink, against a real server, and against none."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from threading import Thread
from typing import Any

import pytest

from fer_site.bench.serving import free_port
from ml.engine import EpochReport
from training.sinks import Visdom

# The server alone: its command line would first fetch the scripts of its pages from the internet.
SERVER = (
    "from visdom.server.run_server import start_server; "
    "start_server(port={port}, base_url='', env_path={folder!r}, bind_local=True)"
)


@pytest.fixture
def visdom(tmp_path: Path) -> Iterator[str]:
    if find_spec("visdom") is None:
        pytest.skip("visdom is not installed (see requirements-dev.in)")
    url = f"http://127.0.0.1:{(port := free_port())}"
    log = (tmp_path / "visdom.log").open("w")
    program = SERVER.format(port=port, folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            if process.poll() is not None:
                pytest.skip(
                    f"visdom's server does not start here: {(tmp_path / 'visdom.log').read_text()[-300:]}"
                )
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()
        log.close()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def report(stage: str, epoch: int, loss: float) -> EpochReport:
    return EpochReport(stage, epoch, 3, loss, loss / 2, loss / 3, 100.0, None)  # type: ignore[arg-type]


def window(url: str, environment: str, name: str) -> dict[str, Any]:
    body = json.dumps({"eid": environment, "win": name}).encode()
    request = urllib.request.Request(f"{url}/win_data", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def test_curves_are_drawn_on_a_visdom_server_and_go_on_where_they_were(visdom: str) -> None:
    complaints: list[str] = []
    earlier = [("mask", 1, {"loss": 0.5, "mask_loss": 0.5}), ("joint", 1, {"loss": 3.0, "mask_loss": 1.0})]
    sink = Visdom(visdom + "/", "run 7", "fold 2", earlier, complaints.append)
    sink.write(report("joint", 2, 2.0), None)
    sink.write(report("joint", 3, 1.0), None)
    sink.close()

    assert not complaints
    drawn = window(visdom, "run 7", "fold 2, joint stage: losses")
    lines = {line["name"]: (list(line["x"]), list(line["y"])) for line in drawn["content"]["data"]}
    assert lines["loss"] == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert lines["mask_loss"] == ([1, 2, 3], [1.0, 1.0, 0.5])
    assert lines["classifier_loss"][0] == [2, 3]
    assert drawn["title"] == "fold 2, joint stage: losses"


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of something that speaks first, and no HTTP."""

    class Speaker(BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            self.request.recv(65536)

    with TCPServer(("127.0.0.1", 0), Speaker) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("address", ["http://127.0.0.1:{}", "http://localhost:port"])
def test_what_is_no_visdom_server_is_complained_of_and_stops_nothing(stranger: int, address: str) -> None:
    complaints: list[str] = []
    Visdom(address.format(stranger), "run 7", "fold 2", [], complaints.append).write(
        report("mask", 1, 1.0), None
    )
    assert len(complaints) == 1
    assert "does not answer" in complaints[0]


def test_a_server_that_is_not_there_is_complained_of_once_and_stops_nothing() -> None:
    complaints: list[str] = []
    sink = Visdom(f"http://127.0.0.1:{free_port()}", "run 7", "fold 2", [], complaints.append)
    for epoch in (1, 2):
        sink.write(report("mask", epoch, 1.0), None)
    assert len(complaints) == 1
    assert "does not answer" in complaints[0]
