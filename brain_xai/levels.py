"""Order statistics of images with 256 gray levels, from how many pixels have each: pixels need not be sorted."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

LEVELS = np.arange(256)


def counts_of(gray: Image.Image, mask: np.ndarray | None = None) -> np.ndarray:
    """Return how many pixels of a gray image, or of a part of it (bool [H, W]), have each level, int64 [256]."""
    return np.array(gray.histogram(None if mask is None else Image.fromarray(mask)))


def percentiles(values: np.ndarray, counts: np.ndarray, percents: Sequence[float]) -> np.ndarray:
    """Return what `numpy.percentile` returns, to the last bit, for ascending `values`, each `counts` times."""
    upto = np.cumsum(counts)
    position = np.asarray(percents) / 100 * (upto[-1] - 1)
    below = np.floor(position)
    low, high = (values[np.searchsorted(upto, np.minimum(at, upto[-1] - 1), "right")] for at in (below, below + 1))
    part, step = position - below, high - low
    return np.where(part < 0.5, low + step * part, high - step * (1 - part))
