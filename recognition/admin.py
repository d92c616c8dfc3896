from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from recognition.account_forms import AdminLoginForm
from recognition.models import Analysis

admin.site.login_form = AdminLoginForm


@admin.register(Analysis)
class AnalysisAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable when it runs
    """How much is kept and since when, and a way to delete it. Whose photos they are, and what they show, is
    for their owners' eyes alone."""

    list_display = ("created", "expires", "model_name", "photos", "faces", "rejections")
    list_filter = ("created", "model_name")
    date_hierarchy = "created"
    fields = readonly_fields = ("created", "expires", "model_name")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Analysis]:
        analyses: QuerySet[Analysis] = super().get_queryset(request)
        return analyses.annotate(
            photo_count=Count("photos", distinct=True),
            face_count=Count("photos__faces", distinct=True),
            rejection_count=Count("rejections", distinct=True),
        )

    def photos(self, analysis: Analysis) -> int:
        return int(getattr(analysis, "photo_count", 0))

    def faces(self, analysis: Analysis) -> int:
        return int(getattr(analysis, "face_count", 0))

    def rejections(self, analysis: Analysis) -> int:
        return int(getattr(analysis, "rejection_count", 0))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Analysis | None = None) -> bool:
        return False
