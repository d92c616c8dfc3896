"""Aligned crops of drawn faces: turned, scaled and shifted pictures of one face look the same."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ml.alignment import TEMPLATE, align_face, frame_crop, frame_photo, place_crop
from ml.faces import LANDMARKS, Face, Point

SIZE = 96
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
UPRIGHT = np.array([(110.0, 100.0), (190.0, 100.0), (150.0, 150.0), (118.0, 190.0), (182.0, 190.0)])

# Points need not fit the template exactly: where they should land is the nearest a similarity brings them.
ON_TEMPLATE = 60 + TEMPLATE * 180


def named(points: NDArray[np.float64]) -> dict[str, Point]:
    return {name: (float(x), float(y)) for name, (x, y) in zip(LANDMARKS, points, strict=True)}


def draw(
    points: NDArray[np.float64], radius: float, shape: tuple[int, int] = (400, 400)
) -> NDArray[np.uint8]:
    """Draw a disc of its own colour at every landmark, on grey."""
    image = np.full((*shape, 3), 90, np.uint8)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        centre = (round(x * 16), round(y * 16))
        cv2.circle(image, centre, round(radius * 16), colour, -1, cv2.LINE_AA, shift=4)
    return image


def turned(points: NDArray[np.float64], degrees: float, scale: float, shift: Point) -> NDArray[np.float64]:
    angle = np.deg2rad(degrees)
    matrix = scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    centre = points.mean(axis=0)
    moved: NDArray[np.float64] = (points - centre) @ matrix.T + centre + shift
    return moved


def centre_of(crop: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the centre (x, y), from the crop's edge, of what has nearly this colour."""
    distance = np.abs(crop.astype(int) - colour).sum(axis=2)
    rows, columns = np.nonzero(distance < 120)
    assert rows.size
    return np.array([columns.mean(), rows.mean()]) + 0.5


@pytest.mark.parametrize("size", [48, 96, 299])
def test_landmarks_land_on_the_template(size: int) -> None:
    crop = align_face(draw(ON_TEMPLATE, radius=9), named(ON_TEMPLATE), size)
    assert crop.shape == (size, size, 3)
    assert crop.dtype == np.uint8
    for target, colour in zip(TEMPLATE * size, COLOURS, strict=True):
        assert centre_of(crop, colour) == pytest.approx(target, abs=1)


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"),
    [
        (0, 1, (0, 0)),
        (25, 1, (0, 0)),
        (-40, 0.7, (20, 10)),
        (90, 1, (0, 0)),
        (180, 0.6, (-30, 40)),
        (10, 1.4, (50, 60)),
    ],
)
def test_turned_scaled_and_shifted_pictures_of_a_face_give_the_same_crop(
    degrees: float, scale: float, shift: Point
) -> None:
    straight = align_face(draw(UPRIGHT, radius=9), named(UPRIGHT), SIZE)
    points = turned(UPRIGHT, degrees, scale, shift)
    crop = align_face(draw(points, radius=9 * scale), named(points), SIZE)
    assert np.abs(crop.astype(int) - straight).mean() < 2
    for colour in COLOURS:
        assert centre_of(crop, colour) == pytest.approx(centre_of(straight, colour), abs=1)


def test_a_large_face_is_averaged_down_without_aliasing() -> None:
    # A chequerboard of single pixels is plain grey from afar; sampled point by point it is black or white.
    board = np.indices((1200, 1200)).sum(axis=0) % 2 * np.uint8(255)
    image = np.repeat(board.astype(np.uint8)[..., None], 3, axis=2)
    crop = align_face(image, named(100 + TEMPLATE * 960), SIZE)
    assert np.abs(crop.astype(int) - 127).max() <= 8


def test_what_lies_outside_the_photo_is_black() -> None:
    points = ON_TEMPLATE - (150, 0)  # half of the crop is beyond the left edge
    crop = align_face(np.full((300, 300, 3), 200, np.uint8), named(points), SIZE)
    assert not crop[:, :40].any()
    assert (crop[:, 60:] == 200).all()


def test_the_template_is_the_same_left_and_right() -> None:
    mirrored = TEMPLATE[[1, 0, 2, 4, 3]] * (-1, 1) + (1, 0)
    assert mirrored == pytest.approx(TEMPLATE)
    assert TEMPLATE.min() > 0
    assert TEMPLATE.max() < 1


