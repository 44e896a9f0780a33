"""Occlusion: hide one part of the picture after the other and see how the logit changes."""

import time
from collections.abc import Callable, Iterator
from math import ceil

import numpy as np
import torch

from brain_xai.classifier import Classifier
from brain_xai.methods.partial_forward import hidden_patch, hide, network_of

# Larger batches are hardly faster on a CPU, and the work can be cancelled between two. Nor is bfloat16 used: where a
# CPU has it the time falls by a third, but the map's rank correlation with float32 to .96 on some scans.
BATCH_SIZE = 8
# Bounded patches are small: more of them fill the same time.
BOUNDED_BATCH_SIZE = 16
PARTIAL_MAP_SECONDS = 0.5
# Every fourth window per axis comes first, then every second, then all.
LATTICES = (4, 2, 1)


def occlusion(
    classifier: Classifier, pixel_values: torch.Tensor, target: int, progress: Callable[..., None], **settings
) -> tuple[np.ndarray, dict]:
    """Compute how far the logit falls when a black window hides a pixel, averaged over the windows that hide it.

    Returns the attribution [H, W] in logits and the settings used; `settings` and `progress` are those of
    `occlusion_of_all_classes`, with partial maps of the target alone.
    Paper: Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901
    """

    def of_target(done: int, total: int, *partial: np.ndarray) -> None:
        progress(done, total, *(maps[target] for maps in partial))

    maps, used = occlusion_of_all_classes(classifier, pixel_values, of_target, **settings)
    return maps[target], used


def occlusion_of_all_classes(
    classifier: Classifier,
    pixel_values: torch.Tensor,
    progress: Callable[..., None],
    *,
    window: float = 0.2,
    stride: float = 1 / 16,
    reach: int | None = None,
    seconds: float | None = None,
) -> tuple[np.ndarray, dict]:
    """Compute the occlusion maps of all classes at the price of one: float32 [classes, H, W] in logits.

    `window` and `stride` are fractions of the picture's height and width; windows that reach over the right or lower
    border are cut off there. `reach` bounds how many cells of each layer, around those under it, a window may change:
    with 3 about twice as fast and close; None is exact. After `seconds` the windows not yet tried are estimated from
    their neighbours, so the map depends on the machine; None tries all, the same map every time.
    `progress(done, total)` is called after every batch, with the maps so far as a third argument at most every half
    second; what it raises ends the work. Also returns the settings, ready for JSON. Raises `ValueError`.
    """
    started = time.monotonic()
    _check(window, stride, reach, seconds)
    size = pixel_values.shape[2:]
    windows = tuple(max(1, round(window * side)) for side in size)
    strides = tuple(max(1, round(stride * side)) for side in size)
    tops, lefts = (
        torch.arange(ceil((side - w) / s) + 1) * s for side, w, s in zip(size, windows, strides, strict=True)
    )
    black = _black(classifier)
    whole, hidden_logits = _passes(classifier, pixel_values, windows, black, reach)
    # Hiding what is black already changes nothing: exactly, where another batch size could change the last digit.
    tried = ~_touched((pixel_values[0] != black.view(3, 1, 1)).any(dim=0).numpy(), tops, lefts, windows)
    falls = np.zeros((len(whole), *tried.shape))
    total = 1 + tried.size
    cover = [_cover(start, length, side) for start, length, side in zip((tops, lefts), windows, size, strict=True)]
    last_map = started
    progress(1 + int(tried.sum()), total)
    for rows, columns in _batches(falls, tried, BATCH_SIZE if reach is None else BOUNDED_BATCH_SIZE):
        falls[:, rows, columns] = (whole - hidden_logits(tops[rows], lefts[columns])).T.numpy()
        tried[rows, columns] = True
        now = time.monotonic()
        if now - last_map >= PARTIAL_MAP_SECONDS and not tried.all():
            last_map = now
            progress(1 + int(tried.sum()), total, _average(_estimate(falls, tried), *cover))
        else:
            progress(1 + int(tried.sum()), total)
        if seconds is not None and now - started >= seconds:
            break
    used = {"window": windows, "stride": strides, "baseline": "black", "reach": reach, "complete": bool(tried.all())}
    return _average(_estimate(falls, tried), *cover), used


