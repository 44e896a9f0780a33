"""What the look of a scan gives away: cues that tell the class are found, copies do not help, the brain is gone."""

import numpy as np
import pytest
from PIL import Image

from training.evaluation.appearance import class_from_cues, clusters, cues_of_files, cues_of_view, without_brain

CHANCE = 0.5


def head(side=96, radius=0.4, gray=120):
    y, x = np.mgrid[:side, :side] / side - 0.5
    return np.where(np.hypot(x, y) < radius, gray, 0).astype(np.uint8)


def test_a_cue_that_tells_the_class_is_found_and_one_that_does_not_is_not():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 150)
    cues = {"brightness": labels[:, None] + random.normal(0, 0.3, (300, 1)), "border": random.normal(size=(300, 2))}
    told = class_from_cues(cues, labels, np.arange(300), seed=0)
    assert set(told) == {"brightness", "border", "all"}
    assert told["brightness"]["low"] > 0.85
    assert told["border"]["low"] < CHANCE < told["border"]["high"]
    assert told["all"]["low"] > 0.85
    assert told["all"]["n"] == 300


def test_copies_of_an_image_are_never_on_both_sides():
    """Each image has ten copies with a number of their own: across the folds it says nothing about the class."""
    groups = np.repeat(np.arange(40), 10)
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1], 20))[groups]
    cue = {"number": groups[:, None] * 7919.0 % 41}
    assert class_from_cues(cue, labels, groups, seed=0)["number"]["value"] < 0.7
    assert class_from_cues(cue, labels, np.arange(400), seed=0)["number"]["value"] > 0.95


def test_cues_by_hand(tmp_path):
    view = np.zeros((1, 32, 32), np.uint8)
    view[0, 8:24, :] = 200
    cues = cues_of_view(view)
    assert cues["mean brightness"] == pytest.approx(np.array([[100.0]]))
    assert cues["framing"] == pytest.approx(
        np.array([[0.5, 1.0, 0.5]])
    )  # half of the pixels, every column, half of the rows
    assert cues["border"][0, 2] == pytest.approx(2 * 2 * 16 / (32**2 - 28**2))  # on the left and right, 2 pixels wide
    Image.new("RGB", (40, 30)).save(tmp_path / "color.png")
    Image.new("L", (50, 60)).save(tmp_path / "gray.png")
    told = cues_of_files([tmp_path / "color.png", tmp_path / "gray.png"])
    assert told["size"].tolist() == [[40, 30], [50, 60]]
    assert told["mode"].tolist() == [[3], [1]]


def test_nothing_of_the_brain_is_left():
    scan = head()
    other = scan.copy()
    other[40:56, 40:56] = 250  # a tumor, and a hole
    other[46:50, 46:50] = 0
    left = without_brain(np.stack([scan, other]))
    for pixels in left.values():
        assert np.array_equal(pixels[0], pixels[1])
        assert pixels.dtype == np.uint8
    rim = left["rim"][0]
    assert rim[48, 48] == 0
    assert rim[48, 11] == scan[48, 11] == 120
    assert set(np.unique(left["outline"])) == {0, 110}
    assert (left["outline"][0] > 0).sum() == pytest.approx((scan > 0).sum(), rel=0.02)


def test_images_of_one_look_are_one_group():
    random = np.random.default_rng(0)
    looks = [head(radius=0.25, gray=60), head(radius=0.48, gray=230), 255 - head(radius=0.35, gray=180)]
    images = np.stack([look + random.integers(0, 8, look.shape, dtype=np.uint8) for look in looks for _ in range(12)])
    found = clusters(images, seed=0)
    of_look = [set(found[start : start + 12].tolist()) for start in (0, 12, 24)]
    assert not of_look[0] & of_look[1]
    assert not of_look[1] & of_look[2]
    assert not of_look[0] & of_look[2]
    assert np.array_equal(found, clusters(images, seed=0))
