"""train_fmpn, evaluate_fmpn and add_dataset as a person calls them, on a small drawn data set."""

import os
import signal
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import torch
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from PIL import Image
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from ml.checkpoint import load_checkpoint
from ml.config import PRESETS, TrainConfig
from ml.expressions import EXPRESSIONS
from tests.training.conftest import TINY
from training.management.arguments import fold_numbers
from training.models import Checkpoint, Dataset, Fold, State, TrainingRun

ROOT = Path(django_settings.BASE_DIR)


@pytest.fixture
def var(tmp_path: Path, settings: Settings) -> Path:
    settings.FER_VAR_DIR = tmp_path / "var"
    return tmp_path / "var"


def train(faces: Path, *more: str) -> str:
    """Call train_fmpn in this process; return what it prints."""
    out = StringIO()
    torch.set_num_threads(1)
    data = ["--dataset", "folders", "--data", str(faces)]
    call_command("train_fmpn", *data, "--device", "cpu", *TINY, *more, stdout=out)
    return out.getvalue()


def test_ctrl_c_keeps_the_state_and_the_same_command_goes_on(faces: Path, tmp_path: Path) -> None:
    """In a process of its own, on a site that nobody has set up yet."""
    command = [sys.executable, "-u", "manage.py", "train_fmpn", "--dataset", "folders", "--data", str(faces)]
    command += [*TINY, "--joint-epochs", "4"]
    environment = {k: v for k, v in os.environ.items() if k not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL")}
    environment |= {
        "SECRET_KEY": "for tests alone",
        "FER_ENV_FILE": os.devnull,
        "FER_VAR_DIR": str(tmp_path / "var"),
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "(run 1)" in process.stdout.readline()
        assert process.stdout.readline().startswith("mask 1/1")
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "fold 0  cancelled" in said
    assert "Give the same command to go on" in errors
    assert "Traceback" not in errors
    folder = tmp_path / "var" / "runs" / "1" / "fold_0"
    assert (folder / "state.safetensors").exists()
    assert not (folder / "fmpn.safetensors").exists()

    finished = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert "(run 1)" in finished.stdout
    assert "mask 1/1" not in finished.stdout  # it was done before the stop
    assert "joint 4/4" in finished.stdout
    assert "fold 0  succeeded  accuracy" in finished.stdout
    assert load_checkpoint(folder / "fmpn.safetensors").metadata["data"][0]["train_images"] == 48


@pytest.mark.django_db
def test_folds_are_trained_and_evaluated(faces: Path, var: Path) -> None:
    said = train(faces, "--folds", "all", "--fold-count", "2", "--name", "two folds")

    run = TrainingRun.objects.get()
    assert (run.name, run.protocol, run.state) == ("two folds", "made", State.SUCCEEDED)
    assert f"{run} in {run.folder}" in said
    assert "fold 1: joint 2/2" in said
    assert "mean accuracy" in said
    assert Checkpoint.objects.count() == 2
    assert [dataset.kind for dataset in Dataset.objects.all()] == ["folders"]

    # Each fold's own model on the faces it has not seen: the numbers of the run.
    out = StringIO()
    call_command(
        "evaluate_fmpn",
        *(
            "--dataset",
            Dataset.objects.get().name,
            "--folds",
            "0-1",
            "--protocol",
            "made",
            "--fold-count",
            "2",
        ),
        *("--checkpoint", str(run.folder / "fold_{fold}" / "fmpn.safetensors"), "--device", "cpu"),
        stdout=out,
    )
    for fold in run.folds.all():
        assert fold.metrics is not None
        assert f"fold {fold.number}: accuracy {fold.metrics['accuracy']:.4f}" in out.getvalue()
    for word in ("precision", "recall", "support", *EXPRESSIONS):
        assert word in out.getvalue()


@pytest.mark.django_db
def test_a_list_is_evaluated(faces: Path, tmp_path: Path) -> None:
    lines = ["test-anger-0.png", "test/fear/test-fear-1.png,3", ""]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    out = StringIO()
    arguments = ["--dataset", "folders", "--data", str(faces), "--list", str(tmp_path / "list.csv")]
    call_command("evaluate_fmpn", *arguments, "--device", "cpu", stdout=out)
    assert "folders, list.csv" in out.getvalue()
    assert "(2 faces)" in out.getvalue()
    assert not Dataset.objects.exists()  # to look at a set is not to register it

    (tmp_path / "list.csv").write_text("nobody.png")
    with pytest.raises(CommandError, match=r"names 'nobody.png', which the set does not have"):
        call_command("evaluate_fmpn", *arguments)


@pytest.mark.django_db
def test_a_handed_over_run_is_left_to_the_workers_and_resumed_there(
    faces: Path,
    var: Path,
    queue: Callable[[], int],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        said = train(faces, "--queue")
    run = TrainingRun.objects.get()
    assert run.get_absolute_url() in said
    assert (run.state, queue()) == (State.QUEUED, 1)
    assert not run.folder.exists()

    Fold.objects.update(state=State.CANCELLED)
    TrainingRun.objects.update(state=State.CANCELLED)
    with django_capture_on_commit_callbacks(execute=True):
        train(faces, "--queue")
    assert Fold.objects.get().state == State.QUEUED
    assert (TrainingRun.objects.count(), queue()) == (1, 2)


@pytest.mark.django_db
def test_what_failed_is_said_and_tried_again_by_the_same_command(faces: Path, var: Path) -> None:
    with pytest.raises(CommandError, match="Not finished: fold 0") as caught:
        train(faces, "--start", "bundled")  # a checkpoint of another shape
    assert caught.value.returncode == 1
    fold = Fold.objects.get()
    assert "cannot be the start of this model" in fold.error
    assert fold.state == State.FAILED
    with pytest.raises(CommandError):
        train(faces, "--start", "bundled")
    assert TrainingRun.objects.count() == 1


@pytest.mark.django_db
def test_every_number_of_a_configuration_has_its_flag(
    faces: Path, var: Path, queue: Callable[[], int]
) -> None:
    train(
        faces,
        *(
            "--queue",
            "--preset",
            "paper",
            "--backbone",
            "resnet50",
            "--no-colour",
            "--joint-lambda-mask",
            "3",
        ),
        *(
            "--mask-epochs-full",
            "7",
            "--mask-epochs-falling",
            "5",
            "--flip",
            "0",
            "--joint-schedule",
            "cosine",
        ),
    )
    config = TrainConfig.from_dict(TrainingRun.objects.get().config)
    assert (config.model.backbone, config.model.colour, config.model.image_size) == ("resnet50", False, 32)
    assert (config.mask_stage.epochs_full, config.mask_stage.epochs_falling) == (7, 5)
    assert config.joint_stage.lambda_mask == 3
    assert config.joint_stage.schedule == "cosine"
    assert config.augment.flip == 0
    assert config.augment.scale == PRESETS["paper"].augment.scale  # what was not given is the preset's


@pytest.mark.django_db
def test_the_same_folder_is_registered_once_and_each_under_its_own_name(
    faces: Path, tmp_path: Path, var: Path, queue: Callable[[], int]
) -> None:
    twin = tmp_path / "elsewhere" / faces.name
    twin.parent.mkdir()
    twin.symlink_to(faces)
    other = tmp_path / "other" / faces.name
    (other / "anger").mkdir(parents=True)
    Image.new("L", (48, 48)).save(other / "anger" / "1.png")
    for folder in (faces, twin):
        train(folder, "--queue")
    train(faces, "--queue", "--dataset", "folders", "--data", str(other))
    names = sorted(Dataset.objects.values_list("name", flat=True))
    assert names == [f"folders-{faces.name}", f"folders-{faces.name}-2"]
    assert [d.name for d in TrainingRun.objects.get(extra__isnull=False).extra.all()] == names[1:]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "nobody"], "There is no data set 'nobody'. Registered are: none yet. Kinds are: "),
        (["--dataset", "folders"], "--dataset folders needs its folder"),
        (["--dataset", "folders", "--data", "missing"], "There is no folder"),
        (["--dataset", "folders", "--data", "a", "--data", "b"], "for each --dataset KIND, and no more"),
    ],
)
def test_bad_calls_get_a_sentence(arguments: list[str], sentence: str) -> None:
    for command in ("train_fmpn", "evaluate_fmpn"):
        with pytest.raises(CommandError, match=sentence):
            call_command(command, *arguments)
    assert not TrainingRun.objects.exists()