def _check(window: float, stride: float, reach: int | None, seconds: float | None) -> None:
    if not 0 < stride <= window <= 1:
        raise ValueError(f"Occlusion needs 0 < stride <= window <= 1, got stride {stride} and window {window}.")
    if reach is not None and not (isinstance(reach, int) and reach >= 0):
        raise ValueError(f"Occlusion needs a reach of 0 or more cells, or None, got {reach!r}.")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"Occlusion needs more than 0 seconds, or None, got {seconds}.")


def _passes(
    classifier: Classifier, pixel_values: torch.Tensor, window: tuple[int, int], black: torch.Tensor, reach: int | None
) -> tuple[torch.Tensor, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Return the logits [classes] of the whole picture, and a function of N tops and lefts to the logits without them.

    No hook is set anywhere, so all this can be used by many at once.
    """
    network = network_of(classifier)
    if network is None:
        whole = classifier.logits(pixel_values)[0]
        return whole, lambda tops, lefts: classifier.logits(hide(pixel_values, tops, lefts, window, black))
    outputs = network.outputs(pixel_values)
    whole = list(outputs.values())[-1][0]

    def hidden_logits(tops: torch.Tensor, lefts: torch.Tensor) -> torch.Tensor:
        return network.hidden(outputs, hidden_patch(pixel_values, tops, lefts, window, black), reach)

    return whole, hidden_logits


def _touched(bright: np.ndarray, tops: torch.Tensor, lefts: torch.Tensor, window: tuple[int, int]) -> np.ndarray:
    """Return which windows hide a pixel that is not black, bool [rows, columns]."""
    return np.array([[bright[top : top + window[0], left : left + window[1]].any() for left in lefts] for top in tops])


def _batches(falls: np.ndarray, tried: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows and columns of the windows to try next: coarse before fine, and where hiding matters most first.

    Reads `falls` and `tried` as the caller fills them.
    """
    for step in LATTICES:
        strength = np.abs(_estimate(falls, tried)).max(axis=0)
        lattice = np.zeros_like(tried)
        lattice[::step, ::step] = True
        places = np.argwhere(lattice & ~tried)
        places = places[np.argsort(-strength[tuple(places.T)], kind="stable")]
        for start in range(0, len(places), size):
            yield tuple(places[start : start + size].T)


def _estimate(falls: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Fill the windows not tried yet with a mean of those tried, weighted by 1 / distance⁴ (Shepard)."""
    if tried.all() or not tried.any():
        return falls
    known, unknown = np.argwhere(tried), np.argwhere(~tried)
    weights = ((unknown[:, None] - known[None]) ** 2).sum(axis=2) ** -2.0
    filled = falls.copy()
    filled[:, ~tried] = falls[:, tried] @ (weights / weights.sum(axis=1, keepdims=True)).T
    return filled


def _cover(starts: torch.Tensor, length: int, side: int) -> np.ndarray:
    """Return which pixels of an axis which windows hide, 0 or 1, [side, windows]."""
    pixels = np.arange(side)[:, None]
    return ((pixels >= starts.numpy()) & (pixels < starts.numpy() + length)).astype(float)


def _average(falls: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Give each pixel the mean of the windows that hide it, float32 [classes, H, W]."""
    counts = rows.sum(axis=1)[:, None] * columns.sum(axis=1)
    return (rows @ falls @ columns.T / counts).astype(np.float32)


def _black(classifier: Classifier) -> torch.Tensor:
    """Return the pixel value of black, float32 [3]: captum's own baseline, 0, is a grey patch on a scan."""
    preprocessing = classifier.preprocessing
    return (0 - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
