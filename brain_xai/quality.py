"""How good a map is: does it point at the tumour, does the answer rest on what it marks, is it stable, is it learnt?

A box is (top, left, bottom, right) in pixels of the map, the last two just outside: rows top..bottom - 1. An
`attribution` is [H, W]; only what speaks for the class (> 0) counts as energy. All functions are defined for constant
maps, which say nothing, and for maps without any positive evidence, which point nowhere.
"""

import copy
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import torch
from torchvision.transforms.v2.functional import gaussian_blur

Box = tuple[int, int, int, int]
IOU_LEVELS = (0.3, 0.5, 0.7)


def pixel_box(box: Sequence[float], size: tuple[int, int]) -> Box:
    """Return the pixels of a map of `size` (height, width) whose centres lie in a box; at least one pixel.

    `box` is (x_min, y_min, x_max, y_max) in fractions of width and height, 0 to 1.
    """
    left, right = _pixels(box[0], box[2], size[1])
    top, bottom = _pixels(box[1], box[3], size[0])
    return top, left, bottom, right


def _pixels(low: float, high: float, side: int) -> tuple[int, int]:
    first, last = max(0, ceil(low * side - 0.5)), min(side, ceil(high * side - 0.5))
    if first < last:
        return first, last
    middle = min(max(int((low + high) / 2 * side), 0), side - 1)
    return middle, middle + 1


def box_share(box: Box, size: tuple[int, int]) -> float:
    """Return the share of the picture inside the box, 0 to 1: what energy and pointing reach by chance."""
    top, left, bottom, right = box
    return (bottom - top) * (right - left) / (size[0] * size[1])


# Localisation: does the map lie on the tumour?


def pointing_game(attribution: np.ndarray, box: Box, tolerance: float = 0) -> float:
    """Return 1 where the map's highest pixel is at most `tolerance` pixels from the box, else 0.

    Where several pixels share the highest value: the share of them that hit, so that a constant map scores chance.
    Source: Zhang et al. 2018, Top-down neural attention by excitation backprop, arXiv 1608.00507 (tolerance 15).
    """
    top, left, bottom, right = box
    rows, columns = np.nonzero(attribution == attribution.max())
    down = np.maximum(np.maximum(top - rows, rows - (bottom - 1)), 0)
    across = np.maximum(np.maximum(left - columns, columns - (right - 1)), 0)
    return float((np.hypot(down, across) <= tolerance).mean())


def peak_offset(attribution: np.ndarray, box: Box) -> tuple[float, float]:
    """Return how far the map's highest pixel lies below and to the right of the middle of the box, in pixels.

    The mean place of several highest pixels counts. Maps laid on the right place have a mean near 0 over pictures.
    """
    top, left, bottom, right = box
    rows, columns = np.nonzero(attribution == attribution.max())
    return float(rows.mean() - (top + bottom - 1) / 2), float(columns.mean() - (left + right - 1) / 2)


def energy_in_box(attribution: np.ndarray, box: Box) -> float:
    """Return the share of the positive attribution that lies inside the box, 0 to 1; 0 where nothing is positive.

    Source: the energy-based pointing game of Wang et al. 2020, Score-CAM, arXiv 1910.01279.
    """
    top, left, bottom, right = box
    energy = attribution.clip(min=0).astype(np.float64)
    total = energy.sum()
    return float(energy[top:bottom, left:right].sum() / total) if total > 0 else 0.0


def rank_accuracy(attribution: np.ndarray, box: Box) -> float:
    """Return the share of the K highest pixels that lie inside the box of K pixels, 0 to 1.

    Pixels that tie for the last of the K places share them, so that a constant map scores chance.
    Source: the relevance rank accuracy of Arras et al. 2022, CLEVR-XAI, arXiv 2003.07258.
    """
    top, left, bottom, right = box
    inside = attribution[top:bottom, left:right]
    count = inside.size
    last = np.partition(attribution, attribution.size - count, axis=None)[attribution.size - count]
    places = count - (attribution > last).sum()
    tied = (attribution == last).sum()
    return float(((inside > last).sum() + (inside == last).sum() * places / tied) / count)


