"""Checkpoints in the admin: put in service, gone back from, fetched and deleted, by whom and how."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from ml.checkpoint import save_checkpoint
from ml.config import PRESETS
from ml.fmpn import FMPN
from training import checkpoints
from training.models import Checkpoint, Dataset, Fold, State, TrainingRun

pytestmark = pytest.mark.django_db

CONFIG = replace(
    PRESETS["compact"],
    model=replace(PRESETS["compact"].model, image_size=32, mask_channels=4, mask_blocks=1),
)
LIST = reverse("admin:training_checkpoint_changelist")


@pytest.fixture(scope="module")
def model() -> FMPN:
    torch.manual_seed(0)
    return FMPN(CONFIG.model)


@pytest.fixture
def make(settings: Settings, tmp_path: Path, model: FMPN) -> Callable[..., Checkpoint]:
    settings.FER_VAR_DIR = tmp_path

    def make_one(name: str, fold: Fold | None = None) -> Checkpoint:
        path = tmp_path / f"{name}.safetensors"
        facts = {"preset": name, "data": [], "seed": 1, "git_revision": None, "metrics": {}}
        sha256 = save_checkpoint(path, model, CONFIG, facts)
        return Checkpoint.objects.create(name=name, file=path.name, sha256=sha256, fold=fold)

    return make_one


@pytest.fixture
def fold() -> Fold:
    dataset = Dataset.objects.create(name="faces", kind="folders", folder="faces")
    run = TrainingRun.objects.create(name="faces compact", dataset=dataset, preset="compact", config={})
    return Fold.objects.create(run=run, number=3, metrics={"accuracy": 0.8125})


@pytest.fixture
def person() -> Callable[..., Client]:
    """A member of the staff with these permissions, logged in."""

    def log_in(*codenames: str, check_tokens: bool = False) -> Client:
        user = User.objects.create_user("person", is_staff=True)
        for codename in codenames:
            user.user_permissions.add(
                Permission.objects.get(codename=codename, content_type__app_label="training")
            )
        client = Client(enforce_csrf_checks=check_tokens)
        client.force_login(user)
        return client

    return log_in


def url(action: str, checkpoint: Checkpoint) -> str:
    return reverse(f"admin:training_checkpoint_{action}", args=[checkpoint.pk])


def in_service() -> str | None:
    """The name of what is in service by its row, which is what recognition is told."""
    active = Checkpoint.objects.filter(active=True).first()
    told = checkpoints.in_service()
    assert (told and told.sha256) == (active and active.sha256)
    return active.name if active else None


def test_the_list_says_what_reads_the_photos_and_puts_another_in_service(
    admin_client: Client, make: Callable[..., Checkpoint], fold: Fold
) -> None:
    checkpoint = make("first", fold)
    page = admin_client.get(LIST).content.decode()
    assert "The model that the settings name (FER_CHECKPOINT) reads the photos." in page
    for shown in ("faces compact (run", "fold 3", "81.2%", checkpoint.sha256[:8]):
        assert shown in page
    assert f'formaction="{url("activate", checkpoint)}"' in page
    assert "checkpoint/add/" not in page

    answer = admin_client.post(url("activate", checkpoint), follow=True)

    assert in_service() == "first"
    page = answer.content.decode()
    assert "Put first in service: every web process uses it in a moment." in page
    assert "<strong>first</strong> has read the photos since" in page
    assert "Go back" in page
    assert "Put in service." in admin_client.get(url("history", checkpoint)).content.decode(), "who, and when"
    assert admin_client.get(reverse("admin:training_checkpoint_add")).status_code == 403


@pytest.mark.parametrize(
    ("damage", "said"), [("missing", "There is no checkpoint"), ("flipped", "damaged"), ("other", "replaced")]
)
def test_what_cannot_be_used_is_not_put_in_service(
    admin_client: Client, make: Callable[..., Checkpoint], damage: str, said: str
) -> None:
    good, bad = make("good"), make("bad")
    checkpoints.activate(good)
    harm(bad, damage)

    page = admin_client.post(url("activate", bad), follow=True).content.decode()

    assert "Could not put bad in service" in page
    assert said in page
    assert in_service() == "good"
    harm(good, damage)
    assert "It cannot be loaded any more" in admin_client.get(LIST).content.decode()


def test_a_model_of_another_version_is_not_put_in_service(make: Callable[..., Checkpoint]) -> None:
    checkpoint = make("odd")
    other = FMPN(replace(CONFIG.model, mask_channels=8))
    facts = {"preset": "odd", "data": [], "seed": 1, "git_revision": None, "metrics": {}}
    checkpoint.sha256 = save_checkpoint(checkpoint.path, other, CONFIG, facts)
    checkpoint.save()

    with pytest.raises(checkpoints.ServiceError, match="do not fit"):
        checkpoints.activate(checkpoint)
    assert in_service() is None


def test_one_is_in_service_at_most(make: Callable[..., Checkpoint]) -> None:
    for name in ("first", "second", "third"):
        checkpoints.activate(make(name))

        assert in_service() == name
        assert Checkpoint.objects.filter(active=True).count() == 1


def test_going_back_goes_back_step_by_step(admin_client: Client, make: Callable[..., Checkpoint]) -> None:
    first, second, third = (make(name) for name in ("first", "second", "third"))
    for checkpoint in (first, second, third):
        checkpoints.activate(checkpoint)

    page = admin_client.post(url("go_back", third), follow=True).content.decode()
    assert "Went back to second" in page
    assert in_service() == "second"
    assert "Went back to second." in admin_client.get(url("history", third)).content.decode(), "who, and when"
    # The one that was left is no place to go back to, whatever comes next.
    checkpoints.activate(first)
    assert checkpoints.go_back(first) == second
    assert checkpoints.go_back(second) is None
    assert in_service() is None


def test_going_back_passes_over_what_is_damaged(make: Callable[..., Checkpoint]) -> None:
    first, second, third = (make(name) for name in ("first", "second", "third"))
    for checkpoint in (first, second, third):
        checkpoints.activate(checkpoint)
    sound = second.path.read_bytes()
    harm(second, "flipped")

    assert checkpoints.go_back(third) == first
    assert in_service() == "first"
    # Mended, it still is not what was in service before the next one.
    second.path.write_bytes(sound)
    checkpoints.activate(fourth := make("fourth"))
    assert checkpoints.go_back(fourth) == first


def test_a_second_click_goes_back_no_further(admin_client: Client, make: Callable[..., Checkpoint]) -> None:
    first, second = make("first"), make("second")
    checkpoints.activate(first)
    checkpoints.activate(second)

    admin_client.post(url("go_back", second))
    page = admin_client.post(url("go_back", second), follow=True).content.decode()

    assert "second is not in service any more" in page
    assert in_service() == "first"


@pytest.mark.parametrize("action", ["activate", "go_back"])
def test_what_somebody_deletes_meanwhile_is_not_put_in_service_and_nothing_changes(
    admin_client: Client, make: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    first, second = make("first"), make("second")
    checkpoints.activate(first)
    if action == "go_back":
        checkpoints.activate(second)
    target, stays = (second, "first") if action == "activate" else (first, "second")
    sound = checkpoints.find_problem

    def another_person_is_faster(checkpoint: Checkpoint) -> str | None:
        found = sound(checkpoint)  # which takes a while
        Checkpoint.objects.filter(pk=target.pk).delete()
        return found

    monkeypatch.setattr(checkpoints, "find_problem", another_person_is_faster)
    page = admin_client.post(url(action, second), follow=True).content.decode()

    assert f"{target} was deleted meanwhile." in page
    assert in_service() == stays


@pytest.mark.parametrize("action", ["activate", "go_back"])
def test_it_takes_a_post_with_a_token_from_somebody_who_may(
    client: Client, person: Callable[..., Client], make: Callable[..., Checkpoint], action: str
) -> None:
    first, second = make("first"), make("second")
    checkpoints.activate(first)
    target = url(action, second if action == "activate" else first)

    assert client.post(target).status_code == 302, "to the login"
    may = person("view_checkpoint", "activate_checkpoint", check_tokens=True)
    assert may.get(target, follow=True).status_code == 200, "back to the checkpoint's page"
    assert in_service() == "first"
    assert may.post(target).status_code == 403, "without a token"
    assert in_service() == "first"
    may.get(LIST)
    answer = may.post(target, {"csrfmiddlewaretoken": may.cookies["csrftoken"].value})
    assert answer.status_code == 302
    assert in_service() == ("second" if action == "activate" else None)


def test_who_may_only_look_sees_no_button_and_changes_nothing(
    person: Callable[..., Client], make: Callable[..., Checkpoint]
) -> None:
    first, second = make("first"), make("second")
    checkpoints.activate(first)
    client = person("view_checkpoint", "change_checkpoint")

    for page in (LIST, reverse("admin:training_checkpoint_change", args=[second.pk])):
        shown = client.get(page).content.decode()
        assert "second" in shown
        assert "Put in service" not in shown
        assert "Go back" not in shown
    assert client.post(url("activate", second)).status_code == 403
    assert client.post(url("go_back", first)).status_code == 403
    assert in_service() == "first"


def test_the_file_can_be_fetched_by_who_may_look(
    person: Callable[..., Client], make: Callable[..., Checkpoint]
) -> None:
    checkpoint = make("first")
    client = person()
    assert client.get(url("file", checkpoint)).status_code == 403
    client.force_login(User.objects.create_superuser("root"))

    answer = client.get(url("file", checkpoint))

    assert b"".join(answer.streaming_content) == checkpoint.path.read_bytes()  # type: ignore[attr-defined]
    assert (
        answer["Content-Disposition"] == f'attachment; filename="first-{checkpoint.sha256[:8]}.safetensors"'
    )
    harm(checkpoint, "missing")
    assert client.get(url("file", checkpoint)).status_code == 404


def test_the_one_in_service_cannot_be_deleted_nor_can_its_run(
    admin_client: Client, make: Callable[..., Checkpoint], fold: Fold
) -> None:
    active, other = make("active", fold), make("other")
    checkpoints.activate(active)
    chosen = {"action": "delete_selected", "_selected_action": [active.pk, other.pk], "post": "yes"}

    assert (
        admin_client.post(reverse("admin:training_checkpoint_delete", args=[active.pk]), {"post": "yes"})
    ).status_code == 403
    TrainingRun.objects.update(state=State.SUCCEEDED)
    run = {"action": "delete_selected", "_selected_action": [fold.run.pk], "post": "yes"}
    for refusal in (
        admin_client.post(LIST, chosen),
        admin_client.post(reverse("admin:training_trainingrun_changelist"), run),
        admin_client.post(reverse("admin:training_trainingrun_delete", args=[fold.run.pk]), {"post": "yes"}),
    ):
        said = refusal.content.decode()
        assert "active, which is in service: put another one in service first" in said
        assert "your account" not in said

    assert in_service() == "active"
    assert Checkpoint.objects.count() == 2
    assert active.path.is_file()


def test_a_deleted_row_takes_its_file_along(
    admin_client: Client,
    make: Callable[..., Checkpoint],
    django_capture_on_commit_callbacks: Callable[..., object],
) -> None:
    checkpoint = make("first")
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
        admin_client.post(reverse("admin:training_checkpoint_delete", args=[checkpoint.pk]), {"post": "yes"})

    assert not Checkpoint.objects.exists()
    assert not checkpoint.path.exists()


def harm(checkpoint: Checkpoint, damage: str) -> None:
    """Make its file unusable: gone, one bit off, or a sound checkpoint that is another one."""
    if damage == "missing":
        checkpoint.path.unlink()
    elif damage == "flipped":
        data = bytearray(checkpoint.path.read_bytes())
        data[-1000] ^= 1
        checkpoint.path.write_bytes(data)
    else:
        facts = {"preset": "other", "data": [], "seed": 2, "git_revision": None, "metrics": {}}
        save_checkpoint(checkpoint.path, FMPN(CONFIG.model), CONFIG, facts)
