"""Where each slice lies in the head, told from how much of it is bright."""

from enum import Enum

import numpy as np
from PIL import Image

from brain_xai.study.study import Study

# Slices are compared at this size: coarse, so that noise does not count.
SIDE = 48
# A pixel is lit from this share of the way from black to white.
LIT = 0.12
# A slice with a smaller share of the lit area of the fullest slice shows little or nothing of the head.
OUTSIDE_SHARE = 0.3
# The share of the head, along the axis, that counts as its end, on each side.
END_SHARE = 0.125


class Place(Enum):
    """Where a slice lies: in the `INSIDE` of the head, at an `EDGE` of it, or `OUTSIDE`."""

    INSIDE = "inside"
    EDGE = "edge"
    OUTSIDE = "outside"


def places(study: Study) -> tuple[Place, ...]:
    """Return where each slice lies. A rule of thumb: it knows the extent of the head, not its anatomy."""
    areas = np.array([_lit_share(study.image(index)) for index in range(len(study))])
    head = np.flatnonzero(areas >= OUTSIDE_SHARE * areas.max()) if areas.max() > 0 else np.empty(0, dtype=int)
    if not head.size:
        return (Place.OUTSIDE,) * len(study)
    first, last = int(head[0]), int(head[-1])
    end = int(END_SHARE * (last - first + 1))
    inside = set(head.tolist())
    return tuple(
        Place.OUTSIDE
        if index not in inside
        else Place.EDGE
        if index < first + end or index > last - end
        else Place.INSIDE
        for index in range(len(study))
    )


def _lit_share(image: Image.Image) -> float:
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return float((small > 255 * LIT).mean())
