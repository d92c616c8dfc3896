"""Which folds, as people write it: 0-9, or 0,3."""

from collections.abc import Sequence


def parse_folds(text: str) -> tuple[int, ...] | None:
    """ "0-9", "0,3", "0-2,7": the folds named, ascending; "" and "all": None. Raises ValueError."""
    if text.strip().lower() in ("", "all"):
        return None
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        ends = (first, last if dash else first)
        named = all(end.isascii() and end.isdigit() and len(end) <= 3 for end in ends)
        if not named or int(ends[0]) > int(ends[1]):
            raise ValueError(f"“{part.strip()}” names no folds: write such as 0-9 or 0,3, or leave it empty.")
        numbers.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(numbers))


def write_folds(numbers: Sequence[int]) -> str:
    """The shortest text that `parse_folds` reads as these numbers, which ascend."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans)
