"""How well a checkpoint reads chosen faces of a data set."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ml.checkpoint import Checkpoint
from ml.datasets import DatasetError, Sample
from ml.engine import FaceSet, evaluate
from ml.metrics import Metrics
from training.services import Progress


def evaluate_checkpoint(
    checkpoint: Checkpoint, samples: Sequence[Sample], device: torch.device, on_progress: Progress
) -> Metrics:
    """Evaluate on the faces as they are. Raises DatasetError for a picture that cannot be read."""
    faces = FaceSet.load(
        samples,
        checkpoint.config.model.image_size,
        checkpoint.config.model.colour,
        lambda done, total: on_progress("Reading the faces", done, total),
    )
    return evaluate(checkpoint.build().to(device), faces, device)


def read_list(path: Path, samples: Sequence[Sample], root: Path) -> list[Sample]:
    """The samples that a list names, one a line: by file name, or by path under the set's folder.

    A line's first comma ends the name, so a table with the picture first will do. Raises DatasetError for a
    list that cannot be read, is empty, or names a picture that the set does not have or has twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The list {path} cannot be read: {error}.") from error
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        for name in {sample.path.name, sample.path.relative_to(root).as_posix()}:
            by_name.setdefault(name, []).append(sample)
    names = [name for line in lines if (name := line.partition(",")[0].strip())]
    for name in names:
        found = len(by_name.get(name, []))
        if found != 1:
            what = "which the set does not have" if not found else f"of which the set has {found}"
            raise DatasetError(f"The list {path} names {name[:80]!r}, {what}.")
    if not names:
        raise DatasetError(f"The list {path} is empty.")
    return [by_name[name][0] for name in names]
