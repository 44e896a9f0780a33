"""Is this a brain MRI at all? Two linear scores of what the model and plain measures see in an image."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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
