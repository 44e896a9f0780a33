"""Is this a brain MRI at all? Rules for what plainly is none, and scores of plain measures and features."""

import base64
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

# A larger colored fraction means no scan: of 2,350 training scans, the most colored one (with notes on it) has .036.
COLORED = 0.15
# Neither is an image whose darkest and brightest percentiles are closer than this many gray levels, one that is white
# on more than this share, or one that is longer than wide (or the reverse) by more than this factor.
MIN_CONTRAST = 16
WHITE_SHARE = 0.5
MAX_ASPECT = 2.5
WHITE = 240

# Side, in pixels, at which images are measured; rings and cells into which they are divided.
SIDE = 96
RINGS = 6
CELLS = 4
BANDS = 5
DARK = 16 / 255
# How many numbers `measures` returns.
MEASURED = 104
# Standardized values beyond this say no more than that they are far off.
MAX_STEP = 5.0


@dataclass(frozen=True)
class Gate:
    """Two linear scores of an image: that it is no brain MRI, and that it is an unusual view of a brain.

    Attributes:
        mean: Float [m], of the inputs on training scans.
        scale: Float [m] > 0, by which the difference from the mean is divided.
        weights: Float [2, 2 m], for the standardized inputs and their squares.
        bias: Float [2].
        limits: Float [2], scores from which an image is no brain MRI, and from which it is unusual.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    limits: np.ndarray

    def scores(self, inputs: np.ndarray) -> np.ndarray:
        """Return the scores [n, 2] of inputs [n, m]: the coordinates of `Trust.inputs` and `measures`."""
        return expanded(inputs, self.mean, self.scale) @ self.weights.T + self.bias

    def to_json(self) -> dict:
        """Return the content as text."""
        return {name: packed(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Gate":
        """Read what `to_json` has written; raises `KeyError`, `TypeError` or `ValueError`."""
        read = {name: unpacked(content[name]) for name in cls.__dataclass_fields__}
        m = read["mean"].size
        shapes = {"mean": (m,), "scale": (m,), "weights": (2, 2 * m), "bias": (2,), "limits": (2,)}
        if any(read[name].shape != shape for name, shape in shapes.items()):
            raise ValueError("the gate has numbers of another shape")
        if not (all(np.isfinite(values).all() for values in read.values()) and (read["scale"] > 0).all()):
            raise ValueError("the gate has numbers that cannot be")
        return cls(**read)


def expanded(inputs: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return standardized inputs and their squares, [n, 2 m]: both ends of a measure can be unlike a scan."""
    steps = ((inputs - mean) / scale).clip(-MAX_STEP, MAX_STEP)
    return np.concatenate([steps, steps**2], axis=1)


def packed(values: np.ndarray) -> dict:
    """Return an array as its shape and text of half precision: a fifth of the length of decimal numbers."""
    half = np.ascontiguousarray(values, dtype="<f2")
    return {"shape": list(half.shape), "float16": base64.b64encode(half.tobytes()).decode("ascii")}


def unpacked(content: Any) -> np.ndarray:
    """Return an array from `packed`, or from plain numbers; raises `KeyError`, `TypeError` or `ValueError`."""
    if not isinstance(content, Mapping):
        return np.asarray(content, dtype=float)
    values = np.frombuffer(base64.b64decode(content["float16"], validate=True), dtype="<f2")
    return values.reshape(content["shape"]).astype(float)


def plainly_foreign(original: Image.Image, color_share: float) -> bool:
    """Return whether an image is no brain MRI by its colors, white, contrast or form alone."""
    pixels = np.asarray(original.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
    low, high = np.percentile(pixels, (1, 99))
    width, height = original.size
    return bool(
        color_share > COLORED
        or high - low < MIN_CONTRAST
        or (pixels >= WHITE).mean() > WHITE_SHARE
        or max(width, height) > MAX_ASPECT * min(width, height)
    )


def measures(original: Image.Image, view: Image.Image) -> np.ndarray:
    """Return plain measures of an image and its view: brightness, margins, spectrum, symmetry, and what lies where.

    Returns:
        Float32 [m], each about -2 to 2.
    """
    whole, framed = (
        np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32) / 255
        for image in (original, view)
    )
    parts = (
        [np.log(original.width / original.height)],
        _brightness(whole),
        _brightness(framed),
        _margins(whole),
        _spectrum(whole),
        _spectrum(framed),
        _symmetry(framed),
        _rings(framed),
        _cells(framed),
    )
    return np.concatenate(parts).astype(np.float32)


def _brightness(pixels: np.ndarray) -> list[float]:
    """Return how bright pixels [S, S] are, how much they differ, and how sharp they are."""
    lit = pixels > DARK
    tissue = pixels[lit] if lit.any() else np.zeros(1, dtype=np.float32)
    steps = np.abs(np.diff(pixels, axis=0))[:, :-1] + np.abs(np.diff(pixels, axis=1))[:-1]
    levels = np.histogram(pixels, 32, (0, 1))[0] / pixels.size
    used = levels[levels > 0]
    return [
        1 - lit.mean(),
        (pixels > 0.97).mean(),
        tissue.mean(),
        tissue.std(),
        *np.percentile(tissue, (10, 50, 90)),
        10 * steps.mean(),
        (steps > 0.25).mean(),
        (steps < 0.01).mean(),
        -(used * np.log(used)).sum() / np.log(32),
        levels.max(),
    ]


def _margins(pixels: np.ndarray) -> list[float]:
    """Return how dark the four margins and the corners are."""
    sides = (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])
    ends = (slice(None, 10), slice(-10, None))
    edge = np.concatenate([side.ravel() for side in sides])
    corners = np.concatenate([pixels[rows, columns].ravel() for rows in ends for columns in ends])
    spread = [value for part in (edge, corners) for value in (part.mean(), part.std(), (part > DARK).mean())]
    return [*spread, *(side.mean() for side in sides)]


def _spectrum(pixels: np.ndarray) -> np.ndarray:
    """Return the power in bands from coarse to fine, as logarithms."""
    power = np.abs(np.fft.rfft2(pixels - pixels.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    edges = np.geomspace(1.5 / SIDE, 0.5, BANDS + 1)
    inside = [(frequency >= low) & (frequency < high) for low, high in itertools.pairwise(edges)]
    return (np.log10([power[band].mean() + 1e-2 for band in inside]) - 2) / 2


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
    place = np.linspace(-1, 1, SIDE)
    radius = np.hypot(place[:, None], place[None])
    edges = [*np.linspace(0, 1, RINGS + 1), np.inf]
    rings = [pixels[(radius >= low) & (radius < high)] for low, high in itertools.pairwise(edges)]
    return [value for ring in rings for value in (ring.mean(), ring.std(), (ring > DARK).mean())]


def _cells(pixels: np.ndarray) -> np.ndarray:
    """Return mean and deviation of 4 x 4 cells."""
    cells = pixels.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS)
    return np.concatenate([cells.mean(axis=(1, 3)).ravel(), cells.std(axis=(1, 3)).ravel()])
