"""Every measure of a map by hand, and on maps without information."""

from itertools import permutations

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from scipy.stats import rankdata
from torch import nn

from brain_xai.quality import (
    BASELINES,
    area_ious,
    blurred,
    box_accuracy,
    box_share,
    energy_in_box,
    faithfulness,
    iou,
    max_sensitivity,
    peak_offset,
    pixel_box,
    pointing_game,
    randomize_parameters,
    rank_accuracy,
    rank_similarity,
)

BOX = (1, 1, 3, 3)  # the middle 2 x 2 pixels of 4 x 4


def with_pixels(*pixels, side=4, rest=0.0):
    """A map that is `rest` everywhere but at (row, column, value)."""
    attribution = np.full((side, side), rest, dtype=np.float32)
    for row, column, value in pixels:
        attribution[row, column] = value
    return attribution


CONSTANT, NEGATIVE, NOTHING = with_pixels(rest=2.0), with_pixels((2, 2, -1), rest=-3.0), with_pixels()


# Boxes


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0.25, 0.5, 0.5, 1.0), (2, 1, 4, 2)),  # edges between pixels
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 4, 4)),
        ((0.1, 0.1, 0.4, 0.4), (0, 0, 2, 2)),  # the centers at 0.125 and 0.375 are inside
        ((0.15, 0.15, 0.4, 0.4), (1, 1, 2, 2)),  # 0.125 is not
        ((0.8, 0.6, 0.82, 0.62), (2, 3, 3, 4)),  # no center inside: the pixel that contains it
        ((1.0, 1.0, 1.0, 1.0), (3, 3, 4, 4)),
        ((0.0, 0.0, 0.0, 0.0), (0, 0, 1, 1)),
        ((-0.5, 0.5, 1.5, 0.75), (2, 0, 3, 4)),  # beyond the border
    ],
)
def test_a_box_is_the_pixels_whose_centers_it_contains(box, pixels):
    assert pixel_box(box, (4, 4)) == pixels


def test_a_box_on_an_image_that_is_not_square():
    assert pixel_box((0.5, 0.5, 1.0, 1.0), (2, 8)) == (1, 4, 2, 8)
    assert box_share((1, 4, 2, 8), (2, 8)) == 4 / 16


# Pointing game


@pytest.mark.parametrize(
    ("row", "column", "tolerance", "hit"),
    [
        (1, 1, 0, 1),
        (2, 2, 0, 1),
        (3, 2, 0, 0),  # the row below the box
        (3, 2, 1, 1),
        (0, 0, 1, 0),  # across the corner: the square root of two
        (0, 0, 1.5, 1),
    ],
)
def test_pointing_game_by_hand(row, column, tolerance, hit):
    assert pointing_game(with_pixels((row, column, 5), (1, 1, 4)), BOX, tolerance) == hit


def test_pointing_game_fifteen_pixels_away():
    far = with_pixels((20, 4, 1), side=32)
    assert pointing_game(far, (3, 3, 6, 6), tolerance=15) == 1  # the box ends with row 5
    assert pointing_game(far, (3, 3, 5, 6), tolerance=15) == 0


def test_pointing_game_averages_over_ties_and_ignores_the_sign_of_the_peak():
    assert pointing_game(with_pixels((0, 0, 1), (1, 1, 1), (2, 2, 1), (3, 3, 1)), BOX) == 0.5
    assert pointing_game(CONSTANT, BOX) == pointing_game(NOTHING, BOX) == box_share(BOX, (4, 4)) == 0.25
    assert pointing_game(NEGATIVE, BOX) == 1, "the peak is what speaks least against the class"


def test_peak_offset_by_hand():
    assert peak_offset(with_pixels((3, 0, 2)), BOX) == (1.5, -1.5), "the middle of the box is (1.5, 1.5)"
    assert peak_offset(with_pixels((1, 2, 2)), (1, 2, 2, 3)) == (0, 0)
    assert peak_offset(with_pixels((1, 1, 2), (2, 2, 2)), BOX) == peak_offset(CONSTANT, BOX) == (0, 0)


