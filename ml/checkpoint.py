"""Checkpoints: one safetensors file that holds the weights and all that is needed to trust and rebuild them.

The file's metadata has one entry, `fmpn`, a JSON object: config, classes, crop, data, seed, git revision,
metrics, where it was calibrated `temperature` and `sure_from` (`ml.calibration`), and a SHA-256 over the rest
of it and every tensor. No pickle is read or written.
"""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ml.alignment import TEMPLATE
from ml.config import ModelConfig, TrainConfig
from ml.datasets.samples import SPLITS
from ml.expressions import EXPRESSIONS

if TYPE_CHECKING:
    # Not when it runs: a process that only reads photos checks its model without importing torch.
    from torch import Tensor

    from ml.fmpn import FMPN

Arrays = dict[str, NDArray[Any]]

BUNDLED: Final = Path(__file__).parent / "weights" / "compact.safetensors"
FORMAT: Final = 1
# Protocols with one fold, which a set's own splits make: what is trained on under each.
OWN_SPLITS: Final = {"split": ("train",), "final": ("train", "valid")}
OF_THE_WEIGHTS: Final = ("temperature", "sure_from", "calibration")  # what other weights must not inherit


class CheckpointError(Exception):
    """A checkpoint that cannot be used; its text is a sentence fit for a person."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds. weights: state_dict of an FMPN; metadata: the JSON object; sha256: hex."""

    config: TrainConfig
    weights: Arrays
    metadata: dict[str, Any]
    sha256: str

    @property
    def model_config(self) -> ModelConfig:
        return self.config.model

    @property
    def temperature(self) -> float:
        """What logits are divided by before the softmax: above 0; 1 where it was not calibrated."""
        return float(self.metadata.get("temperature", 1.0))

    @property
    def sure_from(self) -> float:
        """The least probability, 0..1, of an answer that the model is sure of; 0 where that is unknown."""
        return float(self.metadata.get("sure_from", 0.0))

    @property
    def shares(self) -> tuple[float, ...] | None:
        """Each expression's share, above 0, of the faces it was calibrated on; None where nobody counted."""
        shares = self.metadata.get("calibration", {}).get("shares")
        return None if shares is None else tuple(shares)

    @property
    def trained_on(self) -> dict[str, list[str]]:
        """The kinds of the data sets that it was trained on, before or after it became this one, and which of
        their splits ("train", "valid", "test") the faces were of; sorted."""
        last = [{part["kind"]: part.get("splits", self._splits)} for part in self.metadata.get("data", [])]
        return joined(self.trained_before, *last)

    @property
    def trained_before(self) -> dict[str, list[str]]:
        """The same of what came before its last training."""
        before = self.metadata.get("trained_before", {})
        return joined(dict.fromkeys(before, self._splits) if isinstance(before, list) else before)

    @property
    def _splits(self) -> tuple[str, ...]:
        """For files of before 2026-12, which keep kinds and the protocol of the last training: an earlier one
        by folds may hide behind it."""
        imported = "converted_from" in self.metadata
        return SPLITS if imported else splits_learnt(self.metadata.get("protocol", "split"))

    @property
    def is_of_unknown_origin(self) -> bool:
        """Whether it was imported, and nobody said what it had been trained on."""
        return "converted_from" in self.metadata and not self.trained_on

    @property
    def name(self) -> str:
        """A name for people: the preset and the first eight digits of the checksum."""
        return f"{self.metadata.get('preset', 'model')} {self.sha256[:8]}"

    def build(self) -> "FMPN":
        """Rebuild the model on the CPU, in eval mode. Raises CheckpointError where its config is none of this
        version's, or a weight does not fit."""
        from ml.fmpn import FMPN

        try:
            model = FMPN(self.model_config)
            model.load_state_dict(to_tensors(self.weights), strict=True)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # an unknown backbone, for one
            raise CheckpointError(f"The checkpoint's weights do not fit its own config: {error}") from error
        return model.eval()


