"""Occlusion: Captum's map in less time, coarse before fine, and the shortcuts that make it fast."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from PIL import Image
from torch import nn

from brain_xai.classifier import Classifier
from brain_xai.explanation import Cancelled, explain
from brain_xai.methods import occlusion as module
from brain_xai.methods.occlusion import OcclusionSettings, occlusion, occlusion_of_all_classes
from brain_xai.methods.partial_forward import Occlusions, PartialForward, partial_forward
from brain_xai.methods.request import Request, no_progress
from tests.helpers.nets import LABELS, PLAIN, make_classifier, make_scan, make_timm

SMALL_RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}


def make_busy(name: str, size: tuple[int, int], **options) -> Classifier:
    """A timm model with logits of order one whose residual branches contribute (timm initializes them to zero)."""
    classifier = make_timm(name, size, **options)
    classifier.model.get_classifier().weight.data.mul_(0.1)
    for layer in classifier.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
    return classifier


def pixels_of(classifier: Classifier) -> torch.Tensor:
    return classifier.prepare(make_scan(classifier.preprocessing.size)).pixel_values


def maps_of(classifier: Classifier, progress=no_progress, **settings) -> tuple[np.ndarray, dict]:
    """The occlusion maps of all classes, and the settings."""
    return occlusion_of_all_classes(classifier, pixels_of(classifier), progress, OcclusionSettings(**settings))


def map_of(classifier: Classifier, target: int, progress=no_progress, **settings) -> tuple[np.ndarray, dict]:
    return occlusion(Request(classifier, pixels_of(classifier), target, progress), **settings)


class Unusual(nn.Module):
    """What shortcuts may get wrong: a norm whose input is also read elsewhere, skipped positions, in-place steps."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=2, dilation=2)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.data.normal_()
        self.skip = nn.Conv2d(8, 8, 1, stride=3)
        self.wide = nn.Conv2d(8, 8, (5, 3), stride=3, padding=(2, 1), groups=2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3)

    def forward(self, pixel_values):
        first = self.first(pixel_values)
        body = self.relu(self.wide(self.norm(first)))
        body += self.skip(first)
        return self.head(self.relu(body).mean((2, 3)))


class Branching(nn.Module):
    """Branches on the size of the batch, so that it cannot be traced."""

    def forward(self, pixel_values):
        return pixel_values.mean(dim=(2, 3)) * (2 if len(pixel_values) else 1)


class Forked(nn.Module):
    """The logits are the sum of the three channels of a pixel each, as a convolution over the whole image."""

    def __init__(self, side: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, side, bias=False)
        self.conv.weight.data.zero_()
        for channel in range(3):
            self.conv.weight.data[channel, channel, channel, 2 * channel] = 1

    def forward(self, pixel_values):
        return self.conv(pixel_values).flatten(1)


# The same map as Captum's


@pytest.mark.parametrize(
    ("name", "options", "traced"),
    [
        ("resnet18", SMALL_RESNET, True),
        ("resnet50", SMALL_RESNET, True),
        ("test_resnet", {}, True),
        ("test_efficientnet", {}, True),
        ("tf_efficientnetv2_b0", {"output_stride": 16}, True),  # pads by the size of its input
        ("test_vit", {"img_size": (75, 96), "dynamic_img_pad": True}, False),
        ("unusual", {}, True),
        ("branching", {}, False),
    ],
)
def test_occlusion_equals_captum(name, options, traced):
    size = (75, 96)  # odd, and windows of 18 x 23 every 9 x 12 extend over the lower border
    torch.manual_seed(0)
    own = {"unusual": Unusual, "branching": Branching}
    classifier = make_classifier(own[name](), size) if name in own else make_busy(name, size, **options)
    maps, _ = maps_of(classifier, window=0.24, stride=0.125)
    assert (partial_forward(classifier) is not None) == traced
    for target in range(len(LABELS)):
        reference = Occlusion(classifier.model).attribute(
            pixels_of(classifier), (3, 18, 23), (3, 9, 12), classifier.black, target, perturbations_per_eval=16
        )
        # The logits are of order one, in which float32 sums differ by about 1e-6.
        assert maps[target] == pytest.approx(reference[0, 0].numpy(), abs=1e-5)
    assert np.ptp(maps) > 0


def test_occlusion_by_hand():
    # Channel c reads the pixel (c, 2 c): white, so a window over it takes 1. Windows of 2, side by side.
    classifier = make_classifier(Forked(32), (32, 32), PLAIN)
    white = classifier.prepare(Image.new("L", (32, 32), 255)).pixel_values
    settings = OcclusionSettings(window=1 / 16, stride=1 / 16)
    maps, used = occlusion_of_all_classes(classifier, white, no_progress, settings)
    expected = np.zeros((3, 32, 32))
    for channel, (top, left) in enumerate([(0, 0), (0, 2), (2, 4)]):
        expected[channel, top : top + 2, left : left + 2] = 1
    assert np.array_equal(maps, expected)
    assert used == {
        "engine": "shortcut",
        "window": (2, 2),
        "stride": (2, 2),
        "baseline": "black",
        "reach": None,
        "complete": True,
    }


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_maps_of_all_classes_are_those_of_each(name):
    classifier = make_busy(name, (160, 160))
    settings = {"window": 0.5, "stride": 0.25}
    maps, used = maps_of(classifier, **settings)
    assert (maps.dtype, maps.shape) == (np.float32, (3, 160, 160))
    for target in range(3):
        attribution, used_for_one = map_of(classifier, target, **settings)
        assert attribution == pytest.approx(maps[target], abs=1e-6)  # in logits of order one
        assert used_for_one == used


