"""Faces of contempt, drawn from neutral ones: photos of it are rarer than of any other expression.

What tells it in posed photos is one corner of the mouth, drawn in and up (Ekman and Friesen, 1986; in FACS
action units 12 and 14 of one side). On an aligned face we know where that corner is.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ml.alignment import TEMPLATE

# By how much of a face's side; chosen by looking at what comes of it, on faces of KDEF.
UP: Final = (0.03, 0.06)
OUT: Final = (0.012, 0.04)
REACH: Final = (0.08, 0.12)  # of the pull: the standard deviation of a Gaussian
MISPLACED: Final = 0.01  # standard deviation of where the corner is


def draw_contempt(face: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Pull up one corner of the mouth of an aligned face (S, S), (S, S, 1) or (S, S, 3); as strongly, as far
    around and on the side that `generator` says."""
    size = len(face)
    right = generator.random() < 0.5  # in the picture
    up, out, reach = (generator.uniform(*bounds) * size for bounds in (UP, OUT, REACH))
    x, y = (TEMPLATE[4 if right else 3] + generator.normal(0, MISPLACED, 2)) * size
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    pull = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * reach**2)).astype(np.float32)
    from_x = columns - (out if right else -out) * pull
    from_y = rows + up * pull
    drawn = cv2.remap(face, from_x, from_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(drawn, np.uint8).reshape(face.shape)
