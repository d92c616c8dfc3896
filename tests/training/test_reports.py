"""What came of runs, as their pages, files and pictures tell it: the rows and files are made here."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from PIL import Image
from playwright.sync_api import Browser, BrowserContext
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from ml.config import PRESETS
from ml.expressions import EXPRESSIONS
from ml.metrics import evaluate_predictions, paired_test, summarise_folds
from training.figures import PANELS, draw_curves, lasting_svg
from training.models import Dataset, EpochMetric, Fold, State, TrainingRun
from training.reports import Epoch, compare_runs, fold_table, report_run

pytestmark = pytest.mark.django_db

ANGER, DISGUST, HAPPINESS = (EXPRESSIONS.index(name) for name in ("anger", "disgust", "happiness"))
HOSTILE = '<img src=x onerror="alert(1)">'

# Twelve held-out faces a fold: four of three expressions. How many of the happy ones were taken for anger
# differs by fold; one disgusted face is always taken for anger, with 0.9.
LABELS = [ANGER, DISGUST, HAPPINESS] * 4
WRONG = {0: 0, 1: 1, 2: 2}  # fold: happy faces taken for anger


def faces(wrong: int) -> list[dict[str, Any]]:
    """predictions.json's samples."""
    samples: list[dict[str, Any]] = []
    for number, label in enumerate(LABELS):
        happy_before = LABELS[:number].count(HAPPINESS)
        mistaken = number == 1 or (label == HAPPINESS and happy_before < wrong)
        predicted, confidence = (ANGER, 0.9 if number == 1 else 0.6) if mistaken else (label, 0.8)
        probabilities = [(1 - confidence) / 7] * 8
        probabilities[predicted] = confidence
        samples.append({"path": f"imgs/S{number:03}.png", "label": label, "probabilities": probabilities})
    return samples


def measure(fold: Fold, wrong: int) -> None:
    """Finish a fold as the runner does: metrics, curves, predictions and the pictures of its mistakes."""
    samples = faces(wrong)
    metrics = evaluate_predictions(LABELS, [sample["probabilities"] for sample in samples])
    fold.state, fold.metrics = State.SUCCEEDED, metrics.to_dict()
    fold.train_images, fold.test_images = 100, len(LABELS)
    fold.save()
    for epoch in (1, 2):
        EpochMetric.objects.create(
            fold=fold,
            stage="mask",
            epoch=epoch,
            loss=0.4 / epoch,
            mask_loss=0.4 / epoch,
            classifier_loss=0,
            rate=90,
        )
        EpochMetric.objects.create(
            fold=fold,
            stage="joint",
            epoch=epoch,
            loss=1 / epoch,
            mask_loss=0.1,
            classifier_loss=1 / epoch,
            rate=80,
            accuracy=metrics.accuracy * epoch / 2,
            macro_f1=metrics.macro_f1 * epoch / 2,
        )
    mistakes = [
        number for number, sample in enumerate(samples) if sample["probabilities"][sample["label"]] < 0.5
    ]
    mistakes.sort(key=lambda number: -max(samples[number]["probabilities"]))
    document = {"samples": samples, "mistakes": [{"sample": number} for number in mistakes]}
    (fold.folder / "mistakes").mkdir(parents=True)
    (fold.folder / "predictions.json").write_text(json.dumps(document))
    for rank in range(len(mistakes)):
        for name in ("face", "mask"):
            Image.new("RGB", (96, 96), (70, 80, 110)).save(fold.folder / f"mistakes/{rank}-{name}.png")


@pytest.fixture(autouse=True)
def var(settings: Settings, tmp_path: Path) -> Path:
    settings.FER_VAR_DIR = tmp_path
    return tmp_path


MakeRun = Callable[..., TrainingRun]


