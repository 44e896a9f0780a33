"""The sentence about a map: every number in it computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from brain_xai import explain, summarize
from brain_xai.areas import blurred, find_areas
from brain_xai.explanation import Explanation
from brain_xai.summary import percent
from tests.helpers.nets import make_timm

SIDE, SCALE = 96, 2.0
NBSP = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def classifier():
    return make_timm("test_resnet", (SIDE, SIDE))


@pytest.fixture(scope="module")
def plain(classifier) -> Explanation:
    """An explanation of a head of 72 x 72 pixels in the middle of the view."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[12:84, 12:84] = 120
    return replace(explain(classifier, Image.fromarray(pixels), "grad_cam", "cat"), scale=SCALE)


def with_spots(plain: Explanation, *spots: tuple[int, int, float], method: str = "grad_cam", size: int = 12):
    """The explanation with squares of `size` pixels around (row, column, value)."""
    attribution = np.zeros((SIDE, SIDE), np.float32)
    for row, column, value in spots:
        attribution[row - size // 2 : row + size // 2, column - size // 2 : column + size // 2] = value
    return replace(plain, method=method, attribution=attribution)


@pytest.mark.parametrize(
    ("row", "column", "where"),
    [
        (22, 22, "upper left in the image"),
        (22, 48, "upper middle in the image"),
        (22, 74, "upper right in the image"),
        (48, 22, "middle left in the image"),
        (48, 48, "center of the image"),
        (48, 74, "middle right in the image"),
        (74, 22, "lower left in the image"),
        (74, 48, "lower middle in the image"),
        (74, 74, "lower right in the image"),
        (4, 4, "outside the head"),
    ],
)
def test_a_place_is_named_as_it_is_displayed(plain, row, column, where):
    summary = summarize(with_spots(plain, (row, column, 2 * SCALE), size=6))
    assert [area.where for area in summary.areas] == [where]
    assert where in summary.sentence


def test_the_share_of_the_head(plain):
    """A square of 18 x 18 is a sixteenth of 72 x 72; blurring a square keeps where it reaches half of its height."""
    summary = summarize(with_spots(plain, (48, 48, SCALE), size=18))
    assert summary.share_of_head == pytest.approx(1 / 16, rel=0.1)
    assert summary.sentence == f"Rests on one area: center of the image, 6{NBSP}% of the head."


def test_several_areas_the_strongest_first(plain):
    summary = summarize(with_spots(plain, (30, 30, 1.5 * SCALE), (66, 66, 2 * SCALE)))
    assert [area.where for area in summary.areas] == ["lower right in the image", "upper left in the image"]
    assert summary.sentence.startswith("Rests on 2 areas, mostly lower right in the image; together they are ")


def test_evidence_against_is_named(plain):
    summary = summarize(with_spots(plain, (30, 30, SCALE), (66, 66, -SCALE)))
    assert [area.where for area in summary.against] == ["lower right in the image"]
    assert "Rests on one area: upper left" in summary.sentence
    assert "One area speaks against this class: lower right in the image" in summary.sentence


def test_evidence_against_alone(plain):
    sentence = summarize(with_spots(plain, (30, 30, -SCALE))).sentence
    assert sentence.startswith("Nothing speaks clearly for this class. One area speaks against this class: upper left")


def test_nothing_stands_out_in_a_pale_map(plain, classifier):
    summary = summarize(with_spots(plain, (30, 30, 0.4 * SCALE)), [with_spots(plain, (30, 30, 1), method="occlusion")])
    assert (summary.areas, summary.against, summary.agreeing, summary.after) == ((), (), 0, None)
    assert summary.sentence == "Nothing stands out: no area reaches half of full color."


def test_scattered_points_are_no_area(plain):
    sentence = summarize(with_spots(plain, (30, 30, SCALE), size=2)).sentence
    assert sentence == "No area stands out: only scattered points reach half of full color."


def test_an_unsigned_method_does_not_say_for_or_against(plain):
    spots = with_spots(plain, (30, 30, SCALE), method="layer_cam")
    assert summarize(replace(spots, signed=False)).sentence.startswith("Highlights one area: upper left")


def test_other_methods_agree_inside_and_near_the_area(plain):
    """The square reaches from 42 to 54; 5 % of 96 pixels is 4.8."""
    others = [
        with_spots(plain, (48, 48, 1.0), method="occlusion", size=2),  # inside
        with_spots(plain, (48, 56, 1.0), method="layer_cam", size=2),  # near
        with_spots(plain, (48, 66, 1.0), method="saliency", size=2),  # elsewhere
        with_spots(plain, method="smooth_grad"),  # nowhere
        with_spots(plain, (48, 48, 1.0), method="grad_cam"),  # itself
        with_spots(plain, (48, 48, 1.0), method="layer_activation"),  # of any class
        with_spots(plain, (48, 48, 1.0), method="consensus"),  # made of the others
    ]
    summary = summarize(with_spots(plain, (48, 48, SCALE)), others)
    assert (summary.agreeing, summary.others) == (2, 4)
    assert "2 of 4 other methods agree." in summary.sentence


def test_maps_of_different_classes_cannot_agree(plain):
    with pytest.raises(ValueError, match="'cat' and of 'dog' cannot agree"):
        summarize(plain, [replace(plain, target=1, label="dog")])


def test_covering_the_first_area_changes_the_probability(plain, classifier):
    explanation = with_spots(plain, (30, 30, 2 * SCALE), (66, 66, SCALE))
    mask = find_areas(explanation.attribution, SCALE).masks[0]
    pixels = np.asarray(explanation.view).copy()
    pixels[mask] = 0
    expected = classifier.predict(pixels).probabilities["cat"]
    summary = summarize(explanation, classifier=classifier)
    assert summary.before == explanation.prediction.probabilities["cat"]
    assert summary.after == pytest.approx(expected, abs=1e-6)
    moved = "lowers" if expected < summary.before else "raises"
    change = f"{moved} the probability from {percent(summary.before)} to {percent(summary.after)}."
    assert summary.sentence.endswith(f"Covering the strongest of them {change}")


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (0.12, "lowers the probability from 50 % to 12 %"),
        (0.9, "raises the probability from 50 % to 90 %"),
        (0.504, ""),
    ],
)
def test_the_sentence_says_which_way_the_probability_goes(plain, after, words):
    summary = replace(summarize(with_spots(plain, (30, 30, SCALE))), before=0.5, after=after)
    words = words or "leaves the probability at 50 %"
    assert summary.sentence.endswith(f"Covering it {words.replace(' %', NBSP + '%')}.")


