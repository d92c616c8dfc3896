"""The same faces read by several models, side by side. Nothing of it is kept."""

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from ml.checkpoint import BUNDLED, CheckpointError, read_name
from ml.expressions import EXPRESSIONS
from ml.in_service import available_checkpoints, checkpoint_in_service
from recognition.models import Face, Photo
from recognition.pictures import data_url, encode_mask
from recognition.services import PredictorError, get_predictor
from recognition.uploads import Limits, decode_photo

if TYPE_CHECKING:
    from ml.predictor import Predictor

logger = logging.getLogger(__name__)

KEPT: Final = 2  # models in memory besides the one in service
NOTABLE: Final = 0.10  # a difference worth a word


@dataclass(frozen=True)
class Model:
    """A checkpoint that can read faces. `name` is the one that analyses state, `title` a person's, or "".
    `key` names it in addresses."""

    name: str
    title: str
    path: Path
    sha256: str
    in_service: bool

    @property
    def key(self) -> str:
        return self.sha256[:16]


def find_models() -> list[Model]:
    """The model in service, the settings' and the bundled one, then what training finished, each once.

    Files that are missing or no checkpoints are left out; the weights are not verified before one is used.
    """
    active = checkpoint_in_service()
    own = Path(settings.FER_CHECKPOINT)
    serving = active.path if active else own
    trained = {checkpoint.path: checkpoint.name for checkpoint in available_checkpoints()}
    models: dict[str, Model] = {}
    for path in (serving, own, BUNDLED, *trained):
        try:
            name, sha256 = read_name(path)
        except CheckpointError:
            continue
        models.setdefault(sha256, Model(name, trained.get(path, ""), path, sha256, path == serving))
    return list(models.values())


class _Readers:
    """Predictors by checkpoint: the ones used last stay loaded, KEPT of them."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._kept: OrderedDict[str, Predictor] = OrderedDict()

    def get(self, model: Model, sample: NDArray[np.uint8]) -> "Predictor":
        """Raises PredictorError. A fresh one has read `sample` once: the first time is a slow one."""
        if model.in_service:
            predictor = get_predictor()
            if predictor.name == model.name:
                return predictor
        with self._turn:  # two who ask for one model load it once
            if model.sha256 not in self._kept:
                predictor = get_predictor(model.path, model.sha256)
                predictor.predict_crops([sample])
                self._kept[model.sha256] = predictor
            self._kept.move_to_end(model.sha256)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[model.sha256]


_readers = _Readers()


@dataclass(frozen=True)
class Bar:
    """One expression's share, and how many points it is above (or below) the first model's, if notably."""

    expression: str
    share: float
    points: int

    @property
    def width(self) -> str:
        return f"{self.share:.2%}"


@dataclass(frozen=True)
class Opinion:
    """What one model says of a face. `mask`: a PNG as a data URL."""

    model: Model
    expression: str
    share: float
    bars: list[Bar]
    mask: str


@dataclass(frozen=True)
class Compared:
    """A face and the models' opinions on it, in their order; none where the face has a problem.

    The models differ most in `widest`, whose share is from `low` to `high`.
    """

    face: Face
    opinions: list[Opinion]
    widest: str = ""
    low: float = 0.0
    high: float = 0.0

    @property
    def agree(self) -> bool:
        return len({opinion.expression for opinion in self.opinions}) == 1


@dataclass(frozen=True)
class Speed:
    """How long a model took for all faces; None: it could not be used."""

    model: Model
    milliseconds: float | None


@dataclass(frozen=True)
class Comparison:
    faces: list[Compared] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)

    @property
    def read(self) -> int:
        """How many faces the models read: not those with a problem."""
        return sum(not compared.face.problem for compared in self.faces)


def compare(photo: Photo, models: Sequence[Model]) -> Comparison:
    """Let each model read the faces of a stored photo, from the same crops.

    A model that cannot be loaded is told of in `speeds` and has no opinion.
    """
    faces = list(photo.faces.all())
    readable = [face for face in faces if not face.problem]
    crops = [read_crop(face) for face in readable]
    comparison = Comparison()
    opinions: dict[int, list[Opinion]] = {face.number: [] for face in readable}
    for model in models if crops else ():
        try:
            predictor = _readers.get(model, crops[0])
        except PredictorError as error:
            logger.error("A model cannot be compared: %s", error)
            comparison.speeds.append(Speed(model, None))
            continue
        begin = time.perf_counter()
        read = predictor.predict_crops(crops)
        comparison.speeds.append(Speed(model, (time.perf_counter() - begin) * 1000))
        for face, prediction in zip(readable, read, strict=True):
            (found,) = prediction.faces
            if found.probabilities is not None and found.mask is not None:
                before = opinions[face.number]
                before.append(_opinion(model, found.probabilities, found.mask, before[:1]))
    comparison.faces.extend(_compare(face, opinions.get(face.number, [])) for face in faces)
    return comparison


def read_crop(face: Face) -> NDArray[np.uint8]:
    """The aligned face that is kept (FacePrediction's crop). Raises FileNotFoundError once it was deleted."""
    return decode_photo((face.photo.analysis.folder / face.crop_filename).read_bytes(), Limits())


def _opinion(
    model: Model, probabilities: dict[str, float], mask: NDArray[np.float32], first: list[Opinion]
) -> Opinion:
    before = {bar.expression: bar.share for opinion in first for bar in opinion.bars}
    bars = [
        Bar(name, share, _points(share - before.get(name, share)))
        for name, share in ((name, probabilities[name]) for name in EXPRESSIONS)
    ]
    most = max(bars, key=lambda bar: bar.share)
    return Opinion(model, most.expression, most.share, bars, data_url(encode_mask(mask)))


def _points(difference: float) -> int:
    return round(difference * 100) if abs(difference) >= NOTABLE else 0


def _compare(face: Face, opinions: list[Opinion]) -> Compared:
    if not opinions:
        return Compared(face, [])
    shares = {
        name: [opinion.bars[place].share for opinion in opinions] for place, name in enumerate(EXPRESSIONS)
    }
    widest = max(shares, key=lambda name: max(shares[name]) - min(shares[name]))
    return Compared(face, opinions, widest, min(shares[widest]), max(shares[widest]))
