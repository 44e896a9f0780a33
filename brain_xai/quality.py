"""Measure one map: localization, faithfulness, stability, and sanity. Needs scipy: `pip install brain-xai[quality]`.

An `attribution` is a float array [H, W]; only its positive values count as energy. A box is (top, left, bottom, right)
in pixels of the map and covers rows top to bottom - 1 and columns left to right - 1. Every measure is defined for
constant maps and for maps without positive values.
"""

import copy
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import torch
from scipy import ndimage, stats
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import gaussian_blur

Box = tuple[int, int, int, int]
IOU_LEVELS = (0.3, 0.5, 0.7)


def pixel_box(box: Sequence[float], size: tuple[int, int]) -> Box:
    """Return the pixels whose centers lie in a box.

    Args:
        box: x_min, y_min, x_max, y_max as fractions of width and height, 0 to 1.
        size: Height and width of the map in pixels.

    Returns:
        The box in pixels; it has at least one.
    """
    left, right = _pixel_range(box[0], box[2], size[1])
    top, bottom = _pixel_range(box[1], box[3], size[0])
    return top, left, bottom, right


def _pixel_range(low: float, high: float, side: int) -> tuple[int, int]:
    """Return the first pixel whose center lies between `low` and `high`, and the one after the last."""
    first, last = max(0, ceil(low * side - 0.5)), min(side, ceil(high * side - 0.5))
    if first < last:
        return first, last
    middle = min(max(int((low + high) / 2 * side), 0), side - 1)
    return middle, middle + 1


def box_share(box: Box, size: tuple[int, int]) -> float:
    """Return the share of the image inside the box, 0 to 1, which is the energy and the pointing game of chance."""
    top, left, bottom, right = box
    return (bottom - top) * (right - left) / (size[0] * size[1])


# Localization: does the map point at the tumor?


def pointing_game(attribution: np.ndarray, box: Box, tolerance: float = 0) -> float:
    """Test whether the highest pixel of the map lies in the box.

    Args:
        attribution: The map, [H, W].
        box: The box in pixels.
        tolerance: How many pixels outside the box still count as a hit.

    Returns:
        1 or 0; if several pixels share the highest value, the share of them that hit. A constant map scores chance.

    Reference:
        Zhang et al. 2018, Top-down neural attention by excitation backprop, arXiv 1608.00507 (tolerance 15).
    """
    top, left, bottom, right = box
    rows, columns = np.nonzero(attribution == attribution.max())
    down = np.maximum(np.maximum(top - rows, rows - (bottom - 1)), 0)
    across = np.maximum(np.maximum(left - columns, columns - (right - 1)), 0)
    return float((np.hypot(down, across) <= tolerance).mean())


def peak_offset(attribution: np.ndarray, box: Box) -> tuple[float, float]:
    """Measure how far the highest pixel of the map lies from the center of the box.

    Correctly aligned maps have a mean offset near 0 over many images.

    Args:
        attribution: The map, [H, W].
        box: The box in pixels.

    Returns:
        The distance downward and to the right in pixels; of several highest pixels their mean position counts.
    """
    top, left, bottom, right = box
    rows, columns = np.nonzero(attribution == attribution.max())
    return float(rows.mean() - (top + bottom - 1) / 2), float(columns.mean() - (left + right - 1) / 2)


def energy_in_box(attribution: np.ndarray, box: Box) -> float:
    """Measure the share of the positive attribution inside the box.

    Args:
        attribution: The map, [H, W].
        box: The box in pixels.

    Returns:
        0 to 1; 0 if nothing is positive.

    Reference:
        The energy-based pointing game of Wang et al. 2020, Score-CAM, arXiv 1910.01279.
    """
    top, left, bottom, right = box
    energy = attribution.clip(min=0).astype(np.float64)
    total = energy.sum()
    return float(energy[top:bottom, left:right].sum() / total) if total > 0 else 0.0


def rank_accuracy(attribution: np.ndarray, box: Box) -> float:
    """Measure the share of the K highest pixels that lie inside the box of K pixels.

    Args:
        attribution: The map, [H, W].
        box: The box in pixels.

    Returns:
        0 to 1. Pixels that tie for the last ranks share them, so that a constant map scores chance.

    Reference:
        The relevance rank accuracy of Arras et al. 2022, CLEVR-XAI, arXiv 2003.07258.
    """
    top, left, bottom, right = box
    inside = attribution[top:bottom, left:right]
    count = inside.size
    last = np.partition(attribution, attribution.size - count, axis=None)[attribution.size - count]
    ranks_left = count - (attribution > last).sum()
    tied = (attribution == last).sum()
    return float(((inside > last).sum() + (inside == last).sum() * ranks_left / tied) / count)


