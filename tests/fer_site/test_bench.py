"""The bench: what it measures with, what it writes, and that it fails aloud."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_site.bench import __main__ as command
from fer_site.bench import measuring, telling
from fer_site.bench.measuring import Row, beside, in_process, take_turns
from fer_site.bench.photos import as_jpeg, group, portrait
from fer_site.bench.profile import STEPS, profile
from fer_site.bench.reading import overlap, through_folder
from fer_site.bench.serving import Client, Server, load, web_servers
from fer_site.start import giving_way

FASTER = Row("Reading", "another reader", "ms", 20.0, 100.0, "≤ 0.5", {"faces": 1})
ALONE = Row("Frames", "–", "frames/s", 40.0, None, "≥ 30")
BEFORE = "what was measured before"  # a shorter word may be in the name of a processor: "old" is in Gold
PAGE = f"# Performance\n\n<!-- bench -->\n{BEFORE}\n<!-- /bench -->\n\nWhat was chosen.\n"


def describe() -> dict[str, int]:
    """For a process of its own."""
    return {"pid": os.getpid()}


def fail() -> None:
    raise ValueError("this one fails")


def stay() -> None:
    measuring.say(str(os.getpid()))
    time.sleep(60)


def test_tasks_take_turns_and_the_warm_up_does_not_count() -> None:
    calls: list[str] = []
    seconds = take_turns(lambda: calls.append("a"), lambda: calls.append("b"), runs=2)
    assert calls == ["a", "b"] * (measuring.WARM_UP + 2)
    assert all(0 <= median < 1 for median in seconds)


def test_a_process_of_its_own_answers_in_json_and_fails_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (describe, fail):  # as the child finds them: pytest names this module otherwise
        monkeypatch.setattr(function, "__module__", "tests.fer_site.test_bench")
    assert in_process(describe)["pid"] != os.getpid()
    with pytest.raises(RuntimeError, match=r"fail failed:(.|\n)*this one fails"):
        in_process(fail)


def test_something_runs_beside_a_block_gives_way_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (stay, fail):
        monkeypatch.setattr(function, "__module__", "tests.fer_site.test_bench")
    with beside(stay, *giving_way(5)) as line:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, int(line)) == min(own + 5, 19)
    with pytest.raises(ProcessLookupError):
        os.kill(int(line), 0)
    with pytest.raises(RuntimeError, match="fail ended before it had begun"), beside(fail):
        pass


def test_photos_have_the_size_asked_for_and_are_jpeg() -> None:
    assert portrait(480, 640).size == (480, 640)
    assert group(9, 900, 600).size == (900, 600)
    assert as_jpeg(portrait(30, 40)).startswith(b"\xff\xd8")


def test_overlap_is_the_intersection_over_the_union() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (5, 5, 6, 6)) == 0


@pytest.mark.django_db
def test_a_profile_names_every_step_and_leaves_little_over() -> None:
    steps = dict(profile())
    assert set(STEPS) < set(steps)
    shares = {step: int(text.split(", ")[1].removesuffix("%")) for step, text in steps.items()}
    assert sum(shares.values()) == pytest.approx(100, abs=len(shares))
    assert shares["all else"] < 30


@pytest.mark.django_db
def test_a_folder_is_read_both_ways() -> None:
    single, together = through_folder(3, part=2)
    assert single > 0
    assert together > 0


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """On a machine whose own site is served to others, over HTTPS."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FER_HTTPS", "on")
        environment.setenv("ALLOWED_HOSTS", "faces.example.org")
        with web_servers(2) as servers:
            yield servers


def test_the_bench_s_site_answers_its_clients_whatever_the_machine_s_own_settings(
    servers: list[Server],
) -> None:
    assert Client(servers[0]).get("/").status == 200


def test_clients_are_spread_over_web_processes_and_timed(servers: list[Server]) -> None:
    assert len({server.pid for server in servers}) == len({server.port for server in servers}) == 2
    rate, seconds = load(servers, clients=3, each=2)
    assert len(seconds) == 3 * 2
    assert rate > 0
    assert all(second > 0 for second in seconds)


def test_a_refused_photo_is_an_error_and_no_figure(servers: list[Server]) -> None:
    with pytest.raises(RuntimeError, match="status 4"):
        Client(servers[0]).post(b"no photo")


def test_rows_become_a_table() -> None:
    lines = telling.as_table({"reading": FASTER, "frames": ALONE}).splitlines()
    assert lines[2] == "| Reading | 20 ms | 100 ms (another reader) | 0.20 | ≤ 0.5 |"
    assert lines[3] == "| Frames | 40 frames/s | – | – | ≥ 30 |"


def test_the_page_gets_the_tables_and_keeps_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(PAGE, encoding="utf-8")
    for _ in range(2):  # a second run replaces the first
        telling.write_docs(page, {"reading": FASTER}, {"Faces": [("1", "20 ms"), ("2", "30 ms")]})
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Performance\n\n<!-- bench -->\n")
    assert text.endswith("<!-- /bench -->\n\nWhat was chosen.\n")
    assert BEFORE not in text
    assert text.count("| Reading | 20 ms |") == text.count("| 2 | 30 ms |") == 1


def test_the_command_measures_the_rows_asked_for_and_writes_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROWS", {"reading": lambda: FASTER, "frames": lambda: ALONE})
    command.main(["reading", "--json", str(tmp_path / "bench.json")])
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["rows"] == {"reading": {"ms": 20.0, "reference_ms": 100.0, "ratio": 0.2, "faces": 1}}
    assert written["machine"]["cores"] >= 1
    output = capsys.readouterr().out
    assert "another reader" in output
    assert "Frames" not in output


def test_an_unknown_row_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["one_fase"])
    assert "there is no row one_fase" in capsys.readouterr().err
