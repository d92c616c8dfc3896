"""The admin's pages of runs and data sets: launch, watch, stop, go on, inspect.

`training.admin` gives them their addresses, behind the admin's login; each asks for its own permission.
"""

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.cache import patch_cache_control
from django.views.decorators.http import require_http_methods, require_safe

from ml.datasets import DatasetError
from ml.folds import LeakError
from training import services, watching
from training.forms import LaunchForm, has_known_settings
from training.inspecting import ask_for_inspection, progress_of
from training.models import Checkpoint, Dataset, Fold, TrainingRun
from training.services import LaunchError

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]

# The files of a fold that its pages show; the pattern leaves no way out of the fold's folder.
SHOWN_FILE: Final = re.compile(r"log\.txt|(samples|mistakes)/[a-z0-9-]{1,60}\.png")


def permitted(*permissions: str) -> Callable[[View[P]], View[P]]:
    """Only for staff who have one of these permissions."""

    def decorate(view: View[P]) -> View[P]:
        @wraps(view)
        def checked(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if not any(request.user.has_perm(f"training.{permission}") for permission in permissions):
                raise PermissionDenied
            return view(request, *args, **kwargs)

        return checked

    return decorate


def by_button(page: str) -> Callable[[View[P]], View[P]]:
    """Only by POST, from a button of the admin page of that name.

    Who had to log in first comes back by GET: to that page, with nothing done.
    """

    def decorate(view: View[P]) -> View[P]:
        @wraps(view)
        @require_http_methods(["GET", "HEAD", "POST"])
        def pressed(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if request.method == "POST":
                return view(request, *args, **kwargs)
            messages.warning(request, "Nothing was done: press the button again.")
            return redirect(page, next(iter(kwargs.values())))  # whose page it is comes first in the address

        return pressed

    return decorate


sees_runs = permitted("view_trainingrun", "change_trainingrun")
launches_runs = permitted("launch_trainingrun")
sees_datasets = permitted("view_dataset", "change_dataset")
changes_datasets = permitted("change_dataset")


@launches_runs
@require_http_methods(["GET", "HEAD", "POST"])
def launch(request: HttpRequest) -> HttpResponse:
    """The form of a new run, or of a copy (?clone=ID), and its launch."""
    source = _run_to_clone(request)
    if source and not has_known_settings(source):
        messages.error(request, "Another version launched this run: its settings cannot be copied.")
        return redirect(source)
    if request.method == "POST":
        data = request.POST.copy()
        if "clean_folds" in data:  # the button beside the leaks: new folds in place of the lists
            data["protocol"], data["folds"] = "made", ""
        form = LaunchForm(data, source=source)
        run, leaks = _launch(form, request) if form.is_valid() else (None, [])
        if run:
            return redirect(run)
    else:
        initial = {"dataset": request.GET["dataset"]} if "dataset" in request.GET else {}
        form, leaks = LaunchForm(initial=initial, source=source), []
    context = {
        "title": f"Launch a copy of run {source.pk}" if source else "Launch a training run",
        "form": form,
        "leaks": leaks,
        "has_datasets": Dataset.objects.filter(problem="").exists(),
    }
    return _render(request, "launch.html", TrainingRun, context, status=400 if form.errors else 200)


def _launch(form: LaunchForm, request: HttpRequest) -> tuple[TrainingRun | None, list[str]]:
    """Launch what the form says: the run, or None, the reason being an error of the form. The list: leaks."""
    key = form.cleaned_data["launch_key"]
    again = TrainingRun.objects.filter(launch_key=key).exists()
    try:
        run = services.launch(form.request(request.user))
    except LeakError as error:
        form.add_error("protocol", "Choose other folds, or take the new ones that are offered above.")
        return None, [str(leak) for leak in error.leaks]
    except (LaunchError, DatasetError) as error:
        form.add_error(None, str(error))
        return None, []
    if again:
        messages.info(request, "This form made this run already. To launch another one, open the form anew.")
    else:
        messages.success(request, f"{run} is launched: it starts as soon as a worker is free.")
    return run, []


def _run_to_clone(request: HttpRequest) -> TrainingRun | None:
    number = request.GET.get("clone", "")
    if not number:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", number):
        raise Http404
    if not any(request.user.has_perm(f"training.{name}_trainingrun") for name in ("view", "change")):
        raise PermissionDenied
    return get_object_or_404(TrainingRun, pk=number)


@sees_runs
@require_safe
def watch(request: HttpRequest, run_id: int) -> HttpResponse:
    run = get_object_or_404(TrainingRun.objects.select_related("dataset", "launched_by"), pk=run_id)
    context = {
        "title": run.name,
        "run": run,
        "extra": run.extra.all(),
        "status": watching.describe(run),
        "settings_text": json.dumps(run.config, indent=2),
        "has_checkpoints": Checkpoint.objects.filter(fold__run=run).exists()
        and request.user.has_perm("training.view_checkpoint"),
        "may_launch": request.user.has_perm("training.launch_trainingrun"),
    }
    return _render(request, "watch.html", TrainingRun, context)


@sees_runs
@require_safe
def status(request: HttpRequest, run_id: int) -> HttpResponse:
    """`watching.describe` as JSON; ?known= names the version of the curves that the page has."""
    run = get_object_or_404(TrainingRun, pk=run_id)
    return JsonResponse(watching.describe(run, request.GET.get("known", "")))


@sees_runs
@require_safe
def file(request: HttpRequest, run_id: int, number: int, path: str) -> HttpResponseBase:
    """One of a fold's pictures, or its log."""
    fold = get_object_or_404(Fold.objects.select_related("run"), run=run_id, number=number)
    shown = fold.folder / path
    if not SHOWN_FILE.fullmatch(path) or not shown.is_file():
        raise Http404
    if path == "log.txt":
        return FileResponse(shown.open("rb"), content_type="text/plain; charset=utf-8")
    response = FileResponse(shown.open("rb"), content_type="image/png")
    # Who moves the slider back and forth should not fetch every mask each time.
    patch_cache_control(response, private=True, max_age=60)
    return response


@launches_runs
@by_button("admin:training_trainingrun_watch")
def cancel(request: HttpRequest, run_id: int) -> HttpResponse:
    run = get_object_or_404(TrainingRun, pk=run_id)
    return _act(request, run, services.cancel, "It stops at its next batch; what is done is kept.")


@launches_runs
@by_button("admin:training_trainingrun_watch")
def resume(request: HttpRequest, run_id: int) -> HttpResponse:
    run = get_object_or_404(TrainingRun, pk=run_id)
    return _act(request, run, services.resume, "It goes on where it stopped as soon as a worker is free.")


@launches_runs
@by_button("admin:training_trainingrun_watch")
def retry(request: HttpRequest, run_id: int, number: int) -> HttpResponse:
    fold = get_object_or_404(Fold.objects.select_related("run"), run=run_id, number=number)
    return _act(request, fold, services.retry, f"Fold {number} runs again as soon as a worker is free.")


@sees_datasets
@require_safe
def dataset(request: HttpRequest, dataset_id: int) -> HttpResponse:
    """What was found in a data set."""
    row = get_object_or_404(Dataset, pk=dataset_id)
    found = row.inspection
    counts = found["by_class"] if found else {}
    most = max(counts.values(), default=0)
    context = {
        "title": row.name,
        "dataset": row,
        "found": found,
        "progress": progress_of(row),
        "missing": not row.path.is_dir(),
        "counts": [(name, count, count / most if most else 0) for name, count in counts.items()],
        "has_sheet": found is not None and row.contact_sheet.is_file(),
        "runs": row.runs.all()[:10],
        "may_change": request.user.has_perm("training.change_dataset"),
        "may_delete": request.user.has_perm("training.delete_dataset"),
        "may_launch": request.user.has_perm("training.launch_trainingrun"),
    }
    return _render(request, "dataset.html", Dataset, context)


@sees_datasets
@require_safe
def dataset_status(request: HttpRequest, dataset_id: int) -> HttpResponse:
    """How far the inspection is: {"inspected": time or null, "progress": `progress_of`}."""
    row = get_object_or_404(Dataset, pk=dataset_id)
    return JsonResponse({"inspected": row.inspected, "progress": progress_of(row)})


@sees_datasets
@require_safe
def contact_sheet(request: HttpRequest, dataset_id: int) -> HttpResponseBase:
    path = get_object_or_404(Dataset, pk=dataset_id).contact_sheet
    if not path.is_file():
        raise Http404
    return FileResponse(path.open("rb"), content_type="image/jpeg")


@changes_datasets
@by_button("admin:training_dataset_change")
def inspect(request: HttpRequest, dataset_id: int) -> HttpResponse:
    row = get_object_or_404(Dataset, pk=dataset_id)
    try:
        ask_for_inspection(row)
    except LaunchError as error:
        messages.error(request, str(error))
    return redirect("admin:training_dataset_change", row.pk)


def _act(
    request: HttpRequest, row: TrainingRun | Fold, action: Callable[[Any], object], sentence: str
) -> HttpResponse:
    """Do what a button says, and go back to the run's page with a sentence."""
    try:
        action(row)
    except LaunchError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, sentence)
    return redirect(row if isinstance(row, TrainingRun) else row.run)


def _render(
    request: HttpRequest, template: str, model: type[Model], context: dict[str, Any], status: int = 200
) -> HttpResponse:
    """A page in the admin's own frame."""
    context = {**admin.site.each_context(request), "opts": model._meta, **context}
    return render(request, f"admin/training/{template}", context, status=status)
