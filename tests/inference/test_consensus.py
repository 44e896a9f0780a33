"""The consensus of several methods: which count, how much, and where they agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from brain_xai import explain
from brain_xai.doubts import BLUR
from brain_xai.methods.consensus import MEMBERS
from tests.helpers.nets import PLAIN, Total, make_classifier, make_scan, make_timm

SIDE = 40


class Weighted(nn.Module):
    """The logit of the cat is the weighted sum of the gray values: its gradient is the weights."""

    def __init__(self, weights: np.ndarray):
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def forward(self, pixel_values):
        cat = (pixel_values[:, 0] * self.weights).sum(dim=(1, 2))
        return torch.stack([cat, -cat, 0 * cat], dim=1)


@pytest.fixture(scope="module")
def resnet():
    return make_timm("test_resnet", (96, 96))


def density_of(attribution: np.ndarray) -> np.ndarray:
    """The blurred positive evidence with a mean of 1, computed with SciPy."""
    sigma = [BLUR * side for side in attribution.shape]
    radius = [round(3 * value) for value in sigma]
    evidence = attribution.clip(min=0).astype(float)
    blurred = ndimage.gaussian_filter(evidence, sigma, mode="mirror", radius=radius)
    return blurred / blurred.mean()


def check(attribution: np.ndarray, densities: list[np.ndarray], weights: list[float]) -> None:
    """Weighted mean × weighted agreement, wherever rounding cannot decide whether a method agrees."""
    mean = sum(weight * density for weight, density in zip(weights, densities, strict=True))
    agreement = sum(weight * (density > 1) for weight, density in zip(weights, densities, strict=True))
    clear = np.all([np.abs(density - 1) > 1e-3 for density in densities], axis=0)
    assert clear.mean() > 0.9
    assert attribution[clear] == pytest.approx((mean * agreement)[clear], rel=1e-3, abs=1e-3)


def member(classifier, scan, key: str) -> np.ndarray:
    return density_of(explain(classifier, scan, key, **MEMBERS[key][2]).attribution)


def test_consensus_by_hand():
    # Of a linear model SmoothGrad is the absolute weights, and integrated gradients are weights × gray values.
    weights = np.zeros((SIDE, SIDE))
    weights[5:15, 5:15], weights[25:35, 5:15], weights[5:15, 25:35] = 2, -2, 1
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[:20], pixels[20:] = 255, 51
    classifier = make_classifier(Weighted(weights), (SIDE, SIDE), PLAIN)
    explanation = explain(classifier, Image.fromarray(pixels), "consensus", "cat")
    check(explanation.attribution, [density_of(abs(weights)), density_of(weights * pixels / 255)], [0.5, 0.5])
    # Both methods mark the upper left square; what speaks against the cat is only in one of them.
    assert explanation.attribution[10, 10] > 2 * explanation.attribution[30, 10]
    assert explanation.attribution[10, 10] > explanation.attribution[10, 30]
    assert explanation.attribution[20, 20] == pytest.approx(0, abs=1e-3)


def test_the_unit_of_a_map_does_not_matter():
    rng = np.random.default_rng(0)
    weights = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 4)
    scan = make_scan((SIDE, SIDE))
    maps = [
        explain(make_classifier(Weighted(factor * weights), (SIDE, SIDE), PLAIN), scan, "consensus", "cat").attribution
        for factor in (1, 1000)
    ]
    assert maps[1] == pytest.approx(maps[0], abs=1e-2 * float(maps[0].max()))


def test_without_measured_quality_all_members_have_the_same_weight(resnet):
    scan = make_scan((96, 96))
    explanation = explain(resnet, scan, "consensus")
    assert explanation.settings["members"] == dict.fromkeys(MEMBERS, 1 / 4)
    assert explanation.settings["weights"] == "equal"
    check(explanation.attribution, [member(resnet, scan, key) for key in MEMBERS], [0.25] * 4)


def test_measured_weights_decide(resnet):
    scan = make_scan((96, 96))
    weights = {"integrated_gradients": 0.1, "occlusion": 0.5, "layer_cam": 0.3, "smooth_grad": 0.0}
    explanation = explain(replace(resnet, explanations={"consensus_weights": weights}), scan, "consensus")
    assert explanation.settings["weights"] == "measured on validation scans"
    assert explanation.settings["members"] == pytest.approx({"layer_cam": 0.75, "integrated_gradients": 0.25})
    densities = [member(resnet, scan, key) for key in ("layer_cam", "integrated_gradients")]
    check(explanation.attribution, densities, [0.75, 0.25])
    # If no member is better than chance, all have the same weight.
    useless = replace(resnet, explanations={"consensus_weights": dict.fromkeys(MEMBERS, 0.0)})
    assert explain(useless, scan, "consensus").settings["weights"] == "equal"


def test_it_works_without_a_feature_map():
    explanation = explain(make_timm("test_vit", (160, 160)), make_scan((160, 160)), "consensus")
    assert explanation.settings["members"] == {"smooth_grad": 0.5, "integrated_gradients": 0.5}
    assert explanation.attribution.max() > 0


def test_a_member_without_evidence_agrees_with_nothing():
    # The logit is the sum of all gray values: on black every gradient is 1, but black adds nothing.
    classifier = make_classifier(Total(), (32, 32), PLAIN)
    black = Image.new("L", (32, 32))
    assert not explain(classifier, black, "integrated_gradients").attribution.any()
    assert explain(classifier, black, "consensus", "cat").attribution.max() <= 0.51, "at most half of the methods agree"
    pixels = np.zeros((32, 32), np.uint8)
    pixels[4:12, 4:12] = 255
    attribution = explain(classifier, Image.fromarray(pixels), "consensus", "cat").attribution
    assert np.unravel_index(attribution.argmax(), attribution.shape) == pytest.approx((8, 8), abs=4)
    assert attribution[20:].max() < 0.1 * attribution.max()
