"""What the training commands do: plain functions, the same for a shell and for a worker."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from ml.checkpoint import Checkpoint, build_model, save_checkpoint
from ml.config import TrainConfig
from ml.datasets import DatasetError, Sample, load_samples
from ml.engine import Callbacks, FaceSet, Training, evaluate, run_fold
from ml.metrics import Metrics
from ml.motion_masks import load_motion_masks

CHECKPOINT_NAME: Final = "fmpn.safetensors"
STATE_NAME: Final = "state.safetensors"

Progress = Callable[[str, int, int], None]  # what is read, done, of how many


@dataclass(frozen=True)
class Source:
    """A data set on disk: one of `ml.datasets.KINDS` and its folder."""

    kind: str
    root: Path


def train(
    sources: Sequence[Source],
    config: TrainConfig,
    preset: str,
    seed: int,
    output: Path,
    masks: Path,
    device: torch.device,
    callbacks: Callbacks,
    on_progress: Progress,
) -> Path:
    """Train on the train split of every source, validate on the first one's, and write a checkpoint.

    `output` keeps the state of the run, so the same call goes on where an interrupted one stopped. Returns
    the path of the checkpoint. Raises DatasetError, MotionMaskError, ResumeError or CheckpointError with a
    sentence, RuntimeError where pretrained weights cannot be had, and Interrupted when asked to stop.
    """
    revision = git_revision()
    by_source = [load_samples(source.kind, source.root, "train") for source in sources]
    train_samples = [sample for samples in by_source for sample in samples]
    valid_samples = _validation_samples(sources[0])
    model = build_model(config, seed)
    training = Training(
        model=model,
        config=config,
        train=_load(train_samples, config, "training faces", on_progress),
        valid=_load(valid_samples, config, "validation faces", on_progress) if valid_samples else None,
        masks=load_motion_masks(masks, config.model.image_size),
        seed=seed,
        state_path=output / STATE_NAME,
        device=device,
        callbacks=callbacks,
    )
    run_fold(training)
    metrics = evaluate(model, training.valid, device) if training.valid else None
    facts = {
        "preset": preset,
        "data": [
            {"kind": source.kind, "train_images": len(samples)}
            for source, samples in zip(sources, by_source, strict=True)
        ],
        "seed": seed,
        "git_revision": revision,
        "metrics": {"validation": metrics.to_dict()} if metrics else {},
    }
    path = output / CHECKPOINT_NAME
    save_checkpoint(path, model, config, facts)
    return path


def evaluate_checkpoint(
    checkpoint: Checkpoint, source: Source, split: str, device: torch.device, on_progress: Progress
) -> Metrics:
    """Evaluate a checkpoint on one split of a data set. Raises DatasetError or CheckpointError."""
    samples = load_samples(source.kind, source.root, split)
    model = checkpoint.build().to(device)
    return evaluate(model, _load(samples, checkpoint.config, f"{split} faces", on_progress), device)


def git_revision() -> str | None:
    """The commit of the code that runs, with "+changes" where it is not clean; None outside a checkout."""

    def git(*arguments: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changes = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.SubprocessError):
        return None


def _validation_samples(source: Source) -> list[Sample]:
    try:
        return load_samples(source.kind, source.root, "valid")
    except DatasetError:
        return []  # a set too small for a validation part is trained without one


def _load(samples: Sequence[Sample], config: TrainConfig, what: str, on_progress: Progress) -> FaceSet:
    return FaceSet.load(
        samples,
        config.model.image_size,
        config.model.colour,
        lambda done, total: on_progress(f"Reading {what}", done, total),
    )
