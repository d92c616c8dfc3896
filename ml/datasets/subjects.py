"""Small sets whose file names tell who is on each picture: JAFFE, Yale, TCCE, KDEF and the old project's CK+.

None has an official split, so all are divided by person, 80/10/10 (`divide_by_person`).
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ml.datasets.old_project import NUMBERS, has_old_layout, read_old_folder
from ml.datasets.samples import Sample, divide_by_person, is_visible, labelled

JAFFE_NAME: Final = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<word>[A-Z]{2})\d+\.\d+\.tiff?")
JAFFE_OLD_NAME: Final = re.compile(r"(?P<sequence>(?P<subject>[A-Z]{2})_[A-Z]{2})_\d+\.png")
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

TCCE_NAME: Final = re.compile(r"(?P<subject>\d\d)\d1(?P<word>[a-g])\d\d\.jpg")
TCCE_WORDS: Final = {
    "a": "neutral",
    "b": "happiness",
    "c": "sadness",
    "d": "anger",
    "e": "disgust",
    "g": "surprise",
}

KDEF_NAME: Final = re.compile(r"[AB](?P<subject>[FM]\d\d)(?P<word>[A-Z]{2})S\.JPG")
KDEF_WORDS: Final = {
    "AF": "fear",
    "AN": "anger",
    "DI": "disgust",
    "HA": "happiness",
    "NE": "neutral",
    "SA": "sadness",
    "SU": "surprise",
}

CKPLUS_OLD_NAME: Final = re.compile(r"(?P<sequence>(?P<subject>S\d+)_\d+)_\d+\.png")


def read_jaffe(root: Path, split: str) -> list[Sample]:
    """Read JAFFE's KA.AN1.39.tiff (subject KA, anger) in root or root/jaffe_db; divided by person.

    Where root has a folder imgs it is the old project's: imgs/KA_AN_39.png and emotion_labels.pkl, read as
    `read_old_folder` says. Files with other names are passed over.
    """
    if has_old_layout(root):
        return divide_by_person(read_old_folder(root, JAFFE_OLD_NAME, NUMBERS), split)
    return _read_named(root, "jaffe_db", JAFFE_NAME, JAFFE_WORDS, split)


def read_yale(root: Path, split: str) -> list[Sample]:
    """Read Yale's subject01.happy (GIF files) in root or root/yalefaces; divided by person.

    Lights, glasses, sleepy and wink are no expressions of ours and are passed over.
    """
    return _read_named(root, "yalefaces", YALE_NAME, YALE_WORDS, split)


def read_tcce(root: Path, split: str) -> list[Sample]:
    """Read the front views of the Taiwan Corpora of Chinese Emotions (professional performers, 2013):
    0111b02.jpg (performer 01, happiness) in root or root/faces_256x256; divided by person.

    Fear is passed over: most of those who rated the set saw surprise or sadness in it.
    """
    return _read_named(root, "faces_256x256", TCCE_NAME, TCCE_WORDS, split)


def read_kdef(root: Path, split: str) -> list[Sample]:
    """Read the front views of the Karolinska Directed Emotional Faces (Lundqvist, Flykt and Öhman, 1998):
    AF01ANS.JPG (first session, woman 01, anger) in root or any folder in it; divided by person.
    """
    return _read_matching(root.rglob("*.JPG"), KDEF_NAME, KDEF_WORDS, split)


def read_ckplus48(root: Path, split: str) -> list[Sample]:
    """Read the old project's CKPlus folder: imgs/S005_001_00000011.png and emotion_labels.pkl.

    A frame bears its sequence's label; subject is the S005 part; divided by person. Errors are those of
    `read_old_folder`.
    """
    return divide_by_person(read_old_folder(root, CKPLUS_OLD_NAME, NUMBERS), split)


def _read_named(
    root: Path, inner: str, pattern: re.Pattern[str], words: Mapping[str, str], split: str
) -> list[Sample]:
    """Read the photos in root or root/inner whose names match `pattern` and whose word is known."""
    folder = root / inner if (root / inner).is_dir() else root
    return _read_matching(folder.iterdir(), pattern, words, split)


def _read_matching(
    paths: Iterable[Path], pattern: re.Pattern[str], words: Mapping[str, str], split: str
) -> list[Sample]:
    samples = [
        labelled(path, words[match["word"]], match["subject"], photo=True)
        for path in sorted(paths, key=lambda path: path.name)
        if is_visible(path) and (match := pattern.fullmatch(path.name)) and match["word"] in words
    ]
    return divide_by_person(samples, split)
