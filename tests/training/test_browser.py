"""The way of a run in a real browser: from the form to the page that follows it. The rows are made here."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from ml.config import PRESETS
from training import tasks
from training.models import Dataset, EpochMetric, Fold, State, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def places(settings: Settings, tmp_path: Path) -> None:
    settings.FER_VAR_DIR = tmp_path / "var"
    settings.FER_DATA_ROOT = tmp_path / "data"
    settings.CELERY_BROKER_URL = "memory://"


@pytest.fixture
def dataset(settings: Settings) -> Dataset:
    root = Path(settings.FER_DATA_ROOT) / "small"
    random = np.random.default_rng(0)
    for word in ("anger", "happiness", "sadness"):
        (root / word).mkdir(parents=True)
        for number in range(4):
            picture = random.integers(0, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(picture).save(root / word / f"{word}-{number}.png")
    return Dataset.objects.create(name="small", kind="folders", folder="small")


def log_in(context: BrowserContext, live_server: LiveServer) -> None:
    client = Client()
    user = User.objects.filter(username="ada").first() or User.objects.create_superuser("ada")
    client.force_login(user)
    cookie = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": cookie, "url": live_server.url}])


@pytest.fixture
def page(chromium: Browser, live_server: LiveServer) -> Iterator[Page]:
    """A page of somebody who may do everything; what a script complains of fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    log_in(context, live_server)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert not [line for line in complaints if "net::ERR_FAILED" not in line]  # those the test asked for


@pytest.fixture
def run(dataset: Dataset) -> TrainingRun:
    """Two folds that wait for a worker."""
    run = TrainingRun.objects.create(
        name="small compact",
        dataset=dataset,
        preset="compact",
        config=PRESETS["compact"].with_epochs(2, 4).to_dict(),
        protocol="made",
        fold_count=2,
    )
    for number in (0, 1):
        Fold.objects.create(run=run, number=number)
    return run


def train(run: TrainingRun, number: int, epochs: int) -> Fold:
    """Leave in the rows and files what a worker does after two mask epochs and some joint ones."""
    fold = run.folds.get(number=number)
    samples = fold.folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    strips = ["faces", "truth"]
    for stage, epoch in [("mask", 1), ("mask", 2), *(("joint", epoch) for epoch in range(1, epochs + 1))]:
        strips.append(f"{stage}-{epoch:04}")
        is_joint = stage == "joint"
        values = {
            "loss": 2 / epoch,
            "mask_loss": 0.1,
            "classifier_loss": 0.4,
            "rate": 120,
            "accuracy": 0.5 + epoch / 10 if is_joint else None,
            "macro_f1": 0.4 + epoch / 10 if is_joint else None,
        }
        EpochMetric.objects.update_or_create(fold=fold, stage=stage, epoch=epoch, defaults=values)
    for name in strips:
        Image.new("RGB", (8 * 96, 96), "teal").save(samples / f"{name}.png")
    with (fold.folder / "log.txt").open("a") as log:
        log.write(f"2026-11-25 12:00:0{epochs}  joint stage, epoch {epochs}/4\n")
    fold.state = State.RUNNING
    fold.progress = {
        "doing": "joint stage",
        "stage": "joint",
        "epoch": epochs + 1,
        "epochs": 4,
        "step": 5,
        "steps": 10,
        "loss": 0.5,
        "rate": 123.4,
        "seconds_left": 95.0,
    }
    fold.save()
    TrainingRun.objects.filter(pk=run.pk).update(state=State.RUNNING)
    return fold


def test_a_run_goes_from_the_form_to_the_page_that_follows_it(
    page: Page, live_server: LiveServer, dataset: Dataset
) -> None:
    page.goto(live_server.url + reverse("admin:training_trainingrun_changelist"))
    page.get_by_role("link", name="Launch a training run").click()
    page.get_by_label("Data set", exact=True).select_option("small")
    expect(page.get_by_label("Batch").first).to_be_hidden()
    page.locator("summary", has_text="Folds").click()
    page.get_by_label("new folds: stratified").check()
    page.get_by_label("How many new folds").fill("2")
    page.locator("summary", has_text="Joint stage").focus()
    page.keyboard.press("Enter")
    batch = page.locator("[name=joint_stage__batch_size]")
    expect(batch).to_have_attribute("placeholder", "64")
    page.get_by_role("radio", name=re.compile("^paper")).check()
    expect(batch).to_have_attribute("placeholder", "16")
    page.get_by_role("radio", name=re.compile("^compact")).check()
    batch.fill("32")
    page.get_by_role("button", name="Launch").dblclick()
    page.wait_for_url("**/watch/", timeout=60_000)

    run = TrainingRun.objects.get()
    assert run.config["joint_stage"]["batch_size"] == 32
    expect(page.locator("#run-state")).to_have_text("queued")
    expect(page.locator("#run-sentence")).to_have_text(re.compile("waits for a worker"))
    expect(page.locator("#folds tr")).to_have_count(2)
    expect(page.get_by_text("The first point comes with the end of the first epoch.")).to_be_visible()


