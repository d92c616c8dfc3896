"""What was measured, as documents that anybody can check: JSON with the figures and what they came from.

A document has `measurements` (`measurement`), `robustness` or both, and says which code and machine made it
(`facts`). No path of a machine stands in one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from ml.checkpoint import Checkpoint
from ml.metrics import summarise_folds
from ml.robustness import Measured
from training.evaluation import Evaluation
from training.services import git_revision, machine

Document = dict[str, Any]


def results_folder() -> Path:
    return Path(settings.FER_VAR_DIR) / "results"


def facts(seed: int) -> Document:
    """When, by which code and on which machine something is measured: asked before it begins, since a
    checkout may move on while it lasts."""
    return {
        "seed": seed,
        "git_revision": git_revision(),
        "machine": machine(),
        "measured": timezone.now().isoformat(timespec="seconds"),
    }


def checkpoint_facts(checkpoint: Checkpoint) -> Document:
    return {
        "name": checkpoint.name,
        "sha256": checkpoint.sha256,
        "temperature": checkpoint.temperature,
        "sure_from": checkpoint.sure_from,
    }


def measurement(
    kind: str, split: str, parts: Sequence[tuple[str, Checkpoint, Evaluation]], **more: Any
) -> Document:
    """One measurement of a data set of `kind`: its parts (folds, or the one split), and all faces together.

    `summary` is the mean of the parts' accuracies, where there are several.
    """
    checkpoints = {checkpoint.sha256: checkpoint for _, checkpoint, _ in parts}
    together = Evaluation.together([evaluation for _, _, evaluation in parts])
    document = {"data": kind, "split": split, **more}
    if len(checkpoints) == 1:
        document["checkpoint"] = checkpoint_facts(parts[0][1])
    if len(parts) > 1:
        accuracies = [evaluation.metrics.accuracy for _, _, evaluation in parts]
        document["summary"] = asdict(summarise_folds(accuracies))
        document["parts"] = [
            {
                "name": name,
                "faces": len(evaluation.labels),
                "accuracy": evaluation.metrics.accuracy,
                "own_accuracy": evaluation.own.accuracy,
                "macro_f1": evaluation.metrics.macro_f1,
                "confusion": evaluation.metrics.confusion.tolist(),
                "checkpoint": checkpoint.name,
            }
            for name, checkpoint, evaluation in parts
        ]
    return document | {"together": together.to_dict()}


def robustness(
    kind: str, split: str, checkpoint: Checkpoint, faces: int, rows: Sequence[Measured]
) -> Document:
    """Accuracy and macro-F1 under every condition; the row without one is of the faces as they are."""
    return {
        "data": kind,
        "split": split,
        "faces": faces,
        "checkpoint": checkpoint_facts(checkpoint),
        "rows": [
            {
                "kind": row.condition.kind if row.condition else None,
                "level": row.condition.level if row.condition else None,
                "accuracy": row.accuracy,
                "macro_f1": row.macro_f1,
            }
            for row in rows
        ],
    }


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(_short_lines(document) + "\n", encoding="utf-8")
    partial.replace(path)


def _short_lines(document: Mapping[str, Any]) -> str:
    """Indented JSON in which a row of numbers stands on one line, and numbers have six digits."""

    def write(value: Any, indent: str) -> str:
        if isinstance(value, float):
            return json.dumps(round(value, 6))
        inner = indent + " "
        if isinstance(value, Mapping) and value:
            items = (f"{inner}{json.dumps(str(key))}: {write(item, inner)}" for key, item in value.items())
            return "{\n" + ",\n".join(items) + f"\n{indent}}}"
        if isinstance(value, list | tuple) and any(
            isinstance(item, Mapping | list | tuple) for item in value
        ):
            return "[\n" + ",\n".join(inner + write(item, inner) for item in value) + f"\n{indent}]"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(write(item, inner) for item in value) + "]"
        return json.dumps(value, ensure_ascii=False)

    return write(document, "")
