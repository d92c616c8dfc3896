"""The two-stage training of arXiv 1902.08788 (section 3.4) and its evaluation; reads top to bottom.

Every step draws its randomness (augmentation, dropout) from (seed, stage, step), and every epoch its order
from (seed, stage, epoch). So the step counter, the weights and the optimizer are the whole state of a run:
a resumed run ends bit for bit like an undisturbed one (on one CPU thread, where sums have one order).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn import functional as F

from ml.checkpoint import CheckpointError, read_arrays, to_arrays, to_tensors, write_arrays
from ml.config import StageConfig, TrainConfig
from ml.datasets import Sample, load_cached_faces, load_faces
from ml.fmpn import FMPN
from ml.memory import memory_kept
from ml.metrics import Metrics, evaluate_predictions
from ml.motion_masks import MotionMasks
from ml.transforms import augment, to_input

Stage = Literal["mask", "joint"]
Stages = Literal["both", "mask", "joint"]
SAVE_EVERY: Final = 120.0  # seconds between two saves of the state within an epoch
EVALUATION_BATCH: Final = 128


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Decoded faces. faces: uint8 (N, 1 or 3, S, S); targets: float32 (N, 8); labels: int64 (N,); sizes: of
    the sets that were joined, one after the other."""

    faces: Tensor
    targets: Tensor
    labels: Tensor
    sizes: tuple[int, ...] = ()

    @classmethod
    def load(
        cls,
        samples: Sequence[Sample],
        size: int,
        colour: bool,
        on_progress: Callable[[int, int], None] | None = None,
        cache: Path | None = None,
    ) -> "FaceSet":
        """Decode `samples`, or read them from the folder `cache`, which then holds them for the next time.

        Raises DatasetError for a picture that cannot be read.
        """
        if cache is None:
            faces = load_faces(samples, size, colour, on_progress)
        else:
            faces = load_cached_faces(samples, size, colour, cache, on_progress)
        return cls(
            torch.from_numpy(faces).permute(0, 3, 1, 2),  # not copied: it may be gigabytes
            torch.tensor([sample.target for sample in samples]),
            torch.tensor([sample.expression for sample in samples]),
        )

    @classmethod
    def joined(cls, parts: "Sequence[FaceSet]") -> "FaceSet":
        if len(parts) == 1:
            return parts[0]  # not copied: it may be most of the memory
        return cls(
            torch.cat([part.faces for part in parts]),
            torch.cat([part.targets for part in parts]),
            torch.cat([part.labels for part in parts]),
            tuple(len(part) for part in parts),
        )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class BatchReport:
    """Told after every batch. step of steps in this epoch; loss: running mean; rate: images a second."""

    stage: Stage
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float


@dataclass(frozen=True)
class EpochReport:
    """Told after every epoch. Losses are means over the epoch's batches; metrics: of the validation faces,
    in the joint stage; rate: images a second; masks: what the generator draws for the watched faces, float32
    (n, S, S) in 0..1."""

    stage: Stage
    epoch: int
    epochs: int
    loss: float
    mask_loss: float
    classifier_loss: float
    rate: float
    metrics: Metrics | None
    masks: Tensor | None = None


def _given(config: object) -> dict[str, Any]:
    """The values of a config that are not what a field has by itself: so a field that a later version adds,
    and that changes nothing, leaves saved states good."""
    values = {}
    for item in fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if is_dataclass(value):
            values[item.name] = _given(value)
        elif value != item.default:
            values[item.name] = value
    return values


class Interrupted(Exception):  # noqa: N818 (it tells of a wish, not of an error)
    """The run was asked to stop and has saved its state."""


class ResumeError(Exception):
    """A saved state that does not belong to this run; its text is a sentence fit for a person."""


class DivergedError(Exception):
    """A loss that is no number any more; its text is a sentence fit for a person."""


