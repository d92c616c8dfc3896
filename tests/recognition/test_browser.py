"""The whole way in a real browser: what a person sees and does, from the form to the faces and back."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from ml.expressions import EXPRESSIONS
from recognition import services

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def loaded(transactional_db: None) -> None:
    """The model, which takes its time once: no page need wait for it."""
    services.get_predictor()


@pytest.fixture
def page(chromium: Browser, live_server: LiveServer) -> Iterator[Page]:
    """The first page, in a browser that has never been here; what a script complains of fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(live_server.url)
    yield page
    context.close()
    assert not complaints


@pytest.fixture
def portrait_file(portrait: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "portrait.jpg"
    file.write_bytes(portrait)
    return file


def read(page: Page, *files: Path) -> None:
    page.set_input_files("#photos", list(files))
    page.get_by_role("button", name=re.compile("^Read ")).click()
    page.wait_for_url("**/a/*/", timeout=60_000)


def test_a_photo_goes_from_the_form_to_its_faces(page: Page, portrait_file: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("dear diary")
    send = page.get_by_role("button", name=re.compile("^Read "))
    expect(send).to_be_disabled()

    page.set_input_files("#photos", [portrait_file, notes])
    expect(page.locator("#chosen li")).to_have_count(2)
    expect(page.get_by_text("portrait.jpg")).to_be_visible()
    expect(send).to_have_text("Read 2 photos")
    held: list[Route] = []
    page.route("**/analyse/", lambda route: held.append(route))
    send.click()
    expect(page.locator("#progress").get_by_role("status")).to_have_text("Sending 2 photos…")
    expect(page.get_by_role("progressbar")).to_be_visible()
    for _ in range(400):  # what is sent comes to us a moment later than it is said
        if held:
            break
        page.wait_for_timeout(50)
    held[0].continue_()
    page.wait_for_url("**/a/*/", timeout=60_000)

    expect(page.get_by_role("heading", level=1)).to_have_text("1 face in 1 photo")
    expect(page.get_by_text("notes.txt")).to_be_visible()
    expect(page.get_by_text("This is a text file")).to_be_visible()
    expect(page.get_by_text("Expressions, not feelings")).to_be_visible()
    card = page.locator("article.face")
    heading = re.search(r"Face 1:\s+(\w+)\s+>?(\d+)\s%", card.get_by_role("heading").inner_text())
    assert heading is not None
    word = heading[1]
    assert word in EXPRESSIONS
    box = page.locator(".box")
    expect(box).to_have_count(1)
    expect(page.get_by_role("link", name=re.compile(f"Face 1: {word}"))).to_be_visible()
    expect(box.locator(".word text")).to_have_text(word)
    expect(card.get_by_role("row")).to_have_count(8)
    expect(card.get_by_role("row", name=word)).to_contain_text(heading[2])


def test_the_box_lies_on_the_face(page: Page, portrait_file: Path) -> None:
    read(page, portrait_file)

    picture = page.get_by_role("img", name=re.compile("^Photo 1")).bounding_box()
    box = page.locator(".box .line").bounding_box()
    assert picture is not None
    assert box is not None
    middle = (box["x"] + box["width"] / 2 - picture["x"]) / picture["width"]
    height = (box["y"] + box["height"] / 2 - picture["y"]) / picture["height"]
    assert (middle, height) == pytest.approx((0.435, 0.23), abs=0.03)


def test_bars_are_as_long_as_their_percents_say(page: Page, portrait_file: Path) -> None:
    read(page, portrait_file)

    rows = page.locator(".bars tr")
    expect(rows).to_have_count(8)
    for row in rows.all():
        share = int(re.sub(r"\D", "", row.locator(".share").inner_text()))
        track, fill = (row.locator(part).bounding_box() for part in (".track", ".fill"))
        assert track is not None
        assert fill is not None
        assert 100 * fill["width"] / track["width"] == pytest.approx(share, abs=2)


def test_the_slider_lays_the_motion_mask_over_the_face(page: Page, portrait_file: Path) -> None:
    read(page, portrait_file)
    mask = page.get_by_role("img", name="Motion mask of face 1")
    slider = page.get_by_role("slider", name="Opacity of the motion mask over face 1")

    expect(mask).to_have_css("opacity", "0.5")
    slider.focus()
    page.keyboard.press("End")
    expect(mask).to_have_css("opacity", "1")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("100"))
    page.keyboard.press("Home")
    expect(mask).to_have_css("opacity", "0")
    page.keyboard.press("ArrowRight")
    expect(mask).to_have_css("opacity", "0.01")


def test_box_and_card_lead_to_each_other_by_keyboard(page: Page, portrait_file: Path) -> None:
    read(page, portrait_file)
    box, card = page.locator(".box"), page.locator("article.face")

    box.focus()
    expect(card).to_have_class(re.compile("lit"))
    page.keyboard.press("Enter")
    expect(card).to_be_focused()
    page.keyboard.press("Tab")
    expect(card.get_by_role("link", name="Show face 1 in the photo")).to_be_focused()
    page.keyboard.press("Enter")
    expect(box).to_be_focused()


def test_pointing_at_a_card_lights_its_box(page: Page, portrait_file: Path) -> None:
    read(page, portrait_file)

    page.locator("article.face").hover()
    expect(page.locator(".box")).to_have_class(re.compile("lit"))
    page.get_by_role("heading", level=1).hover()
    expect(page.locator(".box")).not_to_have_class(re.compile("lit"))


# Drops or pastes a photo of that name.
BRING = """([way, name]) => {
    const carried = new DataTransfer();
    carried.items.add(new File(["x"], name, { type: "image/png" }));
    const how = { bubbles: true, cancelable: true, dataTransfer: carried, clipboardData: carried };
    const Way = way === "drop" ? DragEvent : ClipboardEvent;
    document.body.dispatchEvent(new Way(way, how));
}"""


def test_photos_can_be_dropped_and_pasted_and_left_out_again(page: Page) -> None:
    page.evaluate(BRING, ["drop", "dropped.png"])
    page.evaluate(BRING, ["paste", "pasted.png"])
    names = page.locator("#chosen .name")
    expect(names).to_have_text(["dropped.png", "pasted.png"])
    expect(page.get_by_role("status")).to_have_text("2 photos chosen")

    page.get_by_role("button", name="Leave out dropped.png").press("Enter")

    expect(names).to_have_text(["pasted.png"])
    expect(page.get_by_role("status")).to_have_text("1 photo chosen")
    expect(page.get_by_role("button", name="Leave out pasted.png")).to_be_focused()


def drag_and_drop(page: Page, *paths: Path) -> None:
    """As from a window with files."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for step in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": step, "x": 200, "y": 300, "data": data})


@pytest.mark.parametrize("address", ["/", "/batch/", "/video/"])
def test_a_folder_that_is_dropped_is_left_out_with_a_sentence_and_the_files_beside_it_stay(
    page: Page, portrait_file: Path, tmp_path: Path, address: str
) -> None:
    folder = tmp_path / "holidays"
    folder.mkdir()
    page.goto(page.url.rstrip("/") + address)

    drag_and_drop(page, folder)
    expect(page.get_by_role("alert")).to_contain_text("That is a folder")
    expect(page.locator("#send")).to_be_disabled()
    drag_and_drop(page, folder, portrait_file)
    expect(page.get_by_role("alert")).to_contain_text("That is a folder")
    expect(page.locator("#chosen .name")).to_have_text(["portrait.jpg"])
    expect(page.locator("#send")).to_be_enabled()
    expect(page.get_by_role("status")).to_contain_text("1 photo chosen" if address == "/" else "portrait.jpg")


def test_what_keeps_the_files_beside_a_folder_from_being_sent_is_what_is_said(
    page: Page, settings: Settings, portrait_file: Path, tmp_path: Path
) -> None:
    settings.FER_MAX_BATCH_MB = 0.001
    page.goto(page.url + "batch/")

    drag_and_drop(page, tmp_path, portrait_file)

    expect(page.get_by_role("alert")).to_contain_text("This batch is larger than")
    expect(page.locator("#send")).to_be_disabled()


def test_photos_that_are_being_sent_can_be_cancelled_and_no_other_joins_them(
    page: Page, portrait_file: Path
) -> None:
    page.set_input_files("#photos", portrait_file)
    held: list[Route] = []
    page.route("**/analyse/", lambda route: held.append(route))
    send = page.get_by_role("button", name="Read 1 photo")
    send.click()
    expect(page.locator("#progress").get_by_role("status")).to_have_text("Sending 1 photo…")

    page.evaluate(BRING, ["drop", "late.png"])
    page.get_by_role("button", name="Cancel").click()

    expect(page.get_by_role("alert")).to_have_text("Stopped. Nothing was kept.")
    expect(send).to_be_focused()
    expect(page.locator("#chosen .name")).to_have_text(["portrait.jpg"])
    expect(page.get_by_role("progressbar")).to_be_hidden()


# The site takes in all that is sent, and its answer does not come: the connection breaks (code 0), or what
# stands before the site answers in its place.
ANSWER_LOST = """(code) => {
    XMLHttpRequest.prototype.send = function () {
        setTimeout(() => {
            this.upload.dispatchEvent(new ProgressEvent("load"));
            document.body.dataset.stop = document.querySelector("#stop")?.checkVisibility() ?? false;
            Object.defineProperty(this, "status", { value: code });
            this.dispatchEvent(new ProgressEvent(code ? "load" : "error"));
            this.dispatchEvent(new ProgressEvent("loadend"));
        });
    };
}"""


@pytest.mark.parametrize("code", [0, 502])
@pytest.mark.parametrize("address", ["", "/batch/", "/video/"])
def test_what_may_have_arrived_is_not_said_to_be_forgotten(
    page: Page, portrait_file: Path, address: str, code: int
) -> None:
    page.goto(page.url.rstrip("/") + address)
    page.set_input_files("#video" if address == "/video/" else "#photos", portrait_file)
    page.evaluate(ANSWER_LOST, code)

    page.click("#send")

    expect(page.locator("#problem")).to_contain_text("It may have arrived")
    assert page.evaluate("document.body.dataset.stop") == "false", "there is nothing left to be cancelled"


def test_a_sample_photo_needs_no_file_of_ones_own(page: Page) -> None:
    page.get_by_role("button", name="Grace Hopper").click()
    page.wait_for_url("**/a/*/", timeout=60_000)

    expect(page.get_by_role("heading", level=1)).to_have_text("1 face in 1 photo")


def test_what_was_analysed_is_listed_until_it_is_deleted(page: Page, portrait_file: Path) -> None:
    read(page, portrait_file)
    page.get_by_role("button", name="New photos").click()
    page.get_by_role("link", name="1 face in 1 photo").click()

    page.get_by_role("button", name="Delete now").click()

    expect(page.get_by_text("Deleted, with everything that was read in it.")).to_be_visible()
    expect(page.get_by_text("None yet.")).to_be_visible()


def test_it_works_without_scripts(chromium: Browser, live_server: LiveServer, portrait_file: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(live_server.url)

    read(page, portrait_file)
    expect(page.get_by_role("heading", level=1)).to_have_text("1 face in 1 photo")
    expect(page.get_by_role("slider")).to_be_hidden()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_over_the_edge_of_a_phone(
    chromium: Browser, live_server: LiveServer, portrait_file: Path, scheme: str
) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 780}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    for address in (live_server.url, live_server.url + "/nowhere"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.goto(live_server.url)
    read(page, portrait_file)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_the_forms_fit_a_phone_without_scripts(chromium: Browser, live_server: LiveServer) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 780}, java_script_enabled=False)
    page = context.new_page()
    for address in ("/", "/batch/", "/video/"):
        page.goto(live_server.url + address)
        form = page.locator("#upload").bounding_box()
        assert form is not None
        assert form["x"] + form["width"] <= 360, address
    context.close()


def test_the_scale_of_the_mask_is_seen_on_a_phone_in_every_language(
    chromium: Browser, live_server: LiveServer, portrait_file: Path
) -> None:
    for language in ("en", "vi"):
        context = chromium.new_context(viewport={"width": 360, "height": 780}, locale=language)
        page = context.new_page()
        page.goto(live_server.url)
        page.set_input_files("#photos", portrait_file)
        page.locator("#send").click()
        page.wait_for_url("**/a/*/", timeout=60_000)
        scale = page.locator(".reading .ramp").bounding_box()
        assert scale is not None
        assert scale["width"] > 40, language
        context.close()


def test_a_printed_result_has_its_colours_and_no_buttons(page: Page, portrait_file: Path) -> None:
    read(page, portrait_file)
    page.emulate_media(media="print", color_scheme="dark")

    expect(page.locator("main, footer").get_by_role("button")).to_have_count(0)
    expect(page.get_by_role("navigation")).to_have_count(0)
    expect(page.get_by_role("slider")).to_have_count(0)
    expect(page.locator(".face .number")).to_have_css("print-color-adjust", "exact")
    expect(page.locator(".bars .track").first).to_have_css("fill", "rgb(230, 233, 239)")
    expect(page.get_by_role("table")).to_be_visible()


def test_the_pages_are_built_for_everybody(page: Page, portrait_file: Path) -> None:
    for step in ("first page", "result"):
        if step == "result":
            read(page, portrait_file)
        faults = page.evaluate(
            """() => {
                const all = (selector) => [...document.querySelectorAll(selector)];
                const ids = all("[id]").map((part) => part.id);
                const levels = all("h1, h2, h3").map((part) => Number(part.tagName[1]));
                return [
                    ...all("img:not([alt])").map((part) => "picture without words: " + part.src),
                    ...all("input:not([type=hidden])")
                        .filter((part) => !part.labels.length && !part.ariaLabel)
                        .map((part) => "field without a label: " + part.id),
                    ...all("button, a")
                        .filter((part) => !part.textContent.trim() && !part.ariaLabel)
                        .map((part) => "nameless: " + part.outerHTML),
                    ...ids.filter((id, place) => ids.indexOf(id) !== place).map((id) => "twice: " + id),
                    ...levels.filter((level, place) => level > (levels[place - 1] ?? 0) + 1)
                        .map((level) => "heading skips a level: h" + level),
                    ...(document.documentElement.lang ? [] : ["no language"]),
                    ...["h1", "main"]
                        .filter((only) => all(only).length !== 1)
                        .map((only) => "no single " + only),
                ];
            }"""
        )
        assert faults == []
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