def area_ious(attribution: np.ndarray, box: Box, thresholds: Sequence[float]) -> np.ndarray:
    """Return, per threshold, the overlap (intersection over union, 0 to 1) of the box around the marked area.

    Marked is what reaches `threshold` (0 to 1) times the highest positive value; around the largest connected area of
    it (the first of equals) lies the smallest box. 0 where nothing is positive. Source: Choe et al. 2020, Evaluating
    weakly supervised object localization methods right, arXiv 2001.07437. There maps are stretched to 0..1, here 0
    stays no evidence. Their second version takes the best match of all areas: a map of crumbs, as the edges of a scan
    are, then finds many tumours by luck.
    """
    from scipy.ndimage import find_objects, label  # only measuring needs scipy, the app does without

    energy = attribution.clip(min=0)
    if energy.max() == 0:
        return np.zeros(len(thresholds))
    overlaps = []
    for threshold in thresholds:
        marked = energy >= max(threshold * energy.max(), np.finfo(np.float32).tiny)
        areas = label(marked, structure=np.ones((3, 3)))[0]
        largest = int(np.bincount(areas[marked]).argmax())
        rows, columns = find_objects(areas)[largest - 1]
        overlaps.append(iou(box, (rows.start, columns.start, rows.stop, columns.stop)))
    return np.array(overlaps)


def iou(one: Box, other: Box) -> float:
    """Return the area that two boxes share over the area that they cover together, 0 to 1."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(height, 0) * max(width, 0)
    areas = sum((bottom - top) * (right - left) for top, left, bottom, right in (one, other))
    return shared / (areas - shared)


def box_accuracy(overlap: float) -> float:
    """Return the share of the levels .3, .5 and .7 that an overlap reaches; its mean over pictures is as MaxBoxAccV2.

    But with one threshold, chosen on other pictures, for all three levels. Source: Choe et al. 2020, arXiv 2001.07437.
    """
    return float(np.mean([overlap >= level for level in IOU_LEVELS]))


# Faithfulness: does the answer rest on what the map marks?


def faithfulness(
    score: Callable[[torch.Tensor], torch.Tensor],
    pixel_values: torch.Tensor,
    attribution: np.ndarray,
    baseline: torch.Tensor,
    steps: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    """Return the areas under the curves of `score` while pixels are replaced by those of `baseline`, and SRG.

    `score` maps pixel_values [N, C, H, W] to one number each, best the probability of the class; `baseline` is
    [1, C, H, W] or broadcasts to it (black, `blurred`). "deletion" replaces the most important pixels first and should
    fall fast (low is good). "insertion" puts the most important ones first into the baseline (high is good); it passes
    through the pictures of replacing the least important first, backwards. "srg" is insertion less deletion: 0 by
    chance, at most the range of the score. Ties are broken at random by `seed`. Steps are equal shares of the pixels.
    Sources: Petsiuk et al. 2018, RISE, arXiv 1806.07421; Blücher et al. 2024, symmetric relevance gain,
    arXiv 2401.06654.
    """
    # Only the order counts, and least important first is exactly the other way round, also among ties.
    shuffled = np.random.default_rng(seed).permutation(attribution.size)
    order = shuffled[np.argsort(-attribution.ravel()[shuffled], kind="stable")]
    rank = torch.empty(attribution.size, dtype=torch.long)
    rank[torch.from_numpy(order.copy())] = torch.arange(attribution.size)
    rank = rank.view(1, 1, *attribution.shape)
    ends = score(torch.cat([pixel_values, baseline.expand_as(pixel_values)])).tolist()
    areas = {}
    for name, place in (("deletion", rank), ("insertion", attribution.size - 1 - rank)):
        counts = [round(step / steps * attribution.size) for step in range(1, steps)]
        between = score(torch.cat([torch.where(place < count, baseline, pixel_values) for count in counts])).tolist()
        areas[name] = float(np.trapezoid([ends[0], *between, ends[1]], dx=1 / steps))
    return areas | {"srg": areas["insertion"] - areas["deletion"]}


def blurred(pixel_values: torch.Tensor, share: float = 0.05) -> torch.Tensor:
    """Return pixel_values [N, C, H, W] blurred by a Gaussian of `share` of the width, insertion's start in RISE."""
    sigma = share * pixel_values.shape[3]
    return gaussian_blur(pixel_values, [2 * ceil(2 * sigma) + 1] * 2, [sigma, sigma])


