"""Addresses of the whole site."""

from django.contrib import admin
from django.urls import include, path
from django.views.i18n import set_language

handler500 = "fer_site.logs.server_error"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("language/", set_language, name="set_language"),
    path("", include("recognition.urls")),
]
