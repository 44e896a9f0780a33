"""What an image looks like in plain numbers, without a model: is it a brain MRI at all, and an ordinary view of one?"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from brain_xai.levels import LEVELS, counts_of, percentiles

# A larger colored fraction means no scan: of 2,350 training scans, the most colored one (with notes on it) has .036.
COLORED = 0.15
# Neither is an image whose darkest and brightest percentiles are closer than this many gray levels, one that is white
# on more than this share, or one that is longer than wide (or the reverse) by more than this factor.
MIN_CONTRAST = 16
WHITE_SHARE = 0.5
MAX_ASPECT = 2.5
WHITE = 240

# Side, in pixels, at which images are measured; rings, cells and bands of frequency into which they are divided.
SIDE = 96
RINGS = 6
CELLS = 4
BANDS = 5
# The 256 levels of a gray image as fractions; pixels that are not brighter than DARK count as background.
FRACTIONS = LEVELS.astype(np.float32) / 255
DARK = 16 / 255
# How many numbers describe the view, and how many measure the image and the view.
DESCRIBED, MEASURED = 8, 104


@dataclass(frozen=True, eq=False)
class Looks:
    """What an image looks like.

    Attributes:
        view: Float32 [8], each about 0 to 1, of the image as the model sees it: shares of dark pixels, of dark corners
            and of white pixels, mean and deviation of what is not dark, sharpness, likeness of the two halves, and how
            much of the middle is filled.
        measures: Float32 [104], each about -2 to 2, of the whole image and of the view: form, brightness, margins,
            spectrum, symmetry, and what lies where.
        plainly_foreign: Whether it is no brain MRI by its colors, white, contrast or form alone.
    """

    view: np.ndarray
    measures: np.ndarray
    plainly_foreign: bool


def look_at(original: Image.Image, view: Image.Image, color_share: float) -> Looks:
    """Describe an image.

    Args:
        original: The whole image, mode "L".
        view: What the model sees of it, mode "L".
        color_share: The fraction of its pixels that were colored.

    Returns:
        What it looks like.
    """
    whole, framed = _small(original), _small(view)
    return Looks(_describe(view), _measures(whole, framed, original.size), _foreign(whole, original.size, color_share))


@dataclass(frozen=True, eq=False)
class _Small:
    """A gray image at SIDE x SIDE: `pixels` float32 [SIDE, SIDE] from 0 to 1, and how many have each of 256 levels."""

    pixels: np.ndarray
    counts: np.ndarray


def _small(gray: Image.Image) -> _Small:
    small = gray.resize((SIDE, SIDE), Image.Resampling.BOX)
    return _Small(np.asarray(small, dtype=np.float32) / 255, counts_of(small))


def _foreign(whole: _Small, size: tuple[int, int], color_share: float) -> bool:
    """Return whether an image of `size` (width, height) is plainly no brain MRI."""
    low, high = percentiles(LEVELS, whole.counts, (1, 99))
    return bool(
        color_share > COLORED
        or high - low < MIN_CONTRAST
        or whole.counts[WHITE:].sum() > WHITE_SHARE * whole.pixels.size
        or max(size) > MAX_ASPECT * min(size)
    )


def _measures(whole: _Small, framed: _Small, size: tuple[int, int]) -> np.ndarray:
    """Return the measures of an image of `size` (width, height) and of its view."""
    parts = (
        [np.log(size[0] / size[1])],
        _brightness(whole),
        _brightness(framed),
        _margins(whole.pixels),
        _spectrum(whole.pixels),
        _spectrum(framed.pixels),
        _symmetry(framed.pixels),
        _rings(framed.pixels),
        _cells(framed.pixels),
    )
    return np.concatenate(parts).astype(np.float32)


def _brightness(small: _Small) -> list[float]:
    """Return how bright an image is, how much its pixels differ, and how sharp it is."""
    pixels, counts = small.pixels, small.counts
    lit = counts * (FRACTIONS > DARK)
    if lit.any():
        tissue, middle = pixels[pixels > DARK], percentiles(FRACTIONS, lit, (10, 50, 90))
    else:
        tissue, middle = np.zeros(1, dtype=np.float32), np.zeros(3)
    steps = np.abs(np.diff(pixels, axis=0))[:, :-1] + np.abs(np.diff(pixels, axis=1))[:-1]
    levels = np.histogram(FRACTIONS, 32, (0, 1), weights=counts)[0] / pixels.size
    used = levels[levels > 0]
    return [
        1 - lit.sum() / pixels.size,
        counts[FRACTIONS > 0.97].sum() / pixels.size,
        tissue.mean(),
        tissue.std(),
        *middle,
        10 * steps.mean(),
        _share(steps > 0.25),
        _share(steps < 0.01),
        -(used * np.log(used)).sum() / np.log(32),
        levels.max(),
    ]


def _margins(pixels: np.ndarray) -> list[float]:
    """Return how dark the four margins and the corners are."""
    sides = (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])
    edge = np.concatenate([side.ravel() for side in sides])
    corners = _corners(pixels, 10)
    spread = [value for part in (edge, corners) for value in (part.mean(), part.std(), _share(part > DARK))]
    return [*spread, *(side.mean() for side in sides)]


def _spectrum(pixels: np.ndarray) -> np.ndarray:
    """Return the power in bands from coarse to fine, as logarithms."""
    power = (np.abs(np.fft.rfft2(pixels - pixels.mean())) ** 2).ravel()
    return (np.log10([power[band].mean() + 1e-2 for band in _bands()]) - 2) / 2


@functools.cache
def _bands() -> list[np.ndarray]:
    """Return which places of a flat spectrum lie in each band of frequency."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    return _between(frequency, np.geomspace(1.5 / SIDE, 0.5, BANDS + 1))


