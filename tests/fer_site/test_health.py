import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.utils import OperationalError
from django.test import Client
from pytest_django import Settings

from recognition import services
from recognition.counters import count_faces
from recognition.models import Analysis


@pytest.fixture
def dead_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OperationalError("the server closed the connection")

    for name in ("cursor", "connect", "ensure_connection"):
        monkeypatch.setattr(connection, name, refuse)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_served", services.ServedPredictor())


@pytest.fixture
def loaded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.ServedPredictor, "is_loaded", True)


def test_it_lives_without_a_database_a_model_or_a_known_host(
    client: Client, dead_database: None, no_model: None
) -> None:
    client.cookies["sessionid"] = "of somebody"

    response = client.get("/livez", headers={"host": "10.0.0.7:8000"})

    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"


@pytest.mark.django_db
def test_it_is_ready_when_the_model_is_loaded_and_the_database_answers(
    client: Client, loaded_model: None
) -> None:
    response = client.get("/readyz", headers={"host": "10.0.0.7:8000"})

    assert response.status_code == 200
    assert response.json() == {"ready": True, "database": "ready", "model": "ready"}


@pytest.mark.django_db
def test_it_is_not_ready_while_the_model_is_being_loaded(client: Client, no_model: None) -> None:
    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json() == {"ready": False, "database": "ready", "model": "is being loaded"}


def test_it_is_not_ready_with_a_dead_database(
    client: Client, dead_database: None, loaded_model: None
) -> None:
    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["database"] == "does not answer, or is not migrated"
    assert response.json()["model"] == "ready"


def test_probes_are_not_sent_to_https(client: Client, settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True

    assert client.get("/livez").status_code == 200


@pytest.mark.django_db
def test_figures_tell_of_requests_analyses_and_queues_and_of_nobody(client: Client) -> None:
    Analysis.objects.create(owner="word", kind="video", state="running", model_name="m")
    token = Analysis.objects.get().token
    client.get(f"/a/{token}/")
    count_faces(3)
    count_faces(2)

    page = client.get("/metrics").content.decode()

    assert 'fer_analyses{kind="video",state="running"} 1.0' in page
    assert "fer_faces_read_total 5.0" in page
    assert "fer_database_up 1.0" in page
    assert "fer_broker_up 0.0" in page
    assert 'django_http_responses_total_by_status_view_method_total{method="GET",status="404"' in page
    assert token not in page


@pytest.mark.django_db
def test_figures_are_for_this_machine_and_who_knows_the_token(client: Client, settings: Settings) -> None:
    def status(address: str, **headers: str) -> int:
        return client.get("/metrics", REMOTE_ADDR=address, headers=headers).status_code

    assert status("127.0.0.1") == status("::1") == 200
    assert status("127.0.0.1", **{"x-forwarded-for": "203.0.113.9"}) == 403
    assert status("203.0.113.9") == status("203.0.113.9", authorization="Bearer ") == 403

    settings.FER_METRICS_TOKEN = "a long word"

    assert status("203.0.113.9", authorization="Bearer a long word") == 200
    assert status("203.0.113.9", authorization="Bearer another word") == 403


def test_figures_come_without_a_database(client: Client, dead_database: None) -> None:
    page = client.get("/metrics").content.decode()

    assert "fer_database_up 0.0" in page
    assert "fer_analyses{" not in page


def test_pages_without_a_database_say_so_with_the_number_of_the_request(
    client: Client, dead_database: None
) -> None:
    assert django_settings.DEBUG is False
    client.cookies["sessionid"] = "of somebody"
    client.raise_request_exception = False

    response = client.get("/")

    assert response.status_code == 500
    assert response["X-Request-ID"] in response.content.decode()