@pytest.fixture
def make_run() -> MakeRun:
    def make(wrong: dict[int, int], folds: int = 3, **fields: Any) -> TrainingRun:
        dataset, _ = Dataset.objects.get_or_create(name="faces", kind="folders", folder="faces")
        values = {
            "name": "compact on faces",
            "dataset": dataset,
            "preset": "compact",
            "config": PRESETS["compact"].to_dict(),
            "protocol": "made",
            "fold_count": folds,
            "state": State.SUCCEEDED if len(wrong) == folds else State.RUNNING,
        }
        run = TrainingRun.objects.create(**values | fields)
        for number in range(folds):
            fold = Fold.objects.create(run=run, number=number)
            if number in wrong:
                measure(fold, wrong[number])
        return run

    return make


@pytest.fixture
def run(make_run: MakeRun) -> TrainingRun:
    return make_run(WRONG)


@pytest.fixture
def viewer(client: Client) -> Client:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_trainingrun"))
    client.force_login(user)
    return client


def address(name: str, *args: object) -> str:
    return reverse(f"admin:training_trainingrun_{name}", args=args)


def page(client: Client, run: TrainingRun) -> str:
    response = client.get(address("report", run.pk))
    assert response.status_code == 200
    return response.content.decode()


def comparison(client: Client, *runs: TrainingRun) -> str:
    response = client.get(address("compare"), {"run": [run.pk for run in runs]})
    assert response.status_code == 200
    return response.content.decode()


def rows(client: Client, run: TrainingRun, table: str) -> list[dict[str, str]]:
    text = client.get(address("report_csv", run.pk), {"table": table}).content.decode()
    return list(csv.DictReader(io.StringIO(text)))


# The report ------------------------------------------------------------------------------------------------


def test_a_report_gathers_folds_classes_mistakes_and_curves(run: TrainingRun) -> None:
    report = report_run(run)

    assert report.notes == ()
    # Of twelve faces one disgusted one is always wrong, and none, one or two happy ones.
    assert report.measured("accuracy") == pytest.approx({0: 11 / 12, 1: 10 / 12, 2: 9 / 12})
    assert report.accuracy == summarise_folds([11 / 12, 10 / 12, 9 / 12])
    assert report.pooled is not None
    assert report.pooled.accuracy == pytest.approx(30 / 36)
    assert report.pooled.confusion[DISGUST, ANGER] == 3
    assert report.pooled.confusion[HAPPINESS, ANGER] == 3
    assert report.pooled.per_class[ANGER].precision == pytest.approx(12 / 18)
    assert report.pooled.per_class[HAPPINESS].support == 12
    assert len(report.epochs) == 3 * 4
    assert {row.stage for row in report.epochs if row.accuracy is None} == {"mask"}


def test_the_most_confident_mistakes_of_all_folds_come_first(run: TrainingRun) -> None:
    mistakes = report_run(run).mistakes

    assert [(m.fold, m.rank, m.confidence) for m in mistakes] == [
        (0, 0, 0.9),
        (1, 0, 0.9),
        (2, 0, 0.9),
        (1, 1, 0.6),
        (2, 1, 0.6),
        (2, 2, 0.6),
    ]
    assert (mistakes[0].path, mistakes[0].label, mistakes[0].predicted) == (
        "imgs/S001.png",
        "disgust",
        "anger",
    )
    assert mistakes[0].truth == pytest.approx(0.1 / 7)


def test_the_page_shows_the_whole_result(viewer: Client, run: TrainingRun) -> None:
    html = page(viewer, run)

    table = fold_table([("accuracy", report_run(run), "accuracy")])
    assert table[0] == ["Fold", "0", "1", "2", "mean", "std. dev.", "95 % interval"]
    assert table[1] == ["accuracy", "0.917", "0.833", "0.750", "0.833", "0.083", "0.626 to 1.000"]
    for cell in table[0] + table[1]:
        assert f">{cell}</t" in html
    assert "after its last epoch" in html
    assert "nothing was chosen by them" in html
    assert "not what somebody feels" in html
    assert "Read right: anger 12 of 12, disgust 9 of 12, happiness 9 of 12." in html
    assert "<strong>disgust</strong>, taken for <strong>anger</strong> with 90\u00a0%" in html
    assert address("file", run.pk, 2, "mistakes/2-mask.png") in html
    assert "contempt" not in html  # occurs neither as a label nor as a reading
    assert 'aria-label="Notes"' not in html


