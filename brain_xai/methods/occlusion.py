"""Occlusion: hide one part of the image after the other and see how the logit changes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch

from brain_xai.classifier import Classifier
from brain_xai.methods.partial_forward import Occlusions, partial_forward
from brain_xai.methods.request import Progress, Request

# Patches are small, and on one thread PyTorch computes 1 × 1 convolutions of fewer than 16 images slowly: a window
# takes a quarter to a half less time than in batches of 8. Cancellation happens between batches, after some .2 seconds.
# bfloat16 is not used: on a CPU that has it, it takes a third less time, but the rank correlation with the float32 map
# falls to .96 on some scans.
PATCH_BATCH_SIZE = 32
# Full images are no faster in larger batches.
BATCH_SIZE = 8
PARTIAL_MAP_SECONDS = 0.5
# Every fourth window per axis comes first, then every second, then all.
LATTICES = (4, 2, 1)


@dataclass(frozen=True)
class OcclusionSettings:
    """How to occlude; see `occlusion`. Raises `ValueError`."""

    window: float = 0.2
    stride: float = 1 / 16
    reach: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        if not 0 < self.stride <= self.window <= 1:
            raise ValueError(
                f"Occlusion needs 0 < stride <= window <= 1, got stride {self.stride} and window {self.window}."
            )
        if self.reach is not None and not (isinstance(self.reach, int) and self.reach >= 0):
            raise ValueError(f"Occlusion needs a reach of 0 or more positions, or None, got {self.reach!r}.")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"Occlusion needs more than 0 seconds, or None, got {self.seconds}.")


@dataclass(frozen=True, eq=False)
class Windows:
    """A grid of windows that covers an image; those that extend over its right or lower border are cut off there.

    Attributes:
        image_size: Height and width of the image.
        size: Height and width of a window in pixels.
        stride: Distance of two windows in pixels, per axis.
        tops: First row of each row of windows.
        lefts: First column of each column of windows.
    """

    image_size: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    tops: np.ndarray
    lefts: np.ndarray

    @classmethod
    def over(cls, image_size: tuple[int, int], settings: OcclusionSettings) -> "Windows":
        size = tuple(max(1, round(settings.window * side)) for side in image_size)
        stride = tuple(max(1, round(settings.stride * side)) for side in image_size)
        starts = (
            np.arange(ceil((side - length) / step) + 1) * step
            for side, length, step in zip(image_size, size, stride, strict=True)
        )
        return cls(image_size, size, stride, *starts)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return len(self.tops), len(self.lefts)

    def cover_foreground(self, foreground: np.ndarray) -> np.ndarray:
        """Return which windows hide a pixel of the foreground, bool [H, W]; bool [rows, columns]."""
        height, width = self.size
        return np.array(
            [[foreground[top : top + height, left : left + width].any() for left in self.lefts] for top in self.tops]
        )

    def average(self, score_drops: np.ndarray) -> np.ndarray:
        """Average [classes, rows, columns] over the windows that hide each pixel; float32 [classes, H, W]."""
        rows, columns = self._coverage(0), self._coverage(1)
        counts = rows.sum(axis=1)[:, None] * columns.sum(axis=1)
        return (rows @ score_drops @ columns.T / counts).astype(np.float32)

    def _coverage(self, axis: int) -> np.ndarray:
        """Return which windows of an axis hide which of its pixels, 0 or 1, [pixels, windows]."""
        starts, pixels = (self.tops, self.lefts)[axis], np.arange(self.image_size[axis])[:, None]
        return ((pixels >= starts) & (pixels < starts + self.size[axis])).astype(float)


def occlusion(
    request: Request,
    *,
    window: float = 0.2,
    stride: float = 1 / 16,
    reach: int | None = None,
    seconds: float | None = None,
) -> tuple[np.ndarray, dict]:
    """Compute how far the logit falls when a black window hides a pixel, averaged over the windows that hide it.

    Args:
        request: The class and image to explain. The engine "auto" recomputes only what a window changes, and skips
            windows over black; "captum" is Captum's `Occlusion`. With "auto", progress gets the map so far as its third
            argument, at most every half second.
        window: Side of the window, as a fraction of the image's height and width.
        stride: Distance of two windows, likewise; at most `window`.
        reach: How many positions of each layer, around those below it, a window may change: with 3 about twice as fast
            and close. None is exact.
        seconds: After this time the remaining windows are estimated from their neighbors, so that the map depends on
            the machine. None computes all of them.

    Returns:
        The attribution, float32 [H, W] in logits, > 0 for and < 0 against the class, and the settings.

    Raises:
        ValueError: A setting is out of range, or `reach` or `seconds` is given for Captum.

    Reference:
        Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901
    """
    settings = OcclusionSettings(window, stride, reach, seconds)
    if request.engine == "captum":
        return _captum_occlusion(request, settings)

    def report_target(done: int, total: int, attributions: np.ndarray | None = None) -> None:
        request.progress(done, total, *([] if attributions is None else [attributions[request.target]]))

    maps, used = occlusion_of_all_classes(request.classifier, request.pixel_values, report_target, settings)
    return maps[request.target], used


def occlusion_each_class(request: Request, **settings: Any) -> tuple[np.ndarray, dict]:
    """Compute what `occlusion` computes for every class, float32 [classes, H, W], for the price of one."""
    return occlusion_of_all_classes(
        request.classifier, request.pixel_values, request.progress, OcclusionSettings(**settings)
    )


def occlusion_of_all_classes(
    classifier: Classifier, pixel_values: torch.Tensor, progress: Progress, settings: OcclusionSettings
) -> tuple[np.ndarray, dict]:
    """Compute the occlusion maps of all classes for the price of one.

    Args:
        classifier: The model to explain.
        pixel_values: The normalized image, float [1, 3, H, W].
        progress: As for `occlusion`, but its third argument has the maps of all classes.
        settings: As for `occlusion`.

    Returns:
        The attributions, float32 [classes, H, W] in logits, and the settings.
    """
    started = last_map = time.monotonic()
    pixel_values = classifier.to_device(pixel_values)
    windows = Windows.over(tuple(pixel_values.shape[2:]), settings)
    logits, score_drops_of = _make_forward(classifier, pixel_values, windows, settings.reach)
    # Windows over black pixels change nothing; skip them, also to avoid rounding noise.
    foreground = (pixel_values[0] != classifier.black[0]).any(dim=0).cpu().numpy()
    computed = ~windows.cover_foreground(foreground)
    score_drops, total = np.zeros((len(logits), *windows.shape)), 1 + computed.size
    progress(1 + int(computed.sum()), total)
    batch_size = BATCH_SIZE if partial_forward(classifier) is None else PATCH_BATCH_SIZE
    for rows, columns in _batches(score_drops, computed, batch_size):
        score_drops[:, rows, columns] = score_drops_of(rows, columns)
        computed[rows, columns] = True
        now = time.monotonic()
        if now - last_map >= PARTIAL_MAP_SECONDS and not computed.all():
            last_map = now
            progress(1 + int(computed.sum()), total, windows.average(_estimate(score_drops, computed)))
        else:
            progress(1 + int(computed.sum()), total)
        if settings.seconds is not None and now - started >= settings.seconds:
            break
    used = {"engine": "shortcut", **_used(windows), "reach": settings.reach, "complete": bool(computed.all())}
    return windows.average(_estimate(score_drops, computed)), used


def _captum_occlusion(request: Request, settings: OcclusionSettings) -> tuple[np.ndarray, dict]:
    from captum.attr import Occlusion  # takes over a second, because it imports matplotlib

    if settings.reach is not None or settings.seconds is not None:
        raise ValueError("Captum's Occlusion is always exact and complete: reach and seconds need engine='auto'.")
    windows, done = Windows.over(request.size, settings), 0
    total = 1 + windows.shape[0] * windows.shape[1]
    with request.classifier.private_model() as model:

        def forward(batch: torch.Tensor) -> torch.Tensor:
            nonlocal done
            logits = model(batch).float()
            done += len(batch)
            request.progress(done, total)
            return logits

        attribution = Occlusion(forward).attribute(
            request.pixel_values,
            sliding_window_shapes=(3, *windows.size),
            strides=(3, *windows.stride),
            baselines=request.classifier.black,
            target=request.target,
            perturbations_per_eval=BATCH_SIZE,
        )
    # The three channels are hidden together, so they have the same attribution.
    return attribution[0, 0].float().cpu().numpy(), {"engine": "captum", **_used(windows)}


def _used(windows: Windows) -> dict:
    return {"window": windows.size, "stride": windows.stride, "baseline": "black"}


def _make_forward(
    classifier: Classifier, pixel_values: torch.Tensor, windows: Windows, reach: int | None
) -> tuple[torch.Tensor, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Return the logits [classes] of the full image, and a function that returns how far windows make them fall.

    The function takes rows and columns of N windows and returns [classes, N]. No hook is set, so many threads can use
    it at once.
    """
    network = partial_forward(classifier)
    if network is None:
        logits = classifier.logits(pixel_values)[0]
    else:
        outputs = network.outputs(pixel_values)
        logits = list(outputs.values())[-1][0].float().cpu()

    def score_drops_of(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        starts = (torch.from_numpy(windows.tops[rows]), torch.from_numpy(windows.lefts[columns]))
        starts = (start.to(pixel_values.device) for start in starts)
        occlusions = Occlusions(pixel_values, *starts, windows.size, classifier.black)
        if network is None:
            occluded = classifier.logits(occlusions.images())
        else:
            occluded = network.occluded(outputs, occlusions.patch(), reach).float().cpu()
        return (logits - occluded).T.numpy()

    return logits, score_drops_of


def _batches(score_drops: np.ndarray, computed: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows and columns of the windows to compute next: coarse before fine, largest expected drops first.

    Reads `score_drops` and `computed` as the caller fills them.
    """
    for step in LATTICES:
        strength = np.abs(_estimate(score_drops, computed)).max(axis=0)
        lattice = np.zeros_like(computed)
        lattice[::step, ::step] = True
        places = np.argwhere(lattice & ~computed)
        places = places[np.argsort(-strength[tuple(places.T)], kind="stable")]
        # Of equal size, because the last batch would else be a small one, which takes longer per window.
        for batch in np.array_split(places, ceil(len(places) / size)) if len(places) else ():
            yield tuple(batch.T)


def _estimate(score_drops: np.ndarray, computed: np.ndarray) -> np.ndarray:
    """Fill the windows that are not computed yet with a mean of the others, weighted by 1 / distance⁴ (Shepard)."""
    if computed.all() or not computed.any():
        return score_drops
    known, unknown = np.argwhere(computed), np.argwhere(~computed)
    weights = ((unknown[:, None] - known[None]) ** 2).sum(axis=2) ** -2.0
    filled = score_drops.copy()
    filled[:, ~computed] = score_drops[:, computed] @ (weights / weights.sum(axis=1, keepdims=True)).T
    return filled
