"""Where a training may start from, besides ImageNet: a classifier that knows faces."""

from pathlib import Path
from typing import Final

import torch
from django.conf import settings

from ml.checkpoint import load_checkpoint, save_checkpoint
from ml.config import TrainConfig
from ml.datasets import load_samples
from ml.engine import FaceSet
from ml.fmpn import FMPN
from ml.pretrained import load_face_weights, read_tensorflow_js
from ml.transforms import to_input
from training.models import Dataset

FACES_TO_MEASURE: Final = 512


def make_start(weights: Path, dataset: Dataset, config: TrainConfig, output: Path) -> None:
    """Write a checkpoint of `config` with HSE_FaceRec's weights and the bundled model's mask generator.

    Its normalisation is measured on training faces of `dataset`, spread evenly over it. Raises
    PretrainedError, DatasetError, OSError.
    """
    arrays = read_tensorflow_js(weights)
    samples = load_samples(dataset.kind, dataset.path, "train")
    chosen = samples[:: max(1, len(samples) // FACES_TO_MEASURE)][:FACES_TO_MEASURE]
    faces = FaceSet.load(chosen, config.model.image_size, config.model.colour)
    torch.manual_seed(0)
    model = FMPN(config.model)
    bundled = load_checkpoint(Path(settings.FER_CHECKPOINT))
    model.mask_generator.load_state_dict(bundled.build().mask_generator.state_dict())
    load_face_weights(model, arrays, to_input(faces.faces))
    facts = {"weights": "HSE_FaceRec", "faces": dataset.name, "trained_before": bundled.trained_on}
    save_checkpoint(output, model, config, facts)