def area_ious(attribution: np.ndarray, box: Box, thresholds: Sequence[float]) -> np.ndarray:
    """Measure how well the largest highlighted area overlaps the box.

    Highlighted is what reaches a threshold times the highest positive value. Unlike in the paper, maps are not
    stretched to 0..1: 0 always means no evidence. Nor does the best of all areas count, as in the paper's second
    version, because scattered edge maps would then match many boxes by chance.

    Args:
        attribution: The map, [H, W].
        box: The box in pixels.
        thresholds: Fractions of the highest value, 0 to 1.

    Returns:
        For each threshold the intersection over union, 0 to 1, of the box and the smallest box around the largest
        connected area (the first one of equals); 0 if nothing is positive.

    Reference:
        Choe et al. 2020, Evaluating weakly supervised object localization methods right, arXiv 2001.07437.
    """
    energy = attribution.clip(min=0)
    if energy.max() == 0:
        return np.zeros(len(thresholds))
    overlaps = []
    for threshold in thresholds:
        highlighted = energy >= max(threshold * energy.max(), np.finfo(np.float32).tiny)
        areas = ndimage.label(highlighted, structure=np.ones((3, 3)))[0]
        largest = int(np.bincount(areas[highlighted]).argmax())
        rows, columns = ndimage.find_objects(areas)[largest - 1]
        overlaps.append(iou(box, (rows.start, columns.start, rows.stop, columns.stop)))
    return np.array(overlaps)


