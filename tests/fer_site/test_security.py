import time

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from kombu.exceptions import OperationalError

from fer_site import celery_app

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("address", ["/", "/admin/login/", "/no/such/page/", "/static/css/site.css"])
def test_every_answer_carries_the_headers_that_bind_the_browser(client: Client, address: str) -> None:
    headers = client.get(address).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_pages_may_not_be_framed(client: Client) -> None:
    assert client.get("/").headers["X-Frame-Options"] == "DENY"


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(client: Client) -> None:
    User.objects.create_superuser("admin", password="of an administrator")
    client.post(reverse("admin:login"), {"username": "admin", "password": "of an administrator"})
    cookie = client.cookies["sessionid"]

    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"


def test_a_form_of_another_site_is_refused() -> None:
    client = Client(enforce_csrf_checks=True)

    response = client.post(reverse("analyse"), {"photos": SimpleUploadedFile("a.jpg", b"")})

    assert response.status_code == 403


def test_another_host_name_is_refused(client: Client) -> None:
    assert client.get("/", headers={"host": "elsewhere.example.org"}).status_code == 400


def test_without_a_broker_a_task_is_refused_at_once() -> None:
    for _ in range(2):  # the first time also loads what is loaded once
        begin = time.monotonic()
        with pytest.raises(OperationalError):
            celery_app.send_task("recognition.tasks.purge_expired")

    assert time.monotonic() - begin < 3
