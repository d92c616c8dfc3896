"""docs/results.md: honest about what is missing, and the same whenever it is written again."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.core.management import call_command

from ml.config import PRESETS
from ml.robustness import CONDITIONS, Measured
from training.evaluation import Evaluation
from training.results_page import NOT_YET, make_page

CHECKPOINT = {"name": "compact 12345678", "sha256": "12345678", "temperature": 1.0, "sure_from": 0.0}
FACTS = {
    "seed": 0,
    "git_revision": "a" * 40,
    "machine": {"cpu": "A processor", "cores": 2, "torch": "2"},
    "measured": "2026-01-01T00:00:00+00:00",
}


def evaluation(right: int, wrong: int) -> Evaluation:
    """Faces of anger, some taken for fear, at 0.8 confidence each."""
    probabilities = np.full((right + wrong, 8), 0.0)
    probabilities[:right, 0] = probabilities[right:, 3] = 0.8
    probabilities[:, 7] = 0.2
    return Evaluation.of(np.zeros(right + wrong, np.int64), probabilities, 0.0, [0])


def folds(seed: int, *rights: int) -> dict[str, Any]:
    accuracies = [right / 10 for right in rights]
    parts = [
        {"name": f"fold {number}", "faces": 10, "accuracy": accuracy}
        for number, accuracy in enumerate(accuracies)
    ]
    together = Evaluation.together([evaluation(right, 10 - right) for right in rights]).to_dict()
    mean = sum(accuracies) / len(accuracies)
    summary = {"mean": mean, "deviation": 0.1, "interval": [0.1, 0.9]}
    return {"name": "folds", "seed": seed, "parts": parts, "summary": summary, "together": together}


def ferplus() -> dict[str, Any]:
    together = evaluation(6, 4).to_dict()
    return {"name": "FER+ test", "seed": 0, "checkpoint": CHECKPOINT, "together": together}


def glance(documents: dict[str, Any]) -> str:
    return make_page(documents).text.split("## At a glance")[1].split("\n## ")[0]


def test_without_a_result_every_section_says_that_it_is_not_measured_yet() -> None:
    page = make_page({})
    sections = page.text.split("\n## ")[1:-1]  # the last one lists what can be run
    assert len(sections) >= 8
    for section in sections:
        assert NOT_YET in section, section
    assert page.pictures == {}
    assert "`reproduce ckplus48-folds`" in page.text


def test_folds_stand_below_the_old_project_s_in_its_own_form() -> None:
    document = {**FACTS, "seeds": [0], "measurements": [folds(0, *[9] * 9, 8)]}
    page = make_page({"ckplus48-folds": document})
    section = page.text.split("## CK+48, the ten old folds")[1].split("\n## ")[0]
    old, ours = [line for line in section.splitlines() if line.startswith(("| old project", "| here"))]
    assert old.startswith("| old project | 0.654 | 0.917 |")
    assert ours == f"| here | {'0.900 | ' * 9}0.800 | **0.890** | 0.867 to 0.913 |"
    assert "| anger | 1.000 | 0.890 |" in section
    assert b"<svg" in page.pictures["ckplus48-folds.svg"]


def test_several_seeds_have_a_row_each_and_their_mean_an_interval_over_folds() -> None:
    document = {**FACTS, "seeds": [0, 1], "measurements": [folds(0, 9, 8, 7), folds(1, 9, 6, 9)]}
    page = make_page({"ckplus48-folds": document})
    section = page.text.split("## CK+48, the ten old folds")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| here")]
    assert rows == [
        "| here, seed 0 | 0.900 | 0.800 | 0.700 | 0.800 | – |",
        "| here, seed 1 | 0.900 | 0.600 | 0.900 | 0.800 | – |",
        # Student's t for 0.9, 0.7 and 0.8: 0.8 ± 4.303 · 0.1 / √3, cut off at 1.
        "| here, mean of the seeds | 0.900 | 0.700 | 0.800 | **0.800** | 0.552 to 1.000 |",
    ]
    assert "95 % interval 0.800 to 0.800 by Student's t over the seeds' means" in section
    assert "| 0.800 | 0.552 to 1.000, over folds |" in glance({"ckplus48-folds": document})


def test_the_leaking_folds_are_left_out_of_the_comparison() -> None:
    rights = [9, 9, 9, 1, 1, 9, 9, 9, 9, 9]
    text = make_page({"jaffe-folds": {**FACTS, "measurements": [folds(0, *rights)]}}).text
    assert "Two of the old folds leak" in text
    assert "On the eight folds that are clean in both: old 0.778, here 0.900." in text


def test_an_ablation_compares_the_same_folds_and_seeds_and_says_what_it_shows() -> None:
    fused = {**FACTS, "measurements": [folds(seed, 9, 8, 9) for seed in (0, 1)]}
    none = {**FACTS, "measurements": [folds(seed, 9, 9, 8) for seed in (0, 1)]}
    text = make_page({"ablation-fused": fused, "ablation-none": none}).text
    assert "+0.0000 over 3 folds, 95 % interval -0.3928 to +0.3928" in text
    assert "no difference is shown" in text
    assert "| the mask without fusion | Not measured yet |" in text


def test_the_seeds_of_a_fold_are_one_pair_and_one_that_the_other_lacks_is_left_out() -> None:
    fused = {**FACTS, "measurements": [folds(0, 9, 9, 9), folds(1, 7, 7, 7), folds(2, 0, 0, 0)]}
    none = {**FACTS, "measurements": [folds(0, 9, 7, 8), folds(1, 7, 7, 8)]}
    text = make_page({"ablation-fused": fused, "ablation-none": none}).text
    assert "less no prior: +0.0333 over 3 folds, 95 % interval -0.1934 to +0.2601" in text


def test_an_ablation_says_how_long_its_prior_was_trained() -> None:
    config = PRESETS["compact"].to_dict()
    runs = [{"config": config, "train_images": [100, 200], "git_revision": "a" * 40}]
    document = {**FACTS, "measurements": [folds(0, 9, 8, 9)], "runs": runs}
    text = make_page({"ablation-fused": document}).text
    steps = config["joint_stage"]["epochs_falling"]
    assert "for 1 epoch alone (1 to 2 steps of up to 128 faces)" in text
    assert f"with the classifier ({2 * steps} to {4 * steps} steps of up to 64 faces)" in text
    assert "The paper's settings: 300 epochs, then 200, and 10. So all this is about a prior" in text
    assert "The mask generator learnt" not in make_page({"ablation-fused": {**document, "runs": []}}).text


def test_what_test_data_had_a_say_in_is_told() -> None:
    opening = make_page({}).text.split("\n## ")[0]
    assert "Nothing was chosen by test data" not in opening
    for revision in ("ed0aef8", "41e270b", "1e2959f", "6dbd1aa", "e36a158"):
        assert revision in opening


def test_folds_say_which_bundled_model_they_started_from() -> None:
    run = {"config": {"start": "bundled"}, "git_revision": "b" * 40 + "+changes"}
    ours = {**FACTS, "measurements": [folds(0, 9, 8)], "runs": [run]}
    assert "| 0.850 | 0.215 to 1.000, over folds | from the model of bbbbbbb+ |" in glance(
        {"jaffe-folds": ours}
    )
    later = {**FACTS, "measured": "2026-01-02T00:00:00+00:00", "measurements": [ferplus()], "runs": []}
    assert "| from an older model of bbbbbbb+ |" in glance({"jaffe-folds": ours, "bundled": later})


def test_the_recipe_of_the_bundled_model_has_a_row_of_its_own() -> None:
    figures = {**FACTS, "measurements": [ferplus()]}
    text = make_page({"bundled-figures": figures, "bundled": figures}).text
    assert "| a run of its recipe | 0.600 | 0.313 to 0.832 |" in text


def test_unseen_sets_have_intervals_over_people_where_the_results_name_them() -> None:
    together = evaluation(6, 4).to_dict()
    unseen = [
        {
            "name": "CK+48, never trained on",
            "checkpoint": CHECKPOINT,
            "together": {**together, "even": {"accuracy": 0.9}},
        },
        {
            "name": "JAFFE-6 at 48 px, never trained on",
            "checkpoint": CHECKPOINT,
            "together": {**together, "over_people": [0.352, 0.848], "people": 3},
        },
    ]
    documents = {
        "zero-shot": {**FACTS, "measurements": unseen},
        "bundled-figures": {**FACTS, "measurements": [ferplus()]},
    }
    text = make_page(documents).text
    assert (
        "| the bundled model (compact 12345678) | 1.000 | 1.000 | Not measured yet | 0.900 | – | – | 0.6"
        in text
    )
    assert "95 % interval: 0.722 to 1.000, over faces as if independent." in text
    assert "95 % interval: 0.352 to 0.848, over 3 people." in text
    assert "fitted on FER+ alone. On strangers' posed faces the model is surer than it is right: " in text
    assert "CK+48 0.80 sure, 0.60 right (ECE 0.200); JAFFE-6 at 48 px 0.80 sure" in text


def test_both_sections_of_jaffe_say_that_the_start_holds_averages_of_its_faces() -> None:
    sections = make_page({}).text.split("\n## ")
    jaffe = [section for section in sections if section.startswith("JAFFE-")]
    assert len(jaffe) == 2
    for section in jaffe:
        assert "motion masks are averages of JAFFE's faces, theirs among them" in section


def test_calibration_and_robustness_have_their_tables_and_pictures() -> None:
    rows = [Measured(condition, 0.5, 0.4) for condition in (None, *CONDITIONS)]
    robust = {
        "data": "ferplus",
        "split": "test",
        "faces": 10,
        "checkpoint": CHECKPOINT,
        "rows": [
            {
                "kind": row.condition.kind if row.condition else None,
                "level": row.condition.level if row.condition else None,
                "accuracy": row.accuracy,
                "macro_f1": row.macro_f1,
            }
            for row in rows
        ],
    }
    documents = {
        "bundled-figures": {**FACTS, "measurements": [ferplus()]},
        "robustness-ferplus": {**FACTS, "robustness": robust},
    }
    page = make_page(documents)
    assert "| FER+ test | 1.000 | 0.200 |" in page.text  # sure of 0.8, right in 0.6
    assert "was not calibrated" in page.text
    assert "| rotation | -45 | 0.500 |" in page.text
    assert {"calibration.svg", "robustness.svg", "ferplus-test.svg"} == page.pictures.keys()
    again = make_page(json.loads(json.dumps(documents)))
    assert (again.text, again.pictures) == (page.text, page.pictures)


def test_the_page_in_the_repository_is_what_its_stored_results_say(tmp_path: Path) -> None:
    call_command("write_results", output=tmp_path / "results.md", stdout=StringIO())
    assert (tmp_path / "results.md").read_text() == (settings.BASE_DIR / "docs" / "results.md").read_text()