def test_folds_are_read_from_ranges_and_lists() -> None:
    assert fold_numbers("0-3") == (0, 1, 2, 3)
    assert fold_numbers("7,0-1,1") == (0, 1, 7)
    assert fold_numbers("all") is None
    for nonsense in ("3-", "-3", "a", "1,,2", "3-1"):
        with pytest.raises(ArgumentTypeError):
            fold_numbers(nonsense)


@pytest.mark.django_db
def test_a_data_set_is_added_and_described(faces: Path, var: Path) -> None:
    out = StringIO()
    call_command("add_dataset", "drawn", "folders", str(faces), stdout=out)
    assert "drawn: 80 pictures" in out.getvalue()
    assert "anger 10" in out.getvalue()
    assert Dataset.objects.get().contact_sheet.is_file()
    with pytest.raises(CommandError, match="The name drawn is taken"):
        call_command("add_dataset", "drawn", "folders", str(faces / "train"))


@pytest.mark.django_db
def test_a_data_set_that_cannot_be_read_says_why(tmp_path: Path, var: Path) -> None:
    (tmp_path / "odd" / "boredom").mkdir(parents=True)
    with pytest.raises(CommandError, match=r"cannot be used yet: .*boredom"):
        call_command("add_dataset", "odd", "folders", str(tmp_path / "odd"))


@pytest.mark.django_db
def test_an_unknown_class_and_an_empty_set_are_named(tmp_path: Path) -> None:
    (tmp_path / "odd" / "boredom").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    for folder, sentence in (("odd", "boredom"), ("none", "none")):
        with pytest.raises(CommandError, match=sentence):
            call_command("evaluate_fmpn", "--dataset", "folders", "--data", str(tmp_path / folder))


@pytest.mark.django_db
def test_a_missing_and_a_damaged_checkpoint_are_told(faces: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\0" * 100)
    for path, sentence in ((tmp_path / "no.safetensors", "no checkpoint"), (damaged, "cannot be read")):
        with pytest.raises(CommandError, match=sentence):
            call_command(
                "evaluate_fmpn", "--dataset", "folders", "--data", str(faces), "--checkpoint", str(path)
            )
