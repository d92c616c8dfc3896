"""The admin's pages of checkpoints: which there are, which one reads photos, and the buttons for that."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.text import slugify
from django.views.decorators.http import require_safe

from training import checkpoints
from training.models import Checkpoint
from training.views import by_button


@admin.register(Checkpoint)
class CheckpointAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable when it runs
    """Training and `import_checkpoint` make the rows; here they are put in service, fetched and deleted."""

    list_display = ("name", "service", "trained_in", "accuracy", "checksum", "created")
    list_display_links = ("name",)
    search_fields = ("name", "sha256", "fold__run__name")
    fields = ("name", "trained_in", "accuracy", "whole_checksum", "created", "activated", "download")
    readonly_fields = fields
    change_list_template = "admin/training/checkpoint/change_list.html"
    change_form_template = "admin/training/checkpoint/change_form.html"

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """A run's page leads to its own ones."""
        return lookup == "fold__run" or super().lookup_allowed(lookup, value, request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Checkpoint]:
        rows: QuerySet[Checkpoint] = super().get_queryset(request).select_related("fold__run")
        return rows

    def get_list_display(self, request: HttpRequest) -> tuple[Any, ...]:
        """Who may put another one in service has the buttons for it in the place of signs."""
        buttons = self.may_activate(request)
        return tuple(
            self.service_or_button if buttons and name == "service" else name for name in self.list_display
        )

    @admin.display(description="run and fold", ordering="fold")
    def trained_in(self, checkpoint: Checkpoint) -> str:
        if not checkpoint.fold:
            return "imported"
        run = checkpoint.fold.run.get_absolute_url()
        return format_html('<a href="{}">{}</a>', run, checkpoint.fold)

    @admin.display(description="accuracy")
    def accuracy(self, checkpoint: Checkpoint) -> str:
        metrics = checkpoint.fold.metrics if checkpoint.fold else None
        return f"{metrics['accuracy']:.1%}" if metrics else "-"

    @admin.display(description="SHA-256", ordering="sha256")
    def checksum(self, checkpoint: Checkpoint) -> str:
        return format_html('<code title="{}">{}</code>', checkpoint.sha256, checkpoint.sha256[:8])

    @admin.display(description="SHA-256")
    def whole_checksum(self, checkpoint: Checkpoint) -> str:
        return checkpoint.sha256

    @admin.display(description="in service", ordering="active", boolean=True)
    def service(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.active

    @admin.display(description="in service", ordering="active")
    def service_or_button(self, checkpoint: Checkpoint) -> str:
        if checkpoint.active:
            return format_html("<strong>{}</strong>", "In service")
        # The list is a form already, with its token: this button alone sends it elsewhere.
        return format_html(
            '<input type="submit" formaction="{}" value="Put in service" aria-label="{}">',
            reverse("admin:training_checkpoint_activate", args=[checkpoint.pk]),
            f"Put in service: {checkpoint}",
        )

    @admin.display(description="file")
    def download(self, checkpoint: Checkpoint) -> str:
        if not checkpoint.path.is_file():
            return f"{checkpoint.path} is missing."
        url = reverse("admin:training_checkpoint_file", args=[checkpoint.pk])
        size = checkpoint.path.stat().st_size / 1_000_000
        return format_html('<a href="{}" download>Download</a> ({} MB)', url, f"{size:.1f}")

    def get_urls(self) -> list[URLPattern]:
        protected = self.admin_site.admin_view  # asks for a login, and for the token of a POST
        return [
            path("<int:pk>/activate/", protected(self.activate), name="training_checkpoint_activate"),
            path("<int:pk>/go-back/", protected(self.go_back), name="training_checkpoint_go_back"),
            path("<int:pk>/file/", protected(self.file), name="training_checkpoint_file"),
            *super().get_urls(),
        ]

    @method_decorator(by_button("admin:training_checkpoint_change"))
    def activate(self, request: HttpRequest, pk: int) -> HttpResponse:
        checkpoint = self._to_activate(request, pk)
        try:
            checkpoints.activate(checkpoint)
        except checkpoints.ServiceError as error:
            messages.error(request, f"Could not put {checkpoint} in service: {error}")
        else:
            self.log_change(request, checkpoint, "Put in service.")
            messages.success(request, f"Put {checkpoint} in service: every web process uses it in a moment.")
        return redirect("admin:training_checkpoint_changelist")

    @method_decorator(by_button("admin:training_checkpoint_change"))
    def go_back(self, request: HttpRequest, pk: int) -> HttpResponse:
        checkpoint = self._to_activate(request, pk)
        try:
            target = checkpoints.go_back(checkpoint)
        except checkpoints.ServiceError as error:
            messages.error(request, str(error))
        else:
            self.log_change(request, checkpoint, f"Went back to {_name(target)}.")
            messages.success(request, f"Went back to {_name(target)}: every web process uses it in a moment.")
        return redirect("admin:training_checkpoint_changelist")

    @method_decorator(require_safe)
    def file(self, request: HttpRequest, pk: int) -> FileResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        checkpoint = get_object_or_404(Checkpoint, pk=pk)
        if not checkpoint.path.is_file():
            raise Http404(f"{checkpoint.path} is missing.")
        name = f"{slugify(checkpoint.name)}-{checkpoint.sha256[:8]}.safetensors"
        return FileResponse(checkpoint.path.open("rb"), as_attachment=True, filename=name)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        active = Checkpoint.objects.filter(active=True).first()
        context = {
            "title": "Checkpoints",
            "active": active,
            "problem": checkpoints.find_problem(active) if active else None,
            "previous": _name(checkpoints.previous(active)) if active else None,
            "may_activate": self.may_activate(request),
        }
        response: HttpResponse = super().changelist_view(request, context | (extra_context or {}))
        return response

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["may_activate"] = self.may_activate(request)
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def may_activate(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and request.user.has_perm("training.activate_checkpoint")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Checkpoint | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Checkpoint | None = None) -> bool:
        """The one in service stays, also where its run is deleted: another takes its place first."""
        return not (obj and obj.active) and bool(super().has_delete_permission(request, obj))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, list[Any]]:
        deleted, counts, needed, protected = super().get_deleted_objects(objs, request)
        in_service = [checkpoint for checkpoint in objs if checkpoint.active]
        return deleted, counts, *keep_in_service(in_service, request, needed, protected)

    def _to_activate(self, request: HttpRequest, pk: int) -> Checkpoint:
        if not self.may_activate(request):
            raise PermissionDenied
        return get_object_or_404(Checkpoint, pk=pk)


def keep_in_service(
    rows: Iterable[Checkpoint], request: HttpRequest, needed: set[str], protected: list[str]
) -> tuple[set[str], list[str]]:
    """What keeps `rows`, which are in service, from being deleted is that they are, not the account: the
    `needed` permissions and the `protected` rows that say so."""
    if request.user.has_perm("training.delete_checkpoint"):
        kept = [f"{row}, which is in service: put another one in service first" for row in rows]
        if kept:
            return needed - {str(Checkpoint._meta.verbose_name)}, [*protected, *kept]
    return needed, protected


def _name(checkpoint: Checkpoint | None) -> str:
    return str(checkpoint) if checkpoint else "the model that the settings name (FER_CHECKPOINT)"
