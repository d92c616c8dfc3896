"""Pictures of a report, drawn by matplotlib in the colours of the admin's light and dark themes.

Figures are objects of their own (no pyplot, no state of the process). matplotlib's text layout keeps caches
that threads must not share, so one picture is drawn at a time.
"""

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ml.expressions import EXPRESSIONS
from ml.metrics import Metrics
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

DOTS_PER_INCH: Final = 150
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

    form: "svg" or "png"; theme: "light" or "dark".
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
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


def _figure(colours: Colours, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure((width, height), dpi=DOTS_PER_INCH, facecolor=colours.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=colours.paper)
    axes.tick_params(colors=colours.ink)
    axes.xaxis.label.set_color(colours.ink)
    axes.yaxis.label.set_color(colours.ink)
    for spine in axes.spines.values():
        spine.set_color(colours.grid)
    return figure, axes


def _render(figure: Figure, form: str) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=form)
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
