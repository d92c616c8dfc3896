"""Both training stages, on a small drawn data set: they learn, stop, and go on bit for bit."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from ml.checkpoint import write_arrays
from ml.config import PRESETS, AugmentConfig, StageConfig, TrainConfig
from ml.engine import (
    BatchReport,
    Callbacks,
    EpochReport,
    FaceSet,
    Interrupted,
    ResumeError,
    Training,
    draw_masks,
    learning_rate_factor,
    run_fold,
)
from ml.fmpn import FMPN
from ml.motion_masks import BUNDLED_MASKS, load_motion_masks
from ml.transforms import augment
from tests.figures import Figure

SIDE = 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of floats have one order on one thread: what "bit for bit" needs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn_faces(count: int, seed: int) -> FaceSet:
    """Grey squares with a bright bar whose height in the picture is the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 8, count)
    faces = random.integers(0, 60, (count, 1, SIDE, SIDE), dtype=np.uint8)
    for face, label in zip(faces, labels, strict=True):
        face[0, 4 * label : 4 * label + 4] += 180
    return FaceSet(
        torch.from_numpy(faces), torch.eye(8)[torch.from_numpy(labels)], torch.from_numpy(labels).long()
    )


def small_config(**joint: object) -> TrainConfig:
    compact = PRESETS["compact"]
    return replace(
        compact,
        model=replace(compact.model, image_size=SIDE, mask_channels=4, mask_blocks=1),
        mask_stage=replace(compact.mask_stage, epochs_falling=2, batch_size=16),
        joint_stage=replace(compact.joint_stage, epochs_falling=3, batch_size=16, **joint),  # type: ignore[arg-type]
        augment=AugmentConfig(flip=0.5, rotation=5, scale=0.05, brightness=0.1, resolution=0.5, erase=0.1),
        start="random",
    )


def start(folder: Path, config: TrainConfig, callbacks: Callbacks | None = None, seed: int = 3) -> Training:
    torch.manual_seed(seed)
    return Training(
        model=FMPN(config.model),
        config=config,
        train=drawn_faces(64, seed=1),
        valid=drawn_faces(32, seed=2),
        masks=load_motion_masks(BUNDLED_MASKS, SIDE),
        seed=seed,
        state_path=folder / "state.safetensors",
        device=torch.device("cpu"),
        callbacks=callbacks or Callbacks(),
    )


def stop_after(batches: int) -> Callbacks:
    seen: list[BatchReport] = []
    return Callbacks(on_batch=seen.append, should_stop=lambda: len(seen) >= batches)


