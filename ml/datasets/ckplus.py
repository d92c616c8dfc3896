"""CK+ as it is handed out: a folder for each sequence, from a neutral face to the expression's peak."""

import re
from pathlib import Path
from typing import Final

from ml.datasets.samples import DatasetError, Sample, divide_by_person, is_visible, labelled

PEAK_FRAMES: Final = 3  # as the old project and most papers take them
FRAME_NAME: Final = re.compile(r"S\d+_\d+_\d+\.png")
NUMBER: Final = re.compile(r"\s*([0-7])(\.0*)?(e\+?0+)?\s*")  # the files say "   3.0000000e+00"
NUMBERS: Final = (
    "neutral",
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happiness",
    "sadness",
    "surprise",
)


def read_ckplus(root: Path, split: str) -> list[Sample]:
    """Read cohn-kanade-images/S005/001/S005_001_00000011.png and Emotion/S005/001/…_emotion.txt.

    Of each sequence with an emotion file the last three frames bear its label and the first one is neutral;
    sequences without one are passed over. The pictures are whole photos. Subject is the S005 part; divided by
    person, 80/10/10. Raises DatasetError for a missing folder, an emotion file that holds no number of a
    class, and a labelled sequence without enough frames.
    """
    images, emotions = root / "cohn-kanade-images", root / "Emotion"
    for folder in (images, emotions):
        if not folder.is_dir():
            raise DatasetError(f"The original CK+ layout needs the folder {folder}, which is missing.")
    samples = []
    for file in sorted(emotions.glob("*/*/*_emotion.txt")):
        if is_visible(file):
            subject, sequence = file.parts[-3:-1]
            samples += _read_sequence(images / subject / sequence, _read_emotion(file), subject)
    return divide_by_person(samples, split)


def _read_sequence(folder: Path, name: str, subject: str) -> list[Sample]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    frames = [path for path in paths if FRAME_NAME.fullmatch(path.name)]
    if len(frames) <= PEAK_FRAMES:
        raise DatasetError(
            f"{folder} is labelled {name} but holds {len(frames)} frames such as S005_001_00000011.png: "
            f"a neutral one and {PEAK_FRAMES} of the peak are needed."
        )
    labels = [(frames[0], "neutral"), *((frame, name) for frame in frames[-PEAK_FRAMES:])]
    return [labelled(path, word, subject, photo=True) for path, word in labels]


def _read_emotion(file: Path) -> str:
    text = file.read_bytes()[:100].decode("ascii", "replace")
    if match := NUMBER.fullmatch(text):
        return NUMBERS[int(match[1])]
    raise DatasetError(f"{file} holds no number of an emotion, 0 to 7, but {text.strip()[:40]!r}.")
