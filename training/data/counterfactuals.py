"""What would the label be without the tumor, or with one? Scans changed at one place, with the label that then holds.

Where a source supplies one class alone, a model can tell the class by the look of the source. Here the same scan comes
with and without a tumor, so that only the tumor tells. Related: CutPaste, arXiv 2104.04015.
All randomness comes from torch's global generator of the CPU, which the training loop seeds before every batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from training.data.pool import Pool
from training.data.stack import Resized

# Shares of the scans that a change is possible for, at strength 1.
REMOVED, PASTED, CONTROL = 0.20, 0.30, 0.15
# A changed place is an ellipse of so many times the box, fading out over its outer part.
REACH, FADE = 1.25, 0.35
# A head seen from the side is no mirror image of itself; correlation of the halves (measured: axial above .8).
SYMMETRY = 0.8
# The two halves are compared at this size, with the axis moved by up to so many pixels.
COMPARE_SIDE, AXIS_MOVES = 80, 6
DARK = 0.06
# A pasted tumor that changes its place by less than this on average could not be told.
VISIBLE = 0.06


@dataclass(frozen=True)
class Place:
    """An ellipse in fractions of the image: its center and its half axes."""

    x: float
    y: float
    half_width: float
    half_height: float


class Counterfactuals:
    """Changes batches of training scans: removes tumors, pastes tumors, and patches without meaning as a control.

    `pixels` uint8 [n, 1, S, S], indexed by number or tensor, are the scans of the `pool` in one size; patches come from
    its training scans.
    """

    def __init__(self, pixels: torch.Tensor | Resized, pool: Pool):
        labels, boxes, train = pool.labels, pool.boxes, pool.train
        self.pixels, self.labels, self.boxes, self.healthy = pixels, labels, boxes, pool.healthy
        boxed = train[~np.isnan(boxes[train]).any(axis=1)]
        axis, score = _mirror_axes(pixels[torch.tensor(boxed)].numpy()[:, 0])
        center = (boxes[boxed, 0] + boxes[boxed, 2]) / 2
        reach = REACH * (boxes[boxed, 2] - boxes[boxed, 0]) / 2
        lateral = (score > SYMMETRY) & (np.abs(center - axis) > reach)
        self.axis = dict(zip(boxed[lateral].tolist(), axis[lateral].tolist(), strict=True))
        self.donors = boxed[lateral]
        self.healthy_scans = train[labels[train] == pool.healthy]

    def __call__(
        self, pixels: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor, strength: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return changed copies of float32 [N, 2, S, S] (scan and box mask, 0 to 1) and of their label ids [N]."""
        pixels, labels = pixels.clone(), labels.clone()
        for row, (draw, index) in enumerate(zip(torch.rand(len(labels)).tolist(), indices.tolist(), strict=True)):
            image, mask = pixels[row]
            changed = None
            if index in self.axis and draw < REMOVED * strength:
                changed = self._without_tumor(image, index), torch.zeros_like(mask), self.healthy
            elif labels[row] == self.healthy and draw < PASTED * strength and len(self.donors):
                changed = self._with_tumor(image)
            elif draw > 1 - CONTROL * strength and len(self.healthy_scans):
                changed = self._with_patch(image, mask, int(labels[row]))
            if changed is not None:
                pixels[row, 0], pixels[row, 1], labels[row] = changed
        return pixels, labels

    def _without_tumor(self, image: torch.Tensor, index: int) -> torch.Tensor:
        """Cover the tumor with what the other half of the head shows at its place."""
        move = round((2 * self.axis[index] - 1) * image.shape[-1])
        mirrored = torch.roll(image.flip(-1), move, dims=-1)
        return _blend(image, mirrored, _place(self.boxes[index]), 1.0)[0]

    def _with_tumor(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int] | None:
        donor = int(self.donors[torch.randint(len(self.donors), ())])
        place = _place(self.boxes[donor])
        patch, place = _moved(self.pixels[donor].view(image.shape).float() / 255, place)
        if not _is_tissue(image, place):
            return None
        # Most tumors keep their contrast to the tissue around, some become dark ones, as in plain T1.
        contrast = _uniform(0.6, 1.4) if torch.rand(()) < 0.75 else _uniform(-0.9, -0.4)
        changed, ellipse = _blend(image, patch, place, contrast)
        if (changed - image)[ellipse > 0].abs().mean() < VISIBLE:
            return None
        return changed, ellipse, int(self.labels[donor])

    def _with_patch(
        self, image: torch.Tensor, mask: torch.Tensor, label: int
    ) -> tuple[torch.Tensor, torch.Tensor, int] | None:
        """Paste healthy tissue from elsewhere, so that the seam of a patch says nothing."""
        donor = int(self.healthy_scans[torch.randint(len(self.healthy_scans), ())])
        place = Place(_uniform(0.25, 0.75), _uniform(0.25, 0.75), _uniform(0.04, 0.12), _uniform(0.04, 0.12))
        patch = self.pixels[donor].view(image.shape).float() / 255
        moved, moved_place = _moved(patch, place)
        inside = _radius(image.shape, moved_place) < 1 + FADE
        if not (_is_tissue(image, moved_place) and _is_tissue(patch, place)) or (mask[inside] > 0).any():
            return None
        return _blend(image, moved, moved_place, _uniform(0.6, 1.2))[0], mask, label