def test_a_sentence_in_another_language(plain):
    german = {
        "Rests on one area: {where}, {share} of the head.": "Ein Gebiet {where}, {share} des Kopfes.",
        "upper left in the image": "oben links",
    }
    text = summarize(with_spots(plain, (30, 30, SCALE))).text(lambda english: german.get(english, english))
    assert text == f"Ein Gebiet oben links, 3{NBSP}% des Kopfes."


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "less than 1"), (0.004, "less than 1"), (0.126, "13"), (0.994, "more than 99"), (1.0, "more than 99")],
)
def test_no_model_is_certain(fraction, text):
    assert percent(fraction) == f"{text}{NBSP}%"


# Areas


def test_specks_are_no_areas(plain):
    """A single pixel of five times full color is gone after the blur; a spot of 2 x 2 is too small."""
    for size in (1, 2):
        attribution = np.zeros((SIDE, SIDE), np.float32)
        attribution[40 : 40 + size, 40 : 40 + size] = 5 * SCALE
        assert find_areas(attribution, SCALE).masks == ()


def test_grain_that_is_dense_is_an_area_and_sparse_grain_is_none():
    grains = np.random.default_rng(0).random((SIDE, SIDE))
    dense, sparse = np.zeros((2, SIDE, SIDE), np.float32)
    dense[30:60, 30:60] = np.where(grains[30:60, 30:60] < 0.7, SCALE, 0)
    sparse[30:60, 30:60] = np.where(grains[30:60, 30:60] < 0.05, SCALE, 0)
    areas = find_areas(dense, SCALE)
    assert len(areas.masks) == 1
    assert areas.masks[0].sum() == pytest.approx(900, rel=0.15)
    assert find_areas(sparse, SCALE).masks == ()


def test_a_blur_keeps_the_sum_and_the_middle():
    values = np.zeros((40, 60), np.float32)
    values[20, 30] = 1
    smooth = blurred(values, 0.03)
    assert smooth.sum() == pytest.approx(1, abs=1e-5)
    assert np.unravel_index(smooth.argmax(), smooth.shape) == (20, 30)
    # A Gaussian of 1.2 x 1.8 pixels, sampled: 1 / (2 pi 1.2 1.8) at its peak.
    assert smooth.max() == pytest.approx(1 / (2 * np.pi * 1.2 * 1.8), rel=0.01)
    assert blurred(np.ones((40, 60)), 0.03) == pytest.approx(np.ones((40, 60)), abs=1e-6)
