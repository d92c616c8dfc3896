"""Recipes: those that ship are sound, and one runs from data to table, stops, and goes on."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from django.core.management import CommandError, call_command
from pytest_django import Settings

from ml.checkpoint import load_checkpoint
from training import reproduction
from training.models import Fold, State, TrainingRun
from training.reproduction import RecipeError, list_recipes, read_recipe
from training.results import results_folder

TINY = """title = "Drawn faces"
shows = "That a recipe runs."
hours = 0.01
seeds = [0, 1]

[data.drawn]
kind = "folders"
folder = "drawn"
about = "Faces drawn by the tests."

[[train]]
name = "first"
data = ["drawn"]

[train.options]
start = "random"
image-size = 32
mask-channels = 4
mask-blocks = 1
mask-epochs = 1
joint-epochs = 1
mask-batch-size = 16
joint-batch-size = 16

[[train]]
name = "folds"
data = ["drawn"]
protocol = "made"
fold_count = 2
stage = "joint"

[train.options]
start = "first"
image-size = 32
mask-channels = 4
mask-blocks = 1
joint-epochs = 1
joint-batch-size = 16

[[measure]]
name = "held out"
data = "drawn"
split = "folds"
protocol = "made"
fold_count = 2
checkpoint = "folds"
"""


@pytest.fixture
def tiny_recipe(tmp_path: Path, faces: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site whose only recipe is a tiny one, and whose data root holds its set."""
    settings.FER_VAR_DIR = tmp_path / "var"
    settings.FER_DATA_ROOT = tmp_path / "data"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "drawn").symlink_to(faces)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(reproduction, "RECIPES", recipes)
    torch.set_num_threads(1)
    return recipes / "tiny.toml"


def reproduce(*arguments: str) -> str:
    out = StringIO()
    call_command("reproduce", *arguments, "--device", "cpu", stdout=out)
    return out.getvalue()


def test_every_recipe_that_ships_can_be_read_and_says_what_it_takes() -> None:
    recipes = {recipe.name: recipe for recipe in list_recipes()}
    assert {"bundled", "ckplus48-folds", "jaffe-folds", "ferplus", "zero-shot"} <= recipes.keys()
    for recipe in recipes.values():
        assert recipe.hours > 0
        assert recipe.shows.endswith(".")
    priors = {
        name: recipe.train[0].options["prior"] for name, recipe in recipes.items() if "ablation" in name
    }
    assert sorted(priors.values()) == ["fused", "masked", "none"]
    settings = [
        {**recipes[name].train[0].options, "prior": ""} | {"seeds": recipes[name].seeds} for name in priors
    ]
    assert settings[0] == settings[1] == settings[2]  # nothing but the prior differs


def test_what_a_recipe_cannot_mean_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    for right, wrong, words in [
        ('kind = "folders"', 'kind = "photos"', "no data set kind 'photos'"),
        ("joint-epochs = 1", "epochs-joint = 1", "no option --epochs-joint"),
        ('checkpoint = "folds"', 'checkpoint = "best"', "no checkpoint 'best'"),
        ('data = "drawn"', 'data = "painted"', "no data set 'painted'"),
        ('title = "Drawn faces"', "", "title"),
        ("hours = 0.01", "hours", "wrong.toml"),
        ('name = "first"', 'name = "first"\nshare = 0.5', "first has no one checkpoint to start from"),
        ('name = "folds"', 'name = "folds"\nshare = 0.5', "folds has no one checkpoint to start from"),
    ]:
        path.write_text(TINY.replace(right, wrong, 1))
        with pytest.raises(RecipeError, match=words):
            read_recipe(path)


