"""The weight files of the `mtcnn` package: known by their checksums, read without torch and TensorFlow."""

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import Final

import joblib
import numpy as np
from numpy.typing import NDArray

# The weight files are joblib pickles: only these very bytes are ever unpickled.
WEIGHTS_SHA256: Final = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}


class DetectorError(ValueError):
    """A detector that cannot be loaded. Its text is a sentence fit for a person."""


def read_weights(name: str) -> list[NDArray[np.float32]]:
    """Return the float32 arrays of "pnet", "rnet" or "onet", in Keras's order and layout.

    They are those of the installed `mtcnn` package. Raises DetectorError where the file is missing or
    altered.
    """
    # The package's own loader would take a file of that name from the working directory first.
    spec = importlib.util.find_spec("mtcnn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "assets" / "weights" / f"{name}.lz4"
        if path.is_file():
            break
    else:
        raise DetectorError(
            f"The face detector's weights ({name}.lz4) are missing: "
            "install the requirements again, the mtcnn package carries them."
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256[name]:
        raise DetectorError(
            f"The face detector's weights {path} are not the known ones and were not opened: "
            "install the requirements again, with the locked version of mtcnn."
        )
    weights: list[NDArray[np.float32]] = joblib.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return weights
