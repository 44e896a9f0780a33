"""Images that are no upright brain MRI: every kind is made, the same from the same seed, and is what its name says."""

import numpy as np
import pytest
from PIL import ImageOps

from brain_xai.preprocess import read_image
from tests.helpers.scans import LABELS, make_scan
from training.data.foreign_images import KINDS, foreign_images

SCANS = [make_scan(label, seed) for label in LABELS for seed in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_different_readable_images_the_same_from_one_seed(kind):
    images = foreign_images(SCANS, 2, seed=1, kinds=[kind])[kind]
    again = foreign_images(SCANS, 2, seed=1, kinds=[kind])[kind]
    other = foreign_images(SCANS, 2, seed=2, kinds=[kind])[kind]
    assert [image.tobytes() for image in images] == [image.tobytes() for image in again]
    assert len({image.tobytes() for image in (*images, *other)}) >= 3  # a scan may be drawn twice
    for image in images:
        assert read_image(image).mode == "L"
        assert np.ptp(np.asarray(image)) > 16, "not blank"


def test_scans_are_changed_as_said():
    only = [SCANS[0]]
    changed = foreign_images(only, 1, kinds=["inverted", "upside_down", "blurred", "sheet"])
    assert changed["inverted"][0].tobytes() == ImageOps.invert(only[0]).tobytes()
    assert changed["upside_down"][0].tobytes() == ImageOps.flip(only[0]).tobytes()
    sharpness = [np.abs(np.diff(np.asarray(image, dtype=float))).mean() for image in (changed["blurred"][0], only[0])]
    assert sharpness[0] < 0.7 * sharpness[1]


def test_every_family_can_be_left_out_of_a_fit():
    families = {kind.family for kind in KINDS.values()}
    assert len(families) >= 8
    assert max(sum(kind.family == family for kind in KINDS.values()) for family in families) < len(KINDS) / 2
