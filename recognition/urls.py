from django.contrib.auth.views import LogoutView
from django.urls import path, re_path

from recognition import (
    account_views,
    api_views,
    batch_views,
    compare_views,
    history_views,
    job_views,
    live_views,
    video_views,
    views,
)
from recognition.api import api
from recognition.pictures import FILENAME

urlpatterns = [
    path("accounts/signup/", account_views.SignUp.as_view(), name="signup"),
    path("accounts/login/", account_views.LogIn.as_view(), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
    path("accounts/password/", account_views.ChangePassword.as_view(), name="password"),
    path("accounts/profile/", account_views.ProfilePage.as_view(), name="profile"),
    path("accounts/keys/", api_views.create_token, name="create_token"),
    path("accounts/keys/<int:pk>/revoke/", api_views.revoke_token, name="revoke_token"),
    path("accounts/export/", account_views.export, name="export"),
    path("accounts/delete-everything/", account_views.delete_all, name="delete_everything"),
    path("accounts/delete/", account_views.DeleteAccount.as_view(), name="delete_account"),
    path("history/", history_views.today, name="history"),
    path("history/<int:year>/<int:month>/", history_views.month, name="history_month"),
    path("history/<int:year>/<int:month>/<int:day>/", history_views.day, name="history_day"),
    path("a/<str:token>/note/", history_views.note, name="note"),
    path("api/v1/docs", api_views.docs, name="api_docs"),
    path("api/v1/", api.urls),
    path("", views.home, name="home"),
    path("analyse/", views.analyse, name="analyse"),
    path("sample/<slug:slug>/", views.sample, name="sample"),
    path("batch/", batch_views.batch, name="batch"),
    path("live/", live_views.live, name="live"),
    path("live/frame/", live_views.frame, name="live_frame"),
    path("video/", video_views.video, name="video"),
    path("a/<str:token>/video.mp4", video_views.video_file, name="video_file"),
    path("a/<str:token>/timeline.json", video_views.timeline, name="timeline"),
    path("a/<str:token>/", views.analysis, name="analysis"),
    path("a/<str:token>/photo/<int:number>/", batch_views.photo, name="photo"),
    path("a/<str:token>/photo/<int:number>/compare/", compare_views.compare_models, name="compare"),
    path(
        "a/<str:token>/photo/<int:number>/face/<int:face_number>/explain/",
        compare_views.explain,
        name="explain",
    ),
    path("a/<str:token>/progress.json", job_views.progress, name="progress"),
    path("a/<str:token>/cancel/", job_views.cancel, name="cancel"),
    path("a/<str:token>/delete/", views.delete, name="delete"),
    path("a/<str:token>/expressions.json", views.download_json, name="download_json"),
    path("a/<str:token>/expressions.csv", views.download_csv, name="download_csv"),
    path("a/<str:token>/expressions.xlsx", views.download_xlsx, name="download_xlsx"),
    # The whole pattern is what keeps a name inside its folder.
    re_path(
        rf"^a/(?P<token>[\w-]+)/(?P<filename>{FILENAME.pattern})$",
        views.picture,
        name="picture",
    ),
]
