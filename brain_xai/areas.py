"""The areas of a map that count: where its evidence reaches half of full color, without specks."""

from dataclasses import dataclass

import numpy as np

from brain_xai.framing import connected_parts

# Share of full color from which evidence counts. It is the same for all images: a pale map has no areas.
LEVEL = 0.5
# Standard deviation of the blur before areas are looked for, and their smallest size, as shares of a side and of the
# view: what is finer is grain. Chosen on 40 boxed validation scans (tests/benchmarks/areas.py, efficientnetv2_b0): the
# first area overlaps the box in .93 of the Grad-CAM and .72 of the Saliency maps, as without any blur (.93, .72), while
# Saliency has 0.4 instead of 0.65 areas outside of the box per map (0.7 to 1.9 if areas may be half as large). With
# twice the blur, a quarter of the Saliency maps lose their areas (.60 in the box).
BLUR = 0.015
MIN_SHARE = 0.002


@dataclass(frozen=True, eq=False)
class Areas:
    """The connected areas of a map in which the evidence reaches half of full color.

    Attributes:
        strength: The blurred evidence, float32 [H, W] >= 0; 1 is half of full color.
        masks: Bool [H, W] each, the one with most evidence first.
    """

    strength: np.ndarray
    masks: tuple[np.ndarray, ...]

    @property
    def together(self) -> np.ndarray:
        """All areas in one mask, bool [H, W]."""
        return np.logical_or.reduce([np.zeros(self.strength.shape, dtype=bool), *self.masks])


def find_areas(attribution: np.ndarray, scale: float) -> Areas:
    """Find the areas of positive evidence; pass `-attribution` for those of negative evidence.

    Args:
        attribution: Float [H, W].
        scale: The attribution (> 0) that is drawn in full color.

    Returns:
        The areas, each of at least 0.2 % of the map.
    """
    strength = blurred(attribution.clip(min=0), BLUR) / (LEVEL * scale)
    labels = connected_parts(strength >= 1)
    masks = [labels == label for label in np.unique(labels[labels > 0])]
    masks = [mask for mask in masks if mask.mean() >= MIN_SHARE]
    return Areas(strength, tuple(sorted(masks, key=lambda mask: -strength[mask].sum())))


def strongest_areas(attribution: np.ndarray) -> Areas:
    """Find where positive evidence is strongest, however pale it is; pass `-attribution` for negative evidence.

    Args:
        attribution: Float [H, W].

    Returns:
        The areas that reach half of the map's own maximum; none in a map without positive evidence.
    """
    peak = float(blurred(attribution.clip(min=0), BLUR).max())
    return find_areas(attribution, peak) if peak > 0 else Areas(np.zeros(attribution.shape, dtype=np.float32), ())


def blurred(values: np.ndarray, share: float) -> np.ndarray:
    """Blur a map by a Gaussian whose standard deviation is a share of each side.

    Args:
        values: Float [H, W].
        share: The standard deviation as a fraction of the sides.

    Returns:
        Float32 [H, W]; at the borders a mean of what lies inside.
    """
    rows, columns = (_gaussian(side, share * side) for side in values.shape)
    return (rows @ values.astype(np.float64) @ columns.T).astype(np.float32)


def _gaussian(side: int, deviation: float) -> np.ndarray:
    """Return a Gaussian blur along an axis as a matrix, float64 [side, side], whose rows sum to 1."""
    distance = np.subtract.outer(np.arange(side), np.arange(side)) / deviation
    weights = np.exp(-(distance**2) / 2)
    return weights / weights.sum(axis=1, keepdims=True)