def splits_learnt(protocol: str) -> tuple[str, ...]:
    """The splits of a set whose faces are trained on under a protocol; by folds, they may be of any."""
    return OWN_SPLITS.get(protocol, SPLITS)


def joined(*trained_on: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """What several trainings saw together, as `Checkpoint.trained_on`."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for each in trained_on:
        for kind, some in each.items():
            splits[kind].update(some)
    return {kind: sorted(splits[kind]) for kind in sorted(splits)}


def start_file(config: TrainConfig) -> Path | None:
    """The checkpoint that `config.start` names; None where the weights come from ImageNet or are random."""
    if config.start in ("imagenet", "random"):
        return None
    return BUNDLED if config.start == "bundled" else Path(config.start)


def build_model(config: TrainConfig, seed: int) -> "FMPN":
    """A model as `config.start` wants it at the start of a run; `seed` draws what is random.

    Raises CheckpointError where a checkpoint to start from is missing, broken or of another shape, and
    RuntimeError where ImageNet's weights cannot be had.
    """
    import torch

    from ml.fmpn import FMPN

    torch.manual_seed(seed)
    model = FMPN(config.model, pretrained=config.start == "imagenet")
    if path := start_file(config):
        try:
            model.load_state_dict(to_tensors(load_checkpoint(path).weights), strict=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} cannot be the start of this model: the backbone, the mask generator's channels and "
                "its blocks must be the same."
            ) from error
    return model


def save_checkpoint(path: Path, model: "FMPN", config: TrainConfig, facts: Mapping[str, Any]) -> str:
    """Write a checkpoint, whole or not at all, and return its SHA-256.

    facts: JSON values; `preset`, `data`, `seed`, `git_revision` and `metrics` are expected. Raises
    CheckpointError where a weight is not finite, and where the disk is full.
    """
    metadata = {
        "format": FORMAT,
        "config": _without_folders(config.to_dict()),
        "classes": list(EXPRESSIONS),
        "crop_template": TEMPLATE.tolist(),
        **facts,
    }
    return _write(path, to_arrays(model.state_dict()), metadata)


def save_calibrated(
    path: Path,
    checkpoint: Checkpoint,
    temperature: float,
    sure_from: float,
    metrics: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> str:
    """Write the same weights with another temperature and threshold, and return the new SHA-256.

    metrics: JSON values, what it reads right of the faces that the two were found on; facts: on how they
    were, kept as `calibration`.
    """
    said = {
        "temperature": temperature,
        "sure_from": sure_from,
        "metrics": {"validation": dict(metrics)},
        "calibration": dict(facts),
    }
    return _write(path, checkpoint.weights, {**checkpoint.metadata, **said})


def save_average(path: Path, first: Checkpoint, second: Checkpoint, share: float) -> str:
    """Write the mean of two trainings' weights, the second one's with a `share` of 0..1, and return the new
    SHA-256. (WiSE-FT, arXiv 2109.01903: a model tuned to new faces, averaged with what it was tuned from,
    keeps more of both.)

    Raises CheckpointError where the two are not of one shape.
    """
    shapes = [{name: array.shape for name, array in each.weights.items()} for each in (first, second)]
    if first.model_config != second.model_config or shapes[0] != shapes[1]:
        raise CheckpointError("Only checkpoints of the same model can be averaged.")
    weights = {
        name: np.asarray((1 - share) * first.weights[name] + share * array, array.dtype)
        for name, array in second.weights.items()
    }
    kept = {name: value for name, value in second.metadata.items() if name not in OF_THE_WEIGHTS}
    first_run = {**first.metadata, "config": _without_folders(first.metadata["config"])}
    average = {"of": [first.sha256, second.sha256], "share": share, "first_run": first_run}
    before = joined(first.trained_on, second.trained_before)  # the last training's stands in `data`
    return _write(path, weights, {**kept, "metrics": {}, "average": average, "trained_before": before})


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that a training started from is named, not the folders of this machine."""
    return {**config, "start": Path(config["start"]).name}


def _write(path: Path, weights: Arrays, metadata: dict[str, Any]) -> str:
    _refuse_broken_weights(path, weights)
    sha256 = _digest(metadata, weights)
    write_arrays(path, weights, {"fmpn": json.dumps({**metadata, "sha256": sha256})})
    return sha256


def _refuse_broken_weights(path: Path, weights: Arrays) -> None:
    """Such a model gives no error but nonsense, the same for every face."""
    if broken := [name for name, array in weights.items() if not np.isfinite(array).all()]:
        raise CheckpointError(
            f"The weights of {path} are not all finite numbers ({broken[0]}): this model cannot read a face."
        )


def load_checkpoint(path: Path, sha256: str | None = None) -> Checkpoint:
    """Read and verify a checkpoint; `sha256` is the one it has to state, if that is known.

    Raises CheckpointError where the file is missing, is no checkpoint, was damaged (its SHA-256 is off) or
    replaced, holds weights that are not finite, was made for other classes or another crop than this code's,
    or states facts without sense.
    """
    weights, header = read_arrays(path)
    try:
        metadata = json.loads(header["fmpn"])
        stated = metadata.pop("sha256")
        config = TrainConfig.from_dict(metadata["config"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this project ({error!r}).") from error
    if stated != _digest(metadata, weights):
        raise CheckpointError(f"The checkpoint {path} is damaged: its SHA-256 is not the one it states.")
    if sha256 not in (None, stated):
        raise CheckpointError(
            f"The checkpoint {path} was replaced by another one: its SHA-256 is {stated[:8]}."
        )
    _refuse_broken_weights(path, weights)
    if metadata.get("format") != FORMAT or metadata.get("classes") != list(EXPRESSIONS):
        raise CheckpointError(f"The checkpoint {path} was made for another version or other expressions.")
    if metadata.get("crop_template") != TEMPLATE.tolist():
        raise CheckpointError(f"The checkpoint {path} was trained on faces cropped in another way.")
    checkpoint = Checkpoint(config, weights, metadata, stated)
    try:
        usable = 0 < checkpoint.temperature < math.inf and 0 <= checkpoint.sure_from <= 1
        if (shares := checkpoint.shares) is not None:
            usable &= len(shares) == len(EXPRESSIONS) and all(0 < share <= 1 for share in shares)
    except (TypeError, ValueError, OverflowError, AttributeError):
        usable = False
    if not usable:
        raise CheckpointError(f"The checkpoint {path} states a calibration that makes no sense.")
    try:
        _ = checkpoint.trained_on
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not tell what it was trained on ({error!r}).") from error
    return checkpoint


def read_name(path: Path) -> tuple[str, str]:
    """The name and the SHA-256 that a checkpoint states, quickly: its weights are neither read nor verified.

    Raises CheckpointError where the file is missing or is no checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads(file.metadata()["fmpn"])
        return f"{facts['preset']} {facts['sha256'][:8]}", str(facts["sha256"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this project ({error!r}).") from error


def to_arrays(tensors: "Mapping[str, Tensor]") -> Arrays:
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}


def to_tensors(arrays: Arrays) -> "dict[str, Tensor]":
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def write_arrays(path: Path, arrays: Arrays, header: dict[str, str]) -> None:
    """Write a safetensors file beside `path` and move it there, so that no half file is ever seen.

    Raises CheckpointError where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(arrays, partial, header)
        with partial.open("r+b") as written:  # Windows writes nothing out for who only reads
            os.fsync(written.fileno())
        partial.replace(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be written: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Read a safetensors file: its arrays and its header. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    # Of 16 or 8 bits' numbers that numpy does not have, it raises one of the last two.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}.") from error


def _digest(metadata: Mapping[str, Any], weights: Arrays) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(weights):
        array = weights[name]
        digest.update(f"{name} torch.{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
