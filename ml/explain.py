"""What a model looked at: its mask, the picture its classifier sees, and what in it speaks for an expression.

The map is Grad-CAM (Selvaraju et al., arXiv 1610.02391). Where the classifier pools its last features and
weighs them once, as most do, that is the class activation map of Zhou et al. (arXiv 1512.04150) without what
speaks against the expression; Grad-CAM also covers the one backbone that has a hidden layer in between.
This module imports torch: load it only where something is to be explained.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.config import Backbone
from ml.expressions import EXPRESSIONS, expression_index
from ml.fmpn import FMPN
from ml.predictor import prepare_crops
from ml.transforms import to_input

# Where each classifier ends to know places: what comes after averages over them.
LAST_FEATURES: Final[dict[Backbone, str]] = {
    "inception_v3": "Mixed_7c",
    "resnet50": "layer4",
    "resnet152": "layer4",
    "densenet121": "features",
    "mobilenet_v1": "features",
    "mobilenet_v2": "features",
    "mobilenet_v3_large": "features",
    "efficientnet_b0": "features",
    "regnet_y_400mf": "trunk_output",
}


@dataclass(frozen=True, eq=False)
class Explanation:
    """A face read once, with what led there. S is the model's side in pixels.

    seen: uint8 (S, S, 3), the face as the model takes it. mask: float32 (S, S) in 0..1, where the expression
    moves the face. fused: float32 (S, S, 3) in 0..1, what the classifier sees. activation: float32 (S, S) in
    0..1, its largest value 1, what speaks for `expression`; all 0 where nothing does. cells: how many places
    a side the activation has by itself, before it is drawn larger. probabilities: the eight names, sum 1.
    """

    expression: str
    probabilities: dict[str, float]
    seen: NDArray[np.uint8]
    mask: NDArray[np.float32]
    fused: NDArray[np.float32]
    activation: NDArray[np.float32]
    cells: int


def explain(
    model: FMPN, face: NDArray[np.uint8], expression: str | None = None, temperature: float = 1.0
) -> Explanation:
    """Read an aligned face, RGB (H, H, 3), and explain one expression of the eight: by default the read one.

    model: in eval mode, on the CPU; its weights are left as they are. temperature: the checkpoint's, above 0.
    Raises ValueError for a word that is none of the eight.
    """
    chosen = None if expression is None else expression_index(expression)
    taken = prepare_crops([face], model.config)
    faces = to_input(torch.from_numpy(taken))
    with torch.no_grad():
        mask = model.draw_mask(faces)
        fused = model.fuse(faces, mask)
    features, logits = _classify(model, fused)
    probabilities = (logits.detach() / temperature).softmax(dim=1)[0].numpy()
    wanted = int(probabilities.argmax()) if chosen is None else chosen
    cells = _activation(features, logits[0, wanted])
    side = model.config.image_size
    drawn = cv2.resize(cells, (side, side), interpolation=cv2.INTER_LINEAR)
    return Explanation(
        expression=EXPRESSIONS[wanted],
        probabilities=dict(zip(EXPRESSIONS, map(float, probabilities), strict=True)),
        seen=np.ascontiguousarray(np.broadcast_to(taken[0].transpose(1, 2, 0), (side, side, 3))),
        mask=mask[0, 0].numpy(),
        fused=np.ascontiguousarray(fused[0].numpy().transpose(1, 2, 0)),
        activation=_to_one(np.asarray(drawn, np.float32)),
        cells=len(cells),
    )


def _classify(model: FMPN, fused: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last features (1, C, h, w) and the logits (1, K), the one derived from the other."""
    layer = model.classifier.get_submodule(LAST_FEATURES[model.config.backbone])
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append(output)

    hook = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            # From here on, and whether or not the weights themselves are to be trained.
            picture = ((fused - model.mean) / model.std).requires_grad_()
            logits = model.classifier(picture)
    finally:
        hook.remove()
    return kept[0], logits


def _activation(features: Tensor, logit: Tensor) -> NDArray[np.float32]:
    """Grad-CAM (h, w), 0 and more: the features, each weighed by how much the logit rises with it."""
    (gradient,) = torch.autograd.grad(logit, features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    summed = (weights * features.detach()).sum(dim=1).relu()
    return np.asarray(summed[0].numpy(), np.float32)


def _to_one(values: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = float(values.max())
    return values / largest if largest > 0 else values
