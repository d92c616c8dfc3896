"""Pictures of a report, drawn by matplotlib in the colours of the admin's light and dark themes.

Figures are objects of their own (no pyplot, no state of the process). matplotlib's text layout keeps caches
that threads must not share, so one picture is drawn at a time.
"""

import io
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ml.expressions import EXPRESSIONS
from ml.metrics import Bin, Metrics
from ml.robustness import LEVELS, UNCHANGED, Kind
from training.reports import Epoch, occurring


@dataclass(frozen=True)
class Colours:
    paper: str
    ink: str
    grid: str
    line: str  # a fold's
    mean: str


COLOURS: Final[dict[str, Colours]] = {
    "light": Colours(paper="#ffffff", ink="#333333", grid="#e4e4e4", line="#7a9fb3", mean="#264b5d"),
    "dark": Colours(paper="#121212", ink="#eeeeee", grid="#2c2c2c", line="#5a7f93", mean="#ffffff"),
}

# What the levels of each kind of change are (ml.robustness).
AXES: Final[dict[Kind, str]] = {
    "rotation": "degrees",
    "scale": "factor",
    "resolution": "pixels a side",
    "blur": "σ, share of the side",
    "noise": "σ, of 255",
    "darkness": "share of light left",
    "occlusion": "the third covered",
}

DOTS_PER_INCH: Final = 300  # what journals ask for
WITHOUT_DATE: Final = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_drawing = Lock()


@dataclass(frozen=True)
class Panel:
    """One picture of curves: which number of which stage."""

    stage: str
    number: str
    title: str
    share: bool  # 0..1, drawn in per cent


PANELS: Final = {
    "mask-loss": Panel("mask", "loss", "Mask stage: loss", share=False),
    "joint-loss": Panel("joint", "loss", "Joint stage: loss", share=False),
    "accuracy": Panel("joint", "accuracy", "Held-out faces: accuracy", share=True),
    "macro-f1": Panel("joint", "macro_f1", "Held-out faces: macro-F1", share=True),
}


