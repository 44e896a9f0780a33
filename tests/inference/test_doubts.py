"""Evidence against an answer, and methods that disagree: by hand, then through a classifier."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from brain_xai.doubts import agreeing, disagreement, evidence_against
from brain_xai.explanation import explain, explain_all
from tests.helpers.nets import LABELS, make_scan, make_timm
from tests.inference.test_trust import flat_trust


@dataclass(frozen=True)
class Spot:
    """A map of 100 x 100 pixels with one bright spot; `row` None leaves it empty."""

    method: str
    row: int | None
    column: int = 50
    label: str = "dog"

    @property
    def attribution(self) -> np.ndarray:
        pixels = np.full((100, 100), -1.0, dtype=np.float32)
        if self.row is not None:
            pixels[self.row, self.column] = 1.0
        return pixels


@pytest.mark.parametrize(("values", "expected"), [([0.3, -0.1, -0.6], 3.0), ([0.3, 0.1], 0.0), ([0.0, -0.2], 1.0)])
def test_evidence_against_is_the_most_negative_value_in_multiples_of_the_scale(values, expected):
    assert evidence_against(np.array([values]), 0.2) == pytest.approx(expected)


def test_methods_agree_whose_strongest_places_are_close():
    maps = [Spot("a", 10), Spot("b", 80), Spot("c", 24), Spot("d", 17), Spot("e", None)]
    # 10, 17 and 24 lie within 15 of 17; 80 lies elsewhere, and "e" finds nothing.
    assert agreeing(maps) == ["a", "c", "d"]
    assert disagreement(maps) == pytest.approx(2 / 5)


def test_the_distance_is_that_in_the_plane():
    near, far = (Spot("a", 50, 50), Spot("b", 59, 62)), (Spot("a", 50, 50), Spot("b", 61, 62))  # 15.0 and 16.3
    assert agreeing(near) == ["a", "b"]
    assert agreeing(far) == ["a"]


def test_maps_that_are_no_vote_do_not_count():
    maps = [Spot("a", 10), Spot("b", 10), Spot("consensus", 10), Spot("layer_activation", 10)]
    assert disagreement(maps) is None, "two votes are too few"
    assert disagreement([*maps, Spot("c", 80)]) == pytest.approx(1 / 3)


def test_without_any_evidence_nothing_agrees():
    assert disagreement([Spot(key, None) for key in "abc"]) == 1
    assert agreeing([]) == []


def test_a_single_grain_does_not_move_the_strongest_place():
    noisy = Spot("a", 20).attribution
    noisy[60:70, 60:70] = 0.5  # a weaker value on 100 pixels outweighs one pixel
    grain = replace_attribution("grain", noisy)
    assert agreeing([grain, Spot("b", 65, 65), Spot("c", 65, 65)]) == ["grain", "b", "c"]


def replace_attribution(method, pixels):
    return type("Map", (), {"method": method, "attribution": pixels})()


def doubtful(name="test_resnet", **trust):
    """A classifier that calls everything "cat", its class without a tumor, though all features speak against it."""
    classifier = make_timm(name, (96, 96))
    head = classifier.model.get_classifier()
    head.bias.data = torch.tensor([100.0, 0.0, 0.0])
    head.weight.data[0] = -head.weight[0].abs()
    features = classifier.model.num_features + 8
    numbers = {"mean": np.zeros(features), "scale": np.ones(features), "axes": np.eye(features)[:, :1]}
    fitted = flat_trust(**numbers, unusual=1e9, not_brain_mri=2e9, low_margin=None, **trust)
    return replace(classifier, trust=fitted, no_tumor_label="cat", attribution_scale={"grad_cam": 0.1})


def codes(warnings):
    return [warning.code for warning in warnings]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_evidence_against_no_tumor_is_warned_about_from_the_map_that_users_see(name):
    scan, classifier = make_scan((96, 96)), doubtful(name)
    drawn = explain(classifier, scan, "grad_cam", "cat").attribution.min() / -0.1
    assert drawn > 0
    for limit, expected in ((0.99 * drawn, ["evidence_against"]), (1.01 * drawn, []), (None, [])):
        limited = replace(classifier, trust=replace(classifier.trust, evidence_against=limit))
        assert codes(limited.predict(scan).warnings) == expected
        assert codes(explain(limited, scan).prediction.warnings) == expected
        assert codes(explain(limited, scan, "saliency").prediction.warnings) == expected
        assert {tuple(codes(each.prediction.warnings)) for each in explain_all(limited, scan).values()} == {
            tuple(expected)
        }


def test_evidence_against_another_answer_is_no_warning():
    scan, classifier = make_scan((96, 96)), doubtful(evidence_against=1e-9)
    assert codes(classifier.predict(scan).warnings) == ["evidence_against"]
    for other in (replace(classifier, no_tumor_label="dog"), replace(classifier, no_tumor_label=None)):
        assert codes(other.predict(scan).warnings) == []
    assert codes(doubtful("test_convnext", evidence_against=1e-9).predict(scan).warnings) == [], "no linear head"


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_answer_warnings_and_map_come_from_one_forward_pass(name):
    scan, classifier = make_scan((96, 96)), doubtful(name, evidence_against=1e-9)
    classifier.predict(scan)  # what is computed only once per model
    explain(classifier, scan)
    passes = []
    first = next(module for module in classifier.model.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda *_: passes.append(1))
    prediction = classifier.predict(scan)
    assert len(passes) == 1
    explanation = explain(classifier, scan)
    assert len(passes) == 2
    assert prediction == explanation.prediction
    logits = classifier.model(classifier.prepare(scan).pixel_values)[0].double()
    assert list(prediction.probabilities.values()) == torch.softmax(logits, dim=0).tolist()
    assert list(prediction.probabilities) == list(LABELS)


def test_methods_that_disagree_are_warned_about_from_the_threshold_on():
    apart = [Spot("a", 10), Spot("b", 50), Spot("c", 90)]
    together = [Spot("a", 10), Spot("b", 11), Spot("c", 12)]
    classifier = doubtful(methods_disagree=0.5)
    assert codes(classifier.disagreement_warnings(apart)) == ["methods_disagree"]
    assert classifier.disagreement_warnings(together) == ()
    assert classifier.disagreement_warnings(apart[:2]) == ()
    assert doubtful().disagreement_warnings(apart) == ()
    healthy = [replace(spot, label="cat") for spot in apart]
    assert classifier.disagreement_warnings(healthy) == (), "no tumor is nowhere in particular"
