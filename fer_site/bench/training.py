"""The rows about training."""

import inspect
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fer_site.bench.measuring import RUNS, WARM_UP, Row, in_process, say, take_turns

if TYPE_CHECKING:
    from ml.engine import BatchReport

FACES_OF_FOLD: Final = 512


def training_epoch() -> Row:
    """A joint epoch on faces in memory, against the same steps on tensors that are there already."""
    return Row(**in_process(measure_training))


def measure_training() -> dict[str, Any]:
    import torch
    from torch.nn import functional as F

    from ml.config import PRESETS
    from ml.engine import autocast_dtype
    from ml.fmpn import FMPN
    from ml.memory import memory_kept

    config = PRESETS["compact"]
    batch, side, device = config.joint_stage.batch_size, config.model.image_size, torch.device("cpu")
    ends: list[float] = []

    def on_batch(_: "BatchReport") -> None:
        ends.append(time.perf_counter())

    _train_fold(batch * (WARM_UP + RUNS), on_batch)
    ours = [after - before for before, after in pairwise(ends[2:])]

    # The same step without data, augmentation, schedule, average or record keeping.
    model = FMPN(config.model).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    faces = torch.rand(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    targets = F.one_hot(torch.arange(batch) % 8, 8).float()
    drawn_targets = torch.rand(batch, 1, side, side)
    dtype = autocast_dtype(device)

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            logits, drawn = model(faces)
        loss = F.cross_entropy(logits.float(), targets) + F.mse_loss(drawn.float(), drawn_targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    with memory_kept():  # as run_fold does
        bare = take_turns(step)[0]
    return {
        "what": "Training, joint stage of compact, data in memory",
        "against": "the same model on synthetic tensors",
        "unit": "images/s",
        "ours": batch / statistics.median(ours),
        "reference": batch / bare,
        "reach": "≥ 0.90",
    }


def evaluation() -> Row:
    """A trained model on held-out faces in memory, against the same where the C library frees as it likes."""
    return Row(**in_process(measure_evaluation))


def measure_evaluation() -> dict[str, Any]:
    import torch

    from ml.config import PRESETS
    from ml.engine import EVALUATION_BATCH, predict_logits
    from ml.fmpn import FMPN

    config, device = PRESETS["compact"].model, torch.device("cpu")
    model = FMPN(config)
    faces = torch.randint(
        0, 256, (EVALUATION_BATCH, 1, config.image_size, config.image_size), dtype=torch.uint8
    )
    undecorated = inspect.unwrap(predict_logits)
    ours, reference = take_turns(
        lambda: predict_logits(model, faces, device), lambda: undecorated(model, faces, device), runs=10
    )
    return {
        "what": "Evaluation, data in memory",
        "against": "without keeping freed memory",
        "unit": "faces/s",
        "ours": len(faces) / ours,
        "reference": len(faces) / reference,
        "reach": "–",
    }


def measure_folds(folds: str, faces: str) -> dict[str, float]:
    """Seconds that a worker needs for folds of an epoch, after a first one that warms it up."""
    _train_fold(int(faces))
    began = time.perf_counter()
    for _ in range(int(folds)):
        _train_fold(int(faces))
    return {"seconds": time.perf_counter() - began}


def train_without_end() -> None:
    """Fold after fold, for what else a machine does meanwhile; says a line when it is under way."""
    for fold in count():
        _train_fold(FACES_OF_FOLD)
        if fold == 0:
            say("under way")


def _train_fold(faces: int, on_batch: "Callable[[BatchReport], None]" = lambda _: None) -> None:
    """An epoch of the joint stage of compact on random faces in memory."""
    import torch
    from torch.nn import functional as F

    from ml.config import PRESETS
    from ml.engine import Callbacks, FaceSet, Training, run_fold
    from ml.fmpn import FMPN
    from ml.motion_masks import BUNDLED_MASKS, load_motion_masks

    config, device = PRESETS["compact"].with_epochs(1, 1), torch.device("cpu")
    side, labels = config.model.image_size, torch.arange(faces) % 8
    pictures = torch.randint(0, 256, (faces, 1, side, side), dtype=torch.uint8)
    data = FaceSet(pictures, F.one_hot(labels, 8).float(), labels)
    masks = load_motion_masks(BUNDLED_MASKS, side)
    with tempfile.TemporaryDirectory() as folder:
        state, calls = Path(folder) / "state.safetensors", Callbacks(on_batch)
        run_fold(Training(FMPN(config.model), config, data, None, masks, 0, state, device, calls, "joint"))