# Only what a window changes is recomputed


@pytest.mark.parametrize("reach", [None, 15])
@pytest.mark.parametrize("name", ["resnet18", "unusual"])
def test_partial_passes_give_the_logits_of_full_passes(name, reach):
    torch.manual_seed(0)
    size = (61, 80)
    classifier = make_classifier(Unusual(), size) if name == "unusual" else make_busy(name, size, **SMALL_RESNET)
    network = PartialForward(classifier.model, size)
    pixel_values = torch.randn(1, 3, *size)
    # Everywhere, also cut off to a single pixel.
    places = torch.cartesian_prod(torch.tensor([0, 1, 17, 40, 54, 60]), torch.tensor([0, 2, 33, 71, 79]))
    occlusions = Occlusions(pixel_values, places[:, 0], places[:, 1], (9, 7), classifier.black)
    assert torch.equal(occlusions.patch().full(), occlusions.images())
    logits = network.occluded(network.outputs(pixel_values), occlusions.patch(), reach)
    assert logits == pytest.approx(classifier.logits(occlusions.images()), abs=1e-5)


def test_occluded_images_are_the_image_with_a_filled_window():
    pixel_values = torch.arange(3 * 4 * 5.0).view(1, 3, 4, 5)
    fill = torch.tensor([-1.0, -2.0, -3.0]).view(1, 3, 1, 1)
    images = Occlusions(pixel_values, torch.tensor([0, 3]), torch.tensor([1, 4]), (2, 2), fill).images()
    expected = pixel_values.repeat(2, 1, 1, 1)
    expected[0, :, 0:2, 1:3] = fill[0]
    expected[1, :, 3, 4] = fill[0, :, 0, 0]  # cut off at the corner
    assert torch.equal(images, expected)


def test_less_is_computed_for_a_window_than_for_the_image(monkeypatch):
    classifier = make_busy("resnet18", (96, 96), **SMALL_RESNET)
    network = PartialForward(classifier.model, (96, 96))
    pixel_values = torch.randn(1, 3, 96, 96)
    outputs = network.outputs(pixel_values)
    start = torch.tensor([40])
    patch = Occlusions(pixel_values, start, start, (8, 8), torch.zeros(1, 3, 1, 1)).patch()
    computed = []
    conv2d = torch.nn.functional.conv2d
    monkeypatch.setattr("torch.nn.functional.conv2d", lambda *given: computed.append(conv2d(*given)) or computed[-1])
    sides = []
    for reach in (None, 3, 1):
        computed.clear()
        network.occluded(outputs, patch, reach)
        sides.append([output.shape[2] for output in computed])
    # 8 pixels and a kernel of 7 touch (8 + 6) / 2 positions of the stem, not 48. Each first convolution of layer1
    # touches 2 more: (7 + 2) / 2 after the pooling, 5 + 2, 5 + 4.
    assert sides[0][:3] == [7, 7, 9]
    # Bounded by 3 on each side: 8 / 2 + 6 in the stem, 8 / 4 + 6 in layer1; by 1: 8 / 2 + 2, 8 / 4 + 2.
    assert sides[1][:3] == [7, 7, 8]
    assert sides[2][:3] == [6, 4, 4]


def test_a_longer_reach_comes_closer():
    classifier = make_busy("resnet18", (160, 160), **SMALL_RESNET)
    settings = {"window": 0.1, "stride": 0.1}
    exact, _ = maps_of(classifier, **settings)
    errors = []
    for reach in (0, 3, 20):
        maps, used = maps_of(classifier, **settings, reach=reach)
        assert used["reach"] == reach
        errors.append(np.abs(maps - exact).mean() / np.abs(exact).mean())
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.2


def test_a_bounded_reach_keeps_patches_behind_squeeze_and_excitation():
    # Exactly, its weights change every position a little; without that the map is close.
    classifier = make_busy("test_efficientnet", (160, 160))
    exact, bounded = (maps_of(classifier, window=0.2, stride=0.2, reach=reach)[0] for reach in (None, 3))
    assert 0 < np.abs(bounded - exact).mean() < 0.2 * np.abs(exact).mean()


def test_windows_over_black_are_skipped():
    classifier = make_busy("test_resnet", (64, 64))
    pixels = np.zeros((64, 64), np.uint8)
    pixels[20, 40] = 255  # one bright pixel: of 8 x 8 windows, side by side, only one hides it
    calls = []
    explanation = explain(
        classifier,
        Image.fromarray(pixels),
        "occlusion",
        progress=lambda *call: calls.append(call[:2]),
        window=1 / 8,
        stride=1 / 8,
    )
    assert calls == [(64, 65), (65, 65)]
    covered = np.zeros((64, 64), bool)
    covered[16:24, 40:48] = True
    assert explanation.attribution[covered].all()
    assert not explanation.attribution[~covered].any()