def test_a_number_in_a_field_that_went_out_of_sight_is_no_obstacle(
    page: Page, live_server: LiveServer, dataset: Dataset
) -> None:
    page.goto(live_server.url + reverse("admin:training_trainingrun_add"))
    page.get_by_label("Data set", exact=True).select_option("small")
    page.locator("summary", has_text="Folds").click()
    page.get_by_label("new folds: stratified").check()
    page.get_by_label("How many new folds").fill("1")
    which = page.get_by_label("Which folds")
    for protocol, has_folds in (("lists", True), ("final", False), ("made", True), ("split", False)):
        page.locator(f"[name=protocol][value={protocol}]").check()
        expect(which).to_be_visible(visible=has_folds)
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url("**/watch/", timeout=60_000)

    assert TrainingRun.objects.get().protocol == "split"


def test_the_page_follows_the_run_by_itself(page: Page, live_server: LiveServer, run: TrainingRun) -> None:
    page.goto(live_server.url + run.get_absolute_url())
    expect(page.locator("#run-state")).to_have_text("queued")

    train(run, 0, epochs=1)

    expect(page.locator("#run-state")).to_have_text("running")
    first = page.locator("#folds tr").first
    expect(first).to_contain_text("joint stage, epoch 2 of 4")
    expect(first).to_contain_text("123")
    expect(first).to_contain_text("2 min")
    bar = page.get_by_role("progressbar", name="Progress of fold 0")
    assert bar.evaluate("(bar) => bar.value") == pytest.approx(3.5 / 6)
    for chart in ("mask-loss", "joint-loss", "accuracy"):
        expect(page.locator(f"#{chart} canvas")).to_be_visible()
    expect(page.locator("#accuracy .u-legend")).to_contain_text("60.0")
    expect(page.locator("#log")).to_contain_text("epoch 1/4")
    expect(
        page.get_by_role("img", name="Masks drawn for these faces after joint stage, epoch 1")
    ).to_be_visible()
    assert page.title().startswith("29")

    train(run, 0, epochs=2)
    expect(page.locator("#accuracy .u-legend")).to_contain_text("70.0")
    expect(page.locator("#sample-caption")).to_have_text("Mask after joint stage, epoch 2")

    page.reload()
    expect(page.locator("#accuracy .u-legend")).to_contain_text("70.0")
    expect(first).to_contain_text("joint stage, epoch 3 of 4")

    run.folds.update(state=State.SUCCEEDED, metrics={"accuracy": 0.9})
    TrainingRun.objects.update(state=State.SUCCEEDED)
    expect(page.locator("#run-state")).to_have_text("succeeded")
    expect(page.get_by_role("link", name="Report")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_how_far_a_run_is_is_said_aloud_at_every_tenth_alone(
    page: Page, live_server: LiveServer, run: TrainingRun
) -> None:
    fold = train(run, 0, epochs=1)
    page.goto(live_server.url + run.get_absolute_url())
    shown, said = page.locator("#run-sentence"), page.locator("[role=status]")
    expect(said).to_have_text(shown.inner_text())
    before = said.inner_text()

    fold.progress["seconds_left"] = 4000.0
    fold.save()
    expect(shown).not_to_have_text(before)
    expect(said).to_have_text(before)

    train(run, 0, epochs=3)
    expect(said).not_to_have_text(before)


def test_curves_tell_their_values_to_mouse_and_keyboard(
    page: Page, live_server: LiveServer, run: TrainingRun
) -> None:
    train(run, 0, epochs=3)
    train(run, 1, epochs=2)
    page.goto(live_server.url + run.get_absolute_url())
    legend = page.locator("#accuracy .u-legend")
    box = page.locator("#accuracy .u-over").bounding_box()
    assert box is not None
    expect(legend).to_have_text(re.compile(r"Epoch\s*3\s*fold 0\s*80\.0.%\s*fold 1\s*70\.0.%"))

    page.mouse.move(box["x"] + 3, box["y"] + 20)  # the first epoch
    expect(legend).to_contain_text(re.compile(r"fold 1\s*60\.0"))
    page.mouse.move(10, 10)
    expect(legend).to_contain_text(re.compile(r"fold 1\s*70\.0"))

    page.get_by_role("button", name="Fold 1", exact=True).click()
    expect(page.get_by_role("button", name="Fold 1", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(legend).to_contain_text(re.compile(r"macro-F1\s*60\.0"))
    page.get_by_role("group", name=re.compile("^Held-out faces by epoch")).focus()
    page.keyboard.press("Home")
    expect(page.locator("#accuracy [aria-live]")).to_have_text(
        re.compile("Epoch 1: accuracy 60.0.%, macro-F1 50.0.%")
    )
    page.keyboard.press("ArrowRight")
    expect(page.locator("#accuracy [aria-live]")).to_have_text(re.compile("Epoch 2: accuracy 70.0.%"))

    page.reload()  # the choice is in the address
    expect(page.locator("#accuracy .u-legend")).to_contain_text("macro-F1")
    expect(page.locator("#log-title")).to_have_text("Log of fold 1")


def test_earlier_masks_can_be_looked_at(page: Page, live_server: LiveServer, run: TrainingRun) -> None:
    train(run, 0, epochs=2)
    page.goto(live_server.url + run.get_absolute_url())
    slider = page.get_by_role("slider")
    expect(slider).to_have_attribute("aria-valuetext", "joint stage, epoch 2")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#sample-mask")).to_have_attribute("src", re.compile("samples/mask-0001.png$"))
    expect(
        page.get_by_role("img", name="Masks drawn for these faces after mask stage, epoch 1")
    ).to_be_visible()
    # Who looks back is not torn away by the next epoch.
    train(run, 0, epochs=3)
    expect(page.locator("#accuracy .u-legend")).to_contain_text("80.0")
    expect(slider).to_have_attribute("aria-valuetext", "mask stage, epoch 1")


def test_the_page_says_when_the_server_cannot_be_reached(
    page: Page, live_server: LiveServer, run: TrainingRun
) -> None:
    page.goto(live_server.url + run.get_absolute_url())
    cut: list[Route] = []

    def fail(route: Route) -> None:
        cut.append(route)
        route.abort()

    page.route("**/status.json*", fail)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached since")
    expect(page.locator("#folds tr")).to_have_count(2)  # what was known stays
    page.unroute("**/status.json*")
    train(run, 0, epochs=1)
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#run-state")).to_have_text("running")
    assert cut


def test_buttons_stop_a_run_and_let_it_go_on(page: Page, live_server: LiveServer, run: TrainingRun) -> None:
    page.goto(live_server.url + run.get_absolute_url())
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("It stops at its next batch")).to_be_visible()
    expect(page.locator("#run-state")).to_have_text("cancelled")
    page.get_by_role("button", name="Go on with fold 1 alone").click()
    expect(page.locator("#run-state")).to_have_text("queued")
    assert {fold.number: fold.state for fold in run.folds.all()} == {0: State.CANCELLED, 1: State.QUEUED}


def test_the_page_of_a_data_set_shows_what_is_found_when_it_is_there(
    page: Page, live_server: LiveServer, dataset: Dataset
) -> None:
    page.goto(live_server.url + reverse("admin:training_dataset_change", args=[dataset.pk]))
    page.get_by_role("button", name="Look now").click()
    expect(page.get_by_role("status")).to_have_text("Waiting for a worker")
    tasks.inspect_dataset(dataset.pk)
    expect(page.get_by_role("row", name=re.compile("^happiness"))).to_contain_text("4")
    expect(page.get_by_role("img", name=re.compile("^Some faces of every expression"))).to_be_visible()


def test_the_page_of_a_data_set_says_why_nothing_moves(
    page: Page, live_server: LiveServer, dataset: Dataset
) -> None:
    file = dataset.contact_sheet.with_name("progress.json")
    file.parent.mkdir(parents=True)

    def tell(done: int, seconds_ago: float = 0) -> None:
        file.write_text(json.dumps({"doing": "Reading the pictures", "done": done, "total": 40}))
        os.utime(file, (time.time() - seconds_ago,) * 2)

    tell(8)
    page.goto(live_server.url + reverse("admin:training_dataset_change", args=[dataset.pk]))
    shown, said = page.locator("#progress .says"), page.get_by_role("status")
    alert = page.get_by_role("alert")
    expect(shown).to_have_text("Reading the pictures: 8 of 40")
    expect(said).to_have_text("Reading the pictures: 8 of 40")
    tell(9)
    expect(shown).to_have_text("Reading the pictures: 9 of 40")
    expect(said).to_have_text("Reading the pictures: 8 of 40")  # aloud at every tenth alone
    tell(12)
    expect(said).to_have_text("Reading the pictures: 12 of 40")

    tell(12, seconds_ago=90)
    expect(alert).to_contain_text("Press “Look now” to begin it again.")
    expect(shown).to_be_hidden()
    tell(13)  # it was only slow
    expect(shown).to_have_text("Reading the pictures: 13 of 40")
    expect(alert).to_be_hidden()

    page.route("**/status.json", lambda route: route.abort())
    expect(alert).to_contain_text("The server cannot be reached since")
    page.unroute("**/status.json")
    expect(alert).to_be_hidden()
    page.context.clear_cookies()
    expect(alert).to_have_text("You are logged out: load this page again to log in.")


def test_nothing_runs_over_the_edge_of_a_phone(
    chromium: Browser, live_server: LiveServer, run: TrainingRun
) -> None:
    train(run, 0, epochs=2)
    run.folds.filter(number=1).update(state=State.FAILED, error="No space is left on the device " + "x" * 80)
    run.name = "z" * 90
    run.save(update_fields=["name"])
    tasks.inspect_dataset(run.dataset_id)
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    log_in(context, live_server)
    page = context.new_page()
    for place in (
        reverse("admin:index"),
        reverse("admin:training_trainingrun_compare"),
        reverse("admin:training_trainingrun_report", args=[run.pk]),
        run.get_absolute_url(),
        reverse("admin:training_trainingrun_add") + f"?clone={run.pk}",
        reverse("admin:training_trainingrun_changelist"),
        reverse("admin:training_dataset_change", args=[run.dataset_id]),
        reverse("admin:training_dataset_add"),
    ):
        page.goto(live_server.url + place)
        page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        if place == run.get_absolute_url():
            expect(page.locator("#accuracy canvas")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
    context.close()


def test_the_pages_are_built_for_everybody(page: Page, live_server: LiveServer, run: TrainingRun) -> None:
    train(run, 0, epochs=2)
    tasks.inspect_dataset(run.dataset_id)
    for place in (
        run.get_absolute_url(),
        reverse("admin:training_trainingrun_add"),
        reverse("admin:training_dataset_change", args=[run.dataset_id]),
    ):
        page.goto(live_server.url + place)
        page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        faults = page.evaluate(
            """() => {
                const all = (selector) => [...document.querySelectorAll(`main ${selector}`)];
                const seen = (part) => part.checkVisibility();
                const ids = all("[id]").map((part) => part.id);
                const levels = all(":is(h1, h2, h3)").filter(seen).map((part) => Number(part.tagName[1]));
                return [
                    ...all("img")
                        .filter((part) => seen(part) && !part.alt)
                        .map((part) => "picture without words: " + part.src),
                    ...all(":is(input, select):not([type=hidden], [type=submit])")
                        .filter(seen)
                        .filter((part) => !part.labels.length && !part.ariaLabel)
                        .map((part) => "field without a label: " + part.id),
                    ...all(":is(button, a):not(:has(img))")
                        .filter((part) => !part.textContent.trim() && !part.ariaLabel)
                        .map((part) => "nameless: " + part.outerHTML),
                    ...ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => "twice: " + id),
                    ...levels
                        .filter((level, at) => at && level > levels[at - 1] + 1)
                        .map((level) => "heading skips a level: h" + level),
                    ...(levels.filter((level) => level === 1).length === 1 ? [] : ["no single h1"]),
                ];
            }"""
        )
        assert faults == [], place
