"""Motion masks from drawn faces that move a known part, and from folders of pictures."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml.alignment import TEMPLATE
from ml.datasets import Sample
from ml.expressions import EXPRESSIONS, expression_index
from ml.faces import LANDMARKS, Face
from ml.motion_masks import (
    BUNDLED_MASKS,
    MotionMaskError,
    Pair,
    average_motion,
    load_motion_masks,
    pair_faces,
    save_motion_masks,
)

SIZE = 64
HAPPINESS, SURPRISE, NEUTRAL = (expression_index(name) for name in ("happiness", "surprise", "neutral"))
MOUTH, BROWS = slice(46, 54), slice(18, 24)


def face(moved: slice | None = None, amount: int = 60, light: float = 1.0) -> NDArray[np.uint8]:
    """A square of even texture whose rows `moved` are darker over the middle."""
    pixels = np.random.default_rng(3).uniform(120, 150, (SIZE, SIZE))
    if moved:
        pixels[moved, 24:40] -= amount
    grey = np.clip(pixels * light, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def smile(subject: str = "A", moved: slice = MOUTH) -> Pair:
    return Pair(face(), face(moved), HAPPINESS, subject)


def test_a_mask_is_bright_where_the_face_moves() -> None:
    mask = average_motion([smile()]).maps[HAPPINESS]
    assert mask.dtype == np.float32
    assert mask.shape == (SIZE, SIZE)
    assert mask.min() == 0
    assert mask.max() == 1
    assert mask[MOUTH, 26:38].mean() > 0.8
    assert mask[BROWS].max() < 0.1


def test_a_brighter_lamp_is_no_motion() -> None:
    pair = Pair(face(), face(MOUTH, light=1.3), HAPPINESS, "A")
    mask = average_motion([pair]).maps[HAPPINESS]
    assert mask[BROWS].max() < 0.2 < mask[MOUTH, 26:38].mean()


def test_what_moves_outside_the_face_is_left_out() -> None:
    moved = face(MOUTH)
    moved[:, :6] = 0
    mask = average_motion([Pair(face(), moved, HAPPINESS, "A")]).maps[HAPPINESS]
    assert mask[:, :6].max() < 0.05


def test_a_mask_is_the_same_left_and_right() -> None:
    moved = face()
    moved[MOUTH, 38:46] //= 2
    mask = average_motion([Pair(face(), moved, HAPPINESS, "A")]).maps[HAPPINESS]
    assert mask == pytest.approx(mask[:, ::-1], abs=1e-5)
    assert mask[MOUTH, 38:46].mean() > 0.5


def test_every_person_counts_the_same_however_many_pictures_there_are() -> None:
    once = average_motion([smile("A"), smile("B", BROWS)])
    often = average_motion([smile("A")] * 9 + [smile("B", BROWS)])
    assert often.maps == pytest.approx(once.maps, abs=1e-4)


def test_neutral_is_known_to_be_still_and_expressions_without_pairs_are_unknown() -> None:
    masks = average_motion([smile()])
    assert masks.maps.shape == (len(EXPRESSIONS), SIZE, SIZE)
    assert [EXPRESSIONS[index] for index in np.flatnonzero(masks.known)] == ["happiness", "neutral"]
    assert not masks.maps[NEUTRAL].any()
    assert not masks.maps[SURPRISE].any()


def test_without_pairs_or_motion_there_is_no_mask() -> None:
    with pytest.raises(MotionMaskError, match="no person with both"):
        average_motion([])
    with pytest.raises(MotionMaskError, match="the same pictures"):
        average_motion([Pair(face(), face(), HAPPINESS, "A")])


def test_saved_masks_are_read_back(tmp_path: Path) -> None:
    masks = average_motion([smile(), Pair(face(), face(BROWS), SURPRISE, "A")])
    paths = save_motion_masks(masks, tmp_path / "masks", "made by a test")
    assert sorted(path.name for path in paths) == ["happiness.png", "surprise.png"]
    assert Image.open(paths[0]).info["Source"] == "made by a test"
    again = load_motion_masks(tmp_path / "masks", SIZE)
    assert again.maps == pytest.approx(masks.maps, abs=1 / 255)
    assert np.array_equal(again.known, masks.known)


def test_masks_of_the_old_project_are_read_by_their_numbers(tmp_path: Path) -> None:
    for number in range(7):
        Image.new("L", (70, 70), 30 * number).save(tmp_path / f"{number}.png")
    masks = load_motion_masks(tmp_path, SIZE)
    assert masks.known.all()
    for number, name in enumerate(
        ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
    ):
        assert masks.maps[expression_index(name)] == pytest.approx(30 * number / 255)
    assert not masks.maps[NEUTRAL].any()


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MotionMaskError, match=r"no folder .*nowhere"):
        load_motion_masks(tmp_path / "nowhere", SIZE)
    with pytest.raises(MotionMaskError, match="holds no motion masks"):
        load_motion_masks(tmp_path, SIZE)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "anger.png").write_bytes(content)
    with pytest.raises(MotionMaskError, match=r"anger\.png cannot be read"):
        load_motion_masks(tmp_path, SIZE)


@pytest.mark.parametrize("size", [24, 96, 299])
def test_the_bundled_masks_cover_all_but_contempt_at_any_size(size: int) -> None:
    masks = load_motion_masks(BUNDLED_MASKS, size)
    assert masks.maps.shape == (len(EXPRESSIONS), size, size)
    assert [EXPRESSIONS[index] for index in np.flatnonzero(~masks.known)] == ["contempt"]
    assert masks.maps.min() >= 0
    assert masks.maps.max() <= 1


@pytest.mark.parametrize("name", ["anger", "disgust", "fear", "happiness", "sadness", "surprise"])
def test_bundled_masks_move_at_the_features_and_not_at_the_edge(name: str) -> None:
    mask = load_motion_masks(BUNDLED_MASKS, 100).maps[expression_index(name)]
    mouth, brows, cheek = mask[70:90, 35:65], mask[25:42, 20:80], mask[50:60, 25:32]
    assert min(mouth.mean(), brows.mean()) > cheek.mean()
    assert max(mask[:, :5].max(), mask[:, -5:].max(), mask[:5].max()) < 0.05


class InTheMiddle:
    """A detector that finds a face filling every picture but black ones."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        points = {
            name: (float(x), float(y))
            for name, (x, y) in zip(LANDMARKS, TEMPLATE * len(image) - 0.5, strict=True)
        }
        return [Face((0, 0, 1, 1), points, 0.9)] if image.any() else []


def test_each_expressive_face_is_paired_with_every_neutral_one_of_the_same_person(tmp_path: Path) -> None:
    pictures = [
        ("A", NEUTRAL, face()),
        ("A", NEUTRAL, face(light=0.9)),
        ("A", HAPPINESS, face(MOUTH)),
        ("B", HAPPINESS, face(MOUTH)),  # without a neutral face
        ("C", NEUTRAL, face()),
        ("C", SURPRISE, face(BROWS)),
        ("C", SURPRISE, np.zeros((SIZE, SIZE, 3), np.uint8)),  # no face is found
        (None, HAPPINESS, face(MOUTH)),  # nobody knows whose
    ]
    samples = []
    for number, (subject, expression, image) in enumerate(pictures):
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        samples.append(Sample(path, expression, (0.0,) * len(EXPRESSIONS), subject))
    pairs = pair_faces(samples, InTheMiddle(), SIZE)
    assert [(pair.subject, pair.expression) for pair in pairs] == [
        ("A", HAPPINESS),
        ("A", HAPPINESS),
        ("C", SURPRISE),
    ]
    assert average_motion(pairs).maps[SURPRISE][BROWS, 28:36].mean() > 0.5
