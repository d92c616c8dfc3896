"""The eight expressions, in the one order that every array, table and file of this project uses."""

from collections.abc import Mapping
from typing import Final

EXPRESSIONS: Final = (
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happiness",
    "sadness",
    "surprise",
    "neutral",
)

# The words other data sets and folders use for the same expressions.
SYNONYMS: Final = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "normal": "neutral",
    "neutrality": "neutral",
}


def expression_index(name: str) -> int:
    """Return the position of `name` (or of a common synonym, any case) in `EXPRESSIONS`.

    Raises ValueError for a word that names none of the eight.
    """
    word = name.strip().lower()
    word = SYNONYMS.get(word, word)
    if word not in EXPRESSIONS:
        raise ValueError(f"Unknown expression {name!r}: known are {', '.join(EXPRESSIONS)}.")
    return EXPRESSIONS.index(word)


def is_sure(probabilities: Mapping[str, float], sure_from: float) -> bool:
    """Whether the most probable of the eight expressions reaches the model's threshold (both 0..1): below it,
    what is said is a guess."""
    return max(probabilities.values()) >= sure_from
