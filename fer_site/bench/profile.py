"""Where the time of one face goes: a profile of `Predictor.predict`, by its steps."""

import cProfile
import pstats
from pathlib import Path
from typing import Final

from fer_site.bench.measuring import RUNS, WARM_UP
from fer_site.bench.photos import as_jpeg, portrait
from fer_site.bench.reading import read_bytes

Function = tuple[str, str]  # file, name

# What a step consists of: calls of a function, by another one where several call it.
STEPS: Final[dict[str, tuple[Function, Function | None]]] = {
    "decoding": (("uploads.py", "decode_photo"), None),
    "scales of the photo, on sheets": (("faces.py", "_sheets"), None),
    "first network": (("runtime.py", "run"), ("faces.py", "_propose")),
    "boxes of its cells": (("faces.py", "_boxes_of_cells"), None),
    "suppression": (("faces.py", "_suppress"), None),
    "crops of candidates": (("faces.py", "_crop"), None),
    "second and third network": (("runtime.py", "run"), ("faces.py", "_run")),
    "alignment": (("alignment.py", "align_face"), None),
    "model": (("runtime.py", "run"), ("predictor.py", "_read")),
}
# The first network asks for its sheets one by one: what they take is no time of its own.
WITHIN: Final = {"first network": "scales of the photo, on sheets"}


def profile() -> list[tuple[str, str]]:
    """Milliseconds of each step of one face at 480×640, and its share of the whole."""
    data, profiler = as_jpeg(portrait(480, 640)), cProfile.Profile()
    for _ in range(WARM_UP):
        read_bytes(data)
    for _ in range(RUNS):
        profiler.runcall(read_bytes, data)
    seconds: dict[tuple[Function, Function | None], float] = {}
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    for function, (_, _, _, cumulative, callers) in stats.items():
        seconds[_name(function), None] = seconds.get((_name(function), None), 0.0) + cumulative
        for caller, (_, _, _, by_caller) in callers.items():
            key = _name(function), _name(caller)
            seconds[key] = seconds.get(key, 0.0) + by_caller
    whole = seconds[("reading.py", "read_bytes"), None]
    steps = {step: seconds[key] for step, key in STEPS.items()}
    for step, inner in WITHIN.items():
        steps[step] -= steps[inner]
    steps["all else"] = whole - sum(steps.values())
    return [(step, f"{time / RUNS * 1e3:.1f} ms, {time / whole:.0%}") for step, time in steps.items()]


def _name(function: tuple[str, int, str]) -> Function:
    path, _, name = function
    return Path(path).name, name
