from django.contrib.admin.apps import AdminConfig


class SiteAdminConfig(AdminConfig):
    """Django's administration, with our first page."""

    default_site = "fer_site.admin.SiteAdmin"
