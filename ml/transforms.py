"""From stored faces to what the model sees: the plain way for evaluation, the random way for training."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ml.config import AugmentConfig

PARTS: Final = 4  # of a batch, each blurred in its own way


def to_input(faces: Tensor) -> Tensor:
    """uint8 (B, 1 or 3, S, S) → float32 in 0..1, the same shape: all that evaluation and service do."""
    return faces.float() / 255


def augment(faces: Tensor, masks: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Change a batch at random, each face for itself and its motion mask with it.

    faces: uint8 (B, 1 or 3, S, S); masks: float32 (B, 1, S, S) in 0..1. Returns the input of the model,
    float32 in 0..1 of the faces' shape, and the moved masks. Draws from torch's global generator.
    """
    images = faces.float().div_(255)
    moved = _move(torch.cat([images, masks], dim=1), config)
    images, masks = moved[:, :-1], moved[:, -1:]
    # Grain before blur: of a picture that is small it comes out coarse, as it does in service.
    images = _blur(_add_noise(images, config.noise), config.resolution)
    images = _erase(_relight(images, config), config.erase)
    return images, masks


def _uniform(batch: int, reach: float, device: torch.device) -> Tensor:
    """(B,) drawn evenly from -reach..reach."""
    return (torch.rand(batch, device=device) * 2 - 1) * reach


def _move(images: Tensor, config: AugmentConfig) -> Tensor:
    batch, device = len(images), images.device
    angle = torch.deg2rad(_uniform(batch, config.rotation, device))
    scale = 1 + _uniform(batch, config.scale, device)
    mirror = torch.where(torch.rand(batch, device=device) < config.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # grid_sample measures in half sides, so a shift by a share of the side counts twice.
    shift_x = _uniform(batch, 2 * config.shift, device)
    shift_y = _uniform(batch, 2 * config.shift, device)
    rows = [torch.stack([cos * mirror, -sin, shift_x], 1), torch.stack([sin * mirror, cos, shift_y], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    # The edge goes on beyond itself. (Where a photo ends beside its face, `ml.alignment` leaves black.)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _relight(images: Tensor, config: AugmentConfig) -> Tensor:
    shape = (-1, 1, 1, 1)
    gain = 1 + _uniform(len(images), config.contrast, images.device).view(shape)
    lift = _uniform(len(images), config.brightness, images.device).view(shape)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * gain + mean + lift).clamp(0, 1)


def _add_noise(images: Tensor, reach: float) -> Tensor:
    """Add normal noise, as strong in each face as drawn for it from 0..reach."""
    deviation = reach * torch.rand(len(images), 1, 1, 1, device=images.device)
    return (images + deviation * torch.randn_like(images)).clamp(0, 1)


def _blur(images: Tensor, resolution: float) -> Tensor:
    """Sample each part of the batch down to its own random share, resolution..1, of the side and back up.

    In parts: a batch of one sharpness would give its normalisation another statistic each time.
    """
    return torch.cat([_blur_alike(part, resolution) for part in images.chunk(PARTS)])


def _blur_alike(images: Tensor, resolution: float) -> Tensor:
    side = images.shape[-1]
    smaller = round(side * (1 - (1 - resolution) * float(torch.rand(()))))
    if smaller == side:
        return images
    small = F.interpolate(images, size=smaller, mode="bilinear", antialias=True)
    # As small pictures are enlarged when they are read (`ml.datasets.images`).
    return F.interpolate(small, size=side, mode="bicubic").clamp(0, 1)


def _erase(images: Tensor, probability: float) -> Tensor:
    """Grey out a rectangle of a tenth to four tenths of the side (random erasing, arXiv 1708.04896)."""
    batch, side, device = len(images), images.shape[-1], images.device
    place = torch.arange(side, device=device).view(1, -1)

    def span() -> Tensor:
        length = (0.1 + 0.3 * torch.rand(batch, 1, device=device)) * side
        start = torch.rand(batch, 1, device=device) * (side - length)
        return (place >= start) & (place < start + length)

    rectangle = span().view(batch, 1, side, 1) & span().view(batch, 1, 1, side)
    chosen = torch.rand(batch, 1, 1, 1, device=device) < probability
    return torch.where(rectangle & chosen, 0.5, images)