def test_landmarks_that_are_one_point_are_refused() -> None:
    with pytest.raises(ValueError, match="one point"):
        align_face(draw(UPRIGHT, radius=9), dict.fromkeys(LANDMARKS, (50.0, 50.0)), SIZE)


def test_a_crop_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        align_face(draw(UPRIGHT, radius=9), named(UPRIGHT), 0)


class Blind:
    """A detector that never finds a face."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        return []


class ByColour:
    """A detector that finds the drawn face by its colours, and something less certain beside it."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        points = np.array([centre_of(image, colour) for colour in COLOURS]) - 0.5
        box = (0.0, 0.0, 1.0, 1.0)
        return [Face(box, named(points / 3), 0.85), Face(box, named(points), 0.99)]


@pytest.mark.parametrize("side", [60, 400])
def test_a_crop_is_framed_by_the_surest_face_found_in_it(side: int) -> None:
    points = turned(UPRIGHT, 15, 1.1, (20, 30)) * side / 400
    crop = frame_crop(draw(points, side / 35, (side, side)), ByColour(), SIZE, TEMPLATE)
    expected = align_face(draw(points, side / 35, (side, side)), named(points), SIZE)
    for colour in COLOURS:
        assert centre_of(crop, colour) == pytest.approx(centre_of(expected, colour), abs=1)


def test_a_crop_without_a_found_face_is_framed_by_the_usual_place_of_the_landmarks() -> None:
    image = draw(ON_TEMPLATE, radius=9)
    usual = (ON_TEMPLATE + 0.5) / 400
    assert np.array_equal(
        frame_crop(image, Blind(), SIZE, usual), align_face(image, named(ON_TEMPLATE), SIZE)
    )


def test_the_surest_face_is_cut_out_of_a_photo() -> None:
    points = turned(UPRIGHT, 15, 1.1, (20, 30))
    photo = draw(points, radius=9)
    crop = frame_photo(photo, ByColour(), SIZE)
    for colour in COLOURS:
        landed = centre_of(align_face(photo, named(points), SIZE), colour)
        assert centre_of(crop, colour) == pytest.approx(landed, abs=1)


def test_of_a_part_of_a_photo_the_face_in_its_middle_is_cut_out_though_another_is_surer() -> None:
    class WithNeighbour:
        def detect(self, image: NDArray[np.uint8]) -> list[Face]:
            box = (0.0, 0.0, 1.0, 1.0)
            return [Face(box, named(points / 3), 0.99), Face(box, named(points), 0.85)]

    points = turned(UPRIGHT, 15, 1.1, (20, 30))
    photo = draw(points, radius=9)
    middle = frame_photo(photo, WithNeighbour(), SIZE, middle=True)
    assert np.array_equal(middle, align_face(photo, named(points), SIZE))
    surest = frame_photo(photo, WithNeighbour(), SIZE)
    assert np.array_equal(surest, align_face(photo, named(points / 3), SIZE))


def test_of_a_photo_without_a_found_face_the_middle_is_kept_and_not_stretched() -> None:
    photo = draw(np.array([(300.0, 150.0)] * 5), radius=20, shape=(300, 600))
    crop = frame_photo(photo, Blind(), SIZE)
    rows, columns = np.nonzero(np.abs(crop.astype(int) - COLOURS[-1]).sum(axis=2) < 120)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)
    assert centre_of(crop, COLOURS[-1]) == pytest.approx((SIZE / 2, SIZE / 2), abs=1)


def test_the_place_of_a_crop_is_where_its_pixels_came_from() -> None:
    turn = np.deg2rad(20)
    matrix = 80 * np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    points = TEMPLATE @ matrix.T + (140, 60)
    landmarks = named(points - 0.5)

    place = place_crop(landmarks)

    np.testing.assert_allclose(place, np.column_stack((matrix, (140, 60))), atol=1e-9)
    x, y = place @ (0.25, 0.75, 1)
    photo = np.zeros((240, 320, 3), np.uint8)
    photo[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = 255
    crop = align_face(photo, landmarks, 80)
    assert crop[60, 20].min() > 200