def _symmetry(pixels: np.ndarray) -> list[float]:
    """Return how much an image is like itself mirrored, upside down, on its side, and shifted."""
    pairs = (
        (pixels, pixels[:, ::-1]),
        (pixels, pixels[::-1]),
        (pixels, pixels.T),
        (pixels[1:], pixels[:-1]),
        (pixels[4:], pixels[:-4]),
        (pixels[:, 4:], pixels[:, :-4]),
    )
    return [_alike(one - one.mean(), other - other.mean()) for one, other in pairs]


def _alike(one: np.ndarray, other: np.ndarray) -> float:
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / norm if norm > 0 else 1.0


def _rings(pixels: np.ndarray) -> list[float]:
    """Return mean, deviation and lit share of rings around the middle; the last one is the corners."""
    rings = [pixels.ravel()[places] for places in _ring_places()]
    return [value for ring in rings for value in (ring.mean(), ring.std(), _share(ring > DARK))]


@functools.cache
def _ring_places() -> list[np.ndarray]:
    """Return which places of a flat image lie in each ring."""
    place = np.linspace(-1, 1, SIDE)
    return _between(np.hypot(place[:, None], place[None]), [*np.linspace(0, 1, RINGS + 1), np.inf])


def _between(values: np.ndarray, edges: np.ndarray | list[float]) -> list[np.ndarray]:
    """Return the places in the flat array whose value lies between each edge and the next one."""
    return [np.flatnonzero((values >= low) & (values < high)) for low, high in itertools.pairwise(edges)]


def _cells(pixels: np.ndarray) -> np.ndarray:
    """Return mean and deviation of 4 x 4 cells."""
    cells = pixels.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS)
    return np.concatenate([cells.mean(axis=(1, 3)).ravel(), cells.std(axis=(1, 3)).ravel()])


def _describe(view: Image.Image) -> np.ndarray:
    """Return `Looks.view`."""
    levels, counts = np.asarray(view), counts_of(view)
    pixels = FRACTIONS[levels]
    lit = levels > 16
    tissue = pixels[lit] if lit.any() else np.zeros(1, dtype=np.float32)
    steps = np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean()
    mean, deviation, mirrored = pixels.mean(), pixels.std(), pixels[:, ::-1]
    alike = ((pixels - mean) * (mirrored - mean)).mean() / deviation**2 if deviation > 0 else 1.0
    quarter = len(pixels) // 4
    return np.array(
        [
            1 - _share(lit),
            1 - _share(_corners(lit, max(len(pixels) // 8, 1))),
            counts[FRACTIONS > 0.98].sum() / pixels.size,
            tissue.mean(),
            tissue.std(),
            10 * steps,
            alike,
            _share(lit[quarter : 3 * quarter, quarter : 3 * quarter]),
        ],
        dtype=np.float32,
    )


def _corners(values: np.ndarray, side: int) -> np.ndarray:
    """Return what lies in the four corners of an array."""
    ends = (slice(None, side), slice(-side, None))
    return np.concatenate([values[rows, columns].ravel() for rows in ends for columns in ends])


def _share(mask: np.ndarray) -> float:
    return np.count_nonzero(mask) / mask.size