# Stability and sanity: does the map stay for nearly the same picture, and go with what the model has learnt?


def max_sensitivity(
    attribute: Callable[[np.ndarray], np.ndarray],
    pixels: np.ndarray,
    radius: float = 0.02,
    draws: int = 4,
    seed: int = 0,
) -> float:
    """Return how far the map moves at most when `pixels` (0 to 1) change by up to `radius`: 0 stays, 1 as far as it is.

    The largest, over `draws` pictures with uniform noise, of the Euclidean distance between the maps over the length
    of the first; 0 where that is a map of zeros. Source: Yeh et al. 2019, On the (in)fidelity and sensitivity of
    explanations, arXiv 1901.09392, relative as in captum.
    """
    random = np.random.default_rng(seed)
    first = attribute(pixels)
    noisy = ((pixels + random.uniform(-radius, radius, pixels.shape)).clip(0, 1) for _ in range(draws))
    distance = max(float(np.linalg.norm(attribute(picture) - first)) for picture in noisy)
    length = float(np.linalg.norm(first))
    return distance / length if length > 0 else 0.0


def rank_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation of two maps, -1 to 1; 0 where one is constant.

    Between a map of the trained and one of the `randomised` model it should be near 0: a map that stays the same shows
    the picture, not what was learnt. Source: Adebayo et al. 2018, Sanity checks for saliency maps, arXiv 1810.03292.
    """
    first, second = (ranks - ranks.mean() for ranks in (_ranks(one), _ranks(other)))
    length = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / length) if length > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the mean rank of each value among all, equal ones sharing theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse.ravel()]


def randomised(model: torch.nn.Module, share: float = 1.0, seed: int = 0) -> torch.nn.Module:
    """Return a copy of the model that has forgotten the upper `share` (0 to 1) of its layers, from the head down.

    The values of each of their weights and statistics are shuffled. Adebayo et al. 2018 draw new ones (cascading
    randomisation); shuffled ones are as large as the learnt, so that the signal neither dies nor explodes.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for layer in model.modules() if list(layer.parameters(recurse=False))]
    for layer in layers[len(layers) - round(share * len(layers)) :]:
        tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        for values in (tensor.data for tensor in tensors if tensor.is_floating_point()):
            values.copy_(values.flatten()[torch.randperm(values.numel(), generator=generator)].view(values.shape))
    return model


# Maps that know nothing of the model: what a measure gives for free.


def uniform(pixels: np.ndarray) -> np.ndarray:
    """Return the same evidence everywhere."""
    return np.ones(pixels.shape, dtype=np.float32)


def centre(pixels: np.ndarray) -> np.ndarray:
    """Return a Gaussian in the middle, with a quarter of the sides as standard deviations."""
    rows, columns = (np.exp(-(((np.arange(side) + 0.5) / side - 0.5) ** 2) * 8) for side in pixels.shape)
    return np.outer(rows, columns).astype(np.float32)


def edges(pixels: np.ndarray) -> np.ndarray:
    """Return the strength of the picture's edges: the length of Sobel's gradient."""
    padded = np.pad(pixels.astype(np.float32), 1, mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    horizontal = across[:-2] + 2 * across[1:-1] + across[2:]
    vertical = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return np.hypot(horizontal, vertical)


BASELINES = {"uniform": uniform, "center": centre, "edges": edges}