@pytest.mark.django_db
def test_a_recipe_runs_from_data_to_table_and_the_same_command_trains_nothing_twice(
    tiny_recipe: Path, faces: Path
) -> None:
    said = reproduce("tiny")
    assert "2 seeds: mean" in said
    recipe = read_recipe(tiny_recipe)
    document = json.loads(recipe.result.read_text())
    assert [run["step"] for run in document["runs"]] == ["first", "folds"] * 2
    assert document["runs"][1]["config"]["start"] == "first"
    assert [measured["seed"] for measured in document["measurements"]] == [0, 1]
    for measured in document["measurements"]:
        assert measured["together"]["faces"] == 80
        assert len(measured["parts"]) == 2
    assert document["machine"]["cpu"]
    assert str(tiny_recipe.parent.parent) not in recipe.result.read_text()  # no path of this machine

    # The folds' own measurement right after training is the same.
    run = TrainingRun.objects.get(name="tiny, folds, seed 0")
    for fold, part in zip(run.folds.all(), document["measurements"][0]["parts"], strict=True):
        assert fold.metrics is not None
        assert part["accuracy"] == pytest.approx(fold.metrics["accuracy"], abs=1e-6)
        assert part["checkpoint"] == load_checkpoint(fold.folder / "fmpn.safetensors").name

    # Somebody stopped it before the last fold: it alone is trained again.
    last = Fold.objects.get(run__name="tiny, folds, seed 1", number=1)
    Fold.objects.filter(pk=last.pk).update(state=State.CANCELLED)
    TrainingRun.objects.filter(pk=last.run_id).update(state=State.CANCELLED)
    before = {fold.pk: fold.finished for fold in Fold.objects.all()}
    reproduce("tiny")
    assert TrainingRun.objects.count() == 4
    after = {fold.pk: fold.finished for fold in Fold.objects.all()}
    assert {pk for pk in after if after[pk] != before[pk]} == {last.pk}
    again = json.loads(recipe.result.read_text())
    assert (
        again["measurements"][0]["together"]["confusion"]
        == document["measurements"][0]["together"]["confusion"]
    )


@pytest.mark.django_db
def test_a_set_that_is_not_there_is_asked_for_by_name(tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "drawn").unlink()
    with pytest.raises(CommandError, match="--data drawn=DIR"):
        reproduce("tiny")
    with pytest.raises(CommandError, match="needs no data set 'painted', but drawn"):
        reproduce("tiny", "--data", f"painted={tmp_path}")
    with pytest.raises(CommandError, match="There is no recipe 'huge': known are tiny"):
        reproduce("huge")


@pytest.mark.django_db
def test_a_checkpoint_to_begin_with_is_asked_for_trained_from_and_averaged_with(
    tiny_recipe: Path, faces: Path, tmp_path: Path
) -> None:
    seed_once = TINY.replace("seeds = [0, 1]", "seeds = [0]")
    begun = '[start]\nname = "given"\nfile = "given.safetensors"\nabout = "one made by hand."\n\n[[train]]'
    reproduce("tiny")
    given = next(TrainingRun.objects.filter(name__contains="first")[0].folder.rglob("fmpn.safetensors"))
    text = seed_once.replace("[[train]]", begun, 1).replace('start = "random"', 'start = "given"')
    text = text.replace('name = "first"', 'name = "first"\nshare = 0.25', 1)
    (tiny_recipe.parent / "begun.toml").write_text(text)
    with pytest.raises(CommandError, match=r"needs one made by hand\. .* --data given=FILE"):
        reproduce("begun")
    reproduce("begun", "--data", f"given={given}")
    trained = TrainingRun.objects.get(name__startswith="begun, first")
    assert trained.config["start"] == str(given)
    first, second, mean = (
        load_checkpoint(path).weights["fusion.body.1.weight"]
        for path in (
            given,
            next(trained.folder.rglob("fmpn.safetensors")),
            results_folder() / "begun-0-first.safetensors",
        )
    )
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(mean, 0.75 * first + 0.25 * second, atol=1e-6)
    later = TrainingRun.objects.get(name__startswith="begun, folds")
    assert later.config["start"] == str(results_folder() / "begun-0-first.safetensors")
