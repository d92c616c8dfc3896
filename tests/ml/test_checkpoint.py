"""Checkpoints: whole, strict, verified, and free of pickle."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from pickletools import genops

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ml.checkpoint import (
    BUNDLED,
    CheckpointError,
    load_checkpoint,
    save_average,
    save_checkpoint,
    write_arrays,
)
from ml.config import PRESETS
from ml.fmpn import FMPN
from tests.figures import Figure

CONFIG = PRESETS["compact"]
FACTS = {"preset": "compact", "data": [], "seed": 7, "git_revision": None, "metrics": {"validation": 0.5}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FMPN]:
    torch.manual_seed(0)
    model = FMPN(CONFIG.model).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "made" / "fmpn.safetensors"
    save_checkpoint(path, model, CONFIG, FACTS)
    return path, model


def test_a_loaded_model_answers_like_the_saved_one(saved: tuple[Path, FMPN]) -> None:
    path, model = saved
    checkpoint = load_checkpoint(path)
    faces = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        for loaded, original in zip(checkpoint.build()(faces), model(faces), strict=True):
            assert torch.equal(loaded, original)
    assert checkpoint.config == CONFIG
    assert checkpoint.metadata["seed"] == 7
    assert checkpoint.metadata["metrics"] == {"validation": 0.5}
    assert checkpoint.name == f"compact {checkpoint.sha256[:8]}"


def test_a_checkpoint_names_what_it_started_from_without_this_machine_s_folders(tmp_path: Path) -> None:
    config = replace(CONFIG, start="/home/somebody/runs/first.safetensors")
    save_checkpoint(tmp_path / "second.safetensors", FMPN(CONFIG.model), config, FACTS)
    assert b"somebody" not in (tmp_path / "second.safetensors").read_bytes()
    assert load_checkpoint(tmp_path / "second.safetensors").config.start == "first.safetensors"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9, 0.9999])
def test_one_flipped_byte_is_refused(saved: tuple[Path, FMPN], tmp_path: Path, share: float) -> None:
    data = bytearray(saved[0].read_bytes())
    data[int(share * len(data))] ^= 1
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged|cannot be read|not a checkpoint"):
        load_checkpoint(flipped)


def test_a_missing_a_cut_and_an_empty_file_are_refused(saved: tuple[Path, FMPN], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    for length in (0, 5, 2000, 1_000_000):
        cut = tmp_path / f"{length}.safetensors"
        cut.write_bytes(saved[0].read_bytes()[:length])
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(cut)


def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path, figure: Figure) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "trap.safetensors"
    traps = [pickle.dumps(Trap(), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    torch.save(Trap(), path)  # a ZIP around one
    for trap in (*traps, path.read_bytes()):
        path.write_bytes(trap)
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(path)
        assert not (tmp_path / "ran").exists()
    assert all(any(op.name == "REDUCE" for op, _, _ in genops(trap)) for trap in traps), "each would call it"
    figure(
        "A pickle in the place of a checkpoint is refused and does not run",
        f"{len(traps) + 1} of {len(traps) + 1} (every protocol, and torch.save)",
    )


def test_another_safetensors_file_is_no_checkpoint(tmp_path: Path) -> None:
    for header in ({}, {"fmpn": "[]"}, {"fmpn": "{"}, {"fmpn": json.dumps({"sha256": "0", "config": {}})}):
        path = tmp_path / "other.safetensors"
        write_arrays(path, {"weight": np.zeros(2)}, header)
        with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"format": 2}, "another version or other expressions"),
        ({"classes": ["joy", "sorrow"]}, "another version or other expressions"),
        ({"crop_template": [[0.0, 0.0]] * 5}, "faces cropped in another way"),
    ],
)
def test_a_model_of_other_faces_or_words_is_refused(
    tmp_path: Path, facts: dict[str, object], sentence: str
) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, image_size=32, mask_channels=4, mask_blocks=1))
    save_checkpoint(tmp_path / "other.safetensors", FMPN(config.model), config, {**FACTS, **facts})
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_that_numpy_does_not_have_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    save_file({"weight": torch.zeros(2, dtype=kind)}, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "half.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FMPN(CONFIG.model)
    path = tmp_path / "broken.safetensors"
    model.state_dict()["fusion.body.1.bias"][0] = value
    with pytest.raises(CheckpointError, match=r"not all finite numbers \(fusion\.body\.1\.bias\)"):
        save_checkpoint(path, model, CONFIG, FACTS)
    assert not path.exists()

    with monkeypatch.context() as earlier:  # a version that wrote anything
        earlier.setattr("ml.checkpoint._refuse_broken_weights", lambda path, weights: None)
        save_checkpoint(path, model, CONFIG, FACTS)
    with pytest.raises(CheckpointError, match=r"not all finite numbers \(fusion\.body\.1\.bias\)"):
        load_checkpoint(path)


def test_a_weight_that_is_missing_is_not_passed_over(tmp_path: Path) -> None:
    model = FMPN(CONFIG.model)
    del model.fusion.body[1].bias
    save_checkpoint(tmp_path / "less.safetensors", model, CONFIG, FACTS)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(tmp_path / "less.safetensors").build()


@pytest.mark.parametrize("value", [5, "ck", [1], [{}]])
def test_a_checkpoint_that_does_not_tell_its_data_is_refused(tmp_path: Path, value: object) -> None:
    save_checkpoint(tmp_path / "odd.safetensors", FMPN(CONFIG.model), CONFIG, {**FACTS, "data": value})
    with pytest.raises(CheckpointError, match="does not tell what it was trained on"):
        load_checkpoint(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("facts", [{"backbone": "of_a_later_version"}, {"mask_channels": "many"}])
def test_a_config_that_no_model_has_is_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    odd = replace(CONFIG, model=replace(CONFIG.model, **facts))  # type: ignore[arg-type]
    save_checkpoint(tmp_path / "odd.safetensors", FMPN(CONFIG.model), odd, FACTS)
    with pytest.raises(CheckpointError, match="do not fit its own config"):
        load_checkpoint(tmp_path / "odd.safetensors").build()


def test_a_failed_save_leaves_the_old_file_and_no_other(saved: tuple[Path, FMPN], tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_arrays(path, {"weight": np.zeros(2)}, {"not text": 1})  # type: ignore[dict-item]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bundled_model_is_whole_and_small() -> None:
    assert load_checkpoint(BUNDLED).build().config == PRESETS["compact"].model
    assert BUNDLED.stat().st_size < 20_000_000
    assert BUNDLED.with_suffix(".md").is_file()


def test_an_average_lies_between_its_two_and_other_shapes_are_refused(tmp_path: Path) -> None:
    models = [FMPN(CONFIG.model), FMPN(CONFIG.model)]
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for path, model in zip(paths, models, strict=True):
        save_checkpoint(path, model, CONFIG, {**FACTS, "temperature": 0.5})
    first, second = map(load_checkpoint, paths)
    save_average(tmp_path / "average.safetensors", first, second, 0.25)
    average = load_checkpoint(tmp_path / "average.safetensors")
    for name, array in average.weights.items():
        expected = 0.75 * first.weights[name] + 0.25 * second.weights[name]
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
    assert average.temperature == 1, "it was another model's"
    assert average.metadata["average"]["of"] == [first.sha256, second.sha256]

    other = replace(CONFIG, model=replace(CONFIG.model, mask_channels=4))
    save_checkpoint(paths[0], FMPN(other.model), other, FACTS)
    with pytest.raises(CheckpointError, match="same model"):
        save_average(tmp_path / "average.safetensors", load_checkpoint(paths[0]), second, 0.5)
