"""Readers that turn a data set's folder into typed samples, and the decoder of their pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ml.datasets.affectnet import read_affectnet, read_affectnet7
from ml.datasets.cache import load_cached_faces
from ml.datasets.cfee import read_cfee
from ml.datasets.ckplus import read_ckplus
from ml.datasets.expw import read_expw
from ml.datasets.fer2013 import read_fer2013
from ml.datasets.ferplus import read_ferplus, read_ferplus_majority
from ml.datasets.folders import read_folders
from ml.datasets.images import load_faces
from ml.datasets.mmi import read_mmi
from ml.datasets.rafdb import read_rafdb
from ml.datasets.samples import ALL, SPLITS, DatasetError, EmptySplitError, Sample, check_names
from ml.datasets.subjects import read_ckplus48, read_jaffe, read_kdef, read_tcce, read_yale

__all__ = [
    "KINDS",
    "SAME_FACES",
    "DatasetError",
    "EmptySplitError",
    "Sample",
    "load_cached_faces",
    "load_faces",
    "load_samples",
]

Reader = Callable[[Path, str], list[Sample]]

KINDS: Final[dict[str, Reader]] = {
    "ckplus": read_ckplus,
    "ckplus48": read_ckplus48,
    "jaffe": read_jaffe,
    "yale": read_yale,
    "tcce": read_tcce,
    "kdef": read_kdef,
    "cfee": read_cfee,
    "mmi": read_mmi,
    "affectnet": read_affectnet,
    "affectnet7": read_affectnet7,
    "affectnet-folders": read_folders,
    "ferplus": read_ferplus,
    "ferplus-majority": read_ferplus_majority,
    "fer2013": read_fer2013,
    "rafdb": read_rafdb,
    "expw": read_expw,
    "folders": read_folders,
}

# Kinds whose faces are another kind's: what has seen a split of the one knows that of the other.
SAME_FACES: Final = {
    "ckplus48": "ckplus",
    "affectnet7": "affectnet",
    "affectnet-folders": "affectnet",
    "ferplus-majority": "ferplus",
    "fer2013": "ferplus",
}


def load_samples(kind: str, root: Path, split: str) -> list[Sample]:
    """Read one split ("train", "valid", "test", or "all" of them) of the set of `kind` that lies in `root`.

    The order is the same at every call. Sets without splits of their own are divided 80/10/10: by person
    where the set tells who is on a picture, else by class. Raises DatasetError, in a sentence, for an unknown
    kind or split, a missing folder or file, a name that is no UTF-8, a class that is not known and a result
    without any sample.
    """
    if kind not in KINDS:
        raise DatasetError(f"There is no data set kind {kind!r}: known are {', '.join(KINDS)}.")
    if split not in (*SPLITS, ALL):
        raise DatasetError(f"There is no split {split!r}: known are {', '.join((*SPLITS, ALL))}.")
    if not root.is_dir():
        raise DatasetError(f"There is no folder {root}.")
    try:
        samples = KINDS[kind](root, split)
    except OSError as error:
        raise DatasetError(f"The {kind} set in {root} cannot be read: {error}.") from error
    if not samples:
        raise EmptySplitError(f"The {split} split of {root}, read as {kind}, holds no labelled picture.")
    check_names(sample.path for sample in samples)
    return samples
