"""Files from strangers.

What parsers of ours make of input that nobody thought of: Hypothesis in a moment, atheris in ten minutes.
"""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.figures import Figure
from tests.reliability.parsers import PARSERS

ROOT: Final = Path(__file__).resolve().parents[2]

EXAMPLES: Final = 60  # for each parser, the same ones every time
SECONDS: Final = 600

Edits = list[tuple[float, int, bytes]]

# Where to change a sample (a share of its length), how many bytes to take out there, and what to put in.
edits: Final = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from([b"\xff" * 4, b"9" * 400])
    ),
    max_size=4,
)


def changed(sample: bytes, edits: Edits) -> bytes:
    for where, removed, inserted in edits:
        place = round(where * len(sample))
        sample = sample[:place] + inserted + sample[place + removed :]
    return sample


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_answers_or_says_what_is_wrong(name: str, figure: Figure) -> None:
    check, samples = PARSERS[name]
    begin = samples()
    for sample in begin:
        check(sample)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(begin), edits, st.none() | st.binary(max_size=200))
    @example(b"", [], None)
    def check_all(sample: bytes, edits: Edits, instead: bytes | None) -> None:
        check(changed(sample, edits) if instead is None else instead)

    check_all()
    figure(
        "Every parser of ours answers anything with a value of its kind or its own error",
        f"{EXAMPLES} inputs of Hypothesis for each of {len(PARSERS)}: {', '.join(PARSERS)}",
    )


@pytest.mark.slow
def test_ten_minutes_of_atheris_break_no_parser(tmp_path: Path, figure: Figure) -> None:
    pytest.importorskip("atheris", reason="there is no atheris for this system")
    runs = {name: tries(name, SECONDS // len(PARSERS), tmp_path) for name in PARSERS}
    figure(
        "Ten minutes of atheris, guided by what the code does, break no parser",
        f"{sum(runs.values()):,} inputs: " + ", ".join(f"{name} {count:,}" for name, count in runs.items()),
    )


def tries(name: str, seconds: int, folder: Path) -> int:
    """How many inputs atheris gave to it; fails at the first that breaks it, which lies in `folder` then."""
    # Linux counts the peak of the process that begins another as the other one's own.
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limit = f"-rss_limit_mb={ours + 2048}"
    flags = (
        f"-max_total_time={seconds}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        "-seed=1",
        limit,
    )
    run = subprocess.run(
        [sys.executable, "-m", "tests.reliability.fuzzing", name, *flags, "-max_len=20000", "-timeout=30"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},  # it ends without clearing up
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=seconds + 300,
        check=False,
    )
    assert run.returncode == 0, f"{name}: {run.stderr[-3000:]}"
    found = re.search(r"number_of_executed_units: (\d+)", run.stderr)
    assert found, run.stderr[-1000:]
    return int(found[1])
