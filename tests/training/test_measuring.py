"""What a checkpoint is measured by, as a person asks for it: evaluation, calibration, robustness."""

import csv
import json
import shutil
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from django.core.management import CommandError, call_command
from PIL import Image, ImageOps

from ml.checkpoint import BUNDLED, load_checkpoint, save_checkpoint
from ml.config import TrainConfig
from ml.expressions import EXPRESSIONS
from ml.fmpn import FMPN
from ml.folds import Fold, clean_folds, find_leaks
from ml.robustness import CONDITIONS
from training.models import Dataset
from training.services import division_sha256, folds_of

FACTS = {"preset": "compact", "data": [], "seed": 0, "git_revision": None, "metrics": {}}


@pytest.fixture
def checkpoint(tmp_path: Path, tiny: TrainConfig) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, FMPN(tiny.model).eval(), tiny, FACTS)
    return path


def call(command: str, faces: Path, checkpoint: Path, *more: str) -> str:
    out = StringIO()
    data = ["--dataset", "folders", "--data", str(faces), "--checkpoint", str(checkpoint)]
    call_command(command, *data, "--device", "cpu", *more, stdout=out)
    return out.getvalue()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.django_db
def test_an_evaluation_says_what_it_measured_and_writes_it_down(
    faces: Path, checkpoint: Path, tmp_path: Path
) -> None:
    said = call("evaluate_fmpn", faces, checkpoint, "--json", str(tmp_path / "test.json"))
    for words in (
        "among the set's own classes",
        "calibration error (ECE, 15 bins)",
        "sure from 0.00: says 1.0",
    ):
        assert words in said
    document = read(tmp_path / "test.json")
    [measured] = document["measurements"]
    assert (measured["data"], measured["split"], measured["together"]["faces"]) == ("folders", "test", 16)
    assert measured["checkpoint"]["sha256"] == load_checkpoint(checkpoint).sha256
    assert sum(row["faces"] for row in measured["together"]["bins"]) == 16
    assert sum(map(sum, measured["together"]["confusion"])) == 16
    assert document["machine"]["cores"] >= 1
    assert {"git_revision", "seed", "measured"} <= document.keys()
    assert str(faces) not in (tmp_path / "test.json").read_text()  # no path of this machine


@pytest.mark.django_db
def test_mirrored_as_well_a_face_and_its_mirror_image_read_the_same(faces: Path, tmp_path: Path) -> None:
    tilted, turned = tmp_path / "tilted", tmp_path / "turned"
    for path in (faces / "test").rglob("*.png"):
        picture = Image.open(path).rotate(15)  # drawn faces are their own mirror images
        for folder, one in ((tilted, picture), (turned, ImageOps.mirror(picture))):
            copy = folder / path.relative_to(faces)
            copy.parent.mkdir(parents=True, exist_ok=True)
            one.save(copy)

    def nll(folder: Path, *more: str) -> Any:
        said = call("evaluate_fmpn", folder, BUNDLED, "--json", str(tmp_path / "figures.json"), *more)
        assert ("mirrored as well:" in said) == ("--mirror" in more)
        [measured] = read(tmp_path / "figures.json")["measurements"]
        assert measured["mirrored"] == ("--mirror" in more)
        return measured["together"]["nll"]

    assert nll(tilted, "--mirror") == pytest.approx(nll(turned, "--mirror"), abs=1e-4)
    assert nll(tilted) != pytest.approx(nll(turned), abs=1e-2)


