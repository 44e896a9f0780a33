"""Covering a part of an image: the same black, at the same place, as a window of occlusion."""

import numpy as np
import pytest
import torch
from PIL import Image

from brain_xai import cover, explain, load_checkpoint
from brain_xai.cover import to_view_mask
from brain_xai.methods.partial_forward import Occlusions
from brain_xai.preprocess import WHOLE, Preprocessing
from tests.helpers.nets import LABELS, PLAIN, Total, make_classifier, make_scan, make_timm

LEFT_HALF = (0.0, 0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def classifier():
    return make_timm("test_resnet", (96, 96))


def log_odds(prediction) -> np.ndarray:
    """Logits up to what they share: temperature is 1."""
    logs = np.log(np.array([prediction.probabilities[label] for label in LABELS]))
    return logs - logs[0]


def test_a_covered_box_is_a_window_of_occlusion(classifier):
    """Windows of half the side that do not overlap: each map holds how far its logit falls with the window covered."""
    scan = make_scan((96, 96))
    maps = [
        explain(classifier, scan, "occlusion", label, window=0.5, stride=0.5).attribution[60, 20] for label in LABELS
    ]
    before, after = classifier.predict(scan), cover(classifier, scan, (0.0, 0.5, 0.5, 1.0))
    assert log_odds(before) - log_odds(after) == pytest.approx(np.array(maps) - maps[0], abs=1e-4)


def test_the_covered_image_is_that_of_occlusion(classifier):
    prepared = classifier.prepare(make_scan((96, 96)))
    starts = (torch.tensor([24]), torch.tensor([12]))
    occluded = Occlusions(prepared.pixel_values, *starts, (36, 48), classifier.black).images()
    expected = torch.softmax(classifier.logits(occluded)[0].double(), dim=0).tolist()
    covered = cover(classifier, make_scan((96, 96)), (12 / 96, 24 / 96, 60 / 96, 60 / 96))
    assert list(covered.probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_a_checkpoint_that_warns_about_images_gives_no_warning_about_a_covered_one():
    classifier, scan = load_checkpoint("bundled/resnet18"), make_scan((96, 96))
    assert classifier.trust
    assert cover(classifier, scan, LEFT_HALF).warnings == classifier.warnings


def test_a_mask_covers_what_a_box_of_its_shape_covers(classifier):
    scan = make_scan((120, 240))
    mask = np.zeros((120, 240), dtype=bool)
    mask[30:90, 60:120] = True
    by_mask, by_box = cover(classifier, scan, mask), cover(classifier, scan, (0.25, 0.25, 0.5, 0.75))
    assert by_mask.probabilities == pytest.approx(by_box.probabilities, abs=1e-6)
    assert by_mask.probabilities != pytest.approx(classifier.predict(scan).probabilities, abs=1e-3)


def test_covering_by_hand():
    """The logits are sums of gray values, so covering the white quarter of a gray image takes away what it holds."""
    pixels = np.full((32, 32), 51, np.uint8)
    pixels[:16, :16] = 255
    classifier = make_classifier(Total(), (32, 32), PLAIN, temperature=1000.0)
    classifier.model.forward = lambda values: values.sum(dim=(2, 3)) * torch.tensor([1.0, 0, 0])
    sums = {None: 256 + 768 * 0.2, (0.0, 0.0, 0.5, 0.5): 768 * 0.2, LEFT_HALF: 512 * 0.2, (0.0, 0.0, 1.0, 1.0): 0}
    for box, total in sums.items():
        prediction = classifier.predict(pixels) if box is None else cover(classifier, pixels, box)
        assert log_odds(prediction)[1] == pytest.approx(-total / 1000, abs=1e-5)


def test_the_frame_of_the_head_stays_where_it_is():
    """Without it, covering half of the head would zoom in on the other half."""
    pixels = np.zeros((100, 200), np.uint8)
    pixels[20:80, 40:160] = np.linspace(60, 250, 120).astype(np.uint8)
    framed = Preprocessing((32, 32), **PLAIN, frame=True)
    classifier = make_classifier(Total(), (32, 32), PLAIN)
    object.__setattr__(classifier, "preprocessing", framed)
    prepared = classifier.prepare(pixels)
    half = to_view_mask((0.0, 0.0, 0.5, 1.0), (200, 100), prepared.part, framed)
    assert half[8:24, :16].all()
    assert not half[0].any(), "above the image, where the frame was padded"
    assert not half[:, 16:].any()
    classifier.model.forward = lambda values: values.sum(dim=(2, 3)) * torch.tensor([0.01, 0, 0])
    rest = float(prepared.pixel_values[0, 0, :, 16:].sum()) * 0.01
    assert log_odds(cover(classifier, pixels, LEFT_HALF))[1] == pytest.approx(-rest, rel=1e-4)


def test_places_beside_the_original_are_in_no_region():
    """The view shows twice the width of the image, which lies in its middle."""
    preprocessing = Preprocessing((4, 8), **PLAIN)
    part = (-0.5, 0.0, 1.5, 1.0)
    everything = to_view_mask(np.ones((10, 10), dtype=bool), (10, 10), part, preprocessing)
    assert everything.tolist() == [[False, False, True, True, True, True, False, False]] * 4
    assert np.array_equal(everything, to_view_mask((0.0, 0.0, 1.0, 1.0), (10, 10), part, preprocessing))


def test_a_pixel_is_covered_if_its_center_is():
    preprocessing = Preprocessing((1, 4), **PLAIN)
    for x_min, x_max, expected in ((0.0, 0.13, [1, 0, 0, 0]), (0.13, 0.37, [0, 0, 0, 0]), (0.3, 0.9, [0, 1, 1, 1])):
        covered = to_view_mask((x_min, 0.0, x_max, 1.0), (40, 40), WHOLE, preprocessing)
        assert covered.astype(int).tolist() == [expected]


def test_what_lies_beside_the_image_changes_nothing(classifier):
    scan = make_scan((96, 96))
    expected = classifier.predict(scan).probabilities
    assert cover(classifier, scan, (1.2, 0.2, 1.4, 0.5)).probabilities == pytest.approx(expected, abs=1e-6)
    nothing = np.zeros((96, 96), dtype=bool)
    assert cover(classifier, scan, nothing).probabilities == pytest.approx(expected, abs=1e-6)


def test_regions_that_cannot_be_are_refused(classifier):
    scan = make_scan((96, 120))
    with pytest.raises(ValueError, match="x_min < x_max"):
        cover(classifier, scan, (0.5, 0.2, 0.4, 0.6))
    with pytest.raises(ValueError, match=r"bool \[120, 96\]; .* bool \[96, 120\]"):
        cover(classifier, scan, np.ones((120, 96), dtype=bool))
    with pytest.raises(ValueError, match="The mask is uint8"):
        cover(classifier, scan, np.ones((96, 120), dtype=np.uint8))


def test_an_image_that_was_read_before_is_covered_alike(classifier, tmp_path):
    make_scan((96, 120)).save(tmp_path / "scan.png")
    with Image.open(tmp_path / "scan.png") as opened:
        expected = cover(classifier, opened, LEFT_HALF).probabilities
    assert cover(classifier, tmp_path / "scan.png", LEFT_HALF).probabilities == pytest.approx(expected, abs=1e-6)
