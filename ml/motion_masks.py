"""Motion masks: where a face moves for each expression, the pseudo ground truth of the mask generator.

A class's mask is the mean difference between the neutral and the expressive face of the same person, after
alignment. Neutral's own is zero everywhere: it does not differ from itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ml.alignment import align_face
from ml.datasets import DatasetError, Sample, load_samples
from ml.datasets.images import decode
from ml.expressions import EXPRESSIONS, expression_index
from ml.faces import FaceDetector, load_detector
from ml.folds import Fold, read_fold_lists

BUNDLED_MASKS: Final = Path(__file__).parent / "weights" / "motion_masks"
BUNDLED_FROM: Final = ("jaffe", "yale")  # the kinds whose people are in them
NEUTRAL: Final = expression_index("neutral")

# The old project's imgs_res/<fold>/0.png to 6.png, the same numbering for CK+ and JAFFE; MMI's end at 5.png.
OLD_NUMBERS: Final = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
OLD_MMI_NUMBERS: Final = tuple(name for name in OLD_NUMBERS if name != "contempt")

# The face in a crop, an ellipse in shares of its side: what moves outside it is hair, collar and background.
FACE_CENTRE: Final = (0.5, 0.56)
FACE_RADII: Final = (0.33, 0.41)
FACE_EDGE: Final = 0.04  # how softly it ends
BLUR: Final = 0.015  # standard deviation: about what alignment leaves undecided
# What the calmest quarter of the face shows counts as no motion, and its strongest hundredth as full motion.
CALM_SHARE, FULL_SHARE = 0.25, 0.99

Progress = Callable[[int, int], None]


class MotionMaskError(ValueError):
    """Motion masks that cannot be read or made; its text is a sentence fit for a person."""


@dataclass(frozen=True, eq=False)
class MotionMasks:
    """One map for each of `EXPRESSIONS`.

    maps: float32 (8, S, S), 0 (still) to 1 (moves most). known: bool (8,), False where no pair of pictures
    tells of that expression: its map is zero and means nothing.
    """

    maps: NDArray[np.float32]
    known: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pair:
    """A person's neutral and expressive face: aligned crops, RGB uint8 (S, S, 3). expression: its index."""

    neutral: NDArray[np.uint8]
    expressive: NDArray[np.uint8]
    expression: int
    subject: str


def load_motion_masks(folder: Path, size: int) -> MotionMasks:
    """Read the masks in a folder at `size` pixels a side.

    They are named by expression (anger.png …, some may be missing), or 0.png to 6.png as in a fold of the
    old project's imgs_res; without 6.png they are MMI's, which has no contempt. Raises MotionMaskError for a
    missing folder, one without masks, and a picture that cannot be read.
    """
    if not folder.is_dir():
        raise MotionMaskError(f"There is no folder {folder} with motion masks.")
    named = {name: folder / f"{name}.png" for name in EXPRESSIONS if name != "neutral"}
    numbers = OLD_NUMBERS if (folder / "6.png").is_file() else OLD_MMI_NUMBERS
    numbered = {name: folder / f"{number}.png" for number, name in enumerate(numbers)}
    for layout in (named, numbered):
        present = {expression_index(name): path for name, path in layout.items() if path.is_file()}
        if present:
            return _collect({index: _read(path, size) for index, path in present.items()}, size)
    raise MotionMaskError(
        f"The folder {folder} holds no motion masks: neither anger.png … nor 0.png to 6.png "
        "(of the old project's imgs_res choose one fold)."
    )