def test_a_box_of_one_pixel_at_the_border():
    corner = (0, 3, 1, 4)
    peak = with_pixels((0, 3, 2), (1, 1, 2 / 3))
    assert pointing_game(peak, corner) == rank_accuracy(peak, corner) == 1
    assert energy_in_box(peak, corner) == pytest.approx(0.75)
    assert area_ious(peak, corner, [0.5]).tolist() == [1]
    assert pointing_game(with_pixels((3, 0, 1)), corner, tolerance=4) == 0
    assert pointing_game(with_pixels((3, 0, 1)), corner, tolerance=4.25) == 1


# Energy and ranks


def test_energy_in_box_counts_positive_evidence_only():
    assert energy_in_box(with_pixels((1, 1, 3), (0, 0, 1)), BOX) == 0.75
    assert energy_in_box(with_pixels((1, 1, 3), (0, 0, 1), (2, 2, -9), (3, 3, -9)), BOX) == 0.75
    assert energy_in_box(CONSTANT, BOX) == 0.25
    assert energy_in_box(NEGATIVE, BOX) == energy_in_box(NOTHING, BOX) == 0


def test_rank_accuracy_by_hand():
    # Four pixels in the box: the four highest are two in it and two outside.
    assert rank_accuracy(with_pixels((1, 1, 9), (0, 0, 8), (0, 1, 7), (2, 2, 6), (3, 3, 5)), BOX) == 0.5
    # Three are certain; two share the fourth rank, one of them in the box.
    assert rank_accuracy(with_pixels((1, 1, 9), (1, 2, 8), (2, 1, 7), (2, 2, 6), (3, 3, 6)), BOX) == 3.5 / 4
    assert rank_accuracy(CONSTANT, BOX) == rank_accuracy(NOTHING, BOX) == 0.25
    assert rank_accuracy(CONSTANT, (0, 0, 4, 4)) == 1
    # One pixel is certain; fifteen share the other three ranks, three of them in the box.
    assert rank_accuracy(NEGATIVE, BOX) == pytest.approx((1 + 3 * 3 / 15) / 4)


# Boxes around highlighted areas


def test_iou_by_hand():
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == 1 / 7
    assert iou((0, 0, 2, 2), (2, 2, 4, 4)) == iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_area_ious_by_hand():
    # At half of the peak (2, 2) joins (1, 1) across the corner, and the box around both is the box; (3, 0) stays
    # separate. Above that, two areas of one pixel remain, of which the first counts, and finally only the peak.
    touching = with_pixels((1, 1, 4), (2, 2, 2), (3, 0, 3))
    assert area_ious(touching, BOX, [0.5, 0.6, 1.0]).tolist() == [1, 0.25, 0.25]
    assert area_ious(touching, (3, 0, 4, 1), [0.5, 0.6]).tolist() == [0, 0]


def test_scattered_pixels_do_not_match_the_box_by_chance():
    scattered = with_pixels((1, 1, 1), (1, 5, 1), (5, 1, 1), (5, 5, 1), (5, 6, 1), side=8)
    assert area_ious(scattered, (1, 1, 2, 2), [0.5]).tolist() == [0]
    assert area_ious(scattered, (5, 5, 6, 7), [0.5]).tolist() == [1], "the largest of them"


def test_area_ious_of_maps_that_highlight_nothing_or_everything():
    assert area_ious(NEGATIVE, BOX, [0.0, 0.5]).tolist() == area_ious(NOTHING, BOX, [0.0, 0.5]).tolist() == [0, 0]
    assert area_ious(CONSTANT, BOX, [0.0, 1.0]).tolist() == [0.25, 0.25]
    assert area_ious(with_pixels((1, 1, 1), rest=-1.0), BOX, [0.0]).tolist() == [0.25], "0 means no evidence"


def test_box_accuracy_is_the_share_of_levels_reached():
    levels = [box_accuracy(overlap) for overlap in (0.29, 0.3, 0.5, 0.69, 0.7, 1.0)]
    assert levels == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1, 1])


# Faithfulness


WEIGHTS = torch.tensor([[4.0, 3.0], [2.0, 1.0]]) / 10