def test_the_page_obeys_the_policy_against_inline_scripts_and_styles(
    viewer: Client, run: TrainingRun
) -> None:
    html = page(viewer, run) + comparison(viewer, run, run)

    assert " style=" not in html
    assert "<style" not in html
    assert " onclick=" not in html


def test_names_and_paths_cannot_become_markup(viewer: Client, make_run: MakeRun) -> None:
    run = make_run({0: 1}, 1, name=HOSTILE, git_revision=HOSTILE)
    file = run.folder / "fold_0/predictions.json"
    file.write_text(file.read_text().replace("imgs/S001.png", "<script>alert(1)</script>"))
    Fold.objects.create(run=run, number=1, state=State.FAILED, error=HOSTILE)

    for html in (page(viewer, run), comparison(viewer, run, make_run(WRONG))):
        assert "<img src=x" not in html
        assert "<script>alert" not in html
        assert "&lt;img src=x" in html


def test_json_and_csv_say_the_same(viewer: Client, run: TrainingRun) -> None:
    response = viewer.get(address("report_json", run.pk))
    report = response.json()

    assert f"run-{run.pk}.json" in response.headers["Content-Disposition"]
    assert report["run"]["config"] == PRESETS["compact"].to_dict()
    for table in ("folds", "mistakes", "epochs"):
        expected = [{k: "" if v is None else str(v) for k, v in row.items()} for row in report[table]]
        assert rows(viewer, run, table) == expected
        assert expected
    classes = [{k: str(v) for k, v in row.items()} for row in report["pooled"]["per_class"]]
    assert rows(viewer, run, "classes") == classes
    for name, row, counts in zip(
        EXPRESSIONS, rows(viewer, run, "confusion"), report["pooled"]["confusion"], strict=True
    ):
        assert row == {"true \\ predicted": name} | dict(zip(EXPRESSIONS, map(str, counts), strict=True))
    for row in rows(viewer, run, "summary"):
        summary = report[row["measure"]]
        assert [float(row[name]) for name in ("folds", "mean", "deviation", "low", "high")] == [
            summary["folds"],
            summary["mean"],
            summary["deviation"],
            *summary["interval"],
        ]
    assert [row["measure"] for row in rows(viewer, run, "summary")] == ["accuracy", "macro_f1"]


def test_curves_are_told_in_words_over_the_epochs_that_every_fold_has(
    viewer: Client, run: TrainingRun
) -> None:
    told = "Held-out faces: accuracy by epoch, mean of 3 folds: 0.417 after epoch 1, {} after epoch {}."
    assert told.format("0.833", 2) in page(viewer, run)
    EpochMetric.objects.filter(fold__number=2, fold__run=run, epoch=2).delete()
    assert told.format("0.417", 1) in page(viewer, run)


def test_no_name_becomes_a_formula_in_a_table(viewer: Client, make_run: MakeRun) -> None:
    run, other = make_run(WRONG, name="=HYPERLINK(1)"), make_run(WRONG, name="plain")
    for fold in run.folds.all():
        path = fold.folder / "predictions.json"
        document = json.loads(path.read_text())
        for sample in document["samples"]:
            sample["path"] = "@SUM(1).png"
        path.write_text(json.dumps(document))

    assert {row["path"] for row in rows(viewer, run, "mistakes")} == {"'@SUM(1).png"}
    compared = viewer.get(address("compare_csv"), {"run": [run.pk, other.pk]}).content.decode()
    assert {row["first"] for row in csv.DictReader(io.StringIO(compared))} == {
        f"'=HYPERLINK(1) (run {run.pk})"
    }
    assert all("'" not in row["difference"] for row in csv.DictReader(io.StringIO(compared)))