def save_motion_masks(masks: MotionMasks, folder: Path, source: str) -> list[Path]:
    """Write the known masks but neutral's as 8-bit grey PNG named by expression; return their paths.

    `source` says how they were made and stands in each file. Raises OSError where they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    text.add_text("Source", source)
    paths = []
    for index, name in enumerate(EXPRESSIONS):
        if masks.known[index] and index != NEUTRAL:
            paths.append(folder / f"{name}.png")
            pixels = np.rint(masks.maps[index] * 255).astype(np.uint8)
            Image.fromarray(pixels).save(paths[-1], pnginfo=text, optimize=True)
    return paths


def pair_faces(
    samples: Sequence[Sample], detector: FaceDetector, size: int, on_progress: Progress | None = None
) -> list[Pair]:
    """Align every face and pair each expressive one with every neutral one of the same person.

    Samples without a subject, and pictures in which no face is found, have no pair. Raises DatasetError for
    a picture that cannot be read.
    """
    crops: defaultdict[str, list[tuple[int, NDArray[np.uint8]]]] = defaultdict(list)
    for done, sample in enumerate(samples, start=1):
        image = np.asarray(decode(sample.path, colour=True))
        faces = detector.detect(image) if sample.subject else []
        if sample.subject and faces:
            surest = max(faces, key=lambda face: face.confidence)
            crop = align_face(image, surest.landmarks, size)
            crops[sample.subject].append((sample.expression, crop))
        if on_progress:
            on_progress(done, len(samples))
    return [
        Pair(neutral, expressive, expression, subject)
        for subject, faces_of_one in crops.items()
        for expression, expressive in faces_of_one
        if expression != NEUTRAL
        for other, neutral in faces_of_one
        if other == NEUTRAL
    ]


def average_motion(pairs: Iterable[Pair]) -> MotionMasks:
    """Average the motion of all pairs, which are of one size, to a mask for each expression.

    Every person counts the same, however many pictures there are. Each mask is made the same left and right,
    blurred, and stretched to 0..1. Raises MotionMaskError where there is no pair, or none that moves.
    """
    by_person: defaultdict[int, defaultdict[str, list[NDArray[np.float32]]]]
    by_person = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        difference = np.abs(_luminance(pair.expressive) - _luminance(pair.neutral))
        by_person[pair.expression][pair.subject].append(difference)
    if not by_person:
        raise MotionMaskError("There is no person with both a neutral and an expressive face to compare.")
    maps = {
        expression: _finish(np.mean([np.mean(of_one, axis=0) for of_one in people.values()], axis=0))
        for expression, people in by_person.items()
    }
    return _collect(maps, len(next(iter(maps.values()))))


def masks_for_fold(
    fold: Fold, kind: str, root: Path, size: int, on_progress: Progress | None = None
) -> MotionMasks:
    """Return the masks that a fold may learn from, `size` pixels a side: nobody held out is in them.

    They come from the first of these that there is:

    1. the neutral and expressive faces that the set of `kind` in `root` has of the training people, which is
       nearest to what the model will see. Neutral faces count even where the fold does not train on neutral
       (the old JAFFE lists); people of other sets that are also trained on do not;
    2. the old project's imgs_res maps of a list fold that held out everybody whom this fold holds out. They
       differ by fold, and there is evidence that they owe nothing to the people held out: CK+'s contempt is
       held out in folds 0 and 1 alone, and its map is the same file in all eight others. JAFFE's are copies
       of CK+'s, byte for byte. Folds made anew therefore have such maps only by chance;
    3. the bundled masks, made from JAFFE and Yale and thus not for faces held out of these two.

    `on_progress(done, total)` counts the faces aligned for 1. Raises MotionMaskError where none of them will
    do, DatasetError for a set or a picture that cannot be read.
    """
    faces = _to_pair(fold, kind, root)
    if faces and (pairs := pair_faces(faces, load_detector("mtcnn"), size, on_progress)):
        return average_motion(pairs)
    if folder := _old_maps(fold, kind, root):
        return load_motion_masks(folder, size)
    if fold.test and kind in BUNDLED_FROM:
        raise MotionMaskError(
            f"Fold {fold.number} has no person with a neutral and an expressive face to make masks from, and "
            f"the bundled masks were made from {kind}'s own people, who are held out here."
        )
    return load_motion_masks(BUNDLED_MASKS, size)


def _to_pair(fold: Fold, kind: str, root: Path) -> list[Sample]:
    """The set's faces of those training people whom it shows both neutral and otherwise."""
    people = {sample.subject for sample in fold.train} - {sample.subject for sample in fold.test} - {None}
    if not people:
        return []
    faces = [sample for sample in load_samples(kind, root, "all") if sample.subject in people]
    neutral = {sample.subject for sample in faces if sample.expression == NEUTRAL}
    expressive = {sample.subject for sample in faces if sample.expression != NEUTRAL}
    return [sample for sample in faces if sample.subject in neutral & expressive]


def _old_maps(fold: Fold, kind: str, root: Path) -> Path | None:
    held_out = {sample.subject for sample in fold.test}
    try:
        lists = read_fold_lists(kind, root)
    except DatasetError:
        return None
    for own in sorted(lists, key=lambda own: own.number != fold.number):  # its namesake before the others
        folder = root / "imgs_res" / str(own.number)
        unseen = {sample.subject for sample in own.test} - {sample.subject for sample in own.train}
        if held_out <= unseen and folder.is_dir():
            return folder
    return None


def _collect(maps: dict[int, NDArray[np.float32]], size: int) -> MotionMasks:
    masks = MotionMasks(
        np.zeros((len(EXPRESSIONS), size, size), np.float32), np.zeros(len(EXPRESSIONS), np.bool_)
    )
    masks.known[[*maps, NEUTRAL]] = True
    for index, pixels in maps.items():
        masks.maps[index] = pixels
    return masks


def _read(path: Path, size: int) -> NDArray[np.float32]:
    try:
        grey = decode(path, colour=False)
    except DatasetError as error:
        raise MotionMaskError(str(error)) from error
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR), np.float32) / np.float32(255)


def _luminance(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return grey values with mean 0 and deviation 1 over the face: the lamp's changes are no motion."""
    grey = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), np.float32)
    face = grey[_face(len(grey)) > 0.5]
    return np.asarray((grey - face.mean()) / max(face.std(), 1.0), np.float32)


def _finish(motion: NDArray[np.float32]) -> NDArray[np.float32]:
    size = len(motion)
    even = (motion + motion[:, ::-1]) / 2
    blurred = np.asarray(cv2.GaussianBlur(even, (0, 0), BLUR * size), np.float32)
    face = _face(size)
    above_calm = np.maximum(blurred - np.quantile(blurred[face > 0.5], CALM_SHARE), 0) * face
    full = np.quantile(above_calm[face > 0.5], FULL_SHARE)
    if full == 0:
        raise MotionMaskError("The neutral and the expressive faces of a class are the same pictures.")
    return np.asarray(np.minimum(above_calm / full, 1), np.float32)


def _face(size: int) -> NDArray[np.float32]:
    """Return 1 inside the ellipse of the face, 0 outside, float32 (size, size)."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    (centre_x, centre_y), (radius_x, radius_y) = FACE_CENTRE, FACE_RADII
    inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 < 1
    return np.asarray(cv2.GaussianBlur(inside.astype(np.float32), (0, 0), FACE_EDGE * size), np.float32)