@pytest.mark.django_db
def test_every_answer_can_be_had_as_a_table(faces: Path, checkpoint: Path, tmp_path: Path) -> None:
    call("evaluate_fmpn", faces, checkpoint, "--predictions", str(tmp_path / "said.csv"))
    with (tmp_path / "said.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {row["part"] for row in rows} == {"test"}
    for row in rows:
        assert (faces / row["picture"]).is_file()
        assert row["label"] == Path(row["picture"]).parent.name
        said = {name: float(row[name]) for name in EXPRESSIONS}
        assert sum(said.values()) == pytest.approx(1, abs=1e-5)
        assert said[row["predicted"]] == max(said.values())


@pytest.mark.django_db
def test_a_model_that_may_know_the_faces_is_told_of(
    faces: Path, tmp_path: Path, tiny: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(name="drawn", kind="folders", folder=str(faces))
    division = division_sha256(folds_of(dataset, "made", 2, seed=1), dataset.path)

    def told(facts: Mapping[str, object], *more: str) -> bool:
        torch.manual_seed(0)
        save_checkpoint(tmp_path / "m.safetensors", FMPN(tiny.model).eval(), tiny, {**FACTS, **facts})
        call("evaluate_fmpn", faces, tmp_path / "m.safetensors", *more)
        return "may have been trained on some of these faces" in capsys.readouterr().err

    ours = {"data": [{"kind": "folders", "train_images": 1}]}
    split, fold = {"protocol": "split"}, {"protocol": "made", "fold": 0, "folds_sha256": division}
    held_out = ("--folds", "0", "--protocol", "made", "--fold-count", "2")
    assert not told({}, "--split", "train")
    assert not told({**ours, **split}, "--split", "test")
    assert told({**ours, **split}, "--split", "train")
    assert not told({**ours, **split}, "--split", "valid")
    assert told({**ours, "protocol": "final"}, "--split", "valid")
    assert not told({**ours, "protocol": "final"}, "--split", "test")
    assert told({**ours, **fold}, "--split", "test")
    assert not told({**ours, **fold}, *held_out, "--seed", "1")
    assert told({**ours, **fold}, *held_out, "--seed", "0")  # another division
    assert told({**ours, **fold, "fold": 1}, *held_out, "--seed", "1")
    assert told({"data": [], "converted_from": {}}, "--split", "test")  # nobody said what it saw
    before = {"trained_before": {"folders": ["train", "valid"]}, **split}
    assert told(before, "--split", "valid")
    assert not told(before, "--split", "test")

    for protocol, promises in (("split", False), ("final", True)):
        facts = {**FACTS, **ours, "protocol": protocol}
        save_checkpoint(tmp_path / "m.safetensors", FMPN(tiny.model).eval(), tiny, facts)
        output = str(tmp_path / "calibrated.safetensors")
        call("calibrate_fmpn", faces, tmp_path / "m.safetensors", "--output", output, "--accuracy", "0.01")
        assert ("promises too much" in capsys.readouterr().err) == promises


@pytest.mark.django_db
def test_folds_are_measured_each_and_together(faces: Path, checkpoint: Path, tmp_path: Path) -> None:
    folds = ["--folds", "all", "--protocol", "made", "--fold-count", "2"]
    call("evaluate_fmpn", faces, checkpoint, *folds, "--json", str(tmp_path / "folds.json"))
    [measured] = read(tmp_path / "folds.json")["measurements"]
    first, second = measured["parts"]
    assert (first["name"], second["name"]) == ("fold 0", "fold 1")
    assert first["faces"] + second["faces"] == measured["together"]["faces"] == 80
    assert measured["summary"]["mean"] == pytest.approx(
        (first["accuracy"] + second["accuracy"]) / 2, abs=1e-6
    )


@pytest.mark.django_db
def test_a_set_s_own_classes_are_those_of_all_its_folds_and_no_others(
    faces: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Lists that leave six expressions of the set out; the fold that is evaluated shows one of the two."""
    faces = Path(shutil.copytree(faces, tmp_path / "with lists"))
    for fold, (trained, tested) in enumerate((("anger", "fear"), ("fear", "anger"))):
        for side, name in (("train", trained), ("test", tested)):
            names = [f"{path.name}\n" for path in sorted((faces / "train" / name).iterdir())]
            (faces / f"{side}_ids_{fold}.csv").write_text("".join(names))
    call("evaluate_fmpn", faces, checkpoint, "--folds", "0", "--json", str(tmp_path / "fold.json"))
    [measured] = read(tmp_path / "fold.json")["measurements"]
    said = np.sum(measured["together"]["own_classes"]["confusion"], axis=0)
    known = [EXPRESSIONS.index("anger"), EXPRESSIONS.index("fear")]
    assert said[known].sum() == measured["together"]["faces"] > 0
    call("evaluate_fmpn", faces, checkpoint, "--json", str(tmp_path / "split.json"))
    [whole] = read(tmp_path / "split.json")["measurements"]
    assert whole["together"]["own_classes"]["confusion"] == whole["together"]["confusion"]


@pytest.mark.django_db
def test_a_calibrated_model_is_as_right_and_less_wrong_about_it(
    faces: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "calibrated.safetensors"
    said = call("calibrate_fmpn", faces, checkpoint, "--output", str(output), "--accuracy", "0.1")
    assert "temperature" in said
    assert "sure from" in said
    before, after = load_checkpoint(checkpoint), load_checkpoint(output)
    story = after.metadata["calibration"]
    assert (story["data"], story["split"], story["faces"], story["wanted"]) == ("folders", "valid", 16, 0.1)
    assert after.temperature != 1
    assert story["nll"][1] <= story["nll"][0]
    assert story["accuracy"] >= 0.1

    for path in (checkpoint, output):
        call("evaluate_fmpn", faces, path, "--json", str(path.with_suffix(".json")))
    plain, calibrated = (read(path.with_suffix(".json"))["measurements"][0] for path in (checkpoint, output))
    assert plain["together"]["confusion"] == calibrated["together"]["confusion"]
    assert plain["together"]["nll"] != calibrated["together"]["nll"]
    assert calibrated["together"]["coverage"]["threshold"] == pytest.approx(after.sure_from, abs=1e-6)
    assert before.sure_from == 0

    assert before.shares is None
    assert plain["together"]["even"] is None
    assert after.shares is not None
    assert sum(after.shares) == pytest.approx(1)
    assert min(after.shares) > 0, "also of what the set does not show"
    assert calibrated["together"]["even"]["per_class"][0]["support"] > 0
    assert "each as likely beforehand" in call("evaluate_fmpn", faces, output)


@pytest.mark.django_db
def test_the_threshold_is_a_probability_that_the_calibrated_model_gives(faces: Path, tmp_path: Path) -> None:
    output, table = tmp_path / "calibrated.safetensors", tmp_path / "said.csv"
    call("calibrate_fmpn", faces, BUNDLED, "--output", str(output), "--accuracy", "0.01")
    first = load_checkpoint(output)
    assert not 0.9 < first.temperature < 1.1, "or it would not matter which ones are looked at"
    call("evaluate_fmpn", faces, output, "--split", "valid", "--predictions", str(table))
    with table.open(newline="") as file:
        said = [
            (float(row[row["predicted"]]), row["predicted"] == row["label"]) for row in csv.DictReader(file)
        ]
    said.sort(reverse=True)
    last = max(place for place, (_, right) in enumerate(said) if right)
    wanted = sum(right for _, right in said) / (last + 1)
    assert last + 1 < len(said), "what comes after it is wrong, and not to be said"

    # Calibrated anew from the calibrated one, which changes the threshold alone.
    call("calibrate_fmpn", faces, output, "--output", str(output), "--accuracy", str(wanted))
    second = load_checkpoint(output)
    assert second.temperature == pytest.approx(first.temperature)
    assert second.sure_from == pytest.approx(said[last][0], abs=2e-6)
    story = second.metadata["calibration"]
    assert story["coverage"] == pytest.approx((last + 1) / len(said))
    assert story["accuracy"] == pytest.approx(wanted)
    assert story["nll"][0] == pytest.approx(first.metadata["calibration"]["nll"][1])


@pytest.mark.django_db
def test_an_accuracy_out_of_reach_is_refused_in_a_sentence(
    faces: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "calibrated.safetensors"
    with pytest.raises(CommandError, match="above 0, 1 at most"):
        call("calibrate_fmpn", faces, checkpoint, "--output", str(output), "--accuracy", "90")
    assert not output.exists()


@pytest.mark.django_db
def test_robustness_is_measured_under_every_condition(faces: Path, checkpoint: Path, tmp_path: Path) -> None:
    said = call("measure_robustness", faces, checkpoint, "--sample", "5", "--json", str(tmp_path / "r.json"))
    for word in ("rotation", "occlusion", "darkness"):
        assert word in said
    measured = read(tmp_path / "r.json")["robustness"]
    assert measured["faces"] == 5
    assert [row["kind"] for row in measured["rows"]] == [None, *(condition.kind for condition in CONDITIONS)]


def test_clean_folds_keep_what_is_held_out_and_share_nobody(faces: Path) -> None:
    from dataclasses import replace

    from ml.datasets import load_samples

    samples = [
        replace(sample, subject=f"S{index % 4}")
        for index, sample in enumerate(load_samples("folders", faces, "test"))
    ]
    leaking = [
        Fold(number, tuple(samples), tuple(s for s in samples if s.subject == f"S{number}"))
        for number in range(4)
    ]
    assert len(find_leaks(leaking)) == 4
    cleaned = clean_folds(leaking)
    assert find_leaks(cleaned) == []
    assert [fold.test for fold in cleaned] == [fold.test for fold in leaking]
    assert {len(fold.train) for fold in cleaned} == {12}
