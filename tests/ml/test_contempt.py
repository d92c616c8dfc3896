"""Faces of contempt drawn from neutral ones."""

import numpy as np
from numpy.typing import NDArray

from ml.alignment import TEMPLATE
from ml.contempt import draw_contempt

SIDE = 160


def face(*shape: int) -> NDArray[np.uint8]:
    """Stripes all over: whatever moves is seen."""
    rows = np.arange(SIDE) // 4 % 2 * 200
    return np.broadcast_to(rows[:, None, None], (SIDE, SIDE, 3))[..., : shape[-1]].astype(np.uint8)


def test_one_corner_of_the_mouth_moves_and_nothing_else() -> None:
    sides = set()
    for seed in range(20):
        before = face(3)
        drawn = draw_contempt(before, np.random.default_rng(seed))
        assert drawn.shape == before.shape
        assert drawn.dtype == np.uint8
        moved = np.abs(drawn.astype(int) - before).max(axis=2) > 20
        rows, columns = np.nonzero(moved)
        corner = min(TEMPLATE[3:], key=lambda point: abs(point[0] * SIDE - np.median(columns)))
        np.testing.assert_allclose((np.median(columns), np.median(rows)), corner * SIDE, atol=12)
        assert not moved[: SIDE // 2 - 16].any(), "the eyes stay"
        sides.add(bool(corner[0] > 0.5))
    assert sides == {False, True}


def test_the_corner_goes_up() -> None:
    line = np.zeros((SIDE, SIDE), np.uint8)
    row = round(TEMPLATE[3, 1] * SIDE)
    line[row : row + 2] = 255
    drawn = draw_contempt(line, np.random.default_rng(0))
    heights = drawn.argmax(axis=0)
    assert heights.min() <= row - 4
    assert heights.max() <= row + 1


def test_the_same_generator_draws_the_same() -> None:
    one, other, another = (draw_contempt(face(1), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, other)
    assert (one != another).any()
