"""System checks: `python manage.py check` and every start say what is wrong with folder, model and device."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from ml.runtime import DeviceError, choose_device

DETECTORS: Final = ("mtcnn", "mtcnn-tensorflow")


@register
def check_folder(**_: Any) -> Sequence[CheckMessage]:
    """The folder for everything that is written exists and is writable, or can be made."""
    folder = Path(settings.FER_VAR_DIR)
    # Path.exists raises, before Python 3.12, where one may not look.
    ways = (path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110
    existing = next(ways, folder)  # of a drive that Windows does not have, nothing exists
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return []
    hint = f"Change the owner of {existing}, or set FER_VAR_DIR to a folder that can be written."
    return [Error(f"{folder} cannot be written.", hint=hint, id="fer.E001")]


@register
def check_checkpoint(**_: Any) -> Sequence[CheckMessage]:
    """The model that the settings name is there and intact."""
    # Checks run before every command, and reading the model means seconds of importing torch: so when asked.
    if sys.argv[1:2] != ["check"]:
        return []
    from ml.checkpoint import CheckpointError, load_checkpoint

    try:
        load_checkpoint(Path(settings.FER_CHECKPOINT)).build()
    except CheckpointError as error:
        hint = "`git checkout ml/weights` brings the bundled one back; FER_CHECKPOINT names another."
        return [Error(str(error), hint=hint, id="fer.E002")]
    return []


@register
def check_detector(**_: Any) -> Sequence[CheckMessage]:
    if settings.FER_DETECTOR in DETECTORS:
        return []
    hint = f"Set FER_DETECTOR to one of {', '.join(DETECTORS)}."
    return [Error(f"There is no face detector {settings.FER_DETECTOR!r}.", hint=hint, id="fer.E003")]


@register
def check_device(**_: Any) -> Sequence[CheckMessage]:
    """The device is one that is known, and CUDA is there where it is asked for."""
    if settings.FER_DEVICE == "auto":  # can be had everywhere, and to ask for a GPU may mean importing torch
        return []
    try:
        choose_device(settings.FER_DEVICE)
    except DeviceError as error:
        hint = "Set FER_DEVICE to another, or install the driver of the GPU."
        return [Error(str(error), hint=hint, id="fer.E004")]
    return []
