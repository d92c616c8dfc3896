"""What a model looked at: ranges, and answers that the weights make known."""

from dataclasses import replace
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.checkpoint import BUNDLED, load_checkpoint
from ml.config import PRESETS, Backbone, ModelConfig
from ml.explain import explain
from ml.expressions import EXPRESSIONS, expression_index
from ml.fmpn import FMPN

SMALL = ModelConfig(image_size=64, mask_channels=4, mask_blocks=1, backbone="mobilenet_v2", colour=True)


@pytest.fixture
def face() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (192, 192, 3), np.uint8)


@pytest.mark.parametrize("backbone", get_args(Backbone))
def test_every_backbone_can_be_explained(backbone: Backbone, face: NDArray[np.uint8]) -> None:
    torch.manual_seed(0)
    side = 80 if backbone == "inception_v3" else 64
    model = FMPN(replace(SMALL, backbone=backbone, image_size=side)).eval().requires_grad_(False)

    explanation = explain(model, face)

    assert sum(explanation.probabilities.values()) == pytest.approx(1)
    assert explanation.expression == max(EXPRESSIONS, key=explanation.probabilities.__getitem__)
    assert explanation.seen.shape == explanation.fused.shape == (side, side, 3)
    assert explanation.mask.shape == explanation.activation.shape == (side, side)
    for part in (explanation.mask, explanation.fused, explanation.activation):
        assert part.dtype == np.float32
        assert 0 <= part.min() <= part.max() <= 1
    assert explanation.activation.max() in (0, 1)


def test_it_reads_as_the_model_itself_does() -> None:
    checkpoint = load_checkpoint(BUNDLED)
    model, config = checkpoint.build(), PRESETS["compact"].model
    face = np.random.default_rng(2).integers(0, 256, (config.image_size, config.image_size, 1), np.uint8)
    face = np.repeat(face, 3, axis=2)
    with torch.inference_mode():
        logits, mask = model(torch.from_numpy(face.transpose(2, 0, 1)[None].copy()).float() / 255)

    explanation = explain(model, face)

    expected = logits.softmax(dim=1)[0].numpy()
    assert list(explanation.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-4)
    np.testing.assert_allclose(explanation.mask, mask[0, 0], atol=1e-4)


class OneCell(nn.Module):
    """Features that say one thing, in one place: channel 3 in the second cell of the first row."""

    def forward(self, x: Tensor) -> Tensor:
        cells = torch.zeros(1, 1280, 4, 4)
        cells[0, 3, 0, 1] = 1.0
        return cells + 0 * x.mean()


def test_the_map_shows_the_place_that_speaks_for_an_expression_and_nothing_against_it(
    face: NDArray[np.uint8],
) -> None:
    model = FMPN(SMALL).eval()
    model.classifier.features = OneCell()
    last = nn.Linear(1280, len(EXPRESSIONS))
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    with torch.no_grad():
        last.weight[expression_index("anger"), 3] = 2.0
        last.weight[expression_index("fear"), 3] = -2.0
    model.classifier.classifier = last

    angry, afraid = explain(model, face, "anger"), explain(model, face, "fear")

    assert angry.expression == explain(model, face).expression == "anger"
    assert angry.cells == 4
    row, column = np.unravel_index(angry.activation.argmax(), angry.activation.shape)
    assert (int(row) // 16, int(column) // 16) == (0, 1)
    assert angry.activation[32:].max() == 0, "the lower half has no say"
    assert afraid.activation.max() == 0


def test_for_a_plain_classifier_it_is_the_class_activation_map(face: NDArray[np.uint8]) -> None:
    """Zhou et al., equation 2: the last features, weighed by the classifier's own weights."""
    torch.manual_seed(3)
    model = FMPN(replace(SMALL, backbone="resnet50")).eval().requires_grad_(False)
    features: list[Tensor] = []
    layer, last = model.classifier.get_submodule("layer4"), model.classifier.get_submodule("fc")
    layer.register_forward_hook(lambda _, __, output: features.append(output.detach()))

    explanation = explain(model, face, "surprise")

    assert isinstance(last, nn.Linear)
    weights = last.weight[expression_index("surprise")]
    cells = torch.einsum("c,chw->hw", weights, features[0][0]).relu().numpy()
    drawn = cv2.resize(cells, explanation.activation.shape, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(explanation.activation, drawn / drawn.max(), atol=1e-4)


def test_a_word_that_is_no_expression_is_refused(face: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="delight"):
        explain(FMPN(SMALL).eval(), face, "delight")