def _blend(
    image: torch.Tensor, patch: torch.Tensor, place: Place, contrast: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay `patch` over `image` at `place`, matched to the brightness around it; returns the mask of the place, too."""
    radius = _radius(image.shape, place) / REACH
    ring = (radius > 1) & (radius < 1.5)
    around, own = image[ring].median(), patch[ring].median()
    matched = around + contrast * (patch - own) * (around / own.clamp(min=DARK)).clamp(0.5, 2)
    weight = ((1 - radius) / FADE).clamp(0, 1)
    weight = weight * weight * (3 - 2 * weight)
    return (image + weight * (matched - image)).clamp(0, 1), (radius * REACH <= 1).float()


def _radius(shape: torch.Size, place: Place) -> torch.Tensor:
    """Return each pixel's distance from the center, 1 on the ellipse; float32 of `shape`."""
    rows = (torch.arange(shape[0]) + 0.5) / shape[0] - place.y
    columns = (torch.arange(shape[1]) + 0.5) / shape[1] - place.x
    return ((rows[:, None] / place.half_height) ** 2 + (columns[None] / place.half_width) ** 2).sqrt()


def _moved(patch: torch.Tensor, place: Place) -> tuple[torch.Tensor, Place]:
    """Mirror, scale and shift a patch by chance, together with its place."""
    mirror = -1.0 if torch.rand(()) < 0.5 else 1.0
    scale = _uniform(0.75, 1.3)
    x = (1 - place.x if mirror < 0 else place.x) + _uniform(-0.08, 0.08)
    y = place.y + _uniform(-0.08, 0.08)
    # affine_grid asks which point of the patch a point of the result shows, in coordinates from -1 to 1.
    matrix = torch.tensor(
        [
            [mirror / scale, 0, (2 * place.x - 1) - mirror * (2 * x - 1) / scale],
            [0, 1 / scale, (2 * place.y - 1) - (2 * y - 1) / scale],
        ]
    )
    grid = F.affine_grid(matrix[None], [1, 1, *patch.shape], align_corners=False)
    moved = F.grid_sample(patch[None, None], grid, padding_mode="zeros", align_corners=False)[0, 0]
    return moved, Place(x, y, place.half_width * scale, place.half_height * scale)


def _is_tissue(image: torch.Tensor, place: Place) -> bool:
    inside = image[_radius(image.shape, place) < 1]
    return len(inside) > 8 and bool((inside > DARK).float().mean() > 0.9)


def _place(box: np.ndarray) -> Place:
    x_min, y_min, x_max, y_max = box.tolist()
    return Place((x_min + x_max) / 2, (y_min + y_max) / 2, (x_max - x_min) / 2, (y_max - y_min) / 2)


def _mirror_axes(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each scan's mirror axis lies (fraction of the width) and how alike its halves are (correlation)."""
    if len(pixels) == 0:
        return np.zeros(0), np.zeros(0)
    small = F.interpolate(torch.tensor(pixels)[:, None].float(), (COMPARE_SIDE, COMPARE_SIDE), mode="area")[:, 0]
    flat = small.flatten(1) - small.mean(dim=(1, 2))[:, None]
    scores = []
    moves = range(-AXIS_MOVES, AXIS_MOVES + 1)
    for move in moves:
        mirrored = torch.roll(small.flip(-1), move, dims=-1).flatten(1)
        mirrored = mirrored - mirrored.mean(dim=1, keepdim=True)
        scores.append(F.cosine_similarity(flat, mirrored, dim=1, eps=1e-6))
    best = torch.stack(scores).max(dim=0)
    return 0.5 + (best.indices.numpy() - AXIS_MOVES) / (2 * COMPARE_SIDE), best.values.numpy()


def _uniform(low: float, high: float) -> float:
    return torch.empty(()).uniform_(low, high).item()
