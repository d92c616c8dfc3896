"""MMI: short films of people who make a face and let it go again."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from ml.datasets.images import SUFFIXES
from ml.datasets.old_project import MMI_NUMBERS, has_old_layout, read_old_folder
from ml.datasets.samples import DatasetError, Sample, divide_by_person, is_visible, labelled

APEX_FRAMES: Final = 3
FILM_NAME: Final = re.compile(r"(?P<subject>S\d+)-\d+")  # of a film, its metadata and its folder of frames
EMOTION: Final = re.compile(r'Name\s*=\s*"Emotion"\s+Value\s*=\s*"(?P<value>[^"]{0,20})"')
# Of the numbers in the metadata the first six are expressions of ours; beyond are scream, bored and sleepy.
NAMES: Final = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
WORDS: Final = {word: name for number, name in enumerate(NAMES, 1) for word in (str(number), name)}
OLD_NAME: Final = re.compile(r"(?P<sequence>(?P<subject>S\d+)_\d+)_\d+\.(png|jpg)")
PROFILE: Final = re.compile(r'\bview\s*=\s*"1"')  # 0 is frontal, 2 both in one picture
MAX_BYTES: Final = 1024 * 1024


def read_mmi(root: Path, split: str) -> list[Sample]:
    """Read Sessions/<number>/: session.xml, S001-100.xml (the emotion), and the frames of S001-100.avi.

    The emotion is the Value beside Name="Emotion" in one of the XML files, 1 anger, 2 disgust, 3 fear,
    4 happiness, 5 sadness, 6 surprise (or its word). Sessions of action units (…-oao_aucs.xml alone), of
    other emotions, and seen in profile alone (view="1" in session.xml) are passed over. A film goes from
    neutral over the apex and back, so the three middle frames bear the label and the first one is neutral.

    Frames are read as pictures, from Sessions/<number>/S001-100/ or beside the film, in the order of their
    names. Films must be taken apart first: many were filmed with the camera on its side, which no file tells
    for certain, so a person has to look. For each film

        ffmpeg -i S001-100.avi S001-100/%05d.png

    with -vf transpose=clock (or cclock) before the output where the face lies on its side.

    Where root has a folder imgs it is the old project's: imgs/S001_100_040.png and emotion_labels.pkl. The
    subject is "MMI S001": CK+ has an S005 of its own. Divided by person, 80/10/10. Raises DatasetError for a
    missing folder, a session whose film was not taken apart, and one with too few frames.
    """
    if has_old_layout(root):
        samples = read_old_folder(root, OLD_NAME, MMI_NUMBERS)
        return divide_by_person([_of_mmi(sample) for sample in samples], split)
    sessions = root / "Sessions"
    if not sessions.is_dir():
        raise DatasetError(f"The original MMI layout needs the folder {sessions}, which is missing.")
    folders = [path for path in sessions.iterdir() if path.is_dir() and is_visible(path)]
    ordered = sorted(folders, key=lambda path: (len(path.name), path.name))
    samples = [
        sample for folder in ordered if (name := _emotion(folder)) for sample in _read_session(folder, name)
    ]
    return divide_by_person(samples, split)


def _emotion(folder: Path) -> str | None:
    """The expression's name as the session's metadata give it; None where they give none of ours."""
    files = [path for path in sorted(folder.glob("*.xml")) if is_visible(path)]
    texts = {path.name: path.read_bytes()[:MAX_BYTES].decode("utf-8", "replace") for path in files}
    if PROFILE.search(texts.get("session.xml", "")):
        return None
    found = [match for text in texts.values() if (match := EMOTION.search(text))]
    return WORDS.get(found[0]["value"].strip().lower()) if found else None


def _read_session(folder: Path, name: str) -> list[Sample]:
    content = sorted(folder.iterdir())
    film = next((match for path in content if (match := FILM_NAME.match(path.name))), None)
    if not film:
        raise DatasetError(
            f"The session {folder} does not tell whose face it is: nothing is named S001-100…."
        )
    place = folder / film[0] if (folder / film[0]).is_dir() else folder
    frames = [
        path for path in sorted(place.iterdir()) if is_visible(path) and path.suffix.lower() in SUFFIXES
    ]
    if not frames:
        raise DatasetError(
            f"The film {folder / film[0]}.avi must be taken apart into pictures first: "
            f"ffmpeg -i {film[0]}.avi {film[0]}/%05d.png, with -vf transpose=clock or cclock "
            f"where the face lies on its side."
        )
    if len(frames) <= APEX_FRAMES:
        raise DatasetError(f"The session {folder} holds {len(frames)} frames: {APEX_FRAMES + 1} are needed.")
    middle = (len(frames) - APEX_FRAMES + 1) // 2
    apex = frames[middle : middle + APEX_FRAMES]
    labels = [(frames[0], "neutral"), *((frame, name) for frame in apex)]
    return [_of_mmi(labelled(path, word, film["subject"], photo=True)) for path, word in labels]


def _of_mmi(sample: Sample) -> Sample:
    return replace(sample, subject=f"MMI {sample.subject}")
