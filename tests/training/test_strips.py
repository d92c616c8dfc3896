"""Which faces are watched, and the tiles they are shown as."""

import numpy as np

from training.strips import face_tile, mask_tile, spread, truth_tile


def test_every_class_is_watched_before_one_is_watched_twice() -> None:
    labels = [3] * 10 + [1] * 2 + [0]
    assert spread(labels, 3) == [12, 10, 0]
    assert spread(labels, 5) == [12, 10, 11, 0, 5]  # neighbours are often one person's
    everyone = spread(labels, 100)
    assert sorted(everyone) == list(range(13))
    assert spread([], 8) == []


def test_tiles_are_of_one_size_and_in_colour() -> None:
    grey = np.full((1, 32, 32), 200, np.uint8)
    colour = np.zeros((3, 299, 299), np.uint8)
    colour[0] = 255
    assert (face_tile(grey) == 200).all()
    assert (face_tile(colour) == (255, 0, 0)).all()
    for tile in (face_tile(grey), face_tile(colour), mask_tile(np.zeros((32, 32), np.float32))):
        assert tile.shape == (96, 96, 3)
        assert tile.dtype == np.uint8


def test_masks_run_from_violet_to_yellow_and_unknown_ones_are_grey() -> None:
    still, moving = (mask_tile(np.full((32, 32), value, np.float32))[0, 0] for value in (0, 1))
    assert still[2] > still[1]  # violet: more blue than green
    assert min(moving[0], moving[1]) > 200 > moving[2]  # yellow
    unknown = truth_tile(np.zeros((32, 32), np.float32), known=False)
    assert len(np.unique(unknown)) == 1
