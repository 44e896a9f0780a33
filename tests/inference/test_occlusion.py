"""Occlusion: captum's map in less time, coarse before fine, and the shortcuts that make it so."""

import time
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
from brain_xai.methods.occlusion import occlusion, occlusion_of_all_classes
from brain_xai.methods.occlusion import occlusion as module
from brain_xai.methods.partial_forward import Network, hidden_patch, hide, network_of
from tests.helpers.nets import LABELS, PLAIN, make_classifier, make_scan, make_timm

SMALL_RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}


def make_busy(name: str, size: tuple[int, int], **options) -> Classifier:
    """A timm model whose residual branches add something, as timm starts them at zero, with logits of order one."""
    classifier = make_timm(name, size, **options)
    classifier.model.get_classifier().weight.data.mul_(0.1)
    for layer in classifier.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
    return classifier


def pixels_of(classifier: Classifier) -> torch.Tensor:
    return classifier.prepare(make_scan(classifier.preprocessing.size)).pixel_values


def silent(done: int, total: int, *partial: np.ndarray) -> None:
    pass


def black_of(classifier: Classifier) -> torch.Tensor:
    return -torch.tensor(classifier.preprocessing.mean) / torch.tensor(classifier.preprocessing.std)


class Unusual(nn.Module):
    """What trips up shortcuts: a norm of an output that is read elsewhere, too, steps over cells, in-place steps."""

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


class Deciding(nn.Module):
    """Asks for the size of the batch, so that it cannot be taken apart."""

    def forward(self, pixel_values):
        return pixel_values.mean(dim=(2, 3)) * (2 if len(pixel_values) else 1)


class Forked(nn.Module):
    """The logits are the sum of the three channels of a pixel each, as a convolution over the whole picture."""

    def __init__(self, side: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, side, bias=False)
        self.conv.weight.data.zero_()
        for channel in range(3):
            self.conv.weight.data[channel, channel, channel, 2 * channel] = 1

    def forward(self, pixel_values):
        return self.conv(pixel_values).flatten(1)


# The same map as captum's


@pytest.mark.parametrize(
    ("name", "options", "taken_apart"),
    [
        ("resnet18", SMALL_RESNET, True),
        ("resnet50", SMALL_RESNET, True),
        ("test_resnet", {}, True),
        ("test_efficientnet", {}, True),
        ("test_vit", {"img_size": (75, 96), "dynamic_img_pad": True}, False),
        ("unusual", {}, True),
        ("deciding", {}, False),
    ],
)
def test_occlusion_is_captums_to_1e5(name, options, taken_apart):
    size = (75, 96)  # odd, and windows of 18 x 23 every 9 x 12 reach over the lower border
    torch.manual_seed(0)
    own = {"unusual": Unusual, "deciding": Deciding}
    classifier = make_classifier(own[name](), size) if name in own else make_busy(name, size, **options)
    pixel_values = pixels_of(classifier)
    black = black_of(classifier).view(1, 3, 1, 1)
    maps, _ = occlusion_of_all_classes(classifier, pixel_values, silent, window=0.24, stride=0.125)
    assert (network_of(classifier) is not None) == taken_apart
    for target in range(len(LABELS)):
        reference = Occlusion(classifier.model).attribute(
            pixel_values, (3, 18, 23), (3, 9, 12), baselines=black, target=target, perturbations_per_eval=16
        )
        assert maps[target] == pytest.approx(reference[0, 0].numpy(), abs=1e-5)
    assert np.ptp(maps) > 0


def test_occlusion_by_hand():
    # Channel c reads the pixel (c, 2 c): white, so a window over it takes 1. Windows of 2, one beside the other.
    classifier = make_classifier(Forked(32), (32, 32), PLAIN)
    white = classifier.prepare(Image.new("L", (32, 32), 255)).pixel_values
    maps, settings = occlusion_of_all_classes(classifier, white, silent, window=1 / 16, stride=1 / 16)
    expected = np.zeros((3, 32, 32))
    for channel, (top, left) in enumerate([(0, 0), (0, 2), (2, 4)]):
        expected[channel, top : top + 2, left : left + 2] = 1
    assert np.array_equal(maps, expected)
    assert settings == {"window": (2, 2), "stride": (2, 2), "baseline": "black", "reach": None, "complete": True}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_maps_of_all_classes_are_those_of_each(name):
    classifier = make_busy(name, (160, 160))
    pixel_values = pixels_of(classifier)
    settings = {"window": 0.5, "stride": 0.25}
    maps, used = occlusion_of_all_classes(classifier, pixel_values, silent, **settings)
    assert (maps.dtype, maps.shape) == (np.float32, (3, 160, 160))
    for target in range(3):
        attribution, its = occlusion(classifier, pixel_values, target, silent, **settings)
        assert np.array_equal(attribution, maps[target])
        assert its == used


