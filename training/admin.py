"""Training in the admin: lists of data sets and runs, and the addresses of their pages."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.timezone import localtime

from training import checkpoint_admin, views
from training.forms import DatasetForm
from training.inspecting import ask_for_inspection
from training.models import Checkpoint, Dataset, State, TrainingRun
from training.report_views import report_urls
from training.services import LaunchError


class WithFolderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable when it runs
    """A row that is deleted takes the folder of its files along."""

    def folder_of(self, row: Any) -> Path:
        raise NotImplementedError

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        folder = self.folder_of(obj)
        super().delete_model(request, obj)
        # Not before that can't be undone.
        transaction.on_commit(partial(shutil.rmtree, folder, ignore_errors=True))

    def delete_queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> None:
        for row in queryset:
            self.delete_model(request, row)


@admin.register(TrainingRun)
class TrainingRunAdmin(WithFolderAdmin):
    """Runs are launched, watched, read, compared and deleted; nobody edits one."""

    list_display = ("name", "number", "state_shown", "dataset", "folds_done", "accuracy", "launched")
    list_filter = ("state", "dataset")
    list_select_related = ("dataset",)
    search_fields = ("name", "dataset__name")
    date_hierarchy = "created"
    actions = ("compare",)
    change_list_template = "admin/training/trainingrun/change_list.html"

    class Media:
        css = {"all": ["training/training.css"]}  # noqa: RUF012

    def get_queryset(self, request: HttpRequest) -> QuerySet[TrainingRun]:
        runs: QuerySet[TrainingRun] = super().get_queryset(request)
        return runs.prefetch_related("folds")

    @admin.display(description="run", ordering="pk")
    def number(self, run: TrainingRun) -> int:
        return run.pk

    @admin.display(description="state", ordering="state")
    def state_shown(self, run: TrainingRun) -> str:
        return format_html('<span class="state state-{}">{}</span>', run.state, run.state)

    @admin.display(description="folds")
    def folds_done(self, run: TrainingRun) -> str:
        folds = run.folds.all()
        return f"{sum(fold.state == State.SUCCEEDED for fold in folds)} of {len(folds)}"

    @admin.display(description="accuracy")
    def accuracy(self, run: TrainingRun) -> str | None:
        found = [fold.metrics["accuracy"] for fold in run.folds.all() if fold.metrics]
        return f"{sum(found) / len(found):.1%}" if found else None

    @admin.display(description="launched", ordering="created")
    def launched(self, run: TrainingRun) -> str:
        return f"{localtime(run.created):%Y-%m-%d %H:%M}"

    @admin.action(description="Compare selected training runs", permissions=["view"])
    def compare(self, request: HttpRequest, runs: QuerySet[TrainingRun]) -> HttpResponse | None:
        numbers = list(runs.order_by("pk").values_list("pk", flat=True))
        query = urlencode({"run": numbers}, doseq=True)
        return redirect(f"{reverse('admin:training_trainingrun_compare')}?{query}")

    def get_urls(self) -> list[URLPattern]:
        staff = self.admin_site.admin_view  # asks for a login, and for the token of a POST

        def page(address: str, view: Any, name: str, **options: bool) -> URLPattern:
            guarded = staff(view, **options)
            pattern: URLPattern = path(address, guarded, name=f"training_trainingrun_{name}")
            return pattern

        return [
            page("add/", views.launch, "add"),
            page("<int:run_id>/watch/", views.watch, "watch"),
            page("<int:run_id>/status.json", views.status, "status"),
            page("<int:run_id>/fold/<int:number>/file/<path:path>", views.file, "file", cacheable=True),
            page("<int:run_id>/fold/<int:number>/retry/", views.retry, "retry"),
            page("<int:run_id>/cancel/", views.cancel, "cancel"),
            page("<int:run_id>/resume/", views.resume, "resume"),
            *report_urls(staff),
            *super().get_urls(),
        ]

    def change_view(self, request: HttpRequest, object_id: str, *_: Any, **__: Any) -> HttpResponse:
        """What the admin links to as a run's own page is the page that watches it."""
        if not (object_id.isascii() and object_id.isdecimal()):  # as the page's own address takes it
            raise Http404
        return redirect("admin:training_trainingrun_watch", object_id)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("training.launch_trainingrun"))

    def has_change_permission(self, request: HttpRequest, obj: TrainingRun | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: TrainingRun | None = None) -> bool:
        """A run that still may write files is stopped first."""
        ended = obj is None or obj.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)
        return ended and bool(super().has_delete_permission(request, obj))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, list[Any]]:
        """Django blames the account where it is the run, or its checkpoint, that cannot go yet."""
        deleted, counts, needed, protected = super().get_deleted_objects(objs, request)
        if super().has_delete_permission(request):
            going_on = [run for run in objs if not self.has_delete_permission(request, run)]
            needed -= {run._meta.verbose_name for run in going_on}
            protected += [f"{run}, which has not ended: stop it first" for run in going_on]
        in_service = Checkpoint.objects.filter(fold__run__in=objs, active=True)
        return deleted, counts, *checkpoint_admin.keep_in_service(in_service, request, needed, protected)

    def folder_of(self, row: TrainingRun) -> Path:
        return row.folder


