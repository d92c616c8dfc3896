"""Small sets that tell who is on each picture: JAFFE, Yale and the old project's CK+.

None has an official split, so all three are divided by person, 80/10/10 (`keys_of_split`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ml.datasets.labels import read_labels
from ml.datasets.samples import DatasetError, Sample, certain, is_visible, keys_of_split
from ml.expressions import expression_index

JAFFE_NAME: Final = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<word>[A-Z]{2})\d+\.\d+\.tiff?")
JAFFE_WORDS: Final = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "SA": "sadness",
    "SU": "surprise",
    "NE": "neutral",
}

YALE_NAME: Final = re.compile(r"(?P<subject>subject\d+)\.(?P<word>\w+)(\.gif)?")
YALE_WORDS: Final = {
    "normal": "neutral",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}

CKPLUS_NAME: Final = re.compile(r"(?P<sequence>(?P<subject>S\d+)_\d+)_\d+\.png")
OLD_NUMBERS: Final = {
    1: "anger",
    2: "contempt",
    3: "disgust",
    4: "fear",
    5: "happiness",
    6: "sadness",
    7: "surprise",
    -1: "neutral",
}


def read_jaffe(root: Path, split: str) -> list[Sample]:
    """Read JAFFE's KA.AN1.39.tiff (subject KA, anger) in root or root/jaffe_db; divided by person.

    Files with other names are passed over.
    """
    return _read_named(root, "jaffe_db", JAFFE_NAME, JAFFE_WORDS, split)


def read_yale(root: Path, split: str) -> list[Sample]:
    """Read Yale's subject01.happy (GIF files) in root or root/yalefaces; divided by person.

    Lights, glasses, sleepy and wink are no expressions of ours and are passed over.
    """
    return _read_named(root, "yalefaces", YALE_NAME, YALE_WORDS, split)


def read_ckplus48(root: Path, split: str) -> list[Sample]:
    """Read the old project's CKPlus folder: imgs/S005_001_00000011.png and emotion_labels.pkl.

    A frame bears its sequence's label; subject is the S005 part; divided by person. Raises DatasetError for
    a frame without a label, a number that is no class, and a label file that is not to be trusted.
    """
    folder = root / "imgs"
    if not folder.is_dir():
        raise DatasetError(f"The old CK+ layout needs the folder {folder}, which is missing.")
    table = root / "emotion_labels.pkl"
    labels = read_labels(table)
    samples = []
    for path in sorted(folder.iterdir()):
        if match := CKPLUS_NAME.fullmatch(path.name):
            number = labels.get(match["sequence"])
            if number not in OLD_NUMBERS:
                raise DatasetError(f"{table} has no class of CK+ for {path.name}: its label is {number}.")
            samples.append(_sample(path, OLD_NUMBERS[number], match["subject"]))
    return _of_split(samples, split)


def _read_named(
    root: Path, inner: str, pattern: re.Pattern[str], words: Mapping[str, str], split: str
) -> list[Sample]:
    """Read the pictures whose names match `pattern` and whose word is known, in root or root/inner."""
    folder = root / inner if (root / inner).is_dir() else root
    samples = [
        _sample(path, words[match["word"]], match["subject"])
        for path in sorted(folder.iterdir())
        if is_visible(path) and (match := pattern.fullmatch(path.name)) and match["word"] in words
    ]
    return _of_split(samples, split)


def _sample(path: Path, name: str, subject: str) -> Sample:
    expression = expression_index(name)
    return Sample(path, expression, certain(expression), subject)


def _of_split(samples: list[Sample], split: str) -> list[Sample]:
    chosen = keys_of_split((sample.subject or "" for sample in samples), split)
    return [sample for sample in samples if sample.subject in chosen]
