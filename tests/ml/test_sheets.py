"""Rectangles of cells on sheets of one size."""

import numpy as np
import pytest

from ml.sheets import pack

SIDE, MARGIN = 64, 5
PYRAMIDS = {
    "one sheet": [(10, 12), (7, 8), (1, 1)],
    "exactly a sheet": [(64, 64)],
    "a cell more": [(65, 64), (64, 65)],
    "480 by 640": [(139, 187), (97, 131), (67, 91), (46, 63), (31, 43), (20, 29), (13, 19), (7, 12), (4, 7)],
    "a panorama": [(20, 900), (13, 637), (8, 451), (4, 319)],
}


@pytest.mark.parametrize("rectangles", PYRAMIDS.values(), ids=PYRAMIDS)
def test_each_cell_lies_on_one_sheet_and_none_on_another(rectangles: list[tuple[int, int]]) -> None:
    pieces = pack(rectangles, SIDE, MARGIN)
    cells = [np.zeros(size, int) for size in rectangles]
    sheets = np.zeros((max(piece.sheet for piece in pieces) + 1, SIDE + MARGIN, SIDE + MARGIN), int)
    for piece in pieces:
        bottom, right = piece.top + piece.rows, piece.left + piece.columns
        cells[piece.rectangle][piece.top : bottom, piece.left : right] += 1
        bottom, right = piece.sheet_top + piece.rows, piece.sheet_left + piece.columns
        assert bottom <= SIDE
        assert right <= SIDE
        sheets[piece.sheet, piece.sheet_top : bottom + MARGIN, piece.sheet_left : right + MARGIN] += 1
    assert all((part == 1).all() for part in cells)
    assert sheets.max() == 1, "margins included"
    assert sheets.any(axis=(1, 2)).all(), "no sheet is empty"


def test_little_room_is_left_over() -> None:
    rectangles = PYRAMIDS["480 by 640"]
    needed = sum(rows * columns for rows, columns in rectangles)
    sheets = pack(rectangles, SIDE, MARGIN)[-1].sheet + 1
    assert needed / (sheets * SIDE**2) > 0.85
