"""Motion masks from drawn faces that move a known part, and from folders of pictures."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ml.alignment import TEMPLATE
from ml.datasets import Sample
from ml.expressions import EXPRESSIONS, expression_index
from ml.faces import LANDMARKS, Face
from ml.folds import Fold
from ml.motion_masks import (
    BUNDLED_MASKS,
    MotionMaskError,
    MotionMasks,
    Pair,
    average_motion,
    load_motion_masks,
    masks_for_fold,
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


def test_a_mask_of_sixteen_bits_is_not_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((70, 70), 64 * 257, np.uint16)).save(tmp_path / "anger.png")
    assert load_motion_masks(tmp_path, SIZE).maps[0] == pytest.approx(64 / 255)


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


def test_masks_of_the_old_mmi_have_no_contempt(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("L", (70, 70), 30 * number).save(tmp_path / f"{number}.png")
    masks = load_motion_masks(tmp_path, SIZE)
    assert [EXPRESSIONS[index] for index in np.flatnonzero(~masks.known)] == ["contempt"]
    for number, name in enumerate(("anger", "disgust", "fear", "happiness", "sadness", "surprise")):
        assert masks.maps[expression_index(name)] == pytest.approx(30 * number / 255)


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


# --- the masks of one fold


def certain(expression: int) -> tuple[float, ...]:
    return tuple(float(index == expression) for index in range(len(EXPRESSIONS)))


def save_face(path: Path, image: NDArray[np.uint8], expression: int, subject: str | None) -> Sample:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return Sample(path, expression, certain(expression), subject)


@pytest.fixture
def in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn squares are no faces to MTCNN."""
    monkeypatch.setattr("ml.motion_masks.load_detector", lambda *_: InTheMiddle())


def make_old_set(root: Path, *, neutral: bool = True) -> list[Sample]:
    """The old JAFFE folder in small: three people; KA moves the mouth, KL and KM the brows."""
    samples = []
    for person, moved in (("KA", MOUTH), ("KL", BROWS), ("KM", BROWS)):
        for word, index, image in (("HA", HAPPINESS, face(moved)), ("NE", NEUTRAL, face())):
            if neutral or word == "HA":
                samples.append(save_face(root / "imgs" / f"{person}_{word}_1.png", image, index, person))
    numbers = {"HA": 5, "NE": -1}
    labels = {f"{person}_{word}": numbers[word] for person in ("KA", "KL", "KM") for word in numbers}
    (root / "emotion_labels.pkl").write_bytes(pickle.dumps(labels))
    return samples


def fold_without(person: str, samples: list[Sample], number: int = 0) -> Fold:
    return Fold(
        number,
        tuple(sample for sample in samples if sample.subject != person),
        tuple(sample for sample in samples if sample.subject == person),
    )


@pytest.mark.usefixtures("in_the_middle")
def test_nobody_who_is_held_out_is_in_a_folds_masks(tmp_path: Path) -> None:
    samples = make_old_set(tmp_path)
    without_mouth = masks_for_fold(fold_without("KA", samples), "jaffe", tmp_path, SIZE).maps[HAPPINESS]
    with_mouth = masks_for_fold(fold_without("KL", samples), "jaffe", tmp_path, SIZE).maps[HAPPINESS]
    assert with_mouth[MOUTH, 26:38].mean() > 0.5
    assert without_mouth[MOUTH, 26:38].mean() < 0.05 < without_mouth[BROWS, 26:38].mean()


@pytest.mark.usefixtures("in_the_middle")
def test_neutral_faces_count_where_the_fold_does_not_train_on_them(tmp_path: Path) -> None:
    samples = make_old_set(tmp_path)
    whole = masks_for_fold(fold_without("KA", samples), "jaffe", tmp_path, SIZE)
    expressive = [sample for sample in samples if sample.expression != NEUTRAL]
    told: list[tuple[int, int]] = []
    masks = masks_for_fold(
        fold_without("KA", expressive), "jaffe", tmp_path, SIZE, lambda *progress: told.append(progress)
    )
    assert np.array_equal(masks.maps, whole.maps)
    assert [EXPRESSIONS[index] for index in np.flatnonzero(masks.known)] == ["happiness", "neutral"]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]  # KL's and KM's faces, and nobody else's


