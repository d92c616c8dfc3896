from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.response import TemplateResponse

from fer_site.overview import overview


class SiteAdmin(AdminSite):
    """Django's own, whose first page shows how the site is doing."""

    site_header = site_title = "FMPN-FER administration"

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        context = {"overview": overview(), **(extra_context or {})}
        return super().index(request, context)
