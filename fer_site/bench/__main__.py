"""The command."""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import django

import fer_site.bench
from fer_site.bench.growth import growth
from fer_site.bench.measuring import Row, call, say
from fer_site.bench.processes import first_result, http_16_clients, memory
from fer_site.bench.profile import profile
from fer_site.bench.reading import (
    classifier_1_face,
    classifier_32_faces,
    folder_of_1000,
    live_640x480,
    nine_faces_2711x1807,
    one_face_480x640,
    same_faces,
    video_640x480,
)
from fer_site.bench.telling import DOCS, as_json, as_table, machine, write_docs
from fer_site.bench.training import evaluation, training_epoch

ROWS: Final[dict[str, Callable[[], Row]]] = {
    row.__name__: row
    for row in (
        one_face_480x640,
        nine_faces_2711x1807,
        same_faces,
        classifier_1_face,
        classifier_32_faces,
        first_result,
        memory,
        http_16_clients,
        folder_of_1000,
        video_640x480,
        live_640x480,
        training_epoch,
        evaluation,
    )
}


def main(arguments: list[str] | None = None) -> None:
    """Measure the rows asked for, all where none is; write what is to be written."""
    parser = argparse.ArgumentParser(prog="python -m fer_site.bench", description=fer_site.bench.__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and rows (or BENCH_JSON)")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md, with how cost grows")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.call:
        call(options.call, options.rows)
        return
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    rows: dict[str, Row] = {}
    for name in options.rows or ROWS:
        began = time.perf_counter()
        rows[name] = ROWS[name]()
        say(as_table({"": rows[name]}).splitlines()[-1] + f"  ({time.perf_counter() - began:.0f} s)")
    say("\n" + as_table(rows))
    file = options.json or (Path(os.environ["BENCH_JSON"]) if os.environ.get("BENCH_JSON") else None)
    if file:
        file.write_text(json.dumps({"machine": machine(), "rows": as_json(rows)}, indent=1) + "\n")
    if options.docs:
        write_docs(DOCS, rows, {"Where the time of one face at 480×640 goes": profile()} | growth())


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fer_site.settings")
    django.setup()
    main()
