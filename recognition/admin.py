from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import Count, Model, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest

from recognition.account_forms import AdminLoginForm
from recognition.models import Analysis, ApiToken, AuditEntry, Face, Photo, Rejection, Track

admin.site.login_form = AdminLoginForm


@admin.register(Analysis)
class AnalysisAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable when it runs
    """How much is kept and since when, and a way to delete it. Whose photos they are, and what they show, is
    for their owners' eyes alone."""

    list_display = (
        "created",
        "kind",
        "state",
        "photos",
        "faces",
        "people",
        "rejections",
        "model_name",
        "expires",
    )
    list_filter = ("created", "kind", "state", "model_name")
    date_hierarchy = "created"
    fields = readonly_fields = ("created", "kind", "state", "error", "expires", "model_name")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Django allows `?note__contains=` and `?user=` too: to ask is a way of reading."""
        return lookup.partition("__")[0] in self.list_filter

    def get_queryset(self, request: HttpRequest) -> QuerySet[Analysis]:
        analyses: QuerySet[Analysis] = super().get_queryset(request)
        # One count each: joined in one query, a batch's faces would be multiplied by its rejections.
        return analyses.annotate(
            photo_count=_count(Photo, "analysis"),
            face_count=_count(Face, "photo__analysis"),
            track_count=_count(Track, "analysis"),
            rejection_count=_count(Rejection, "analysis"),
        )

    def photos(self, analysis: Analysis) -> int:
        return int(getattr(analysis, "photo_count", 0))

    def faces(self, analysis: Analysis) -> int:
        return int(getattr(analysis, "face_count", 0))

    @admin.display(description="people in a video")
    def people(self, analysis: Analysis) -> int:
        return int(getattr(analysis, "track_count", 0))

    def rejections(self, analysis: Analysis) -> int:
        return int(getattr(analysis, "rejection_count", 0))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Analysis | None = None) -> bool:
        return False


def _count(model: type[Model], to_analysis: str) -> Coalesce:
    """How many rows of `model` belong to the analysis of the outer query."""
    own = model._default_manager.filter(**{to_analysis: OuterRef("pk")}).order_by()
    return Coalesce(Subquery(own.values(to_analysis).annotate(count=Count("pk")).values("count")), 0)


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable when it runs
    """Whose programs may call, and a way to revoke a key that has leaked: to delete it."""

    list_display = fields = ("name", "user", "created", "used")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
    date_hierarchy = "created"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        return False


@admin.register(AuditEntry)
class AuditEntryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """To be looked at: nobody adds, changes or deletes what was done."""

    list_display = fields = ("time", "who", "action", "kind", "model_name")
    list_filter = ("action", "kind", "model_name")
    date_hierarchy = "time"

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        entries: QuerySet[AuditEntry] = super().get_queryset(request)
        names = User.objects.filter(pk=OuterRef("user")).values("username")[:1]
        return entries.annotate(username=Subquery(names))

    def who(self, entry: AuditEntry) -> str:
        if entry.user is None:
            return "a visitor"
        return getattr(entry, "username", None) or f"account {entry.user}, which is gone"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: AuditEntry | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: AuditEntry | None = None) -> bool:
        return False
