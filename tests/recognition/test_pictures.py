"""Pictures as they are kept and shown."""

import io

import cv2
import numpy as np
from PIL import Image

from recognition.pictures import encode_mask


def test_a_mask_is_drawn_from_violet_to_yellow_in_all_of_viridis() -> None:
    levels = np.arange(256, dtype=np.uint8)[None].repeat(4, axis=0)

    picture = Image.open(io.BytesIO(encode_mask((levels / 255).astype(np.float32))))

    expected = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), expected)
    assert tuple(expected[0, 0]) == (68, 1, 84)
    assert tuple(expected[0, -1]) == (253, 231, 37)