def test_csv_without_a_table_is_the_folds_and_of_an_unknown_one_is_not_found(
    viewer: Client, run: TrainingRun
) -> None:
    folds = viewer.get(address("report_csv", run.pk))

    assert folds.content.decode().startswith("fold,state,train_images,test_images,accuracy,macro_f1")
    assert viewer.get(address("report_csv", run.pk), {"table": "passwords"}).status_code == 404


def test_the_fold_table_has_the_mean_and_how_far_folds_scatter(run: TrainingRun) -> None:
    assert fold_table([("a", report_run(run), "accuracy")]) == [
        ["Fold", "0", "1", "2", "mean", "std. dev.", "95 % interval"],
        ["a", "0.917", "0.833", "0.750", "0.833", "0.083", "0.626 to 1.000"],
    ]


# Runs that are not whole -----------------------------------------------------------------------------------


def test_a_run_without_a_measured_fold_says_so_and_has_no_pictures(viewer: Client, make_run: MakeRun) -> None:
    run = make_run({})

    html = page(viewer, run)

    assert "0 of 3 folds measured. There is no result yet." in html
    assert "<img" not in html
    assert viewer.get(address("confusion", run.pk, "svg")).status_code == 404
    assert viewer.get(address("curves", run.pk, "accuracy", "svg")).status_code == 404
    report = viewer.get(address("report_json", run.pk)).json()
    assert (report["accuracy"], report["pooled"], report["mistakes"]) == (None, None, [])
    assert rows(viewer, run, "summary") == rows(viewer, run, "classes") == []


def test_an_unfinished_run_shows_what_is_there(viewer: Client, make_run: MakeRun) -> None:
    run = make_run({0: 0, 2: 2})
    Fold.objects.filter(run=run, number=1).update(state=State.FAILED, error="The disk is full.")

    html = page(viewer, run)

    assert "2 of 3 folds measured" in html
    assert "Fold 1 failed: The disk is full." in html
    assert report_run(run).accuracy == summarise_folds([11 / 12, 9 / 12])
    assert fold_table([("accuracy", report_run(run), "accuracy")])[1][1:4] == ["0.917", "–", "0.750"]


def test_a_run_of_some_folds_says_how_many_there_are(viewer: Client, make_run: MakeRun) -> None:
    run = make_run(WRONG, fold_count=10)

    assert "Not the whole set: 3 of its 10 folds were asked for." in page(viewer, run)


def test_a_fold_that_is_run_again_no_longer_counts(make_run: MakeRun) -> None:
    run = make_run(WRONG)
    Fold.objects.filter(run=run, number=2).update(state=State.QUEUED)

    report = report_run(run)

    assert report.measured("accuracy").keys() == {0, 1}
    assert report.pooled is not None
    assert report.pooled.confusion.sum() == 24
    assert {mistake.fold for mistake in report.mistakes} == {0, 1}


def test_a_single_fold_has_no_interval_and_says_so(viewer: Client, make_run: MakeRun) -> None:
    run = make_run({0: 1}, 1)

    assert "no standard deviation and no interval" in page(viewer, run)
    report = report_run(run)
    assert report.accuracy is not None
    assert (report.accuracy.deviation, report.accuracy.interval) == (None, None)
    assert fold_table([("accuracy", report, "accuracy")])[1] == ["accuracy", "0.833", "0.833", "–", "–"]


def test_a_mask_stage_alone_has_curves_but_nothing_measured(viewer: Client, make_run: MakeRun) -> None:
    run = make_run({}, 1, stages="mask", state=State.SUCCEEDED)
    fold = run.folds.get()
    fold.state = State.SUCCEEDED
    fold.save()
    EpochMetric.objects.create(
        fold=fold, stage="mask", epoch=1, loss=1, mask_loss=1, classifier_loss=0, rate=9
    )

    html = page(viewer, run)

    assert "no classifier to measure" in html
    assert address("curves", run.pk, "mask-loss", "svg") in html
    assert address("curves", run.pk, "accuracy", "svg") not in html


