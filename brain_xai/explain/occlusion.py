"""Occlusion: hide one part of the picture after the other and see how the logit changes."""

from collections.abc import Callable
from math import ceil

import numpy as np
import torch

from brain_xai.classifier import Classifier

# Larger batches are no faster on a CPU, and the work can be cancelled between two.
BATCH_SIZE = 8


def occlusion(
    classifier: Classifier,
    pixel_values: torch.Tensor,
    target: int,
    progress: Callable[[int, int], None],
    *,
    window: float = 0.2,
    stride: float = 1 / 16,
) -> tuple[np.ndarray, dict]:
    """Compute how far the logit falls when a black window hides a pixel, averaged over the windows that hide it.

    Returns the attribution [H, W] in logits and the settings. `window` and `stride` are fractions of the picture's
    height and width; windows that reach over the right or lower border are cut off there. Raises `ValueError`.
    Paper: Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901
    """
    from captum.attr import Occlusion  # takes over a second, as it brings matplotlib

    if not 0 < stride <= window <= 1:
        raise ValueError(f"Occlusion needs 0 < stride <= window <= 1, got stride {stride} and window {window}.")
    size = pixel_values.shape[2:]
    windows = tuple(max(1, round(window * side)) for side in size)
    strides = tuple(max(1, round(stride * side)) for side in size)
    steps = [ceil((side - w) / s) + 1 for side, w, s in zip(size, windows, strides, strict=True)]
    total = 1 + steps[0] * steps[1]
    done = 0
    whole = classifier.logits(pixel_values)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        nonlocal done
        logits = whole.repeat(len(batch), 1)
        # Hiding what is black already changes nothing: exactly, where another batch size could change the last digit.
        changed = (batch != pixel_values).flatten(start_dim=1).any(dim=1)
        if changed.any():
            logits[changed] = classifier.logits(batch[changed])
        done += len(batch)
        progress(done, total)
        return logits

    # No hook is set, so the model that predicts can be used, by many at once.
    attribution = Occlusion(forward).attribute(
        pixel_values,
        sliding_window_shapes=(pixel_values.shape[1], *windows),
        strides=(pixel_values.shape[1], *strides),
        baselines=_black(classifier),
        target=target,
        perturbations_per_eval=BATCH_SIZE,
    )
    # All channels are hidden together, so each holds the same map.
    return attribution[0, 0].numpy(), {"window": windows, "stride": strides, "baseline": "black"}


def _black(classifier: Classifier) -> torch.Tensor:
    """Return the pixel value of black, float32 [1, 3, 1, 1]: captum's own baseline, 0, is a grey patch on a scan."""
    preprocessing = classifier.preprocessing
    return ((0 - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)).view(1, -1, 1, 1)
