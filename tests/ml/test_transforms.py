"""The random changes of training faces."""

import pytest
import torch

from ml.config import AugmentConfig
from ml.transforms import augment, to_input


def striped_faces(side: int = 64) -> torch.Tensor:
    stripes = (torch.arange(side) % 2 * 255).to(torch.uint8)
    return stripes.expand(4, 1, side, side).contiguous()


def test_without_changes_a_face_stays_what_evaluation_sees() -> None:
    faces, masks = striped_faces(), torch.rand(4, 1, 64, 64)
    changed, moved = augment(faces, masks, AugmentConfig(flip=0))
    torch.testing.assert_close(changed, to_input(faces), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved, masks, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "value", "moves"),
    [
        *(("flip", 1.0, True), ("rotation", 90.0, True), ("scale", 0.5, True), ("shift", 0.5, True)),
        *(("brightness", 0.5, False), ("contrast", 0.5, False), ("erase", 1.0, False)),
    ],
)
def test_each_change_is_made_and_moves_the_mask_where_it_moves_the_face(
    name: str, value: float, moves: bool
) -> None:
    torch.manual_seed(0)
    slope = torch.arange(64).expand(4, 1, 64, 64).contiguous()
    masks = slope / 64
    changed, moved = augment((2 * slope).to(torch.uint8), masks, AugmentConfig(**{"flip": 0.0, name: value}))
    assert not torch.allclose(changed, to_input((2 * slope).to(torch.uint8)), atol=1e-3)
    assert torch.allclose(moved, masks, atol=1e-3) is not moves


def test_the_motion_mask_moves_with_its_face() -> None:
    torch.manual_seed(0)
    square = torch.zeros(8, 1, 64, 64)
    square[:, :, 10:24, 30:50] = 1
    config = AugmentConfig(flip=0.5, rotation=15, scale=0.2, shift=0.1)
    changed, moved = augment((square * 255).to(torch.uint8), square, config)
    torch.testing.assert_close(changed[:, :1], moved, atol=0.01, rtol=0)
    assert not torch.equal(moved[0], moved[1]), "each face is moved for itself"


def test_a_lower_resolution_takes_fine_detail_and_leaves_the_brightness() -> None:
    torch.manual_seed(0)
    faces, masks = striped_faces(), torch.rand(4, 1, 64, 64)
    blurred, same_masks = augment(faces, masks, AugmentConfig(flip=0, resolution=0.4))
    assert blurred.std() < 0.5 * to_input(faces).std()
    assert abs(float(blurred.mean() - to_input(faces).mean())) < 0.02
    torch.testing.assert_close(same_masks, masks, atol=1e-5, rtol=0)


def test_noise_is_drawn_for_each_face_and_no_stronger_than_asked_for() -> None:
    torch.manual_seed(0)
    grey = torch.full((32, 1, 64, 64), 128, dtype=torch.uint8)
    noisy, _ = augment(grey, torch.zeros(32, 1, 64, 64), AugmentConfig(noise=0.1))
    deviations = (noisy - to_input(grey)).std(dim=(1, 2, 3))
    assert 0.08 < float(deviations.max()) < 0.105
    assert float(deviations.min()) < 0.02
    strong, _ = augment(grey, torch.zeros(32, 1, 64, 64), AugmentConfig(noise=0.9))
    assert 0 <= float(strong.min()) < float(strong.max()) <= 1
