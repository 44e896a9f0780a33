"""What maps cost, counted exactly and never timed: who makes a method dearer or cheaper sees it here.

Counted on the bundled ResNet-18, whose weights may change but not its layers.
"""

from dataclasses import replace

import pytest
import torch

from brain_xai import METHODS, explain, explain_all, load_checkpoint
from brain_xai.classifier import Classifier
from brain_xai.methods.partial_forward import Occlusions, partial_forward
from tests.helpers.costs import Costs
from tests.helpers.scans import make_scan

# Positions of the output per axis, channels in and out, side of the kernel: the layers of a ResNet-18 without its last
# stage, for an image of 160 pixels.
STEM = ((80, 3, 64, 7),)
STAGE_1 = ((40, 64, 64, 3),) * 4
STAGE_2 = ((20, 64, 128, 3), (20, 128, 128, 3), (20, 64, 128, 1), *((20, 128, 128, 3),) * 2)
STAGE_3 = ((10, 128, 256, 3), (10, 256, 256, 3), (10, 128, 256, 1), *((10, 256, 256, 3),) * 2)
HEAD = 2 * 256 * 4


def operations(layers: tuple[tuple[int, int, int, int], ...]) -> int:
    """Multiplications and additions of convolutions."""
    return sum(2 * side**2 * given * made * kernel**2 for side, given, made, kernel in layers)


PASS = operations(STEM + STAGE_1 + STAGE_2 + STAGE_3) + HEAD


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return replace(load_checkpoint("bundled/resnet18"), explanations={})  # a consensus of all its members


@pytest.fixture(scope="module")
def scan():
    return make_scan("glioma", 0)


def cost_of(work, *arguments) -> Costs:
    """What is done once per model does not count."""
    work(*arguments)
    with Costs() as costs:
        work(*arguments)
    return costs


def test_a_forward_pass_costs_what_its_layers_do(classifier):
    pixel_values = torch.zeros(2, 3, 160, 160)
    assert cost_of(classifier.logits, pixel_values).flops == 2 * PASS


def test_answer_and_warnings_take_one_forward_pass(classifier, scan):
    costs = cost_of(classifier.predict, scan)
    # A "no tumor" also looks for evidence against it, in the class map that Grad-CAM draws.
    class_map = 2 * 10**2 * 256 * 4
    assert costs.flops in (PASS, PASS + class_map)


def test_grad_cam_of_every_class_takes_no_second_forward_pass(classifier, scan):
    class_map = 2 * 10**2 * 256 * 4
    answer = cost_of(classifier.predict, scan).flops
    assert {cost_of(work, classifier, scan).flops for work in (explain, explain_all)} == {answer + class_map}


@pytest.mark.parametrize("method", METHODS)
def test_the_stated_cost_of_a_method_is_what_it_computes(method, classifier, scan):
    if METHODS[method].reason_unsupported(classifier):
        pytest.skip("made for another architecture")
    costs = cost_of(explain, classifier, scan, method)
    assert METHODS[method].forward_passes == round(costs.flops / PASS)


def test_occlusion_of_all_classes_costs_as_much_as_of_one(classifier, scan):
    one, every = (cost_of(work, classifier, scan, "occlusion") for work in (explain, explain_all))
    assert one.flops == every.flops
    assert one.activation_bytes == every.activation_bytes


def test_maps_of_all_classes_share_one_prediction(classifier, scan):
    answer = cost_of(classifier.predict, scan).flops
    one, every = (cost_of(work, classifier, scan, "saliency").flops for work in (explain, explain_all))
    assert one - answer == 2 * PASS, "there and back"
    assert every == answer + len(classifier.label_names) * (one - answer)


@pytest.mark.parametrize(
    ("reach", "sides"),
    [
        # A window of 15 pixels touches (15 + 6) / 2, rounded up, positions of the stem; each layer of stage 1 two more
        # than the one before, and so on, up to all 10 of stage 3. The third of stages 2 and 3 is the shortcut.
        (None, (11, 9, 11, 13, 15, 9, 11, 8, 13, 15, 9, 10, 8, 10, 10)),
        # The window itself covers 8 positions of the stem, 4 of stage 1, 2 of stage 2, 1 of stage 3; at most 2 more on
        # each side.
        (2, (11, 8, 8, 8, 8, 5, 6, 4, 6, 6, 4, 5, 3, 5, 5)),
    ],
)
def test_a_window_costs_the_layers_that_it_changes(reach, sides, classifier):
    network = partial_forward(classifier)
    pixel_values = torch.zeros(1, 3, 160, 160)
    outputs = network.outputs(pixel_values)
    start = torch.tensor([72, 72, 72])
    patch = Occlusions(pixel_values, start, start, (15, 15), classifier.black).patch()
    costs = cost_of(network.occluded, outputs, patch, reach)
    layers = STEM + STAGE_1 + STAGE_2 + STAGE_3
    changed = tuple((side, *layer[1:]) for side, layer in zip(sides, layers, strict=True))
    assert costs.flops == 3 * (operations(changed) + HEAD)
    assert costs.convolutions == len(layers)
    assert costs.activation_bytes == 3 * 4 * sum(side**2 * made for side, _, made, _ in changed)
