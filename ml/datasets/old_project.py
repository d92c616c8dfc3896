"""What the old project made of CK+, JAFFE and MMI: a folder imgs of face crops, and emotion_labels.pkl."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ml.datasets.labels import read_labels
from ml.datasets.samples import DatasetError, Sample, is_visible, labelled

# How it numbered CK+ and JAFFE. MMI's pickle starts at 0 and has no contempt.
NUMBERS: Final = {
    1: "anger",
    2: "contempt",
    3: "disgust",
    4: "fear",
    5: "happiness",
    6: "sadness",
    7: "surprise",
    -1: "neutral",
}
MMI_NUMBERS: Final = dict(enumerate(("anger", "disgust", "fear", "happiness", "sadness", "surprise")))


def has_old_layout(root: Path) -> bool:
    return (root / "imgs").is_dir()


def read_old_folder(root: Path, name: re.Pattern[str], numbers: Mapping[int, str]) -> list[Sample]:
    """Read root/imgs: the pictures whose file `name` matches, with groups "sequence" and "subject".

    A frame bears its sequence's label. Raises DatasetError for a frame without a label, a number that is no
    class, and a label file that is not to be trusted.
    """
    folder, table = root / "imgs", root / "emotion_labels.pkl"
    if not folder.is_dir():
        raise DatasetError(f"The old project's layout needs the folder {folder}, which is missing.")
    labels = read_labels(table)
    samples = []
    for path in sorted(folder.iterdir()):
        if is_visible(path) and (match := name.fullmatch(path.name)):
            number = labels.get(match["sequence"])
            if number is None or number not in numbers:
                raise DatasetError(f"{table} has no class for {path.name}: its label is {number}.")
            samples.append(labelled(path, numbers[number], match["subject"]))
    return samples
