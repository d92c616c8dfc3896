"""Weights of a TensorFlow.js model as the start of a classifier."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ml.config import ModelConfig
from ml.fmpn import FMPN, IMAGENET_STD, MobileNetV1
from ml.pretrained import Arrays, PretrainedError, load_face_weights, read_tensorflow_js

CONFIG = ModelConfig(image_size=32, mask_channels=4, mask_blocks=1, backbone="mobilenet_v1", colour=False)


def made_up() -> Arrays:
    """Weights of the right names and shapes, small enough that nothing saturates."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {"conv1/convolution/merged_input": random.normal(0, 2e-3, (3, 3, 3, 32))}
    arrays["conv1_bn/batchnorm_1/sub"] = random.normal(1, 0.1, 32)
    width = 32
    for number, (wider, _) in enumerate(MobileNetV1.BLOCKS, 1):
        arrays[f"conv_dw_{number}/depthwise_kernel"] = random.normal(0, 0.3, (3, 3, width, 1))
        arrays[f"conv_dw_{number}_bn/batchnorm_1/mul"] = random.uniform(0.5, 1, width)
        arrays[f"conv_dw_{number}_bn/batchnorm_1/sub"] = random.normal(0.5, 0.1, width)
        arrays[f"conv_pw_{number}/convolution/merged_input"] = random.normal(
            0, width**-0.5, (1, 1, width, wider)
        )
        arrays[f"conv_pw_{number}_bn/batchnorm_1/sub"] = random.normal(0.5, 0.1, wider)
        width = wider
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def write(arrays: Arrays, folder: Path) -> Path:
    weights = [{"name": name, "shape": array.shape, "dtype": "float32"} for name, array in arrays.items()]
    (folder / "model.bin").write_bytes(b"".join(array.tobytes() for array in arrays.values()))
    manifest = [{"paths": ["model.bin"], "weights": weights}]
    (folder / "model.json").write_text(json.dumps({"weightsManifest": manifest}))
    return folder / "model.json"


def as_tensorflow_does(arrays: Arrays, seen: Tensor) -> Tensor:
    """The features by the file's own words: (B, 3, S, S), what the classifier is given → (B, 1024)."""

    def unit(x: Tensor, name: str, stride: int) -> Tensor:
        if depthwise := name.startswith("conv_dw"):
            kernel = torch.from_numpy(arrays[f"{name}/depthwise_kernel"].transpose(2, 3, 0, 1).copy())
        else:
            merged = arrays[f"{name}/convolution/merged_input"]
            kernel = torch.from_numpy(merged.transpose(3, 2, 0, 1).copy())
        if kernel.shape[-1] == 3:
            before = 0 if stride == 2 and x.shape[-1] % 2 == 0 else 1
            x = F.pad(x, (before, 1, before, 1))
        x = F.conv2d(x, kernel, stride=stride, groups=x.shape[1] if depthwise else 1)
        scale = arrays.get(f"{name}_bn/batchnorm_1/mul", np.ones(x.shape[1], np.float32))
        x = x * torch.from_numpy(scale).view(1, -1, 1, 1)
        return F.relu6(x + torch.from_numpy(arrays[f"{name}_bn/batchnorm_1/sub"]).view(1, -1, 1, 1))

    x = unit(seen * 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), "conv1", 2)
    for number, (_, stride) in enumerate(MobileNetV1.BLOCKS, 1):
        x = unit(unit(x, f"conv_dw_{number}", stride), f"conv_pw_{number}", 1)
    return x.mean(dim=(2, 3))


@pytest.fixture
def faces() -> Tensor:
    torch.manual_seed(0)
    coarse = torch.rand(16, 1, 8, 8)
    return F.interpolate(coarse, size=32, mode="bilinear").expand(-1, 3, -1, -1)


def test_the_converted_network_computes_what_the_file_says(tmp_path: Path, faces: Tensor) -> None:
    arrays = made_up()
    model = FMPN(CONFIG)
    load_face_weights(model, read_tensorflow_js(write(arrays, tmp_path)), faces)
    classifier = model.classifier
    assert isinstance(classifier, MobileNetV1)
    seen = (faces - model.mean) / model.std
    with torch.inference_mode():
        features = classifier.eval().features(seen).mean(dim=(2, 3))
        # In training a batch normalises itself; for the faces that were measured that is the same.
        trained = classifier.train().features(seen).mean(dim=(2, 3))
    expected = as_tensorflow_does(arrays, seen)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(trained, expected, rtol=0.05, atol=0.05)


def test_files_that_hold_something_else_are_refused(tmp_path: Path, faces: Tensor) -> None:
    arrays = made_up()
    with pytest.raises(PretrainedError, match="is not a TensorFlow"):
        read_tensorflow_js(tmp_path / "missing.json")
    path = write(arrays, tmp_path)
    (tmp_path / "model.bin").write_bytes(b"short")
    with pytest.raises(PretrainedError, match="is not a TensorFlow"):
        read_tensorflow_js(path)
    del arrays["conv_pw_7/convolution/merged_input"]
    with pytest.raises(PretrainedError, match="conv_pw_7"):
        load_face_weights(FMPN(CONFIG), arrays, faces)
    with pytest.raises(PretrainedError, match="mobilenet_v1"):
        load_face_weights(FMPN(replace(CONFIG, backbone="mobilenet_v2")), made_up(), faces)


def test_the_fusion_net_begins_by_passing_the_face_on(faces: Tensor) -> None:
    model = FMPN(CONFIG).train()
    with torch.inference_mode():
        fused = model.fuse(faces, torch.rand(16, 1, 32, 32))
    likeness = torch.corrcoef(torch.stack([fused[:, 0].flatten(), faces[:, 0].flatten()]))[0, 1]
    assert float(likeness) > 0.97