def linear_score(pixel_values):
    return (pixel_values[:, 0] * WEIGHTS).sum(dim=(1, 2))


def test_faithfulness_by_hand():
    # The score is 1 on white and 0 on black. Most important first it is 1, .6, .3, .1, 0; in reverse order 1, .9,
    # .7, .4, 0. By trapezoids: (.5 + .6 + .3 + .1) / 4 and (.5 + .9 + .7 + .4) / 4.
    white, black = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)
    areas = faithfulness(linear_score, white, WEIGHTS.numpy(), black, steps=4)
    assert areas == pytest.approx({"deletion": 1.5 / 4, "insertion": 2.5 / 4, "srg": 1 / 4})
    wrong = faithfulness(linear_score, white, -WEIGHTS.numpy(), black, steps=4)
    assert wrong == pytest.approx({"deletion": 2.5 / 4, "insertion": 1.5 / 4, "srg": -1 / 4})


def test_insertion_puts_pixels_into_the_baseline():
    generator = torch.Generator().manual_seed(0)
    image, baseline = torch.rand(1, 3, 6, 6, generator=generator), torch.rand(1, 3, 6, 6, generator=generator)
    attribution = torch.rand(6, 6, generator=generator).numpy()
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(dim=1))

    def score(pixel_values):
        return net(pixel_values)[:, 0].detach()

    order = np.argsort(-attribution, axis=None)
    curve = []
    for count in (0, 9, 18, 27, 36):
        mixed = baseline.clone().reshape(1, 3, 36)
        mixed[:, :, order[:count]] = image.reshape(1, 3, 36)[:, :, order[:count]]
        curve.append(score(mixed.reshape(1, 3, 6, 6)).item())
    areas = faithfulness(score, image, attribution, baseline, steps=4)
    assert areas["insertion"] == pytest.approx(np.trapezoid(curve, dx=0.25), abs=1e-6)


def test_no_order_of_four_pixels_has_a_larger_srg():
    white, black = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)
    maps = [np.array(values, dtype=np.float32).reshape(2, 2) for values in permutations((1, 2, 3, 4))]
    gains = [faithfulness(linear_score, white, attribution, black, steps=4)["srg"] for attribution in maps]
    assert max(gains) == pytest.approx(1 / 4)
    assert np.mean(gains) == pytest.approx(0, abs=1e-6)


def test_a_constant_map_gains_nothing_on_average():
    white, black = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)
    constant = np.zeros((2, 2), dtype=np.float32)
    gains = [faithfulness(linear_score, white, constant, black, steps=4, seed=seed)["srg"] for seed in range(300)]
    assert abs(np.mean(gains)) < 0.03
    assert np.std(gains) > 0.05, "ties are broken at random, not from the upper left corner"


def test_blurring_keeps_the_mean_and_removes_detail():
    image = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    smooth = blurred(image)
    assert smooth.mean().item() == pytest.approx(image.mean().item(), abs=0.01)
    assert smooth.std() < image.std() / 4
    assert blurred(torch.full((1, 3, 40, 40), 0.5)).numpy() == pytest.approx(0.5)


# Sensitivity


def test_max_sensitivity_by_hand():
    pixels = np.full((3, 3), 0.5)
    # The map is the image: each pixel of .5 moves by at most .1, and for the largest sample by nearly that.
    moved = max_sensitivity(lambda image: image, pixels, radius=0.1, num_samples=50)
    assert 0.12 < moved < 0.2
    assert max_sensitivity(lambda image: image, pixels, radius=0) == 0
    assert max_sensitivity(lambda image: np.ones((3, 3)), pixels) == 0
    assert max_sensitivity(lambda image: np.zeros((3, 3)), pixels) == 0
    # Twice the map, twice the distance, and twice the length.
    twice = max_sensitivity(lambda image: 2 * image, pixels, radius=0.1, num_samples=50)
    assert twice == pytest.approx(moved)


