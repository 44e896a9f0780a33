"""Scans with a tumor removed or pasted: the change is where the tumor was, and the label follows it."""

import numpy as np
import pytest
import torch

from training.data.counterfactuals import Counterfactuals
from training.data.pool import Pool
from training.data.styles import random_convolution, restyle, strip_skull

SIZE, HEALTHY, TUMOR = 64, 1, 0
BOX = (0.60, 0.40, 0.76, 0.56)


def head(tumor: bool) -> np.ndarray:
    """A mirror-symmetric head, with a bright disc in BOX if it has a tumor; uint8 [S, S]."""
    y, x = np.mgrid[-1 : 1 : 1j * SIZE, -1 : 1 : 1j * SIZE]
    values = np.where(np.hypot(x / 0.8, y / 0.95) < 1, 110 + 30 * np.cos(6 * np.abs(x) + 4 * y), 0)
    if tumor:
        values[np.hypot(x - 0.36, y + 0.04) < 0.14] = 250
    return values.astype(np.uint8)


@pytest.fixture
def pool() -> Pool:
    boxes = np.full((4, 4), np.nan, dtype=np.float32)
    boxes[:2] = BOX
    boxes[1] = (0.4, 0.4, 0.6, 0.6)  # on the mirror axis
    pixels = np.stack([head(True), head(True), head(False), head(False)])
    labels = np.array([TUMOR, TUMOR, HEALTHY, HEALTHY])
    sets = np.eye(2, dtype=bool)
    return Pool(pixels, labels, sets, boxes, np.arange(4), np.arange(4), None, {}, HEALTHY, "")


@pytest.fixture
def counterfactuals(pool) -> Counterfactuals:
    return Counterfactuals(torch.tensor(pool.pixels)[:, None], pool)


def inside(reach: float = 1.0) -> torch.Tensor:
    x_min, y_min, x_max, y_max = BOX
    center, half = ((x_min + x_max) / 2, (y_min + y_max) / 2), (x_max - x_min) / 2
    axis = (torch.arange(SIZE) + 0.5) / SIZE
    return (((axis[:, None] - center[1]) ** 2 + (axis[None] - center[0]) ** 2).sqrt() / half) < reach


def test_only_a_lateral_tumor_is_removed(counterfactuals):
    assert list(counterfactuals.axis) == [0]
    assert counterfactuals.axis[0] == pytest.approx(0.5, abs=0.02)


def test_removing_gives_the_head_without_the_tumor(counterfactuals, pool):
    without = counterfactuals._without_tumor(torch.tensor(pool.pixels[0]) / 255, 0)
    healthy = torch.tensor(pool.pixels[2]) / 255
    # The other half is the same tissue: only its interpolated edge may differ a little.
    assert (without - healthy)[inside(0.8)].abs().max() < 0.1
    assert torch.equal(without[~inside(1.6)], (torch.tensor(pool.pixels[0]) / 255)[~inside(1.6)])


def test_a_batch_gets_the_labels_that_hold_after_the_change(counterfactuals, pool):
    torch.manual_seed(0)
    indices = torch.arange(4).repeat(50)
    masks = torch.zeros(4, 1, SIZE, SIZE)
    masks[:2, 0, 26:36, 38:49] = 1
    before = torch.cat([torch.tensor(pool.pixels)[:, None] / 255, masks], dim=1)[indices]
    labels = torch.tensor(pool.labels)[indices]
    after, new = counterfactuals(before, labels, indices, 1.0)
    removed, pasted = (labels == TUMOR) & (new == HEALTHY), (labels == HEALTHY) & (new == TUMOR)
    # Shares .20 and .30 of 50 and 100 scans; a paste may be refused. Wide bounds: 4 standard deviations.
    assert 1 <= removed.sum() <= 22
    assert set(indices[removed].tolist()) == {0}
    assert 5 <= pasted.sum() <= 50
    assert (after[removed][:, 1] == 0).all()
    assert (after[pasted][:, 1].flatten(1).sum(dim=1) > 20).all()
    # What changed in a pasted scan lies around the mask it got.
    for image, original in zip(after[pasted], before[pasted], strict=True):
        changed = (image[0] - original[0]).abs() > 0.02
        assert (changed & (image[1] > 0)).sum() > 0.4 * changed.sum()
    assert torch.equal(before, torch.cat([torch.tensor(pool.pixels)[:, None] / 255, masks], dim=1)[indices])


def test_strength_zero_changes_nothing(counterfactuals, pool):
    before = torch.rand(4, 2, SIZE, SIZE)
    after, labels = counterfactuals(before, torch.tensor(pool.labels), torch.arange(4), 0.0)
    assert torch.equal(after, before)
    assert labels.tolist() == pool.labels.tolist()
    assert restyle(before, 0.0) is before


def test_a_random_convolution_keeps_the_background_black_and_the_range():
    torch.manual_seed(1)
    images = torch.tensor(head(True))[None, None].repeat(40, 1, 1, 1) / 255
    changed = random_convolution(images)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed[images == 0] == 0).all()
    assert (changed - images).abs().mean() > 0.02
    assert (changed[0] - changed[1]).abs().mean() > 0.005  # each image has its own


def test_stripping_takes_the_rim_and_leaves_the_middle():
    torch.manual_seed(2)
    images = torch.ones(8, 2, SIZE, SIZE)
    stripped = strip_skull(images)
    assert (stripped[:, :, SIZE // 2, SIZE // 2] == 1).all()
    assert (stripped[:, :, :2, :2] == 0).all()
    assert torch.equal(stripped[:, 0], stripped[:, 1])  # a mask moves along


def test_a_tumor_at_the_rim_is_not_stripped_away():
    torch.manual_seed(3)
    images = torch.zeros(200, 2, SIZE, SIZE)
    images[:, 0] = torch.tensor(head(False)) / 255
    images[:, 1, 2:8, 28:36] = 1  # in the scalp
    assert (restyle(images, 1.0)[:, 1].flatten(1).sum(dim=1) > 0).all()
