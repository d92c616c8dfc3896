"""`manage.py calibrate_fmpn`: let a checkpoint's probabilities mean what they say."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from ml.checkpoint import CheckpointError, load_checkpoint
from ml.datasets import DatasetError, load_samples
from ml.runtime import choose_device
from training.calibrating import calibrate
from training.evaluation import may_have_seen
from training.management.arguments import add_dataset_arguments, add_device_argument, find_datasets
from training.management.foreground import progress_bar
from training.services import git_revision


class Command(BaseCommand):
    help = (
        "Fit a temperature to a checkpoint's logits, and the probability from which it is sure, on faces it "
        "was not trained on; write it with both. The weights stay as they are."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dataset_arguments(parser, several=False)
        parser.add_argument("--split", choices=("train", "valid", "test", "all"), default="valid")
        parser.add_argument("--checkpoint", type=Path, default=settings.FER_CHECKPOINT, metavar="FILE")
        parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where it is written")
        parser.add_argument(
            "--accuracy", type=float, default=0.9, help="of what is said where the model is sure (0.9)"
        )
        add_device_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        split = options["split"]
        try:
            dataset, *others = find_datasets(options, register=False)
            if others:
                raise DatasetError("A checkpoint is calibrated on one data set: give one --dataset.")
            if not 0 < options["accuracy"] <= 1:
                raise ValueError("--accuracy is a share: above 0, 1 at most.")
            checkpoint = load_checkpoint(options["checkpoint"])
            with progress_bar() as show:
                found = calibrate(
                    checkpoint,
                    load_samples(dataset.kind, dataset.path, split),
                    options["accuracy"],
                    options["output"],
                    {"data": dataset.kind, "split": split, "git_revision": git_revision()},
                    torch.device(choose_device(options["device"])),
                    show,
                )
        except (CheckpointError, DatasetError, ValueError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"temperature {found.temperature:.4f}: "
            f"calibration error {found.ece[0]:.4f} → {found.ece[1]:.4f}, "
            f"negative log-likelihood {found.nll[0]:.4f} → {found.nll[1]:.4f} on {found.faces} faces\n"
            f"sure from {found.sure_from:.4f}: says {found.coverage:.3f}, {found.accuracy:.3f} of it right\n"
            f"{options['output']} ({found.sha256[:8]})"
        )
        if may_have_seen(checkpoint, kind=dataset.kind, split=split):
            self.stderr.write(
                "The model may have been trained on some of these faces: then it reads new ones worse, and "
                "what was fitted promises too much. Calibrate it on faces that it never saw."
            )
