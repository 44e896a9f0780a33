"""Two reasons to doubt an answer that its maps give: evidence against it, and methods that disagree."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torchvision.transforms.v2.functional import gaussian_blur

# Blur, as a fraction of the image's sides, so that pixel maps and feature-map methods are compared at one resolution.
BLUR = 0.03
# Strongest places closer than this fraction of the image's sides are the same place; tumors are about that large.
SAME_PLACE = 0.15
# Their maps do not depend on the class, or are made of the other maps.
NO_VOTE = ("layer_activation", "consensus")
# Fewer methods can neither agree nor disagree.
MIN_METHODS = 3


class Map(Protocol):
    """What is needed of an `Explanation`."""

    @property
    def method(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def attribution(self) -> np.ndarray: ...


def evidence_against(attribution: np.ndarray, scale: float) -> float:
    """Return the strongest evidence against the class that a map explains.

    Args:
        attribution: Float [h, w], a signed map; < 0 speaks against the class. It may be a feature map's own grid:
            drawn on the image, its extremes stay what they are.
        scale: The attribution (> 0) that is drawn in full color.

    Returns:
        In multiples of the scale: 1 is drawn in the full color of evidence against the class, 0 means there is none.
    """
    return max(0.0, -float(attribution.min()) / scale)


def agreeing(explanations: Sequence[Map]) -> list[str]:
    """Return the methods whose strongest place is that of most other methods, too.

    A map votes with its strongest place after a slight blur. The place with the most votes around it counts, the
    earlier one of equals. Methods whose maps do not depend on the class or are made of others do not vote.

    Args:
        explanations: Maps of one class on one image by several methods, all of one size.

    Returns:
        Their keys, in the given order.
    """
    places = {key: place for key, place in _places(explanations).items() if place is not None}
    around = [[key for key in places if _near(places[key], place)] for place in places.values()]
    return max(around, key=len, default=[])


def disagreement(explanations: Sequence[Map]) -> float | None:
    """Return the share of methods whose strongest place is not that of most others.

    Args:
        explanations: As for `agreeing`.

    Returns:
        0 (all agree) to just below 1, or 1 where no method finds any evidence for the class; None for fewer than three
        methods that vote.
    """
    votes = len(_places(explanations))
    return 1 - len(agreeing(explanations)) / votes if votes >= MIN_METHODS else None


def density(attribution: np.ndarray) -> np.ndarray:
    """Return the blurred positive evidence of a map [H, W], float32 with mean 1; zeros if nothing is positive."""
    evidence = torch.from_numpy(attribution).clamp(min=0)[None].double()  # which no autocast makes coarser
    sigma = [BLUR * side for side in attribution.shape[::-1]]
    blurred = gaussian_blur(evidence, [2 * round(3 * side) + 1 for side in sigma], sigma)[0]
    total = blurred.mean()
    return (blurred / total if total > 0 else blurred).float().numpy()


def _places(explanations: Sequence[Map]) -> dict[str, tuple[float, float] | None]:
    """Return where each voting map is strongest, in fractions of height and width; None without any evidence."""
    places = {}
    for explanation in explanations:
        if explanation.method not in NO_VOTE:
            evidence = density(explanation.attribution)
            row, column = np.unravel_index(evidence.argmax(), evidence.shape)
            height, width = evidence.shape
            places[explanation.method] = (row / height, column / width) if evidence.any() else None
    return places


def _near(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2 <= SAME_PLACE**2
