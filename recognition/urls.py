from django.urls import path, re_path

from recognition import views

urlpatterns = [
    path("", views.home, name="home"),
    path("analyse/", views.analyse, name="analyse"),
    path("sample/<slug:slug>/", views.sample, name="sample"),
    path("a/<str:token>/", views.analysis, name="analysis"),
    path("a/<str:token>/delete/", views.delete, name="delete"),
    path("a/<str:token>/expressions.json", views.download_json, name="download_json"),
    path("a/<str:token>/expressions.csv", views.download_csv, name="download_csv"),
    # The whole pattern is what keeps a name inside its folder.
    re_path(
        r"^a/(?P<token>[\w-]+)/(?P<filename>photo-\d+(-face-\d+(-mask)?)?\.(jpg|png))$",
        views.picture,
        name="picture",
    ),
]