def iou(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes, 0 to 1."""
    corners = (torch.tensor([box], dtype=torch.float64) for box in (one, other))
    return box_iou(*corners).item()


def box_accuracy(overlap: float) -> float:
    """Return the share of the IoU levels .3, .5 and .7 that an overlap reaches.

    The mean over images is MaxBoxAccV2, but with one threshold, chosen on other images, for all three levels.

    Reference:
        Choe et al. 2020, arXiv 2001.07437.
    """
    return float(np.mean([overlap >= level for level in IOU_LEVELS]))


# Faithfulness: does the answer depend on what the map highlights?


def faithfulness(
    score: Callable[[torch.Tensor], torch.Tensor],
    pixel_values: torch.Tensor,
    attribution: np.ndarray,
    baseline: torch.Tensor,
    steps: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    """Measure how the score changes while pixels are replaced by a baseline in the order of the map.

    Args:
        score: Maps pixel_values [N, C, H, W] to N numbers, preferably the probability of the class.
        pixel_values: The normalized image, [1, C, H, W].
        attribution: The map, [H, W]; only its order counts.
        baseline: What replaces the pixels, [1, C, H, W] or broadcastable to it: black, or the `blurred` image.
        steps: How many equal shares of the pixels are replaced one after another.
        seed: Seed of the random order among pixels of equal attribution.

    Returns:
        "deletion", the area under the curve when the most important pixels are replaced first: low is good.
        "insertion", the area when the most important pixels are put into the baseline first: high is good. Its curve is
        that of replacing the least important pixels first, read backward. "srg", insertion minus deletion: 0 by chance,
        at most the range of the score.

    Reference:
        Petsiuk et al. 2018, RISE, arXiv 1806.07421; Blücher et al. 2024, symmetric relevance gain, arXiv 2401.06654.
    """
    # Least important first is exactly the reverse order, among ties, too.
    shuffled = np.random.default_rng(seed).permutation(attribution.size)
    order = shuffled[np.argsort(-attribution.ravel()[shuffled], kind="stable")]
    rank = torch.empty(attribution.size, dtype=torch.long)
    rank[torch.from_numpy(order.copy())] = torch.arange(attribution.size)
    rank = rank.view(1, 1, *attribution.shape).to(pixel_values.device)
    counts = [round(step / steps * attribution.size) for step in range(1, steps)]
    first, last = score(torch.cat([pixel_values, baseline.expand_as(pixel_values)])).tolist()
    areas = {}
    for name, ranks in (("deletion", rank), ("insertion", attribution.size - 1 - rank)):
        between = score(torch.cat([torch.where(ranks < count, baseline, pixel_values) for count in counts])).tolist()
        areas[name] = float(np.trapezoid([first, *between, last], dx=1 / steps))
    return areas | {"srg": areas["insertion"] - areas["deletion"]}


def blurred(pixel_values: torch.Tensor, fraction: float = 0.05) -> torch.Tensor:
    """Blur an image, as the start of insertion in RISE.

    Args:
        pixel_values: Images [N, C, H, W].
        fraction: The Gaussian's standard deviation as a fraction of the width.

    Returns:
        The blurred images, [N, C, H, W].
    """
    sigma = fraction * pixel_values.shape[3]
    return gaussian_blur(pixel_values, [2 * ceil(2 * sigma) + 1] * 2, [sigma, sigma])


# Stability and sanity: does the map stay for nearly the same image, and change with what the model has learned?


def max_sensitivity(
    attribute: Callable[[np.ndarray], np.ndarray],
    pixels: np.ndarray,
    radius: float = 0.02,
    num_samples: int = 4,
    seed: int = 0,
) -> float:
    """Measure how much the map changes at most under small uniform noise: max ‖A(x') - A(x)‖ / ‖A(x)‖.

    Args:
        attribute: Returns the map of an image.
        pixels: The image with values 0 to 1.
        radius: The largest change of a pixel.
        num_samples: How many noisy images are tried.
        seed: Seed of the noise.

    Returns:
        0 if the map stays, 1 if it moves by its own Euclidean length; 0 for a map of zeros.

    Reference:
        Yeh et al. 2019, On the (in)fidelity and sensitivity of explanations, arXiv 1901.09392; relative, as
        `captum.metrics.sensitivity_max` is.
    """
    random = np.random.default_rng(seed)
    reference = attribute(pixels)
    noisy = ((pixels + random.uniform(-radius, radius, pixels.shape)).clip(0, 1) for _ in range(num_samples))
    distance = max(float(np.linalg.norm(attribute(image) - reference)) for image in noisy)
    length = float(np.linalg.norm(reference))
    return distance / length if length > 0 else 0.0


def rank_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Compare two maps by Spearman's rank correlation.

    Between the maps of a trained model and of one with `randomize_parameters` it should be near 0: a map that stays the
    same shows the image and not what the model has learned.

    Args:
        one: A map, [H, W].
        other: Another map, [H, W].

    Returns:
        -1 to 1; 0 if one of the maps is constant.

    Reference:
        Adebayo et al. 2018, Sanity checks for saliency maps, arXiv 1810.03292.
    """
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(stats.spearmanr(one, other, axis=None).statistic)


def randomize_parameters(model: torch.nn.Module, fraction: float = 1.0, seed: int = 0) -> torch.nn.Module:
    """Shuffle the weights and statistics of the upper layers of a model (cascading randomization).

    The paper draws new values. Shuffled ones keep their magnitude, so that activations neither vanish nor explode.

    Args:
        model: The model, which stays as it is.
        fraction: The fraction of layers that are shuffled, 0 to 1, from the head downward.
        seed: Seed of the order.

    Returns:
        A changed copy of the model.

    Reference:
        Adebayo et al. 2018, arXiv 1810.03292.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for layer in model.modules() if list(layer.parameters(recurse=False))]
    for layer in layers[len(layers) - round(fraction * len(layers)) :]:
        tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        for values in (tensor.data for tensor in tensors if tensor.is_floating_point()):
            order = torch.randperm(values.numel(), generator=generator).to(values.device)
            values.copy_(values.flatten()[order].view(values.shape))
    return model


# Maps that know nothing of the model: the score of each measure without any explanation.


def uniform(pixels: np.ndarray) -> np.ndarray:
    """Return the same evidence everywhere, float32 [H, W]."""
    return np.ones(pixels.shape, dtype=np.float32)


def center(pixels: np.ndarray) -> np.ndarray:
    """Return a Gaussian in the center with a quarter of each side as standard deviation, float32 [H, W]."""
    rows, columns = (np.exp(-(((np.arange(side) + 0.5) / side - 0.5) ** 2) * 8) for side in pixels.shape)
    return np.outer(rows, columns).astype(np.float32)


def edges(pixels: np.ndarray) -> np.ndarray:
    """Return the length of the image's Sobel gradient, float32 [H, W]."""
    values = pixels.astype(np.float32)
    return np.hypot(*(ndimage.sobel(values, axis=axis, mode="nearest") for axis in (0, 1)))


BASELINES = {"uniform": uniform, "center": center, "edges": edges}
