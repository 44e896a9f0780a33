"""Text in the corners of a slice, which may name the patient."""

import numpy as np
from PIL import Image

# The part of width and height, at each corner, where scanners write.
CORNER = 0.3
# A step between neighboring pixels that text makes and tissue rarely does, in gray levels.
STEP = 90
# Text: this many steps in a row of pixels, in this many neighboring rows, on a background darker than this.
STEPS, ROWS, DARK = 8, 5, 40


def has_text(image: Image.Image) -> bool:
    """Tell whether a corner of a gray image looks like text. Rows of pixels that are bright and dark in turn do."""
    pixels = np.asarray(image).astype(np.int16)
    height, width = (max(int(CORNER * side), 2) for side in pixels.shape)
    corners = (pixels[:height, :width], pixels[:height, -width:], pixels[-height:, :width], pixels[-height:, -width:])
    return any(map(_is_text, corners))


def _is_text(corner: np.ndarray) -> bool:
    if np.median(corner) > DARK:
        return False
    busy = (np.abs(np.diff(corner, axis=1)) > STEP).sum(axis=1) >= STEPS
    runs = np.convolve(busy, np.ones(ROWS, dtype=int), mode="valid") if len(busy) >= ROWS else np.zeros(1)
    return bool((runs == ROWS).any())
