"""A video's sightings as plain data, one after the other: a file of hours is never whole in memory."""

import json
from collections.abc import Iterator
from typing import Any, Final

from ml.expressions import EXPRESSIONS
from recognition.models import Analysis, Sighting
from recognition.reports import LANDMARKS, as_csv, time_of
from recognition.timelines import gap_between
from recognition.videos import picture_size

CSV_COLUMNS: Final = (
    *("seconds", "person", "left", "top", "right", "bottom"),
    *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy"),
    *("confidence", "expression", *EXPRESSIONS, "problem", "model", "time"),
)


def sightings(analysis: Analysis) -> Iterator[Sighting]:
    """All of them in order of time, read from the database a few hundred at a time."""
    found = Sighting.objects.filter(track__analysis=analysis).select_related("track")
    yield from found.order_by("milliseconds", "track__number").iterator(chunk_size=500)


def expression_of(sighting: Sighting) -> str | None:
    """The most probable expression, or None beside a problem."""
    probabilities = sighting.probabilities
    return max(probabilities, key=probabilities.__getitem__) if probabilities else None


def csv_lines(analysis: Analysis) -> Iterator[str]:
    """A header, and one row a sighting: a photo's columns (`reports.COLUMNS`) as far as a sighting has them,
    with seconds and the person's number for photo and face."""
    about = (analysis.model_name, time_of(analysis))
    return as_csv(CSV_COLUMNS, ([*_cells(one), *about] for one in sightings(analysis)))


def _cells(one: Sighting) -> Iterator[object]:
    probabilities = one.probabilities or {}
    yield f"{one.milliseconds / 1000:.3f}"
    yield one.track.number
    yield from one.box
    for name in LANDMARKS:
        yield from one.landmarks.get(name, (None, None))
    yield one.confidence
    yield expression_of(one)
    yield from (probabilities.get(name) for name in EXPRESSIONS)
    yield one.problem


def json_parts(analysis: Analysis) -> Iterator[str]:
    """{"model", "time", "width", "height", "sightings": [{"seconds", "person" and a `FaceReport`}]}.

    One sighting a line, without the report's `sure`. Width and height are the video's, in whose pixels boxes
    and landmarks are.
    """
    width, height = picture_size(analysis) or (None, None)
    head = {"model": analysis.model_name, "time": time_of(analysis), "width": width, "height": height}
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "sightings": ['
    separator = "\n"
    for one in sightings(analysis):
        yield separator + json.dumps(_report(one), ensure_ascii=False)
        separator = ",\n"
    yield "\n]}\n"


def _report(one: Sighting) -> dict[str, object]:
    report: dict[str, object] = {
        "seconds": one.milliseconds / 1000,
        "person": one.track.number,
        "box": one.box,
        "landmarks": one.landmarks,
        "confidence": one.confidence,
        "expression": expression_of(one),
        "probabilities": one.probabilities,
    }
    if one.problem:
        report["problem"] = one.problem
    return report


def timeline(analysis: Analysis) -> dict[str, object]:
    """What the page draws: for each person the gap, in milliseconds, from which they were away; and the
    moments, boxes in whole pixels, the eight probabilities in thousandths (null beside a problem) and the
    problems, in lists side by side."""
    people: dict[int, dict[str, list[Any]]] = {
        number: {"times": [], "boxes": [], "shares": [], "problems": []}
        for number in analysis.tracks.values_list("number", flat=True)
    }
    rows = Sighting.objects.filter(track__analysis=analysis).order_by("milliseconds")
    for number, milliseconds, box, read, problem in rows.values_list(
        "track__number", "milliseconds", "box", "probabilities", "problem"
    ).iterator(chunk_size=500):
        if (person := people.get(number)) is None:  # found since: the video is being read
            continue
        person["times"].append(milliseconds)
        person["boxes"].append([round(side) for side in box])
        person["shares"].append([round(1000 * read[name]) for name in EXPRESSIONS] if read else None)
        person["problems"].append(problem)
    width, height = picture_size(analysis) or (0, 0)
    found = [{"number": n, "gap": gap_between(p["times"]), **p} for n, p in people.items()]
    return {"width": width, "height": height, "people": found}
