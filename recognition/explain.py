"""What led a model to its word for a face: pictures for the page. Nothing of it is kept.

Only here does the site's own process import torch, and only once somebody asks.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Final

from recognition.admission import Busy, places
from recognition.compare import Model, read_crop
from recognition.models import Face
from recognition.pictures import data_url, encode_mask, encode_picture
from recognition.services import PredictorError

_turn = Lock()  # one at a time: a large model's gradients are hundreds of megabytes
SECONDS_TO_WAIT: Final = 5.0  # for it


@dataclass(frozen=True)
class Explained:
    """An explanation (ml.explain.Explanation) as it is shown: pictures as data URLs.

    speaks: whether anything in the face speaks for the expression. side: of the model's picture, in pixels;
    cells: how many places a side the activation has.
    """

    expression: str
    probabilities: dict[str, float]
    seen: str
    mask: str
    fused: str
    activation: str
    speaks: bool
    side: int
    cells: int


def explain_face(face: Face, model: Model, expression: str | None) -> Explained:
    """Read the stored crop of a face again and explain one expression of the eight, by default the read one.

    Raises PredictorError where the checkpoint cannot be used, and Busy where others explain for long.
    """
    crop = read_crop(face)
    # Who waits for the turn takes no place meanwhile: photos are read on.
    if not _turn.acquire(timeout=SECONDS_TO_WAIT):
        raise Busy
    with ExitStack() as held:
        held.callback(_turn.release)
        held.enter_context(places.take())
        from ml.checkpoint import CheckpointError, load_checkpoint
        from ml.explain import explain

        try:
            checkpoint = load_checkpoint(model.path, model.sha256)
            network = checkpoint.build()
        except CheckpointError as error:
            raise PredictorError(str(error)) from error
        explanation = explain(network, crop, expression, checkpoint.temperature)
    fused = (explanation.fused * 255).round().astype("uint8")
    return Explained(
        expression=explanation.expression,
        probabilities=explanation.probabilities,
        seen=data_url(encode_picture(explanation.seen)),
        mask=data_url(encode_mask(explanation.mask)),
        fused=data_url(encode_picture(fused)),
        activation=data_url(encode_mask(explanation.activation)),
        speaks=bool(explanation.activation.any()),
        side=len(explanation.seen),
        cells=explanation.cells,
    )