def draw_confusion(metrics: Metrics, form: str, theme: str) -> bytes:
    """The confusion matrix: counts, on the share of each true expression in cividis, with its legend.

    form: "svg", "pdf" or "png"; theme: "light" or "dark".
    """
    colours = COLOURS[theme]
    shown = occurring(metrics)
    counts = metrics.confusion[np.ix_(shown, shown)]
    of_row = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, of_row, out=np.full(counts.shape, np.nan), where=of_row > 0)
    names = [EXPRESSIONS[index] for index in shown]

    with _drawing:
        figure, axes = _figure(colours, 5.6, 4.8)
        colour_map = colormaps["cividis"].with_extremes(bad=colours.grid)
        image = axes.imshow(shares, cmap=colour_map, vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            ink = colours.ink if np.isnan(share) else "black" if share > 0.55 else "white"
            axes.text(column, row, str(count), ha="center", va="center", color=ink)
        legend = figure.colorbar(image, ax=axes, format=PercentFormatter(1, symbol=" %"), shrink=0.85)
        legend.set_label("share of the true expression", color=colours.ink)
        legend.ax.tick_params(colors=colours.ink)
        return _render(figure, form)


def draw_curves(epochs: Sequence[Epoch], panel: Panel, form: str, theme: str) -> bytes:
    """One line a fold, and their mean over the epochs that every fold has."""
    colours = COLOURS[theme]
    lines = curves(epochs, panel)

    with _drawing:
        figure, axes = _figure(colours, 4.8, 3.0)
        axes.grid(color=colours.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        alone = len(lines) == 1
        for number, (steps, values) in enumerate(lines.values()):
            axes.plot(
                steps,
                values,
                marker="o" if len(steps) == 1 else None,  # a line needs two points
                markersize=3,
                color=colours.mean if alone else colours.line,
                linewidth=2 if alone else 0.9,
                label=None if number else f"each of {len(lines)} folds",
            )
        if not alone:
            axes.plot(*mean_curve(lines), color=colours.mean, linewidth=2, label="their mean")
            legend = axes.legend(frameon=False, fontsize="small")
            for text in legend.get_texts():
                text.set_color(colours.ink)
        axes.set_title(panel.title, color=colours.ink, fontsize="medium", loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if panel.share:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        else:
            axes.set_ylim(bottom=0)
        return _render(figure, form)


Line = tuple[list[int], list[float]]


def curves(epochs: Sequence[Epoch], panel: Panel) -> dict[int, Line]:
    """Epochs and values of every fold that has any."""
    lines: dict[int, Line] = defaultdict(lambda: ([], []))
    for row in epochs:
        value = getattr(row, panel.number)
        if row.stage == panel.stage and value is not None:
            steps, values = lines[row.fold]
            steps.append(row.epoch)
            values.append(value)
    return dict(lines)


def mean_curve(lines: dict[int, Line]) -> Line:
    """The mean over folds of the epochs that all of them have."""
    by_fold = [dict(zip(*line, strict=True)) for line in lines.values()]
    common = sorted(set.intersection(*(set(values) for values in by_fold))) if by_fold else []
    return common, [float(np.mean([values[step] for values in by_fold])) for step in common]


def describe_curves(epochs: Sequence[Epoch], panel: Panel) -> str:
    """The picture in words, for those who cannot see it."""
    lines = curves(epochs, panel)
    steps, values = mean_curve(lines)
    folds = f"{len(lines)} fold{'' if len(lines) == 1 else 's'}"
    if not steps:
        return f"{panel.title} by epoch, {folds}."
    return (
        f"{panel.title} by epoch, mean of {folds}: {values[0]:.3f} after epoch {steps[0]}, "
        f"{values[-1]:.3f} after epoch {steps[-1]}."
    )


def draw_reliability(lines: Sequence[tuple[str, Sequence[Bin]]], form: str, theme: str) -> bytes:
    """Accuracy against confidence, a line for each (name, bins); what is calibrated lies on the diagonal.

    A point's area is its bin's share of the faces; bins without a face are left out.
    """
    colours = COLOURS[theme]
    with _drawing:
        figure, axes = _figure(colours, 4.8, 4.2)
        axes.plot([0, 1], [0, 1], color=colours.grid, linewidth=1.5, zorder=0)
        for (name, bins), shade, mark in zip(lines, (colours.mean, colours.line), "os", strict=False):
            filled = [row for row in bins if row.faces]
            most = max(row.faces for row in filled)
            places = [row.confidence for row in filled], [row.accuracy for row in filled]
            axes.plot(*places, color=shade, linewidth=1)
            areas = [12 + 110 * row.faces / most for row in filled]
            axes.scatter(*places, s=areas, color=shade, marker=mark, label=name)
        axes.set_xlabel("confidence: the first guess's probability")
        axes.set_ylabel("accuracy")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        _legend(axes, colours)
        return _render(figure, form)


def draw_robustness(lines: Sequence[tuple[str, Sequence[dict[str, Any]]]], form: str, theme: str) -> bytes:
    """Accuracy under each kind of change, a small picture each; lines: (name, rows of a result's JSON)."""
    colours = COLOURS[theme]
    kinds = [kind for kind in LEVELS if any(row["kind"] == kind for _, rows in lines for row in rows)]
    with _drawing:
        figure = Figure((9.0, 5.4), dpi=DOTS_PER_INCH, facecolor=colours.paper, layout="constrained")
        FigureCanvasAgg(figure)
        for place, kind in enumerate(kinds, 1):
            axes = figure.add_subplot(2, 4, place, facecolor=colours.paper)
            _dress(axes, colours)
            for (name, rows), shade, mark in zip(lines, (colours.mean, colours.line), "os", strict=False):
                there = [(row["level"], row["accuracy"]) for row in rows if row["kind"] == kind]
                plain = next(row["accuracy"] for row in rows if row["kind"] is None)
                if kind == "occlusion":
                    axes.plot(*zip(*there, strict=True), mark, color=shade, markersize=5, label=name)
                    axes.axhline(plain, color=shade, linewidth=0.8, linestyle=":")
                    continue
                if kind in UNCHANGED:
                    there = sorted([*there, (UNCHANGED[kind], plain)])
                axes.plot(*zip(*there, strict=True), f"{mark}-", color=shade, markersize=3, label=name)
            axes.set_title(kind, color=colours.ink, fontsize="medium", loc="left")
            axes.set_xlabel(AXES[kind], fontsize="small")
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            axes.tick_params(labelsize="x-small", axis="both")
            if kind in ("resolution", "darkness"):
                axes.invert_xaxis()
        _legend(figure.axes[0], colours)
        return _render(figure, form)


def _legend(axes: Axes, colours: Colours) -> None:
    for text in axes.legend(frameon=False, fontsize="small", loc="best").get_texts():
        text.set_color(colours.ink)


@contextmanager
def lasting_svg() -> Iterator[None]:
    """Within the block the same figures give the same SVG, with letters as letters: small enough to keep."""
    with rc_context({"svg.hashsalt": "fmpn", "svg.fonttype": "none"}):
        yield


def _figure(colours: Colours, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure((width, height), dpi=DOTS_PER_INCH, facecolor=colours.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=colours.paper)
    _dress(axes, colours)
    return figure, axes


def _dress(axes: Axes, colours: Colours) -> None:
    axes.tick_params(colors=colours.ink)
    axes.xaxis.label.set_color(colours.ink)
    axes.yaxis.label.set_color(colours.ink)
    for spine in axes.spines.values():
        spine.set_color(colours.grid)


def _render(figure: Figure, form: str) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=form, metadata=WITHOUT_DATE.get(form))
    return _without_styles(stream.getvalue()) if form == "svg" else stream.getvalue()


def _without_styles(svg: bytes) -> bytes:
    """Styles as attributes of their own, which the site's policy against inline styles lets pass.

    An SVG inside a page never minds, but one opened in a tab of its own would be black all over.
    """

    def attributes(style: re.Match[str]) -> str:
        pairs = (pair.partition(":") for pair in style[1].split(";") if pair.strip())
        return " ".join(
            f'{name}="{value}"' for name, value in {n.strip(): v.strip() for n, _, v in pairs}.items()
        )

    text = re.sub(r"<style.*?</style>", "", svg.decode(), flags=re.DOTALL)
    text = text.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)  # what it said
    return re.sub(r'style="([^"]*)"', attributes, text).encode()
