"""What every method is asked: the attribution of one class in one image."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from brain_xai.classifier import Classifier


class Progress(Protocol):
    """Called after every batch of forward passes; what it raises ends the work and reaches the caller of `explain`."""

    def __call__(self, done: int, total: int, attribution: np.ndarray | None = None) -> None:
        """Report that `done` of `total` steps are finished; some methods add the map so far, float32 [H, W]."""


def no_progress(done: int, total: int, attribution: np.ndarray | None = None) -> None:
    """No-op progress callback."""


@dataclass(frozen=True, eq=False)
class Request:
    """What a method is to compute.

    Attributes:
        classifier: The model to explain.
        pixel_values: The normalized image, float [1, 3, H, W]; it is moved to the model's device.
        target: The class index to explain.
        progress: Called after every batch of forward passes.
        engine: "captum" for Captum's own computation, "auto" for the fastest that gives the same map.
    """

    classifier: Classifier
    pixel_values: torch.Tensor
    target: int
    progress: Progress = no_progress
    engine: str = "auto"

    def __post_init__(self):
        object.__setattr__(self, "pixel_values", self.classifier.to_device(self.pixel_values))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return tuple(self.pixel_values.shape[2:])
