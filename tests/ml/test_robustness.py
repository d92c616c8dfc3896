"""Changes that make faces hard to read: what they do to the pixels, and that they are measured."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.robustness import CONDITIONS, LEVELS, Condition, Faces, Kind, change, measure_robustness


def drawn(channels: int = 1, side: int = 36) -> Faces:
    random = np.random.default_rng(0)
    return random.integers(40, 200, (4, channels, side, side), dtype=np.uint8)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: f"{condition.kind} {condition.level}")
def test_every_condition_changes_faces_and_leaves_the_given_ones_alone(condition: Condition) -> None:
    faces = drawn(3, 64)
    before = faces.copy()
    changed = change(faces, condition, seed=1)
    assert changed.shape == faces.shape
    assert changed.dtype == np.uint8
    assert (changed != before).any()
    np.testing.assert_array_equal(faces, before)
    np.testing.assert_array_equal(changed, change(faces, condition, seed=1))


def test_a_quarter_turn_left_is_numpy_s() -> None:
    faces = drawn()
    np.testing.assert_array_equal(change(faces, Condition("rotation", 90)), np.rot90(faces, axes=(2, 3)))


def test_noise_has_its_deviation_and_another_seed_draws_another() -> None:
    faces = np.full((8, 1, 64, 64), 128, np.uint8)
    noisy = change(faces, Condition("noise", 10), seed=0)
    assert noisy.std() == pytest.approx(10, rel=0.05)
    assert (noisy != change(faces, Condition("noise", 10), seed=1)).any()


@pytest.mark.parametrize("kind", LEVELS)
def test_a_change_takes_little_more_memory_than_what_it_gives(kind: Kind) -> None:
    condition = Condition(kind, LEVELS[kind][0])
    faces = drawn(3, 64).repeat(16, axis=0)
    change(faces[:1], condition)  # what is loaded once does not count
    tracemalloc.start()
    try:
        change(faces, condition)
        assert tracemalloc.get_traced_memory()[1] < 2 * faces.nbytes
    finally:
        tracemalloc.stop()


def test_noise_is_drawn_face_by_face_as_in_one_go() -> None:
    faces = drawn(3)
    whole = np.random.default_rng(5).normal(0, 10, faces.shape)
    expected = np.clip(np.rint(faces + whole), 0, 255)
    np.testing.assert_array_equal(change(faces, Condition("noise", 10), seed=5), expected)


def test_darkness_leaves_a_share_of_the_light() -> None:
    np.testing.assert_array_equal(
        change(np.full((1, 1, 4, 4), 200, np.uint8), Condition("darkness", 0.25)), np.full((1, 1, 4, 4), 50)
    )


@pytest.mark.parametrize(
    ("third", "rows", "columns"),
    [
        ("upper", slice(0, 12), slice(None)),
        ("middle", slice(12, 24), slice(None)),
        ("lower", slice(24, 36), slice(None)),
        ("left", slice(None), slice(0, 12)),
        ("right", slice(None), slice(24, 36)),
    ],
)
def test_an_occlusion_covers_its_third_and_nothing_else(third: str, rows: slice, columns: slice) -> None:
    faces = drawn()
    covered = change(faces, Condition("occlusion", third))
    assert (covered[:, :, rows, columns] == 128).all()
    faces[:, :, rows, columns] = 128
    np.testing.assert_array_equal(covered, faces)


def test_accuracy_is_measured_as_it_is_and_under_each_condition() -> None:
    """A reader that sees anger in light faces and fear in dark ones."""

    def read(faces: Faces) -> NDArray[np.float32]:
        dark = faces.mean(axis=(1, 2, 3)) < 60
        return np.eye(8, dtype=np.float32)[np.where(dark, 3, 0)]

    conditions = (Condition("darkness", 0.75), Condition("darkness", 0.1))
    plain, less, dark = measure_robustness(read, drawn(), np.zeros(4, np.int64), conditions)
    assert (plain.condition, plain.accuracy) == (None, 1.0)
    assert (less.condition, less.accuracy) == (conditions[0], 1.0)
    assert (dark.accuracy, dark.macro_f1) == (0.0, 0.0)
