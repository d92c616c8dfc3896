"""Pages and files of a run's result, for staff who may view runs. TrainingRunAdmin hangs them in its URLs.

matplotlib is imported where the first picture is asked for: it takes half a second and 40 MB, which a site
that only reads photos need not spend.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_safe

from ml.expressions import EXPRESSIONS
from ml.metrics import Metrics, PairedTest
from training.models import TrainingRun
from training.reports import (
    MEASURES,
    TABLES,
    Comparison,
    Mistake,
    Pair,
    RunReport,
    compare_runs,
    describe_confusion,
    fold_table,
    interval_words,
    occurring,
    report_run,
    settings_of,
    three_digits,
    write_csv,
    write_pairs,
)

MOST_COMPARED: Final = 8  # every two of them are tested
OFFERED: Final = 50  # the latest runs, to choose from
PICTURES: Final = {"svg": "image/svg+xml", "pdf": "application/pdf", "png": "image/png"}
THEMES: Final = ("light", "dark")
TEST_HEADER: Final = ["", "difference", "95 % interval", "paired t, p", "Wilcoxon, p"]

P = ParamSpec("P")
AnyView = Callable[..., HttpResponse]
View = Callable[Concatenate[HttpRequest, P], HttpResponse]


def report_urls(wrap: Callable[[AnyView], AnyView]) -> list[URLPattern]:
    """Everything here, for TrainingRunAdmin.get_urls; `wrap` is admin_site.admin_view."""
    name = "training_trainingrun_{}".format
    return [
        path("compare/", wrap(compare), name=name("compare")),
        path("compare.csv", wrap(compare_csv), name=name("compare_csv")),
        path("<int:run_id>/report/", wrap(report), name=name("report")),
        path("<int:run_id>/report.json", wrap(report_json), name=name("report_json")),
        path("<int:run_id>/report.csv", wrap(report_csv), name=name("report_csv")),
        path("<int:run_id>/confusion.<str:form>", wrap(confusion), name=name("confusion")),
        path("<int:run_id>/curves/<slug:panel>.<str:form>", wrap(curves), name=name("curves")),
    ]


def for_viewers(view: View[P]) -> View[P]:
    """GET alone, and only for who may view runs (admin_view has seen to it that they are staff)."""

    @require_safe
    @wraps(view)
    def checked(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        user = request.user
        if not (user.has_perm("training.view_trainingrun") or user.has_perm("training.change_trainingrun")):
            raise PermissionDenied
        return view(request, *args, **kwargs)

    return checked


def _report(run_id: int) -> RunReport:
    return report_run(get_object_or_404(TrainingRun.objects.select_related("dataset"), pk=run_id))


@for_viewers
def report(request: HttpRequest, run_id: int) -> HttpResponse:
    from training import figures

    run = get_object_or_404(TrainingRun.objects.select_related("dataset"), pk=run_id)
    result = report_run(run)
    panels = [
        {"name": name, "alt": figures.describe_curves(result.epochs, panel), "title": panel.title}
        for name, panel in figures.PANELS.items()
        if figures.curves(result.epochs, panel)
    ]
    return _page(
        request,
        "report",
        title=f"Report of {result.title}",
        run=run,
        report=result,
        folds=fold_table([(words, result, measure) for measure, words in MEASURES.items()]),
        classes=_classes(result.pooled) if result.pooled else None,
        confusion=_confusion_table(result.pooled) if result.pooled else None,
        confusion_alt=describe_confusion(result.pooled) if result.pooled else "",
        mistakes=[_mistake(run, mistake) for mistake in result.mistakes],
        panels=panels,
        settings=settings_of(result),
    )


@for_viewers
def report_json(request: HttpRequest, run_id: int) -> HttpResponse:
    response = JsonResponse(_report(run_id).to_dict(), json_dumps_params={"indent": 2})
    return _download(response, f"run-{run_id}.json")


@for_viewers
def report_csv(request: HttpRequest, run_id: int) -> HttpResponse:
    """One table, ?table=folds where none is named."""
    table = request.GET.get("table", "folds")
    if table not in TABLES:
        raise Http404(f"There is no table {table!r}: there are {', '.join(TABLES)}.")
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    write_csv(_report(run_id), table, response)
    return _download(response, f"run-{run_id}-{table}.csv")


@for_viewers
def confusion(request: HttpRequest, run_id: int, form: str) -> HttpResponse:
    from training import figures

    pooled = _report(run_id).pooled
    if pooled is None:
        raise Http404("No fold of this run is measured yet.")
    return _picture(request, form, lambda form, theme: figures.draw_confusion(pooled, form, theme))


@for_viewers
def curves(request: HttpRequest, run_id: int, panel: str, form: str) -> HttpResponse:
    from training import figures

    epochs = _report(run_id).epochs
    if panel not in figures.PANELS or not figures.curves(epochs, figures.PANELS[panel]):
        raise Http404("This run has no such curves.")
    shown = figures.PANELS[panel]
    return _picture(request, form, lambda form, theme: figures.draw_curves(epochs, shown, form, theme))


@for_viewers
def compare(request: HttpRequest) -> HttpResponse:
    """?run=1&run=2: runs side by side; without them, a list to choose from."""
    numbers, runs = _asked(request)
    problem = ""
    if len(runs) < len(numbers) or len(runs) > MOST_COMPARED:
        problem = (
            f"At most {MOST_COMPARED} runs are compared at once."
            if len(runs) > MOST_COMPARED
            else "Some of these runs no longer exist."
        )
    latest = list(TrainingRun.objects.select_related("dataset")[:OFFERED])
    comparison = compare_runs(runs[:MOST_COMPARED]) if len(runs) > 1 else None
    return _page(
        request,
        "compare",
        title="Compare runs",
        problem=problem,
        comparison=comparison,
        tables={
            words: fold_table([(report.title, report, measure) for report in comparison.reports])
            for measure, words in MEASURES.items()
        }
        if comparison
        else {},
        pairs=[_pair(pair) for pair in comparison.pairs] if comparison else [],
        settings=_settings_table(comparison) if comparison else [],
        chosen=[run.pk for run in runs],
        csv=f"{reverse('admin:training_trainingrun_compare_csv')}?{urlencode([('run', r.pk) for r in runs])}",
        offered=[*latest, *(run for run in runs if run not in latest)],
    )


@for_viewers
def compare_csv(request: HttpRequest) -> HttpResponse:
    """The differences of every two of the runs ?run=1&run=2, fold by fold tested, a line a measure."""
    _, runs = _asked(request)
    if not 1 < len(runs) <= MOST_COMPARED:
        raise Http404(f"From two to {MOST_COMPARED} runs are compared.")
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    write_pairs(compare_runs(runs).pairs, response)
    return _download(response, f"compare-{'-'.join(str(run.pk) for run in runs)}.csv")


def _asked(request: HttpRequest) -> tuple[list[int], list[TrainingRun]]:
    """The numbers that are asked for, and those of these runs that there are."""
    asked = [text for text in request.GET.getlist("run") if re.fullmatch(r"[0-9]{1,18}", text)]
    numbers = list(dict.fromkeys(map(int, asked)))
    found = TrainingRun.objects.select_related("dataset").in_bulk(numbers)
    return numbers, [found[number] for number in numbers if number in found]


def _page(request: HttpRequest, name: str, title: str, **context: object) -> HttpResponse:
    surroundings = {**admin.site.each_context(request), "title": title, "opts": TrainingRun._meta}
    return render(request, f"admin/training/{name}.html", surroundings | context)


def _download(response: HttpResponse, name: str) -> HttpResponse:
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _picture(request: HttpRequest, form: str, draw: Callable[[str, str], bytes]) -> HttpResponse:
    """?theme=dark for a dark page."""
    theme = request.GET.get("theme", "light")
    if form not in PICTURES or theme not in THEMES:
        raise Http404("Pictures are there as svg, pdf and png, for a light and a dark theme.")
    return HttpResponse(draw(form, theme), content_type=PICTURES[form])


def _classes(pooled: Metrics) -> list[list[str]]:
    """A header, and a row for each expression that occurs."""
    rows = [pooled.per_class[index] for index in occurring(pooled)]
    return [["", "precision", "recall", "F1", "support"]] + [
        [row.name, *map(three_digits, (row.precision, row.recall, row.f1)), str(row.support)] for row in rows
    ]


def _confusion_table(pooled: Metrics) -> list[list[str]]:
    shown = occurring(pooled)
    names = [EXPRESSIONS[index] for index in shown]
    counts = pooled.confusion[shown][:, shown].tolist()
    return [["true", *names]] + [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]


def _mistake(run: TrainingRun, mistake: Mistake) -> dict[str, Any]:
    """With the addresses of its pictures, as far as they lie on this machine."""
    pictures = {
        name: reverse("admin:training_trainingrun_file", args=[run.pk, mistake.fold, file])
        for name in ("face", "mask")
        if (run.folder / f"fold_{mistake.fold}" / (file := f"mistakes/{mistake.rank}-{name}.png")).is_file()
    }
    return {
        "mistake": mistake,
        "confidence": f"{100 * mistake.confidence:.0f}\u00a0%",
        "truth": f"{100 * mistake.truth:.0f}\u00a0%",
        **pictures,
    }


def _settings_table(comparison: Comparison) -> list[list[str]]:
    return [
        ["", *(report.title for report in comparison.reports)],
        *([name, *values] for name, values in comparison.settings.items()),
    ]


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "title": f"{pair.first.title} against {pair.second.title}",
        "folds": ", ".join(map(str, pair.folds)),
        "note": pair.note,
        "rows": [TEST_HEADER, *([MEASURES[m], *_test_cells(test)] for m, test in pair.tests.items())]
        if pair.tests
        else [],
        "verdicts": [_verdict(pair, measure) for measure in pair.tests],
    }


def _test_cells(test: PairedTest) -> list[str]:
    return [
        f"{test.difference:+.3f}".replace("-", "−"),
        interval_words(test.interval),
        _p_words(test.t_p),
        _p_words(test.wilcoxon_p),
    ]


def _p_words(p: float | None) -> str:
    return "< 0.001" if p is not None and p < 0.001 else three_digits(p)


def _verdict(pair: Pair, measure: str) -> str:
    """What the interval of the difference says, in a sentence."""
    test = pair.tests[measure]
    if test.interval is None:
        says = "one fold alone cannot say whether a difference is more than chance."
    elif test.interval == (0, 0):
        says = "both runs are equal on every fold."
    elif test.deviation == 0:
        says = "every fold differs by the same, so there is nothing to test."
    elif test.interval[0] <= 0 <= test.interval[1]:
        says = "the interval holds zero, so these folds do not tell the two runs apart."
    else:
        better = pair.first if test.difference > 0 else pair.second
        says = f"{better.title} does better; the interval leaves zero out."
    return f"In {MEASURES[measure]}, {says}"
