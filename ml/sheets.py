"""Packing rectangles of cells onto square sheets: pictures of all sizes become inputs of one size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A part of a rectangle, and where it lies on which sheet; all in cells."""

    rectangle: int
    top: int
    left: int
    rows: int
    columns: int
    sheet: int
    sheet_top: int
    sheet_left: int


def pack(rectangles: Sequence[tuple[int, int]], side: int, margin: int) -> list[Piece]:
    """Lay rectangles (rows, columns) onto sheets of `side` × `side` cells, none on top of another.

    Rectangles larger than a sheet are cut, and each of their cells lies in one piece. Below and right of a
    piece `margin` cells stay free, beyond the sheet's edge if need be. Gives the pieces, sheet by sheet.
    """
    # On shelves, the tallest first: a piece goes onto the first shelf with room, and a shelf onto the first
    # sheet with room. About a fifth of the cells stays empty.
    shelves: list[list[int]] = []  # sheet, top, columns taken
    heights: list[int] = []  # rows taken of every sheet
    pieces = []
    parts = sorted(_cut(rectangles, side), key=lambda part: part[3:], reverse=True)
    for rectangle, top, left, rows, columns in parts:
        shelf = next((shelf for shelf in shelves if shelf[2] + columns <= side), None)
        if shelf is None:
            sheet = next((n for n, height in enumerate(heights) if height + rows <= side), len(heights))
            if sheet == len(heights):
                heights.append(0)
            shelf = [sheet, heights[sheet], 0]
            shelves.append(shelf)
            heights[sheet] += rows + margin
        pieces.append(Piece(rectangle, top, left, rows, columns, *shelf))
        shelf[2] += columns + margin
        if shelf[2] >= side:
            shelves.remove(shelf)
    return sorted(pieces, key=lambda piece: piece.sheet)


def _cut(rectangles: Sequence[tuple[int, int]], side: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Number of the rectangle, top, left, rows and columns of each part."""
    for number, (rows, columns) in enumerate(rectangles):
        for top in range(0, rows, side):
            for left in range(0, columns, side):
                yield number, top, left, min(side, rows - top), min(side, columns - left)
