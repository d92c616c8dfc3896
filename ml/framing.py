"""How a data set's crops are framed, and bringing them to our own framing."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.alignment import find_in_crop, frame_at
from ml.datasets import DatasetError
from ml.datasets.images import SUFFIXES, decode
from ml.datasets.samples import SPLITS, check_names, first_few, is_visible
from ml.faces import FaceDetector

WORKERS: Final = 2
FALLBACK_SAMPLE: Final = 500

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Framing:
    """Landmarks (N, 5, 2), in the unit square, of the faces found in `total` crops."""

    landmarks: NDArray[np.float64]
    total: int

    @property
    def found(self) -> int:
        return len(self.landmarks)

    @property
    def centre(self) -> NDArray[np.float64]:
        """The usual place (5, 2) of each landmark: the median, which a false detection cannot move."""
        return np.asarray(np.median(self.landmarks, axis=0))

    @property
    def spread(self) -> NDArray[np.float64]:
        """The standard deviation (5, 2)."""
        return np.asarray(self.landmarks.std(axis=0))

    @property
    def template(self) -> NDArray[np.float64]:
        """`centre`, made the same left and right."""
        mirrored = self.centre[[1, 0, 2, 4, 3]] * (-1, 1) + (1, 0)
        return (self.centre + mirrored) / 2


@dataclass(frozen=True)
class PassedOver:
    """What a folder holds beside the pictures that are read from it; its text is sentences for a person.

    endings: how many files of each ending are none that is read. misplaced: pictures in no class folder.
    """

    endings: Mapping[str, int]
    misplaced: tuple[str, ...]

    def __str__(self) -> str:
        sentences = []
        if self.endings:
            counts = ", ".join(f"{n} {end or 'without an ending'}" for end, n in sorted(self.endings.items()))
            sentences.append(
                f"Passed over by their endings: {counts}. Save photos among them as JPEG or PNG and start"
                " again (an iPhone takes JPEG with Settings, Camera, Formats, Most Compatible)."
            )
        if self.misplaced:
            count = f"{len(self.misplaced)} picture{'s' if len(self.misplaced) > 1 else ''}"
            sentences.append(f"Passed over, in no class folder: {count} ({first_few(self.misplaced)}).")
        return " ".join(sentences)


@dataclass(frozen=True)
class Framed:
    """What became of a folder: how many pictures were written, and those of them without a face found."""

    total: int
    without_face: tuple[str, ...]
    passed_over: PassedOver


def measure_framing(
    paths: Sequence[Path], detector: FaceDetector, on_progress: Progress | None = None
) -> Framing:
    """Detect the face in each crop; raises DatasetError where a picture is unreadable or no face is found."""

    def find(path: Path) -> NDArray[np.float64] | None:
        return find_in_crop(_read(path), detector)

    found = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for done, points in enumerate(pool.map(find, paths), start=1):
            if points is not None:
                found.append(points)
            if on_progress:
                on_progress(done, len(paths))
    if not found:
        raise DatasetError(f"No face was found in any of {len(paths)} pictures.")
    return Framing(np.stack(found), len(paths))


def frame_folder(
    source: Path,
    output: Path,
    detector: FaceDetector,
    size: int,
    *,
    colour: bool,
    excluded: Collection[str] = (),
    on_progress: Progress | None = None,
) -> Framed:
    """Bring a folder of face crops to our framing, in the same layout: class/file, or split/class/file.

    A folder is read as train/class/file where it has a folder train, valid or test, as `read_folders` does.
    Pictures become PNG of `size` pixels a side, in grey without `colour`. `excluded` names pictures to leave
    out, by class folder and file ("happy/12.jpg"), in every split. Where no face is found, it is taken to be
    where it is in the set's other crops. Raises DatasetError for a missing folder, an unreadable picture, a
    folder without any picture to read, a name that is no UTF-8, or two pictures of one class whose names
    differ in the ending alone; and where `output` is the folder itself.
    """
    if not source.is_dir():
        raise DatasetError(f"There is no folder {source}.")
    if output.exists() and output.samefile(source):
        raise DatasetError(
            f"The crops would replace the pictures of {source}: choose another folder for them."
        )
    found, passed_over = _look_through(source)
    paths = [path for path in found if f"{path.parent.name}/{path.name}" not in excluded]
    if not paths:
        looked_for = "CLASS/FILE, or train/CLASS/FILE beside valid and test"
        raise DatasetError(
            f"{source} holds no class folder with pictures ({looked_for}). {passed_over}".strip()
        )
    targets = {path: output / path.relative_to(source).with_suffix(".png") for path in paths}
    for target, count in Counter(targets.values()).items():
        if count > 1:
            raise DatasetError(f"{count} pictures would become {target}: rename one of them.")
    usual = measure_framing(paths[:: max(1, len(paths) // FALLBACK_SAMPLE)], detector).centre

    def frame(path: Path) -> bool:
        image = _read(path)
        points = find_in_crop(image, detector)
        crop = Image.fromarray(frame_at(image, usual if points is None else points, size))
        target = targets[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        (crop if colour else crop.convert("L")).save(target)
        return points is not None

    without_face = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for done, has_face in enumerate(pool.map(frame, paths), start=1):
            if not has_face:
                without_face.append(paths[done - 1].relative_to(source).as_posix())
            if on_progress:
                on_progress(done, len(paths))
    return Framed(len(paths), tuple(without_face), passed_over)


def _look_through(source: Path) -> tuple[list[Path], PassedOver]:
    """The pictures in the class folders, and what else there is; what is hidden counts for nothing."""
    tops = [source / part for part in SPLITS if (source / part).is_dir()] or [source]
    classes = [folder for top in tops for folder in sorted(top.iterdir()) if folder.is_dir()]
    inside = [path for folder in classes if is_visible(folder) for path in sorted(folder.iterdir())]
    inside = [path for path in inside if path.is_file() and is_visible(path)]
    known = set(inside)
    everything = sorted(source.rglob("*"))
    check_names(everything)
    rest = [path.relative_to(source) for path in everything if path not in known]
    elsewhere = [path for path in rest if (source / path).is_file() and "/." not in f"/{path.as_posix()}"]
    others = [path for path in (*inside, *elsewhere) if path.suffix.lower() not in SUFFIXES]
    misplaced = tuple(path.as_posix() for path in elsewhere if path.suffix.lower() in SUFFIXES)
    found = [path for path in inside if path.suffix.lower() in SUFFIXES]
    return found, PassedOver(Counter(path.suffix.lower() for path in others), misplaced)


def _read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(decode(path, colour=True))