def test_max_sensitivity_is_the_largest_of_the_samples_and_stays_in_range():
    seen = []
    pixels = np.array([[0.0, 1.0]])

    def attribute(image):
        seen.append(image)
        return image

    moved = max_sensitivity(attribute, pixels, radius=0.5, num_samples=5, seed=3)
    assert len(seen) == 6
    assert all(image.min() >= 0 and image.max() <= 1 for image in seen)
    assert moved == pytest.approx(max(np.linalg.norm(image - pixels) for image in seen))


def test_max_sensitivity_equals_captum():
    pixels, radius, seed = np.random.default_rng(1).uniform(0.2, 0.8, (6, 5)), 0.1, 7

    def attribute(image):
        return image**2 - image.mean()

    random = np.random.default_rng(seed)
    noisy = np.stack([pixels + random.uniform(-radius, radius, pixels.shape) for _ in range(6)])
    expected = sensitivity_max(
        lambda images: (images[0] ** 2 - images[0].mean(dim=(1, 2, 3), keepdim=True),),
        (torch.from_numpy(pixels)[None, None],),
        perturb_func=lambda *_: (torch.from_numpy(noisy)[:, None],),
        n_perturb_samples=6,
    )
    moved = max_sensitivity(attribute, pixels, radius, num_samples=6, seed=seed)
    assert moved == pytest.approx(expected.item(), rel=1e-6)


# Sanity


def test_rank_similarity_is_the_correlation_of_ranks_with_ties():
    random = np.random.default_rng(0)
    one, other = random.integers(0, 5, (6, 6)), random.integers(0, 5, (6, 6)).astype(np.float32)
    expected = np.corrcoef(rankdata(one), rankdata(other))[0, 1]
    assert rank_similarity(one, other) == pytest.approx(expected)
    assert rank_similarity(one, 3 * one + 1) == pytest.approx(1)
    assert rank_similarity(one, -one) == pytest.approx(-1)
    assert rank_similarity(CONSTANT, with_pixels((1, 1, 1))) == rank_similarity(with_pixels((1, 1, 1)), CONSTANT) == 0


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Linear(5, 6))


def test_randomizing_shuffles_the_upper_layers_of_a_copy():
    net = make_net()
    net[1].running_mean.copy_(torch.arange(4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    half, whole = randomize_parameters(net, fraction=0.5), randomize_parameters(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    def changed(other):
        return {name for name, value in other.state_dict().items() if not torch.equal(value, before[name])}

    assert {name.split(".")[0] for name in changed(half)} == {"3", "4"}, "two of four layers with weights"
    assert {"0.weight", "3.weight", "4.weight"} <= changed(whole)
    for name, value in whole.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    again, other = randomize_parameters(net, seed=0), randomize_parameters(net, seed=1)
    assert torch.equal(again[0].weight, whole[0].weight)
    assert not torch.equal(other[0].weight, whole[0].weight)
    assert changed(randomize_parameters(net, fraction=0)) == set()


# Maps without information about the model


def test_baselines_by_hand():
    image = np.zeros((8, 12), dtype=np.uint8)
    image[:, 6:] = 100
    maps = {name: baseline(image) for name, baseline in BASELINES.items()}
    assert all(attribution.shape == (8, 12) and attribution.min() >= 0 for attribution in maps.values())
    assert (maps["uniform"] == 1).all()
    assert (maps["edges"][:, 5:7] == 400).all()
    assert not maps["edges"][:, [*range(5), *range(7, 12)]].any()
    middle = maps["center"]
    assert middle.max() == middle[3, 5] == middle[4, 6]
    # One standard deviation from the middle lies a quarter of the side away.
    fine = BASELINES["center"](np.zeros((801, 801)))
    assert fine[400, 200] / fine[400, 400] == pytest.approx(np.exp(-0.5), abs=0.002)


def test_edges_by_hand():
    image = np.zeros((5, 5))
    image[2, 2] = 1
    # Sobel's kernels at a single bright pixel: 1 and 1 at the corners, 2 at the sides, 0 in the middle.
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = [[2**0.5, 2, 2**0.5], [2, 0, 2], [2**0.5, 2, 2**0.5]]
    assert BASELINES["edges"](image) == pytest.approx(expected)
    assert not BASELINES["edges"](np.full((5, 5), 7)).any(), "the border of the image is no edge"