@admin.register(Dataset)
class DatasetAdmin(WithFolderAdmin):
    """Data sets are registered, inspected and deleted; another folder is another data set.

    What is deleted is what this site knows and drew of it: the data itself stays where it lies.
    """

    form = DatasetForm
    list_display = ("name", "kind", "folder", "pictures", "inspected", "state_shown")
    search_fields = ("name", "folder")
    list_filter = ("kind",)
    add_form_template = "admin/training/dataset/add_form.html"

    class Media:
        css = {"all": ["training/training.css"]}  # noqa: RUF012

    @admin.display(description="pictures")
    def pictures(self, dataset: Dataset) -> int | None:
        return dataset.inspection["total"] if dataset.inspection else None

    @admin.display(description="findings")
    def state_shown(self, dataset: Dataset) -> str:
        if dataset.problem:
            return format_html('<span class="state state-failed">{}</span>', "cannot be read")
        found = dataset.inspection
        if found is None:
            return format_html('<span class="state state-queued">{}</span>', "not looked at yet")
        words = [
            f"{len(found[key])} {one if len(found[key]) == 1 else more}"
            for key, one, more in (
                ("leaks", "leaking fold", "leaking folds"),
                ("unreadable", "unreadable", "unreadable"),
                ("duplicates", "group of duplicates", "groups of duplicates"),
            )
            if found[key]
        ]
        state = "interrupted" if words else "succeeded"
        return format_html('<span class="state state-{}">{}</span>', state, ", ".join(words) or "clean")

    def get_urls(self) -> list[URLPattern]:
        staff = self.admin_site.admin_view

        def page(address: str, view: Any, name: str) -> URLPattern:
            pattern: URLPattern = path(
                f"<int:dataset_id>/{address}", staff(view), name=f"training_dataset_{name}"
            )
            return pattern

        return [
            page("change/", views.dataset, "change"),
            page("status.json", views.dataset_status, "status"),
            page("contact.jpg", views.contact_sheet, "contact_sheet"),
            page("inspect/", views.inspect, "inspect"),
            *super().get_urls(),
        ]

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, list[Any]]:
        """A run that trains on a set beside its own would go on, or be compared, without it."""
        deleted, counts, needed, protected = super().get_deleted_objects(objs, request)
        runs = TrainingRun.objects.filter(extra__in=objs).distinct()
        return deleted, counts, needed, [*protected, *(f"{run}, which trains on it as well" for run in runs)]

    def folder_of(self, row: Dataset) -> Path:
        return row.contact_sheet.parent

    def save_model(self, request: HttpRequest, obj: Dataset, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        try:
            ask_for_inspection(obj)
        except LaunchError as error:
            messages.warning(request, f"It could not be looked at: {error}")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # What comes next is the page of what was found, whatever the button.
        buttons = {"show_save_and_add_another": False, "show_save_and_continue": False}
        try:
            response: HttpResponse = super().add_view(request, form_url, {**buttons, **(extra_context or {})})
        except LaunchError as error:  # once the row is there
            messages.warning(request, f"It is registered, but could not be looked at: {error}")
            return redirect("admin:training_dataset_changelist")
        return response

    def response_add(
        self, request: HttpRequest, obj: Dataset, post_url_continue: str | None = None
    ) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:training_dataset_change", args=[obj.pk]))
