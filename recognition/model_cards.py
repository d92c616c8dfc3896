"""What the checkpoints that come into question say of themselves."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

from ml.checkpoint import BUNDLED, CheckpointError, load_checkpoint
from ml.in_service import checkpoint_in_service


@dataclass(frozen=True)
class Measured:
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class ModelCard:
    """A checkpoint's facts. sha256: hex; image_size: pixels a side; data: kinds of sets it was trained on;
    measured: by the part of the data, such as "validation"."""

    name: str
    sha256: str
    in_service: bool
    bundled: bool
    preset: str
    backbone: str
    image_size: int
    expressions: list[str]
    data: list[str]
    measured: dict[str, Measured]


def model_cards() -> list[ModelCard]:
    """The model in service first, then the one that came with the program; one where they are the same.

    A checkpoint that cannot be used is left out.
    """
    active = checkpoint_in_service()
    serving = active.path if active else Path(settings.FER_CHECKPOINT)
    cards: dict[str, ModelCard] = {}
    for path in (serving, BUNDLED):
        try:
            facts = _facts(path, path.stat().st_mtime_ns)
        except (CheckpointError, OSError):
            continue
        card = ModelCard(in_service=path == serving, bundled=path == BUNDLED, **facts)
        cards.setdefault(card.sha256, card)
    return list(cards.values())


@lru_cache(maxsize=8)
def _facts(path: Path, _changed: int) -> dict[str, Any]:
    checkpoint = load_checkpoint(path)
    metadata = checkpoint.metadata
    runs = [metadata, metadata.get("first_run") or {}]
    return {
        "name": checkpoint.name,
        "sha256": checkpoint.sha256,
        "preset": metadata["preset"],
        "backbone": checkpoint.model_config.backbone,
        "image_size": checkpoint.model_config.image_size,
        "expressions": metadata["classes"],
        "data": sorted({part["kind"] for run in runs for part in run.get("data", [])}),
        "measured": {
            part: Measured(figures["accuracy"], figures["macro_f1"])
            for part, figures in (metadata.get("metrics") or {}).items()
            if isinstance(figures, dict) and {"accuracy", "macro_f1"} <= figures.keys()
        },
    }