@pytest.mark.parametrize(
    "text",
    [None, "{", "[]", '{"samples": [], "mistakes": [{"sample": 3}]}', '{"samples": []}', '{"mistakes": 1}'],
)
def test_predictions_that_cannot_be_read_are_a_note_not_an_error(
    viewer: Client, make_run: MakeRun, text: str | None
) -> None:
    run = make_run({0: 1, 1: 1}, 2)
    file = run.folder / "fold_1/predictions.json"
    file.write_text(text) if text is not None else file.unlink()

    html = page(viewer, run)

    assert "The predictions of fold 1 are not on this machine or cannot be read" in html
    assert {mistake.fold for mistake in report_run(run).mistakes} == {0}


def test_pictures_that_are_not_here_are_not_asked_for(viewer: Client, make_run: MakeRun) -> None:
    run = make_run({0: 0}, 1)
    (run.folder / "fold_0/mistakes/0-mask.png").unlink()

    html = page(viewer, run)

    assert address("file", run.pk, 0, "mistakes/0-face.png") in html
    assert address("file", run.pk, 0, "mistakes/0-mask.png") not in html


# Pictures --------------------------------------------------------------------------------------------------


def pictures(run: TrainingRun, form: str) -> list[str]:
    panels = ("mask-loss", "joint-loss", "accuracy", "macro-f1")
    return [
        address("confusion", run.pk, form),
        *(address("curves", run.pk, panel, form) for panel in panels),
    ]


def test_pictures_are_pdf_for_a_paper(viewer: Client, run: TrainingRun) -> None:
    for picture in pictures(run, "pdf"):
        response = viewer.get(picture)
        assert response.headers["Content-Type"] == "application/pdf"
        assert response.content.startswith(b"%PDF-")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_are_svg_and_png_on_the_papers_of_both_themes(
    viewer: Client, run: TrainingRun, theme: str
) -> None:
    paper = {"light": "#ffffff", "dark": "#121212"}[theme]

    for picture in pictures(run, "svg"):
        response = viewer.get(picture, {"theme": theme})
        assert response.headers["Content-Type"] == "image/svg+xml"
        assert ElementTree.fromstring(response.content).tag.endswith("svg")
        svg = response.content.decode()
        assert f'fill="{paper}"' in svg
        assert "style" not in svg  # the policy would forbid it, and paint the picture black
    for picture in pictures(run, "png"):
        response = viewer.get(picture, {"theme": theme})
        assert response.headers["Content-Type"] == "image/png"
        image = Image.open(io.BytesIO(response.content)).convert("RGB")
        assert image.getpixel((1, 1)) == tuple(bytes.fromhex(paper[1:]))


def test_the_curve_of_one_epoch_has_no_half_epochs() -> None:
    one = Epoch(0, "mask", 1, 1.0, *[None] * 5)
    with lasting_svg():
        picture = draw_curves([one], PANELS["mask-loss"], "svg", "light").decode()

    assert ">1<" in picture
    assert ">0.96<" not in picture


def test_other_pictures_are_not_found(viewer: Client, run: TrainingRun) -> None:
    base = address("report", run.pk).removesuffix("report/")

    assert viewer.get(base + "confusion.svg").status_code == 200
    for other in ("confusion.gif", "confusion.svg?theme=pink", "curves/no-such.svg", "curves/accuracy.gif"):
        assert viewer.get(base + other).status_code == 404


# One run beside another ------------------------------------------------------------------------------------


