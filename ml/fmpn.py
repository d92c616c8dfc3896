"""The Facial Motion Prior Network (arXiv 1902.08788), whole and in one place.

    face ─► luminance ─► MaskGenerator ─► mask ─┐
     │          └──────────────────────────── × ─► moving parts ─┐
     └───────────────────────────────────────────► FusionNet ◄───┘ ─► classifier ─► logits

Symbols in the shapes: B faces, S side of the square face in pixels, K expressions.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model  # type: ignore[attr-defined]

from ml.config import Backbone, ModelConfig
from ml.expressions import EXPRESSIONS

# ITU-R BT.601 weights, the same as Pillow's convert("L") and OpenCV's COLOR_RGB2GRAY.
LUMINANCE: Final = (0.299, 0.587, 0.114)
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution, batch normalisation, ReLU: the generator's and the fusion net's unit."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=(kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


class ResidualBlock(nn.Module):
    """x + two 3×3 convolutions with PReLU; shape kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.PReLU(),
            ]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class MaskGenerator(nn.Module):
    """Draws where an expression moves the face (section 3.2, "facial-motion mask generator").

    A 7×7 stem, two stride-2 steps down, residual blocks, two transposed steps up, 7×7 and a sigmoid.
    Input (B, 1, S, S) luminance in 0..1; output the same shape, in 0..1.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            *conv(1, channels, 7),
            *conv(channels, 2 * channels, 4, stride=2),
            *conv(2 * channels, 4 * channels, 4, stride=2),
        )
        self.blocks = nn.Sequential(*(ResidualBlock(4 * channels) for _ in range(blocks)))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1, bias=False)
            for wide in (4 * channels, 2 * channels)
        )
        self.up_norms = nn.ModuleList(nn.BatchNorm2d(wide) for wide in (2 * channels, channels))
        self.head = nn.Conv2d(channels, 1, 7, padding=3)

    def forward(self, grey: Tensor) -> Tensor:
        x = self.blocks(self.down(grey))
        # A transposed step doubles the side; odd sides (299) need the exact size of the way down back.
        side = grey.shape[-1]
        for up, norm, size in zip(self.up, self.up_norms, (side // 2, side), strict=True):
            x = F.relu(norm(up(x, output_size=(size, size))))
        return torch.sigmoid(self.head(x))


class FusionNet(nn.Module):
    """Joins the face with its moving parts (section 3.3, "prior fusion net").

    Each goes through its own convolution to three channels; their sum through one residual block and a
    3×3 convolution. face (B, 3, S, S) and moving (B, 1, S, S) in 0..1 → (B, 3, S, S) in 0..1, what an
    ImageNet classifier expects before normalisation.

    It begins by passing the face on, which is what a pretrained classifier knows; what the mask adds is
    learnt. (From random weights it would show the classifier noise first, and spoil what that had learnt.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.face = nn.Sequential(*conv(3, 3, 3))
        self.moving = nn.Sequential(*conv(1, 3, 3))
        self.body = nn.Sequential(ResidualBlock(3), nn.Conv2d(3, 3, 3, padding=1))
        self._pass_the_face_on()

    def _pass_the_face_on(self) -> None:
        parameters = dict(self.named_parameters())
        nn.init.dirac_(parameters["face.0.weight"])
        nn.init.constant_(parameters["face.1.bias"], 2.0)  # of a standardised face ReLU cuts next to nothing
        nn.init.constant_(parameters["moving.1.weight"], 0.1)  # not 0: behind ReLU that would never learn
        nn.init.zeros_(parameters["body.0.body.4.weight"])
        # The sigmoid rises by a quarter around 0: a face of standard deviation 1/4 comes out as it went in.
        nn.init.dirac_(parameters["body.1.weight"])
        nn.init.constant_(parameters["body.1.bias"], -2.0)

    def forward(self, face: Tensor, moving: Tensor) -> Tensor:
        return torch.sigmoid(self.body(self.face(face) + self.moving(moving)))


class MobileNetV1(nn.Module):
    """MobileNet (arXiv 1704.04861) with Keras' padding, which the face weights of `ml.pretrained` ask for.

    (B, 3, S, S) → (B, classes).
    """

    # Width and stride of each depthwise-separable block.
    BLOCKS: Final = (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
        *((512, 1),) * 5,
        *((1024, 2), (1024, 1)),
    )

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = self._unit(3, 32, 3, 2)
        width = 32
        for wider, stride in self.BLOCKS:
            layers += self._unit(width, width, 3, stride, groups=width) + self._unit(width, wider, 1, 1)
            width = wider
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, classes))

    @staticmethod
    def _unit(
        channels_in: int, channels_out: int, kernel: int, stride: int, groups: int = 1
    ) -> list[nn.Module]:
        # Padding apart from the convolution costs a copy of the picture, so only what needs it has it. (The
        # other keeps its place: stored weights are numbered by places.)
        apart = [SamePadding() if stride == 2 else nn.Identity()] if kernel == 3 else []
        padding = 1 if kernel == 3 and stride == 1 else 0
        return [
            *apart,
            nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out),
            ReLU6(),
        ]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class ReLU6(nn.Module):
    """min(max(x, 0), 6), written over its input in training; shape kept."""

    def forward(self, x: Tensor) -> Tensor:
        return ReLU6InPlace.apply(x) if self.training else F.relu6(x, inplace=True)