# Coarse before fine, within a time, and stopped at once


def test_partial_maps_approach_the_final_one(monkeypatch):
    monkeypatch.setattr(module, "PARTIAL_MAP_SECONDS", 0.0)  # after every batch
    classifier = make_busy("resnet18", (96, 96), **SMALL_RESNET)
    partial = []
    final, _ = map_of(classifier, 1, lambda done, total, *maps: partial.extend(maps), window=0.1, stride=0.05)
    errors = [np.abs(attribution - final).mean() for attribution in partial]
    assert len(partial) > 5
    assert all(attribution.shape == (96, 96) and attribution.dtype == np.float32 for attribution in partial)
    assert errors[0] > 2 * errors[len(errors) // 2] > 2 * errors[-1] > 0
    assert np.corrcoef(partial[len(partial) // 3].ravel(), final.ravel())[0, 1] > 0.8


@pytest.fixture
def ticking_clock(monkeypatch) -> None:
    """A clock that is a second later each time it is read."""
    seconds = count()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


@pytest.mark.usefixtures("ticking_clock")
@pytest.mark.parametrize(("pause", "maps_per_batch"), [(1.0, 1.0), (3.0, 1 / 3)])
def test_partial_maps_come_only_after_a_pause(monkeypatch, pause, maps_per_batch):
    monkeypatch.setattr(module, "PARTIAL_MAP_SECONDS", pause)
    calls = []
    explain(
        make_busy("test_resnet", (96, 96)), make_scan((96, 96)), "occlusion", progress=lambda *c: calls.append(len(c))
    )
    batches = len(calls) - 1  # the first call is the prediction; the last batch has no partial map
    assert calls.count(3) == int((batches - 1) * maps_per_batch)


def test_after_a_time_limit_the_rest_is_estimated(monkeypatch, ticking_clock):
    classifier = make_busy("test_resnet", (96, 96))
    settings = {"window": 0.1, "stride": 0.1}
    done = []
    attribution, used = map_of(classifier, 0, lambda *call: done.append(call[:2]), **settings, seconds=3)
    assert not used["complete"]
    assert len(done) == 1 + 3
    assert done[-1][0] < done[-1][1]
    assert np.isfinite(attribution).all()
    monkeypatch.undo()
    complete, used = map_of(classifier, 0, **settings, seconds=1000)
    assert used["complete"]
    assert complete == pytest.approx(map_of(classifier, 0, **settings)[0], abs=1e-6)  # in logits of order one
    assert 0.3 < np.corrcoef(attribution.ravel(), complete.ravel())[0, 1] < 1


@pytest.mark.parametrize("wrong", [{"reach": -1}, {"reach": 1.5}, {"seconds": 0}, {"seconds": float("nan")}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="Occlusion needs"):
        explain(make_busy("test_resnet", (64, 64)), make_scan((64, 64)), "occlusion", **wrong)


def test_what_progress_raises_ends_the_work_before_the_next_batch(monkeypatch):
    classifier = make_busy("resnet18", (96, 96), **SMALL_RESNET)
    passes = []
    occluded = PartialForward.occluded
    partial_forward(classifier)
    monkeypatch.setattr(PartialForward, "occluded", lambda *given: passes.append(1) or occluded(*given))

    def stop(done: int, total: int, *partial: np.ndarray) -> None:
        if passes:
            raise Cancelled

    with pytest.raises(Cancelled):
        map_of(classifier, 0, stop)
    assert len(passes) == 1


# Nothing shared, nothing left behind


def test_two_threads_get_what_one_gets():
    classifier = make_busy("test_efficientnet", (96, 96))
    images = [torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]

    def answer(image: int) -> np.ndarray:
        settings = OcclusionSettings(window=0.25, stride=0.125)
        return occlusion_of_all_classes(classifier, images[image], no_progress, settings)[0]

    with ThreadPoolExecutor(2) as pool:  # which also use it for the first time at once
        together = list(pool.map(answer, [0, 1] * 3))
    alone = [answer(0), answer(1)]
    for image, maps in zip([0, 1] * 3, together, strict=True):
        assert maps == pytest.approx(alone[image], abs=1e-6)


@pytest.mark.parametrize("reach", [None, 3])
def test_the_model_that_predicts_and_the_image_stay_untouched(reach):
    classifier = make_busy("test_efficientnet", (64, 64))
    pixel_values = pixels_of(classifier)
    before = {key: value.clone() for key, value in classifier.model.state_dict().items()}
    original = pixel_values.clone()
    layers = list(classifier.model.modules())
    state = [(type(layer), layer.training, getattr(layer, "inplace", None)) for layer in layers]
    occlusion(Request(classifier, pixel_values, 0), reach=reach)
    assert torch.equal(pixel_values, original)
    after = classifier.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    layers = list(classifier.model.modules())
    assert [(type(layer), layer.training, getattr(layer, "inplace", None)) for layer in layers] == state
    assert not any(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks for layer in layers)
