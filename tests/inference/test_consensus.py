"""The consensus of several methods: what counts, how much, and where they agree."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from brain_xai import explain
from brain_xai.methods.consensus import MEMBERS, _density
from tests.helpers.nets import PLAIN, Total, make_classifier, make_scan, make_timm


@pytest.fixture(scope="module")
def resnet():
    return make_timm("test_resnet", (96, 96))


def member(classifier, scan, key: str) -> np.ndarray:
    return _density(explain(classifier, scan, key, **MEMBERS[key][2]).attribution)


def test_evidence_counts_by_its_share_not_by_its_unit():
    evidence = np.zeros((40, 40), dtype=np.float32)
    evidence[10, 20], evidence[30, 20] = 8, -8
    density = _density(evidence)
    assert density.mean() == pytest.approx(1)
    assert density == pytest.approx(_density(1000 * evidence), rel=1e-5)
    assert np.unravel_index(density.argmax(), density.shape) == (10, 20)
    assert not density[20:].any(), "what speaks against is no evidence, and the blur reaches a few pixels"
    assert _density(np.full((40, 40), 3, dtype=np.float32)) == pytest.approx(1, abs=1e-5)
    for nothing in (np.zeros((40, 40), dtype=np.float32), -evidence.clip(min=0)):
        assert not _density(nothing).any()


def test_without_measured_quality_all_members_count_alike(resnet):
    scan = make_scan((96, 96))
    explanation = explain(resnet, scan, "consensus")
    assert explanation.settings["members"] == dict.fromkeys(MEMBERS, 1 / 4)
    assert explanation.settings["weights"] == "equal"
    densities = np.array([member(resnet, scan, key) for key in MEMBERS])
    expected = densities.mean(axis=0) * (densities > 1).mean(axis=0)
    assert explanation.attribution == pytest.approx(expected, abs=1e-4)
    assert not explanation.attribution[(densities <= 1).all(axis=0)].any()


def test_measured_weights_decide(resnet):
    scan = make_scan((96, 96))
    weights = {"integrated_gradients": 0.1, "occlusion": 0.5, "layer_cam": 0.3, "smooth_grad": 0.0}
    explanation = explain(replace(resnet, explanations={"consensus_weights": weights}), scan, "consensus")
    assert explanation.settings["weights"] == "measured on validation scans"
    assert explanation.settings["members"] == pytest.approx({"layer_cam": 0.75, "integrated_gradients": 0.25})
    first, second = (member(resnet, scan, key) for key in ("layer_cam", "integrated_gradients"))
    expected = (0.75 * first + 0.25 * second) * (0.75 * (first > 1) + 0.25 * (second > 1))
    assert explanation.attribution == pytest.approx(expected, abs=1e-4)
    # Where none of the members is better than chance they count alike.
    hopeless = replace(resnet, explanations={"consensus_weights": dict.fromkeys(MEMBERS, 0.0)})
    assert explain(hopeless, scan, "consensus").settings["weights"] == "equal"


def test_it_works_without_cells():
    explanation = explain(make_timm("test_vit", (160, 160)), make_scan((160, 160)), "consensus")
    assert explanation.settings["members"] == {"smooth_grad": 0.5, "integrated_gradients": 0.5}
    assert explanation.attribution.max() > 0


def test_a_member_without_evidence_agrees_with_nothing():
    # The logit is the sum of all grey values: on black the gradients are one everywhere, but nothing adds to black.
    classifier = make_classifier(Total(), (32, 32), PLAIN)
    assert not explain(classifier, Image.new("L", (32, 32)), "integrated_gradients").attribution.any()
    picture = np.zeros((32, 32), np.uint8)
    picture[4:12, 4:12] = 255
    attribution = explain(classifier, Image.fromarray(picture), "consensus", "cat").attribution
    assert np.unravel_index(attribution.argmax(), attribution.shape) == pytest.approx((8, 8), abs=4)
    assert attribution[20:].max() < 0.1 * attribution.max()