@dataclass
class Callbacks:
    """How a caller watches a run and stops it; `should_stop` is asked after every batch."""

    on_batch: Callable[[BatchReport], None] = lambda report: None
    on_epoch: Callable[[EpochReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass
class Training:
    """One run in progress: what both stages share.

    stages: which of the two are run. watched: uint8 faces (n, 1 or 3, S, S) whose masks are drawn after every
    epoch, for somebody to look at.
    """

    model: FMPN
    config: TrainConfig
    train: FaceSet
    valid: FaceSet | None
    masks: MotionMasks
    seed: int
    state_path: Path
    device: torch.device
    callbacks: Callbacks = field(default_factory=Callbacks)
    stages: Stages = "both"
    watched: Tensor | None = None

    def identity(self) -> str:
        """A digest of all that a saved state must share with the run that resumes it.

        But for the masks, which are made of the data: who resumes a run gives it the same ones again.
        """
        settings = [_given(self.config), self.seed, self.stages]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for tensor in (self.train.faces, self.train.targets):
            for part in torch.split(tensor, 1024):  # each is copied where its order is another
                digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()


@memory_kept()
def run_fold(training: Training) -> FMPN:
    """Run the stages, from the saved state where there is one, and return the trained model in eval mode.

    Raises Interrupted when asked to stop, ResumeError where the saved state is another run's, and
    DivergedError where the loss is no number any more.
    """
    training.model.to(training.device)
    identity = training.identity()
    saved = _load_state(training.state_path, identity)
    if training.stages != "joint" and (saved is None or saved.stage == "mask"):
        train_mask_stage(training, identity, saved)
        saved = None
    if training.stages != "mask":
        train_joint_stage(training, identity, saved)
    return training.model.eval()


def train_mask_stage(training: Training, identity: str, saved: "State | None") -> None:
    """Teach the generator each expression's motion mask: mean squared error, nothing else moves."""
    stage = training.config.mask_stage
    groups = [{"params": list(training.model.mask_generator.parameters()), "lr": stage.lr_mask}]

    def losses(faces: Tensor, targets: Tensor, masks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        mask_loss = _mask_loss(training.model.draw_mask(faces), masks, known)
        return mask_loss, mask_loss.new_zeros(())

    _train_stage(training, "mask", stage, groups, losses, identity, saved)


def train_joint_stage(training: Training, identity: str, saved: "State | None") -> None:
    """Train all three parts: λ_mask · MSE(mask) + λ_cls · cross-entropy (equation 6), soft targets."""
    model, stage = training.model, training.config.joint_stage
    groups = [
        {"params": list(model.mask_generator.parameters()), "lr": stage.lr_mask},
        {"params": list(model.fusion.parameters()), "lr": stage.lr_fusion},
        {"params": list(model.classifier.parameters()), "lr": stage.lr_classifier},
    ]

    def losses(faces: Tensor, targets: Tensor, masks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        logits, drawn = model(faces)
        classifier_loss = F.cross_entropy(logits.float(), targets, label_smoothing=stage.label_smoothing)
        return _mask_loss(drawn, masks, known), classifier_loss

    _train_stage(training, "joint", stage, groups, losses, identity, saved)


def predict(model: FMPN, faces: Tensor, device: torch.device) -> NDArray[np.float32]:
    """Probabilities (N, 8), rows sum to 1, of uint8 faces (N, 1 or 3, S, S)."""
    return np.asarray(softmax(predict_logits(model, faces, device), axis=1))


@memory_kept()
def predict_logits(
    model: FMPN, faces: Tensor, device: torch.device, *, mirrored: bool = False
) -> NDArray[np.float32]:
    """The same before the softmax: logits (N, 8), any finite numbers.

    mirrored: each face is read twice, as it is and mirrored, and the mean of both is given.
    """
    model.eval()
    answers = []
    with torch.inference_mode():
        for batch in torch.split(faces, EVALUATION_BATCH):
            inputs = to_input(batch.to(device)).contiguous(memory_format=torch.channels_last)
            logits, _ = model(inputs)
            if mirrored:
                logits = (logits + model(inputs.flip(3))[0]) / 2
            answers.append(logits.float().cpu().numpy())
    return np.concatenate(answers)


def draw_masks(model: FMPN, faces: Tensor, device: torch.device) -> Tensor:
    """The motion masks, float32 (N, S, S) in 0..1, of a few uint8 faces (N, 1 or 3, S, S)."""
    model.eval()
    with torch.inference_mode():
        drawn = model.draw_mask(to_input(faces.to(device)).contiguous(memory_format=torch.channels_last))
    return drawn[:, 0].float().cpu()


def evaluate(model: FMPN, data: FaceSet, device: torch.device) -> Metrics:
    """Accuracy, macro-F1, per-class figures and confusion of `data`, faces as they are (no augmentation)."""
    probabilities = predict(model, data.faces, device)
    return evaluate_predictions(data.labels.numpy(), probabilities)


def learning_rate_factor(stage: StageConfig, step: int, steps: int, steps_an_epoch: int) -> float:
    """The share of each learning rate that `step` (from 0) of `steps` uses."""
    if stage.schedule == "linear":
        full, falling = stage.epochs_full * steps_an_epoch, stage.epochs_falling * steps_an_epoch
        return 1.0 if step < full else 1.0 - (step - full) / falling
    warm = round(stage.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass
class State:
    """A saved moment: `step` steps of `stage` are done."""

    stage: Stage
    step: int
    sums: list[float]
    tensors: dict[str, Tensor]


Losses = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _train_stage(
    training: Training,
    name: Stage,
    stage: StageConfig,
    groups: list[dict[str, Any]],
    losses: Losses,
    identity: str,
    saved: State | None,
) -> None:
    model, data, device, seed = training.model, training.train, training.device, training.seed
    steps_an_epoch = math.ceil(len(data) / stage.batch_size)
    steps = steps_an_epoch * stage.epochs
    # Before anything holds on to the weights: this gives them new memory.
    model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(stage, groups)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    average = _Average(model, stage.ema_decay)
    step, sums = 0, [0.0, 0.0, 0.0]
    if saved is not None:
        step, sums = saved.step, saved.sums
        _restore(saved.tensors, model, optimizer, average)

    maps = torch.from_numpy(training.masks.maps).unsqueeze(1)
    known = torch.from_numpy(training.masks.known)
    autocast = autocast_dtype(device)
    # Not `monotonic`: on Windows that ticks 64 times a second, and a quick first batch would take no time.
    last_save = time.perf_counter()
    while step < steps:
        epoch = step // steps_an_epoch
        # In equal parts: a last batch of what is left over may be a single face, and batch normalisation
        # learns nonsense from that.
        batches = _order(data, stage, _mix(seed, name, "epoch", epoch)).tensor_split(steps_an_epoch)
        model.train()
        began, seen = time.perf_counter(), 0
        for at in range(step % steps_an_epoch, steps_an_epoch):
            torch.manual_seed(_mix(seed, name, "step", step))
            chosen = batches[at]
            labels = data.labels[chosen]
            faces, masks = augment(
                data.faces[chosen].to(device), maps[labels].to(device), training.config.augment
            )
            faces = faces.contiguous(memory_format=torch.channels_last)
            factor = learning_rate_factor(stage, step, steps, steps_an_epoch)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor

            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                mask_loss, classifier_loss = losses(
                    faces, data.targets[chosen].to(device), masks, known[labels].to(device)
                )
            loss = stage.lambda_mask * mask_loss + stage.lambda_classifier * classifier_loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            average.update()

            step, seen = step + 1, seen + len(chosen)
            for index, part in enumerate((loss, mask_loss, classifier_loss)):
                sums[index] += float(part.detach())
            if not math.isfinite(sums[0]):
                raise DivergedError(
                    f"The loss is no number any more, in epoch {epoch + 1} of the {name} stage: "
                    "choose a smaller learning rate."
                )
            rate = seen / (time.perf_counter() - began)
            training.callbacks.on_batch(
                BatchReport(name, epoch + 1, stage.epochs, at + 1, steps_an_epoch, sums[0] / (at + 1), rate)
            )
            stopping = training.callbacks.should_stop()
            if at + 1 == steps_an_epoch:
                break  # told of first, then saved: a run that goes on from there would not tell of it
            if stopping or time.perf_counter() - last_save > SAVE_EVERY:
                _save_state(training.state_path, identity, name, step, sums, model, optimizer, average)
                last_save = time.perf_counter()
            if stopping:
                raise Interrupted

        metrics = drawn = None
        with average:
            if name == "joint" and training.valid is not None:
                metrics = evaluate(model, training.valid, device)
            if training.watched is not None:
                drawn = draw_masks(model, training.watched, device)
        training.callbacks.on_epoch(
            EpochReport(
                stage=name,
                epoch=epoch + 1,
                epochs=stage.epochs,
                loss=sums[0] / steps_an_epoch,
                mask_loss=sums[1] / steps_an_epoch,
                classifier_loss=sums[2] / steps_an_epoch,
                rate=rate,
                metrics=metrics,
                masks=drawn,
            )
        )
        sums = [0.0, 0.0, 0.0]
        _save_state(training.state_path, identity, name, step, sums, model, optimizer, average)
        last_save = time.perf_counter()
        if stopping:
            raise Interrupted
    average.settle()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it, else None for plain float32 (elsewhere it is slower)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else None


def _mask_loss(drawn: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """Mean squared error over the faces whose expression has a mask (none: zero)."""
    errors = (drawn.float() - masks).square().mean(dim=(1, 2, 3))
    return (errors * known).sum() / known.sum().clamp(min=1)


def _optimizer(stage: StageConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if stage.optimizer == "adam":
        return torch.optim.Adam(groups, betas=(0.9, 0.999), weight_decay=stage.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=stage.weight_decay)


def _order(data: FaceSet, stage: StageConfig, seed: int) -> Tensor:
    """Which samples an epoch sees, in which order: a shuffle, or draws that favour what is rare."""
    generator = torch.Generator().manual_seed(seed)
    if stage.balance == stage.set_balance == 0:
        return torch.randperm(len(data), generator=generator)
    counts = torch.bincount(data.labels).clamp(min=1).double()
    weights = counts[data.labels] ** -stage.balance
    if stage.set_balance:
        sizes = torch.tensor(data.sizes or (len(data),))
        weights *= sizes.repeat_interleave(sizes).double() ** -stage.set_balance
    return torch.multinomial(weights, len(data), replacement=True, generator=generator)


def _mix(*parts: object) -> int:
    """A 63-bit seed that depends on every part, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class _Average:
    """Exponential moving average of a model's weights and statistics; decay 0 keeps the model itself.

    As a context manager it puts the average into the model for the time of the block.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.live = model.state_dict()
        self.mean = {name: tensor.clone() for name, tensor in self.live.items()} if decay else {}
        self.kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        if not self.mean:
            return
        self.updates += 1
        # The first steps forget faster, or the average would be that of the untrained weights.
        decay = min(self.decay, self.updates / (self.updates + 9))
        for name, mean in self.mean.items():
            if mean.is_floating_point():
                mean.lerp_(self.live[name], 1 - decay)
            else:
                mean.copy_(self.live[name])

    def settle(self) -> None:
        """Leave the average in the model for good."""
        for name, mean in self.mean.items():
            self.live[name].copy_(mean)

    def __enter__(self) -> None:
        self.kept = {name: tensor.clone() for name, tensor in self.live.items()} if self.mean else {}
        self.settle()

    def __exit__(self, *_: object) -> None:
        for name, tensor in self.kept.items():
            self.live[name].copy_(tensor)
        self.kept = {}


def _save_state(
    path: Path,
    identity: str,
    stage: Stage,
    step: int,
    sums: list[float],
    model: FMPN,
    optimizer: torch.optim.Optimizer,
    average: _Average,
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.mean.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    state = {"identity": identity, "stage": stage, "step": step, "sums": sums, "updates": average.updates}
    write_arrays(path, to_arrays(tensors), {"state": json.dumps(state)})


def _load_state(path: Path, identity: str) -> State | None:
    if not path.exists():
        return None
    try:
        arrays, header = read_arrays(path)
        state = json.loads(header["state"])
        tensors = to_tensors(arrays) | {"updates": torch.tensor(state["updates"])}
        found = State(state["stage"], state["step"], state["sums"], tensors)
        saved_by = state["identity"]
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"The saved state {path} cannot be read ({error}).") from error
    if saved_by != identity:
        raise ResumeError(f"The saved state {path} belongs to a run with other settings, seed or data.")
    return found


def _restore(
    tensors: dict[str, Tensor], model: FMPN, optimizer: torch.optim.Optimizer, average: _Average
) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."), strict=True)
    for name, tensor in part("average.").items():
        average.mean[name].copy_(tensor)
    average.updates = int(tensors["updates"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