def test_runs_on_the_same_folds_are_tested_in_pairs(
    viewer: Client, run: TrainingRun, make_run: MakeRun
) -> None:
    worse = make_run({0: 1, 1: 1, 2: 4}, preset="paper", config=PRESETS["paper"].to_dict())

    comparison_ = compare_runs([run, worse])

    [pair] = comparison_.pairs
    assert pair.folds == (0, 1, 2)
    assert pair.note == ""
    assert pair.tests["accuracy"] == paired_test([11 / 12, 10 / 12, 9 / 12], [10 / 12, 10 / 12, 7 / 12])
    assert pair.tests["accuracy"].difference == pytest.approx(1 / 12)
    assert comparison_.settings["preset"] == ["compact", "paper"]
    assert "seed" not in comparison_.settings

    html = comparison(viewer, run, worse)
    assert "+0.083" in html
    assert "In accuracy, the interval holds zero" in html
    assert "Folds in common: 0, 1, 2." in html
    assert "Bonferroni" not in html


def test_the_tests_of_a_comparison_are_there_as_a_table(
    viewer: Client, run: TrainingRun, make_run: MakeRun
) -> None:
    worse, other = make_run(WRONG, name="worse"), make_run(WRONG, seed=1)
    numbers = [run.pk, worse.pk, other.pk]

    response = viewer.get(address("compare_csv"), {"run": numbers})

    name = f"compare-{run.pk}-{worse.pk}-{other.pk}.csv"
    assert response["Content-Disposition"] == f'attachment; filename="{name}"'
    table = list(csv.DictReader(io.StringIO(response.content.decode())))
    pairs = compare_runs([run, worse, other]).pairs
    tested = [(pair, measure) for pair in pairs for measure in pair.tests or [""]]
    assert len(table) == len(tested)
    for row, (pair, measure) in zip(table, tested, strict=True):
        assert (row["first"], row["measure"], row["note"]) == (pair.first.title, measure, pair.note)
        if measure:
            assert float(row["difference"]) == pair.tests[measure].difference
            assert int(row["folds"]) == 3
    assert f"{address('compare_csv')}?run={run.pk}&amp;run={worse.pk}" in comparison(viewer, run, worse)
    assert viewer.get(address("compare_csv"), {"run": [run.pk]}).status_code == 404


def test_the_better_run_is_named_where_the_interval_leaves_zero_out(
    viewer: Client, make_run: MakeRun
) -> None:
    worse = make_run({number: 3 + number % 2 for number in range(6)}, 6, name="worse")
    better = make_run(dict.fromkeys(range(6), 0), 6, name="better")

    html = comparison(viewer, worse, better)

    assert f"In accuracy, better (run {better.pk}) does better; the interval leaves zero out." in html
    assert "−0.292" in html
    assert "&lt; 0.001" in html


def test_only_the_folds_that_both_have_are_paired(make_run: MakeRun) -> None:
    [pair] = compare_runs([make_run({0: 0, 1: 1}), make_run({1: 0, 2: 0})]).pairs

    assert pair.folds == (1,)
    assert pair.tests["accuracy"].difference == pytest.approx(-1 / 12)
    assert pair.tests["accuracy"].interval is None


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"fold_count": 5},
        {"protocol": "lists"},
    ],
)
def test_equal_numbers_of_unlike_folds_are_not_paired(
    viewer: Client, run: TrainingRun, make_run: MakeRun, other: dict[str, Any]
) -> None:
    html = comparison(viewer, run, make_run(WRONG, **other))

    assert "They were not measured on the same folds" in html
    assert "Folds in common" not in html


def test_the_seed_does_not_part_runs_on_the_sets_own_lists(make_run: MakeRun) -> None:
    [pair] = compare_runs([make_run(WRONG, protocol="lists", seed=seed) for seed in (0, 1)]).pairs

    assert pair.folds == (0, 1, 2)


def test_runs_with_no_fold_in_common_say_so(viewer: Client, make_run: MakeRun) -> None:
    html = comparison(viewer, make_run({0: 0}), make_run({1: 0}))

    assert "No fold is measured in both yet" in html
    assert "Folds in common" not in html


def test_a_fold_whose_faces_have_changed_is_left_out(make_run: MakeRun) -> None:
    first, second = make_run(WRONG), make_run(WRONG)
    Fold.objects.filter(run=second, number=1).update(test_images=11)

    [pair] = compare_runs([first, second]).pairs

    assert pair.folds == (0, 2)
    assert "left out, fold 1" in pair.note