@pytest.mark.usefixtures("in_the_middle")
def test_people_of_other_sets_that_are_trained_on_as_well_do_not_count(tmp_path: Path) -> None:
    fold = fold_without("KA", make_old_set(tmp_path / "set"))
    others = [
        save_face(tmp_path / "other" / f"{index}.png", image, index, "subject01")
        for index, image in ((SURPRISE, face(MOUTH)), (NEUTRAL, face()))
    ]
    alone = masks_for_fold(fold, "jaffe", tmp_path / "set", SIZE)
    more = Fold(0, (*fold.train, *others), fold.test)
    assert np.array_equal(masks_for_fold(more, "jaffe", tmp_path / "set", SIZE).maps, alone.maps)


@pytest.mark.usefixtures("in_the_middle")
def test_a_person_on_both_sides_is_in_no_mask(tmp_path: Path) -> None:
    samples = make_old_set(tmp_path)
    clean = fold_without("KA", samples)
    leaking = Fold(0, tuple(samples), clean.test)
    masks = masks_for_fold(leaking, "jaffe", tmp_path, SIZE)
    assert np.array_equal(masks.maps, masks_for_fold(clean, "jaffe", tmp_path, SIZE).maps)


def make_old_maps(root: Path, samples: list[Sample]) -> None:
    """Lists and maps of three folds, each of which holds out one person; a map's grey is 10 × its fold."""
    for number, person in enumerate(("KA", "KL", "KM")):
        fold = fold_without(person, samples)
        for side, part in (("train", fold.train), ("test", fold.test)):
            names = [sample.path.name for sample in part]
            (root / f"{side}JA_ids_{number}.csv").write_text("\n".join(names))
        folder = root / "imgs_res" / str(number)
        folder.mkdir(parents=True)
        for index in range(7):
            Image.new("L", (70, 70), 10 * number).save(folder / f"{index}.png")


def grey(masks: MotionMasks) -> float:
    return float(masks.maps[HAPPINESS].mean() * 255)


def test_without_neutral_faces_the_old_maps_of_a_fold_that_held_out_the_same_people_serve(
    tmp_path: Path,
) -> None:
    samples = make_old_set(tmp_path, neutral=False)
    make_old_maps(tmp_path, samples)
    for number, person in enumerate(("KA", "KL", "KM")):
        own = masks_for_fold(fold_without(person, samples, number), "jaffe", tmp_path, SIZE)
        assert grey(own) == pytest.approx(10 * number)
    elsewhere = fold_without("KM", samples, number=0)  # not the list's own number: the people decide
    assert grey(masks_for_fold(elsewhere, "jaffe", tmp_path, SIZE)) == pytest.approx(20)


def test_old_maps_that_have_seen_someone_held_out_are_not_used(tmp_path: Path) -> None:
    samples = make_old_set(tmp_path, neutral=False)
    make_old_maps(tmp_path, samples)
    both = Fold(0, (samples[2],), (samples[0], samples[1]))
    # The bundled masks have JAFFE's people in them, so there is nothing left.
    with pytest.raises(MotionMaskError, match="bundled masks were made from jaffe's own people"):
        masks_for_fold(both, "jaffe", tmp_path, SIZE)


def test_a_set_that_names_nobody_takes_the_bundled_masks(tmp_path: Path) -> None:
    samples = [
        save_face(tmp_path / word / "face.png", face(), index, None)
        for word, index in (("happy", HAPPINESS), ("neutral", NEUTRAL))
    ]
    masks = masks_for_fold(Fold(0, (samples[0],), (samples[1],)), "folders", tmp_path, SIZE)
    assert np.array_equal(masks.maps, load_motion_masks(BUNDLED_MASKS, SIZE).maps)


def test_where_nobody_is_held_out_the_bundled_masks_serve_their_own_people_too(tmp_path: Path) -> None:
    samples = make_old_set(tmp_path, neutral=False)
    masks = masks_for_fold(Fold(0, tuple(samples), ()), "jaffe", tmp_path, SIZE)
    assert np.array_equal(masks.maps, load_motion_masks(BUNDLED_MASKS, SIZE).maps)
