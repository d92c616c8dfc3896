"""Addresses of the whole site."""

from django.contrib import admin
from django.urls import include, path

admin.site.site_header = admin.site.site_title = "FMPN-FER administration"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("recognition.urls")),
]
