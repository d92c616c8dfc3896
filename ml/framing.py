"""How a data set's crops are framed, and bringing them to our own framing."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.alignment import find_in_crop, frame_crop
from ml.datasets import DatasetError
from ml.datasets.images import SUFFIXES, decode
from ml.datasets.samples import is_visible
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
) -> int:
    """Bring a folder of class folders of face crops to our framing, in the same layout; return how many.

    Pictures become PNG of `size` pixels a side, in grey without `colour`. `excluded` names pictures to leave
    out, by class folder and file ("happy/12.jpg"). Where no face is found, it is taken to be where it is in
    the set's other crops. Raises DatasetError for a missing folder, an unreadable picture, an empty set,
    or two pictures of one class whose names differ in the ending alone.
    """
    if not source.is_dir():
        raise DatasetError(f"There is no folder {source}.")
    paths = [p for p in sorted(source.glob("*/*")) if p.suffix.lower() in SUFFIXES and is_visible(p)]
    paths = [path for path in paths if f"{path.parent.name}/{path.name}" not in excluded]
    if not paths:
        raise DatasetError(f"{source} holds no folder with pictures.")
    targets = {path: output / path.parent.name / f"{path.stem}.png" for path in paths}
    for target, count in Counter(targets.values()).items():
        if count > 1:
            raise DatasetError(f"{count} pictures would become {target}: rename one of them.")
    usual = measure_framing(paths[:: max(1, len(paths) // FALLBACK_SAMPLE)], detector).centre

    def frame(path: Path) -> None:
        crop = Image.fromarray(frame_crop(_read(path), detector, size, usual))
        target = targets[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        (crop if colour else crop.convert("L")).save(target)

    with ThreadPoolExecutor(WORKERS) as pool:
        for done, _ in enumerate(pool.map(frame, paths), start=1):
            if on_progress:
                on_progress(done, len(paths))
    return len(paths)


def _read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(decode(path, colour=True))