def test_three_runs_are_three_pairs_and_a_warning_of_chance(
    viewer: Client, run: TrainingRun, make_run: MakeRun
) -> None:
    html = comparison(viewer, run, make_run(WRONG), make_run(WRONG))

    assert html.count("Folds in common") == 3
    assert "Of 3 comparisons one may look good by chance" in html


def test_fewer_than_two_runs_are_a_list_to_choose_from(viewer: Client, run: TrainingRun) -> None:
    html = comparison(viewer, run)
    assert "Choose two or more runs" in html
    assert f'value="{run.pk}" checked' in html

    gone = viewer.get(address("compare"), {"run": ["4711", "<b>", "9" * 30, str(run.pk)]}).content.decode()
    assert "Some of these runs no longer exist." in gone


def test_no_more_than_eight_are_compared_at_once(viewer: Client, make_run: MakeRun) -> None:
    runs = [make_run({0: 0}, folds=1) for _ in range(9)]
    html = comparison(viewer, *runs)
    assert "At most 8 runs are compared at once." in html
    assert html.count("Folds in common") == 8 * 7 / 2
    numbers = [run.pk for run in runs]
    assert viewer.get(address("compare_csv"), {"run": numbers}).status_code == 404
    assert viewer.get(address("compare_csv"), {"run": numbers[:8]}).status_code == 200


def test_a_run_that_is_no_longer_among_the_latest_can_be_chosen_too(viewer: Client, run: TrainingRun) -> None:
    TrainingRun.objects.bulk_create(
        TrainingRun(name=f"later {number}", dataset=run.dataset, preset="compact", config=run.config)
        for number in range(50)
    )

    offered = viewer.get(address("compare")).content.decode()
    assert f'value="{run.pk}"' not in offered
    html = comparison(viewer, run)
    assert f'value="{run.pk}" checked' in html


# Who may see it --------------------------------------------------------------------------------------------


def addresses(run: TrainingRun) -> Sequence[str]:
    names = ("report", "report_json", "report_csv")
    return [*(address(name, run.pk) for name in names), *pictures(run, "svg"), address("compare")]


def test_only_staff_who_may_view_runs_see_results(client: Client, run: TrainingRun) -> None:
    assert {client.get(a).status_code for a in addresses(run)} == {302}  # to the login

    client.force_login(User.objects.create_user("visitor"))
    assert {client.get(a).status_code for a in addresses(run)} == {302}

    client.force_login(User.objects.create_user("clerk", is_staff=True))
    assert {client.get(a).status_code for a in addresses(run)} == {403}


def test_results_are_read_by_get_alone_and_of_runs_that_exist(viewer: Client, run: TrainingRun) -> None:
    assert {viewer.get(a).status_code for a in addresses(run)} == {200}
    assert {viewer.post(a).status_code for a in addresses(run)} == {405}

    run_id = run.pk
    run.delete()
    assert viewer.get(address("report", run_id)).status_code == 404


# In a browser ----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pictures_fit_the_theme_and_a_phone(
    chromium: Browser, live_server: LiveServer, client: Client, make_run: MakeRun, scheme: Any
) -> None:
    run = make_run(WRONG)
    client.force_login(User.objects.create_superuser("admin"))
    context: BrowserContext = chromium.new_context(
        viewport={"width": 375, "height": 800}, color_scheme=scheme
    )
    context.add_cookies(
        [{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}]
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.route("**/favicon.ico", lambda route: route.fulfill(body=""))  # the admin has none

    page.goto(live_server.url + address("report", run.pk))

    shown = page.locator(".picture img:visible")
    assert shown.count() == 5
    for number in range(5):
        picture = shown.nth(number)
        picture.scroll_into_view_if_needed()
        picture.evaluate("image => image.decode()")
        assert ("theme=dark" in (picture.get_attribute("src") or "")) == (scheme == "dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.wait_for_load_state("networkidle")
    assert not complaints
    context.close()