class ReLU6InPlace(torch.autograd.Function):
    """ReLU6 whose gradient is read off its result: torch's own, in place, first copies all of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x.clamp_(0, 6))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, result, 0, 6)  # type: ignore[no-any-return]


class SamePadding(nn.Module):
    """What a 3×3 convolution of stride 2 needs around its input so that side S gives ceil(S / 2), as
    TensorFlow pads: nothing left and above where the side is even."""

    def forward(self, x: Tensor) -> Tensor:
        before = 0 if x.shape[-1] % 2 == 0 else 1
        return F.pad(x, (before, 1, before, 1))


def build_classifier(backbone: Backbone, classes: int, pretrained: bool) -> nn.Module:
    """A classifier with `classes` outputs, torchvision's save for MobileNetV1; `pretrained`: from ImageNet.

    Raises RuntimeError with what to do where the pretrained weights can be neither found nor downloaded.
    """
    if backbone == "mobilenet_v1":
        if pretrained:
            raise RuntimeError(
                "There are no ImageNet weights of mobilenet_v1: `manage.py import_face_weights`."
            )
        return MobileNetV1(classes)
    weights = "IMAGENET1K_V1" if pretrained else None
    # Inception's auxiliary head is a second loss that the paper does not use. Pretrained weights contain it,
    # so it is loaded first and dropped after.
    extra = (
        {"init_weights": True, "aux_logits": False} if backbone == "inception_v3" and not pretrained else {}
    )
    try:
        model: nn.Module = get_model(backbone, weights=weights, **extra)
    except OSError as error:
        raise RuntimeError(
            f"The ImageNet weights of {backbone} could not be downloaded ({error}). Lay the file into "
            f"{torch.hub.get_dir()}/checkpoints, or start from random weights or from the bundled model."
        ) from error
    if backbone == "inception_v3":
        model.aux_logits, model.AuxLogits = False, None  # type: ignore[assignment]
        model.transform_input = False  # type: ignore[assignment]
    # torchvision calls the last layer `fc` or `classifier`, the latter sometimes a sequence that ends in it.
    name = "fc" if hasattr(model, "fc") else "classifier"
    head = getattr(model, name)
    last = head[-1] if isinstance(head, nn.Sequential) else head
    assert isinstance(last, nn.Linear)
    fresh = nn.Linear(last.in_features, classes)
    if isinstance(head, nn.Sequential):
        head[-1] = fresh
    else:
        setattr(model, name, fresh)
    return model


class FMPN(nn.Module):
    """Mask generator, fusion net and classifier as one module.

    `forward(faces)`: faces (B, 3, S, S) float RGB in 0..1, or (B, 1, S, S) where the model reads luminance
    alone → logits (B, K) and mask (B, 1, S, S) in 0..1, K = 8 in the order of `ml.expressions.EXPRESSIONS`.
    """

    luminance: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.mask_generator = MaskGenerator(config.mask_channels, config.mask_blocks)
        self.fusion = FusionNet()
        self.classifier = build_classifier(config.backbone, len(EXPRESSIONS), pretrained)
        self.register_buffer("luminance", torch.tensor(LUMINANCE).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def grey(self, faces: Tensor) -> Tensor:
        """RGB (B, 3, S, S), or what is grey already → luminance (B, 1, S, S)."""
        if faces.shape[1] == 1:
            return faces
        return (faces * self.luminance).sum(dim=1, keepdim=True)

    def draw_mask(self, faces: Tensor) -> Tensor:
        """The mask alone (B, 1, S, S): all that the mask stage trains."""
        grey, shrink = self.grey(faces), self.config.mask_shrink
        if shrink == 1:
            return self.mask_generator(grey)  # type: ignore[no-any-return]
        # At half an even side that is the mean of every four pixels. (With avg_pool2d in its place OpenVINO
        # 2026.4 gives other logits than torch, from the same mask.)
        side = grey.shape[-1]
        small = F.interpolate(grey, size=(side // shrink, side // shrink), mode="bilinear")
        return F.interpolate(self.mask_generator(small), size=(side, side), mode="bilinear")

    def fuse(self, faces: Tensor, mask: Tensor) -> Tensor:
        """The image (B, 3, S, S) in 0..1 that the classifier sees: fused, but for `ModelConfig.prior`."""
        grey = self.grey(faces)
        seen = faces if self.config.colour else grey.expand(-1, 3, -1, -1)
        if self.config.prior == "none":
            return seen
        if self.config.prior == "masked":
            return mask * seen
        return self.fusion(seen, mask * grey)  # type: ignore[no-any-return]

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.draw_mask(faces)
        fused = self.fuse(faces, mask)
        return self.classifier((fused - self.mean) / self.std), mask


class Served(nn.Module):
    """What service runs: stored faces in, answers out.

    faces uint8 (B, 3, S, S), or (B, 1, S, S) where the model reads luminance alone → probabilities (B, K),
    rows sum to 1, and masks (B, S, S) in 0..1. temperature: what the logits are divided by before the softmax
    (`ml.calibration`); it changes how sure the answers sound, never which one is first.
    """

    def __init__(self, model: FMPN, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        logits, mask = self.model(faces.float() / 255)
        return (logits / self.temperature).softmax(dim=1), mask[:, 0]
