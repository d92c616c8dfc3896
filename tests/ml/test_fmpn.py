"""The network: shapes, sizes, and that every part learns."""

import copy
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from ml.config import PRESETS, Backbone, ModelConfig
from ml.fmpn import FMPN, FusionNet, MaskGenerator, ReLU6, build_classifier


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """Whatever tests before have drawn: of networks this small one in a hundred hardly draws a mask."""
    torch.manual_seed(1)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("side", [48, 72, 75, 97, 98, 299])
def test_the_mask_is_as_large_as_the_face_and_between_0_and_1(side: int) -> None:
    mask = MaskGenerator(channels=4, blocks=1).eval()(torch.rand(2, 1, side, side))
    assert mask.shape == (2, 1, side, side)
    assert 0 <= mask.min() <= mask.max() <= 1


@pytest.mark.parametrize("side", [64, 75, 160])
def test_a_mask_drawn_smaller_is_enlarged_to_the_face(side: int) -> None:
    config = ModelConfig(side, 4, 1, "mobilenet_v2", colour=False)
    full, small = FMPN(config).eval(), FMPN(replace(config, mask_shrink=2)).eval()
    small.load_state_dict(full.state_dict(), strict=True)
    # Alternating columns: what a smaller picture cannot show.
    faces = (torch.arange(side) % 2 == 0).float().expand(2, 3, side, side)
    even = torch.full_like(faces, 0.5)
    seen: list[torch.Size] = []
    small.mask_generator.register_forward_hook(lambda _, given, drawn: seen.append(given[0].shape))
    with torch.inference_mode():
        mask = small.draw_mask(faces)
        if side % 2 == 0:
            assert (mask - small.draw_mask(even)).abs().max() < 1e-5
        assert (full.draw_mask(faces) - full.draw_mask(even)).abs().max() > 1e-4
    assert mask.shape == (2, 1, side, side)
    assert 0 <= mask.min() <= mask.max() <= 1
    assert seen[0] == (2, 1, side // 2, side // 2)


def test_the_paper_preset_has_the_published_generator_and_fusion_net() -> None:
    config = PRESETS["paper"].model
    # Counted by hand from the layers: 7×7 stem, two 4×4 steps down, four residual blocks of two 3×3
    # convolutions, two 4×4 steps up, 7×7 head; normalisation 2 a channel, PReLU 1 a convolution.
    stem, down = 49 * 64 + 2 * 64, 16 * 64 * 128 + 2 * 128 + 16 * 128 * 256 + 2 * 256
    block = 2 * (9 * 256 * 256 + 2 * 256 + 1)
    up, head = 16 * 256 * 128 + 2 * 128 + 16 * 128 * 64 + 2 * 64, 49 * 64 + 1
    generator = MaskGenerator(config.mask_channels, config.mask_blocks)
    assert count(generator) == stem + down + 4 * block + up + head
    fusion = (27 * 3 + 6) + (9 * 3 + 6) + 2 * (81 + 6 + 1) + (81 + 3)
    assert count(FusionNet()) == fusion
    assert (config.image_size, config.backbone) == (299, "inception_v3")


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        ("inception_v3", 21_801_960),
        ("resnet50", 23_524_424),
        ("resnet152", 58_160_200),
        ("densenet121", 6_962_056),
        ("mobilenet_v2", 2_234_120),
        ("mobilenet_v3_large", 4_212_280),
        ("efficientnet_b0", 4_017_796),
        ("regnet_y_400mf", 3_906_672),
    ],
)
def test_every_backbone_names_eight_expressions(backbone: Backbone, parameters: int) -> None:
    classifier = build_classifier(backbone, 8, pretrained=False).eval()
    assert count(classifier) == parameters
    side = 299 if backbone == "inception_v3" else 64
    with torch.inference_mode():
        assert classifier(torch.rand(2, 3, side, side)).shape == (2, 8)


def test_forward_gives_logits_and_mask_and_a_gradient_reaches_all_three_parts() -> None:
    model = FMPN(PRESETS["compact"].model)
    side = model.config.image_size
    logits, mask = model(torch.rand(4, 3, side, side))
    assert logits.shape == (4, 8)
    assert mask.shape == (4, 1, side, side)
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 5, 7])).backward()  # type: ignore[no-untyped-call]
    for part in (model.mask_generator, model.fusion, model.classifier):
        gradients = [parameter.grad for parameter in part.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_without_colour_only_the_luminance_counts() -> None:
    model = FMPN(ModelConfig(64, 4, 1, "mobilenet_v2", colour=False)).eval()
    faces = torch.rand(2, 3, 64, 64)
    grey = model.grey(faces).expand(-1, 3, -1, -1)
    torch.testing.assert_close(model(faces)[0], model(grey)[0], rtol=1e-3, atol=1e-4)


def test_the_compact_preset_stays_below_20_megabytes() -> None:
    assert count(FMPN(PRESETS["compact"].model)) * 4 < 20_000_000


def test_the_ablation_s_models_take_the_same_weights_and_see_less_of_the_prior() -> None:
    """The three parts are there in each; what reaches the classifier differs."""
    fused = FMPN(ModelConfig(64, 4, 1, "mobilenet_v2", colour=False)).eval()
    faces, grey_mask = torch.rand(2, 3, 64, 64), torch.full((2, 1, 64, 64), 0.25)
    priors: tuple[Literal["fused", "masked", "none"], ...] = ("fused", "masked", "none")
    seen = {}
    for prior in priors:
        model = FMPN(ModelConfig(64, 4, 1, "mobilenet_v2", colour=False, prior=prior)).eval()
        model.load_state_dict(fused.state_dict(), strict=True)
        with torch.inference_mode():
            seen[prior] = model.fuse(faces, grey_mask)
            torch.testing.assert_close(model.draw_mask(faces), fused.draw_mask(faces))
        assert seen[prior].shape == (2, 3, 64, 64)
    grey = fused.grey(faces).expand(-1, 3, -1, -1)
    torch.testing.assert_close(seen["none"], grey)
    torch.testing.assert_close(seen["masked"], grey / 4)
    assert not torch.allclose(seen["fused"], grey)


def test_a_classifier_alone_asks_nothing_of_the_mask() -> None:
    model = FMPN(ModelConfig(64, 4, 1, "mobilenet_v2", colour=False, prior="none"))
    logits, mask = model(torch.rand(4, 3, 64, 64))
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 5, 7])).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in model.mask_generator.parameters())
    assert mask.shape == (4, 1, 64, 64)


@pytest.mark.parametrize("side", [32, 33])
def test_mobilenet_v1_learns_as_with_torch_s_own_relu6(side: int) -> None:
    torch.manual_seed(0)
    ours = build_classifier("mobilenet_v1", 8, pretrained=False).train()
    for part in ours.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.constant_(part.weight, 4.0)  # so that some units reach 6
    theirs = copy.deepcopy(ours)
    for block in theirs.modules():
        for name, part in block.named_children():
            if isinstance(part, ReLU6):
                setattr(block, name, nn.ReLU6())
    faces, labels = torch.rand(4, 3, side, side), torch.arange(4)
    for model in (ours, theirs):
        torch.manual_seed(1)  # the same dropout
        nn.functional.cross_entropy(model(faces), labels).backward()  # type: ignore[no-untyped-call]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