# Only what a window changes is computed again


@pytest.mark.parametrize("reach", [None, 15])
@pytest.mark.parametrize("name", ["resnet18", "unusual"])
def test_hidden_windows_give_the_logits_of_a_full_pass(name, reach):
    torch.manual_seed(0)
    size = (61, 80)
    classifier = make_classifier(Unusual(), size) if name == "unusual" else make_busy(name, size, **SMALL_RESNET)
    network = Network(classifier.model)
    pixel_values = torch.randn(1, 3, *size)
    # Everywhere, also cut off to a single pixel.
    places = torch.cartesian_prod(torch.tensor([0, 1, 17, 40, 54, 60]), torch.tensor([0, 2, 33, 71, 79]))
    hidden = (pixel_values, places[:, 0], places[:, 1], (9, 7), black_of(classifier))
    expected = classifier.logits(hide(*hidden))
    assert torch.equal(hidden_patch(*hidden).everywhere(), hide(*hidden))
    assert network.hidden(network.outputs(pixel_values), hidden_patch(*hidden), reach) == pytest.approx(
        expected, abs=1e-5
    )


def test_less_is_computed_for_a_window_than_for_the_picture(monkeypatch):
    classifier = make_busy("resnet18", (96, 96), **SMALL_RESNET)
    network = Network(classifier.model)
    pixel_values = torch.randn(1, 3, 96, 96)
    outputs = network.outputs(pixel_values)
    patch = hidden_patch(pixel_values, torch.tensor([40]), torch.tensor([40]), (8, 8), torch.zeros(3))
    cells = []
    conv2d = torch.nn.functional.conv2d
    monkeypatch.setattr("torch.nn.functional.conv2d", lambda *given: cells.append(conv2d(*given)) or cells[-1])
    counts = []
    for reach in (None, 3, 1):
        cells.clear()
        network.hidden(outputs, patch, reach)
        counts.append([output.shape[2] for output in cells])
    # 8 pixels and a kernel of 7 meet (8 + 6) / 2 cells of the stem, not 48. The first convolutions of layer1 meet 2
    # cells more each: (7 + 2) / 2 after the pooling, 5 + 2, 5 + 4.
    assert counts[0][:3] == [7, 7, 9]
    # Bounded by 3 on each side: 8 / 2 + 6 in the stem, 8 / 4 + 6 in layer1; by 1: 8 / 2 + 2, 8 / 4 + 2.
    assert counts[1][:3] == [7, 7, 8]
    assert counts[2][:3] == [6, 4, 4]


def test_a_longer_reach_comes_closer():
    classifier = make_busy("resnet18", (160, 160), **SMALL_RESNET)
    pixel_values = pixels_of(classifier)
    settings = {"window": 0.1, "stride": 0.1}
    exact, _ = occlusion_of_all_classes(classifier, pixel_values, silent, **settings)
    errors = []
    for reach in (0, 3, 20):
        maps, used = occlusion_of_all_classes(classifier, pixel_values, silent, **settings, reach=reach)
        assert used["reach"] == reach
        errors.append(np.abs(maps - exact).mean() / np.abs(exact).mean())
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.2


def test_a_bounded_reach_keeps_patches_behind_squeeze_and_excitation():
    # Exactly, its weights change every cell a little; the map is close without that.
    classifier = make_busy("test_efficientnet", (160, 160))
    pixel_values = pixels_of(classifier)
    exact, bounded = (
        occlusion_of_all_classes(classifier, pixel_values, silent, window=0.2, stride=0.2, reach=reach)[0]
        for reach in (None, 3)
    )
    assert 0 < np.abs(bounded - exact).mean() < 0.2 * np.abs(exact).mean()


def test_windows_that_hide_only_black_are_not_tried():
    classifier = make_busy("test_resnet", (64, 64))
    picture = np.zeros((64, 64), np.uint8)
    picture[20, 40] = 255  # one bright pixel: of 8 x 8 windows, one beside the other, only one hides it
    pixel_values = classifier.prepare(Image.fromarray(picture)).pixel_values
    calls = []
    maps, _ = occlusion_of_all_classes(
        classifier, pixel_values, lambda *call: calls.append(call[:2]), window=1 / 8, stride=1 / 8
    )
    assert calls == [(64, 65), (65, 65)]
    hidden = np.zeros((64, 64), bool)
    hidden[16:24, 40:48] = True
    assert maps[:, hidden].all()
    assert not maps[:, ~hidden].any()