def test_both_stages_learn(tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    training = start(tmp_path, small_config().with_epochs(4, 12), Callbacks(on_epoch=reports.append))
    run_fold(training)
    mask = [report for report in reports if report.stage == "mask"]
    joint = [report for report in reports if report.stage == "joint"]
    assert [report.epoch for report in joint] == list(range(1, 13))
    assert mask[-1].mask_loss < mask[0].mask_loss
    assert joint[-1].classifier_loss < 0.8 * joint[0].classifier_loss
    assert joint[-1].metrics is not None


def test_the_mask_stage_moves_the_generator_alone(tmp_path: Path) -> None:
    config = small_config()
    # Four batches an epoch, two epochs: the eighth ends the mask stage.
    training = start(tmp_path, config, stop_after(8))
    before = {name: tensor.clone() for name, tensor in training.model.named_parameters()}
    with pytest.raises(Interrupted):
        run_fold(training)
    moved = {
        name for name, tensor in training.model.named_parameters() if not torch.equal(tensor, before[name])
    }
    assert moved == {name for name in before if name.startswith("mask_generator.")}


@pytest.mark.parametrize(
    ("batches", "prior"),
    [(3, "fused"), (8, "fused"), (9, "fused"), (14, "fused"), (20, "fused"), (14, "masked"), (14, "none")],
)
def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(
    tmp_path: Path, batches: int, prior: Literal["fused", "masked", "none"]
) -> None:
    config = small_config()
    config = replace(config, model=replace(config.model, prior=prior))
    told: list[EpochReport] = []
    undisturbed = run_fold(start(tmp_path / "a", config, Callbacks(on_epoch=told.append)))
    told_in_parts: list[EpochReport] = []
    stopping = replace(stop_after(batches), on_epoch=told_in_parts.append)
    with pytest.raises(Interrupted):
        run_fold(start(tmp_path / "b", config, stopping))
    resumed = run_fold(start(tmp_path / "b", config, Callbacks(on_epoch=told_in_parts.append)))
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [(r.stage, r.epoch, r.loss) for r in told_in_parts] == [(r.stage, r.epoch, r.loss) for r in told]


def test_a_run_whose_machine_fails_goes_on_from_the_middle_of_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.engine.SAVE_EVERY", 0.0)
    told: list[tuple[int, int]] = []

    def fail(report: BatchReport) -> None:
        told.append((report.epoch, report.step))
        if told == [(1, 1), (1, 2), (1, 3)]:
            raise OSError("the power is gone")

    with pytest.raises(OSError, match="the power"):
        run_fold(start(tmp_path, small_config(), Callbacks(on_batch=fail)))
    with pytest.raises(Interrupted):
        run_fold(start(tmp_path, small_config(), Callbacks(on_batch=fail, should_stop=lambda: True)))
    assert told[3] == (1, 3), "the last one of which nothing was saved"


@pytest.fixture(scope="module")
def as_it_is(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What an epoch of the joint stage makes of the weights."""
    return learnt(tmp_path_factory.mktemp("as it is"))


def learnt(folder: Path, **joint: object) -> dict[str, torch.Tensor]:
    training = start(folder, small_config(**joint).with_epochs(1, 1))
    training.stages, training.valid = "joint", None
    return run_fold(training).state_dict()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("lr_mask", 0.0), ("lr_fusion", 0.0), ("lr_classifier", 0.0), ("weight_decay", 0.5)),
        *(("lambda_mask", 0.0), ("lambda_classifier", 0.5), ("label_smoothing", 0.5)),
        *(("optimizer", "adam"), ("ema_decay", 0.0), ("balance", 2.0)),
    ],
)
def test_every_setting_of_a_stage_changes_what_is_learnt(
    tmp_path: Path, as_it_is: dict[str, torch.Tensor], name: str, value: object
) -> None:
    changed = learnt(tmp_path, **{name: value})
    assert any(not torch.equal(tensor, changed[name]) for name, tensor in as_it_is.items())


@pytest.mark.parametrize("stage", ["mask", "joint"])
def test_one_stage_can_be_run_alone(tmp_path: Path, stage: Literal["mask", "joint"]) -> None:
    reports: list[EpochReport] = []
    training = start(tmp_path, small_config(), Callbacks(on_epoch=reports.append))
    training.stages = stage
    run_fold(training)
    epochs = {"mask": 2, "joint": 3}[stage]
    assert [(report.stage, report.epoch) for report in reports] == [(stage, n + 1) for n in range(epochs)]


def test_watched_faces_show_what_the_generator_learns_and_disturb_nothing(tmp_path: Path) -> None:
    config = small_config()
    reports: list[EpochReport] = []
    training = start(tmp_path / "watched", config, Callbacks(on_epoch=reports.append))
    assert training.valid is not None
    training.watched = training.valid.faces[:5]
    watched = run_fold(training)
    alone = run_fold(start(tmp_path / "alone", config))

    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name
    masks = [report.masks for report in reports if report.masks is not None]
    assert [tuple(mask.shape) for mask in masks] == [(5, SIDE, SIDE)] * 5
    assert all(mask.dtype == torch.float32 and mask.min() >= 0 and mask.max() <= 1 for mask in masks)
    # The last ones are those of the model that comes out of it.
    assert torch.equal(masks[-1], draw_masks(watched, training.watched, training.device))
    assert not torch.equal(masks[0], masks[-1])


def test_the_same_seed_ends_with_the_same_numbers_and_another_one_elsewhere(
    tmp_path: Path, figure: Figure
) -> None:
    def run(name: str, seed: int) -> tuple[list[tuple[object, ...]], dict[str, torch.Tensor]]:
        told: list[EpochReport] = []
        model = run_fold(start(tmp_path / name, small_config(), Callbacks(on_epoch=told.append), seed))
        measured = [one.metrics and (one.metrics.accuracy, one.metrics.macro_f1) for one in told]
        losses = [(one.loss, one.mask_loss, one.classifier_loss) for one in told]
        return [*zip(losses, measured, strict=True)], model.state_dict()

    (numbers, weights), (again, same), (others, elsewhere) = run("a", 3), run("b", 3), run("c", 4)

    assert numbers == again
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights.items())
    assert numbers != others
    assert any(not torch.equal(tensor, elsewhere[name]) for name, tensor in weights.items())
    figure(
        "The same seed twice gives the same numbers",
        f"{len(numbers)} epochs of both stages: losses, metrics and {len(weights)} tensors equal to the bit; "
        "another seed ends elsewhere",
    )


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_fold(start(tmp_path, small_config(), stop_after(1)))
    with pytest.raises(ResumeError, match="other settings, seed or data"):
        run_fold(start(tmp_path, small_config(lr_fusion=0.5)))
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(ResumeError, match="cannot be read"):
        run_fold(start(tmp_path, small_config()))
    write_arrays(tmp_path / "state.safetensors", {"model.a": np.zeros(1)}, {"state": "{}"})
    with pytest.raises(ResumeError, match="cannot be read"):
        run_fold(start(tmp_path, small_config()))


def test_a_batch_within_one_tick_of_a_coarse_clock_is_no_division_by_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)  # as on Windows, 64 times a second
    reports: list[BatchReport] = []
    run_fold(start(tmp_path, small_config(), Callbacks(on_batch=reports.append)))
    assert all(report.rate > 0 for report in reports)


def test_an_expression_without_a_mask_takes_no_mask_loss(tmp_path: Path) -> None:
    training = start(tmp_path, small_config())
    contempt = torch.full((64,), 1)
    training.train = FaceSet(training.train.faces, torch.eye(8)[contempt], contempt)
    reports: list[EpochReport] = []
    training.callbacks = Callbacks(on_epoch=reports.append)
    run_fold(training)
    assert {report.mask_loss for report in reports} == {0.0}


def test_a_small_set_beside_a_large_one_is_drawn_as_often_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share_of_small_set(**joint: object) -> float:
        large, small = drawn_faces(96, seed=1), drawn_faces(4, seed=2)
        training = start(tmp_path / str(len(joint)), small_config(balance=0.0, **joint))
        training.train, training.stages = FaceSet.joined([large, small]), "joint"
        seen: list[torch.Tensor] = []

        def watch(faces: torch.Tensor, *others: object) -> tuple[torch.Tensor, torch.Tensor]:
            seen.extend(faces)
            return augment(faces, *others)  # type: ignore[arg-type]

        monkeypatch.setattr("ml.engine.augment", watch)
        run_fold(training)
        return float(np.mean([any(torch.equal(face, own) for own in small.faces) for face in seen]))

    assert share_of_small_set() == pytest.approx(0.04)
    assert share_of_small_set(set_balance=1.0) == pytest.approx(0.5, abs=0.1)


def test_no_batch_is_left_with_a_face_or_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = start(tmp_path, small_config())
    training.train = drawn_faces(2 * 16 + 1, seed=1)
    sizes: list[int] = []

    def watch(faces: torch.Tensor, *others: object) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(faces))
        return augment(faces, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("ml.engine.augment", watch)
    run_fold(training)
    assert sizes == [11, 11, 11] * (2 + 3)


def factors(stage: StageConfig, steps_an_epoch: int) -> list[float]:
    steps = stage.epochs * steps_an_epoch
    return [learning_rate_factor(stage, step, steps, steps_an_epoch) for step in range(steps)]


def test_the_paper_schedule_is_constant_and_then_falls_linearly() -> None:
    values = factors(PRESETS["paper"].joint_stage, 2)
    assert values[:200] == [1.0] * 200
    assert np.allclose(np.diff(values[200:]), -1 / 200)
    assert values[-1] == pytest.approx(1 / 200)


def test_the_modern_schedule_warms_up_and_falls_as_a_cosine() -> None:
    values = factors(replace(PRESETS["compact"].joint_stage, epochs_falling=1, warmup=0.1), 100)
    assert values[:10] == pytest.approx(np.linspace(0.1, 1.0, 10).tolist())
    assert values[55] == pytest.approx(0.5)
    assert 0 < values[-1] < 0.01