# Coarse before fine, within a time, and stopped at once


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Partial maps after every batch."""
    monkeypatch.setattr(module, "PARTIAL_MAP_SECONDS", 0.0)


@pytest.mark.usefixtures("hasty")
def test_partial_maps_come_closer_to_the_last():
    classifier = make_busy("resnet18", (96, 96), **SMALL_RESNET)
    partial = []
    settings = {"window": 0.1, "stride": 0.05}
    final, _ = occlusion(
        classifier, pixels_of(classifier), 1, lambda done, total, *maps: partial.extend(maps), **settings
    )
    errors = [np.abs(attribution - final).mean() for attribution in partial]
    assert len(partial) > 10
    assert all(attribution.shape == (96, 96) and attribution.dtype == np.float32 for attribution in partial)
    assert errors[0] > 2 * errors[len(errors) // 2] > 2 * errors[-1] > 0
    assert np.corrcoef(partial[len(partial) // 3].ravel(), final.ravel())[0, 1] > 0.8


def test_partial_maps_come_at_most_every_half_second():
    classifier = make_busy("test_resnet", (96, 96))
    calls = []
    started = time.monotonic()
    explain(classifier, make_scan((96, 96)), "occlusion", progress=lambda *call: calls.append(len(call)))
    assert sum(count == 3 for count in calls) <= (time.monotonic() - started) / 0.5


def test_a_time_limit_leaves_the_rest_estimated(monkeypatch):
    classifier = make_busy("test_resnet", (96, 96))
    seconds = count()  # every look at the clock is a second later
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    settings = {"window": 0.1, "stride": 0.1}
    done = []
    attribution, used = occlusion(
        classifier, pixels_of(classifier), 0, lambda *call: done.append(call[:2]), **settings, seconds=3
    )
    assert not used["complete"]
    assert len(done) == 1 + 3
    assert done[-1][0] < done[-1][1]
    assert np.isfinite(attribution).all()
    monkeypatch.undo()
    whole, used = occlusion(classifier, pixels_of(classifier), 0, silent, **settings, seconds=1000)
    assert used["complete"]
    assert np.array_equal(whole, occlusion(classifier, pixels_of(classifier), 0, silent, **settings)[0])
    assert 0.3 < np.corrcoef(attribution.ravel(), whole.ravel())[0, 1] < 1


@pytest.mark.parametrize("wrong", [{"reach": -1}, {"reach": 1.5}, {"seconds": 0}, {"seconds": float("nan")}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="Occlusion needs"):
        explain(make_busy("test_resnet", (64, 64)), make_scan((64, 64)), "occlusion", **wrong)


def test_what_progress_raises_ends_the_work_before_the_next_batch(monkeypatch):
    classifier = make_busy("resnet18", (96, 96), **SMALL_RESNET)
    passes = []
    hidden = Network.hidden
    network_of(classifier)
    monkeypatch.setattr(Network, "hidden", lambda *given: passes.append(1) or hidden(*given))

    def stop(done: int, total: int, *partial: np.ndarray) -> None:
        if passes:
            raise Cancelled

    with pytest.raises(Cancelled):
        occlusion(classifier, pixels_of(classifier), 0, stop)
    assert len(passes) == 1


# Nothing shared, nothing left behind


def test_two_threads_get_what_one_gets():
    classifier = make_busy("test_efficientnet", (96, 96))
    pictures = [torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]

    def answer(picture: int) -> np.ndarray:
        return occlusion_of_all_classes(classifier, pictures[picture], silent, window=0.25, stride=0.125)[0]

    network_of.cache_clear()  # the first use by both at once, too
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(answer, [0, 1] * 3))
    alone = [answer(0), answer(1)]
    for picture, maps in zip([0, 1] * 3, together, strict=True):
        assert maps == pytest.approx(alone[picture], abs=1e-6)


@pytest.mark.parametrize("reach", [None, 3])
def test_the_model_that_predicts_and_the_picture_stay_untouched(reach):
    classifier = make_busy("test_efficientnet", (64, 64))
    pixel_values = pixels_of(classifier)
    before = {key: value.clone() for key, value in classifier.model.state_dict().items()}
    picture = pixel_values.clone()
    steps = [(type(layer), layer.training, getattr(layer, "inplace", None)) for layer in classifier.model.modules()]
    first = occlusion(classifier, pixel_values, 0, silent, reach=reach)[0]
    assert np.array_equal(occlusion(classifier, pixel_values, 0, silent, reach=reach)[0], first)
    assert torch.equal(pixel_values, picture)
    after = classifier.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    layers = list(classifier.model.modules())
    assert [(type(layer), layer.training, getattr(layer, "inplace", None)) for layer in layers] == steps
    assert not any(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks for layer in layers)
