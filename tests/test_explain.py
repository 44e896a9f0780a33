"""Explanations: hand-computed maps, maps in the right place, and nothing left behind by one caller for the next."""

import json
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerGradCam, Occlusion
from PIL import Image
from torch import nn

from brain_xai import METHODS, MethodNotApplicable, explain, load_checkpoint
from brain_xai.checkpoint import save_checkpoint
from brain_xai.classifier import CheckpointInfo, Classifier
from brain_xai.explain import Cancelled
from brain_xai.explain.layers import target_layer
from brain_xai.preprocess import Preprocessing

LABELS = ("cat", "dog", "owl")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
COARSE = {"grad_cam": {}, "occlusion": {"window": 0.5, "stride": 0.25}}  # settings that take no time


def make_classifier(model: nn.Module, size: tuple[int, int], normalisation: dict = IMAGENET, **options) -> Classifier:
    info = CheckpointInfo("test", "0", type(model).__name__)
    return Classifier(model.eval().requires_grad_(False), LABELS, Preprocessing(size, **normalisation), info, **options)


def make_timm(name: str, size: tuple[int, int], seed: int = 0, **options) -> Classifier:
    """A timm model with random weights and random norm statistics, as a trained one has."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=len(LABELS), **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    model.get_classifier().weight.data.normal_(0, 1)
    model.get_classifier().bias.data.normal_(0, 1)
    return make_classifier(model, size)


def make_scan(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A grey picture: smooth noise on black with a black border."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    picture = np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))
    picture[: size[0] // 4] = 0
    return Image.fromarray(picture)


class Blocks(nn.Module):
    """Two channels, the mean of each 8 x 8 block and that less 1; then an average and a linear layer."""

    def __init__(self):
        super().__init__()
        self.num_features = 2
        self.blocks = nn.Conv2d(3, 2, kernel_size=8, stride=8)
        self.blocks.weight.data.fill_(1 / 192)
        self.blocks.bias.data = torch.tensor([0.0, -1.0])
        self.head = nn.Linear(2, 3)
        self.head.weight.data = torch.tensor([[4.0, 0.0], [-2.0, 0.0], [3.0, 1.0]])
        self.head.bias.data = torch.tensor([10.0, 20.0, 30.0])

    def forward_features(self, pixel_values):
        return self.blocks(pixel_values)

    def forward(self, pixel_values):
        return self.head(self.forward_features(pixel_values).mean(dim=(2, 3)))


class Unpadded(nn.Module):
    """Two convolutions around a max-pooling, 3 x 3 each, none padded."""

    def __init__(self):
        super().__init__()
        self.num_features = 4
        first, last = nn.Conv2d(3, 4, kernel_size=3, stride=2), nn.Conv2d(4, 4, kernel_size=3)
        self.body = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2), last)

    def forward_features(self, pixel_values):
        return self.body(pixel_values)


class Corner(nn.Module):
    """The logits are a, -a and 0, where a is the grey value of the lower right pixel, 0 to 1."""

    def forward(self, pixel_values):
        corner = pixel_values[:, 0, -1, -1]
        return torch.stack([corner, -corner, 0 * corner], dim=1)


class Drifting(nn.Module):
    """Logits that depend a little on the size of the batch, as those of real nets do in their last digits."""

    def forward(self, pixel_values):
        return pixel_values.mean(dim=(2, 3)) + 1e-6 * len(pixel_values)


class Total(nn.Module):
    """The logits are the sums of all grey values of one channel each."""

    def forward(self, pixel_values):
        return pixel_values.sum(dim=(2, 3))


@pytest.fixture(scope="module")
def resnet() -> Classifier:
    return make_timm("test_resnet", (96, 96))


@pytest.fixture(scope="module")
def efficientnet() -> Classifier:
    return make_timm("test_efficientnet", (96, 96))


# The table


def test_table_is_complete():
    assert list(METHODS) == ["grad_cam", "occlusion"]
    for key, method in METHODS.items():
        assert method.key == key
        assert method.paper.startswith("https://arxiv.org/abs/")
        assert method.default_scale > 0
        for sentence in (method.summary, method.description):
            assert sentence.endswith(".")
            assert sentence.count(". ") == 0, "one sentence"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_the_view_in_logits(method, efficientnet):
    scan = make_scan((120, 80))
    explanation = explain(efficientnet, scan, method)
    assert (explanation.method, explanation.scale) == (method, METHODS[method].default_scale)
    assert explanation.label == explanation.prediction.label == LABELS[explanation.target]
    assert explanation.prediction == efficientnet.predict(scan)
    assert np.array_equal(explanation.view, efficientnet.prepare(scan).view)
    assert (explanation.attribution.dtype, explanation.attribution.shape) == (np.float32, (96, 96))
    assert np.isfinite(explanation.attribution).all()
    assert explanation.attribution.std() > 0
    assert json.loads(json.dumps(explanation.settings)).keys() == explanation.settings.keys()


@pytest.mark.parametrize("method", METHODS)
def test_target_is_a_label_an_index_or_the_prediction(method, resnet):
    scan = make_scan((96, 96))
    by_label = [explain(resnet, scan, method, label, **COARSE[method]) for label in LABELS]
    by_index = [explain(resnet, scan, method, index, **COARSE[method]) for index in range(len(LABELS))]
    predicted = explain(resnet, scan, method, **COARSE[method])
    for one, other in zip([*by_label, predicted], [*by_index, by_label[predicted.target]], strict=True):
        assert (one.label, one.target) == (other.label, other.target)
        assert np.array_equal(one.attribution, other.attribution)
    assert [explanation.label for explanation in by_label] == list(LABELS)
    assert not np.allclose(by_label[0].attribution, by_label[1].attribution)


def test_a_measured_scale_comes_before_the_default():
    classifier = make_classifier(Total(), (32, 32), PLAIN, attribution_scale={"occlusion": 7.5})
    assert explain(classifier, make_scan((32, 32)), "occlusion").scale == 7.5


def test_wrong_names_are_refused_with_the_right_ones(resnet):
    with pytest.raises(ValueError, match=r"'gradcam' is not a method. Use one of: grad_cam, occlusion\."):
        explain(resnet, make_scan((96, 96)), "gradcam")
    with pytest.raises(ValueError, match="cat, dog, owl"):
        explain(resnet, make_scan((96, 96)), target="wolf")
    with pytest.raises(TypeError, match="window"):
        explain(resnet, make_scan((96, 96)), "grad_cam", window=0.5)


# Grad-CAM


def test_grad_cam_by_hand():
    picture = np.zeros((32, 40), np.uint8)
    picture[8:16, 24:32] = 255  # the block in row 1, column 3 of 4 x 5 blocks
    classifier = make_classifier(Blocks(), (32, 40), PLAIN)
    # Each block weighs a 20th of the head: 4 / 20 for the white block, 0 for the black ones.
    cat = explain(classifier, Image.fromarray(picture), target="cat").attribution
    beside_centre = (15 / 16) ** 2  # the block is centred between pixels, half of one from each
    assert cat[11:13, 27:29] == pytest.approx(4 / 20 * beside_centre, abs=1e-6)
    assert cat.max() == cat[11:13, 27:29].max()
    assert not cat[:, :20].any()
    assert not cat[20:].any()
    # -2 / 20 for the white block: it speaks against the dog, and a rectifier would have hidden it.
    dog = explain(classifier, Image.fromarray(picture), target="dog").attribution
    assert dog == pytest.approx(-cat / 2, abs=1e-6)
    # The second channel is -1 on black and 0 on white: (0 - 1) / 20 and (3 + 0) / 20.
    owl = explain(classifier, Image.fromarray(picture), target="owl").attribution
    assert owl[20:] == pytest.approx(-1 / 20, abs=1e-6)
    assert owl.max() == pytest.approx(-1 / 20 + 4 / 20 * beside_centre, abs=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "efficientnet_b0"])
def test_grad_cam_equals_captum_and_sums_to_the_logit(name):
    # At stride 1 on the cells themselves our map is captum's; there the picture is as fine as the cells.
    classifier = make_timm(name, (96, 128))
    scan = make_scan((96, 128))
    pixel_values = classifier.prepare(scan).pixel_values
    layer = target_layer(classifier)
    with classifier.private_model() as model:
        engine = LayerGradCam(model, model.get_submodule(layer.name))
        cells = engine.attribute(pixel_values, target=2).detach()[0, 0].numpy()
    assert cells.shape == (3, 4)
    ours = explain(classifier, scan, "grad_cam", "owl").attribution
    assert ours[::32, ::32] == pytest.approx(cells, abs=1e-5), "cell (i, j) lies at the pixel (32 i, 32 j)"
    logit = classifier.logits(pixel_values)[0, 2] - classifier.model.get_classifier().bias[2]
    assert ours[::32, ::32].sum() == pytest.approx(float(logit), abs=1e-4)


def test_grad_cam_refuses_where_there_are_no_cells():
    classifier = make_timm("test_vit", (160, 160))
    with pytest.raises(MethodNotApplicable, match="Use occlusion") as refusal:
        explain(classifier, make_scan((160, 160)), "grad_cam")
    assert isinstance(refusal.value, ValueError)
    assert METHODS["grad_cam"].applicable(classifier) == str(refusal.value)
    assert METHODS["occlusion"].applicable(classifier) is None


# The target layer and where its cells lie


TINY_RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
CUT_RESNET = {"layers": [2, 2, 2, 0], "channels": [64, 128, 256, 256]}


@pytest.mark.parametrize(
    ("name", "options", "size", "layer", "cells", "stride", "offset"),
    [
        # Symmetric padding: every layer keeps the first cell on the first pixel.
        ("resnet18", {}, (96, 160), "layer4", (3, 5), 32, 0),
        ("resnet18", CUT_RESNET, (96, 160), "layer4", (6, 10), 16, 0),
        ("resnet18", {"output_stride": 16}, (96, 160), "layer4", (6, 10), 16, 0),
        ("efficientnet_b0", {}, (96, 160), "bn2", (3, 5), 32, 0),
        ("efficientnet_b0", {"output_stride": 16}, (96, 160), "bn2", (6, 10), 16, 0),
        # "Same" padding of an even size lies to the right and below: each of five strides adds half its jump.
        ("tf_efficientnet_b0", {}, (96, 160), "bn2", (3, 5), 32, 31),
    ],
)
def test_target_layer_is_measured(name, options, size, layer, cells, stride, offset):
    measured = target_layer(make_timm(name, size, **options))
    assert (measured.name, measured.cells) == (layer, cells)
    assert measured.stride == (stride, stride)
    assert measured.offset == (offset, offset)


@pytest.mark.parametrize(
    ("model", "layer", "cells", "stride", "offset"),
    [
        # The middle of a block of 8 lies between its pixels 3 and 4.
        (Blocks(), "blocks", (4, 5), 8, 3.5),
        # One pixel for the first layer, one of stride 2 for the second, one of stride 4 for the third.
        (Unpadded(), "body", (5, 7), 4, 1 + 2 + 4),
    ],
)
def test_target_layer_of_nets_without_padding(model, layer, cells, stride, offset):
    measured = target_layer(make_classifier(model, (32, 40)))
    assert (measured.name, measured.cells) == (layer, cells)
    assert measured.stride == pytest.approx((stride, stride), abs=0.02)
    assert measured.offset == pytest.approx((offset, offset), abs=0.02)


@pytest.mark.parametrize(("name", "options"), [("resnet18", TINY_RESNET), ("test_efficientnet", {})])
def test_measured_place_is_where_the_net_looks(name, options):
    # Without the probe, on random nets and noise: where the pixels lie that move cell (2, 2) most.
    layer = target_layer(make_timm(name, (224, 224), **options))
    sensitivity = torch.zeros(224, 224)
    for seed in range(8):
        noise = torch.randn(1, 3, 224, 224).requires_grad_()
        model = make_timm(name, (224, 224), seed, **options).model
        model.forward_features(noise)[:, :, 2, 2].square().sum().backward()
        sensitivity += noise.grad.square().sum(dim=(0, 1))
    profiles = torch.stack([sensitivity.sum(dim=1), sensitivity.sum(dim=0)]) / sensitivity.sum()
    centre = (profiles @ torch.arange(224.0)).numpy()
    stretched = (2 + 0.5) * 32 - 0.5
    assert np.abs(centre - layer.offset - np.multiply(layer.stride, 2)).max() < 5
    assert np.abs(centre - stretched).min() > 10, "where every library puts it"


# Occlusion


def test_occlusion_by_hand():
    # 0.25 of 32 is a window of 8, one beside the other: each hides 64 white pixels, a logit of 64 in every channel.
    picture = np.full((32, 32), 255, np.uint8)
    picture[:8, 8:16] = 0
    classifier = make_classifier(Total(), (32, 32), PLAIN)
    explanation = explain(classifier, Image.fromarray(picture), "occlusion", "dog", window=0.25, stride=0.25)
    expected = np.full((32, 32), 64.0)
    expected[:8, 8:16] = 0
    assert np.array_equal(explanation.attribution, expected), "exactly zero where black hides black"
    assert explanation.settings == {"window": (8, 8), "stride": (8, 8), "baseline": "black"}


def test_occlusion_averages_the_windows_over_a_pixel():
    # Windows of 16 at 0, 8, 16: columns 0-7 lie in the first alone, 8-15 in the first two, and so on. White is the
    # left half of column 0: hiding rows r to r + 16 of it takes 16.
    picture = np.zeros((32, 32), np.uint8)
    picture[:, 0] = 255
    classifier = make_classifier(Total(), (32, 32), PLAIN)
    attribution = explain(classifier, Image.fromarray(picture), "occlusion", 0, window=0.5, stride=0.25).attribution
    assert np.array_equal(attribution, np.repeat([[16.0, 8.0, 0.0, 0.0]], 8, axis=1).repeat(32, axis=0))


@pytest.mark.parametrize(("side", "cut_to"), [(32, 8), (34, 2), (39, 7)])
def test_occlusion_reaches_the_right_and_lower_border(side, cut_to):
    # Windows of 8, one beside the other: the last is cut off at the border, and it alone hides the corner.
    classifier = make_classifier(Corner(), (side, side), PLAIN)
    white = Image.new("L", (side, side), 255)
    expected = np.zeros((side, side))
    expected[-cut_to:, -cut_to:] = 1
    for label, sign in (("cat", 1), ("dog", -1)):
        explanation = explain(classifier, white, "occlusion", label, window=8 / side, stride=8 / side)
        assert np.array_equal(explanation.attribution, sign * expected)


@pytest.mark.parametrize("side", [160, 200, 224, 299])
def test_every_pixel_is_hidden_at_least_once(side):
    classifier = make_classifier(Total(), (side, side), PLAIN)
    assert explain(classifier, Image.new("L", (side, side), 255), "occlusion", "cat").attribution.min() > 0


def test_occlusion_equals_captum(resnet):
    scan = make_scan((96, 96))
    pixel_values = resnet.prepare(scan).pixel_values
    black = -torch.tensor(IMAGENET["mean"]) / torch.tensor(IMAGENET["std"])
    reference = Occlusion(resnet.model).attribute(
        pixel_values, (3, 24, 24), (3, 12, 12), baselines=black.view(1, 3, 1, 1), target=1
    )
    ours = explain(resnet, scan, "occlusion", "dog", window=0.25, stride=0.125).attribution
    assert ours == pytest.approx(reference[0, 0].numpy(), abs=1e-5)


def test_hiding_black_changes_exactly_nothing():
    picture = np.array(make_scan((96, 96)))
    classifier = make_classifier(Drifting(), (96, 96))
    attribution = explain(classifier, Image.fromarray(picture), "occlusion", window=0.125, stride=0.125).attribution
    assert not picture[:24].any()
    assert not attribution[:24].any()
    assert attribution[24:].all()


@pytest.mark.parametrize("sizes", [(0.2, 0.3), (1.5, 0.5), (0.2, 0.0), (0.2, -0.1), (float("nan"), 0.1)])
def test_occlusion_refuses_windows_that_leave_gaps(sizes, resnet):
    with pytest.raises(ValueError, match="stride <= window"):
        explain(resnet, make_scan((96, 96)), "occlusion", window=sizes[0], stride=sizes[1])


# Progress, and what is left behind


@pytest.mark.parametrize("method", METHODS)
def test_progress_counts_up_to_the_total(method, resnet):
    calls = []
    explain(resnet, make_scan((96, 96)), method, progress=lambda *call: calls.append(call))
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}
    if method == "occlusion":  # windows of 19 every 6 pixels, and the whole picture
        assert done[-1] == 1 + (ceil((96 - 19) / 6) + 1) ** 2
        assert np.diff(done).max() == 8


def state_of(classifier: Classifier) -> list:
    """All that an explanation could leave behind in the models: hooks, gradients, modes, weights."""
    with classifier.private_model() as private:
        models = (classifier.model, private)
    hooks = [
        (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks), module.training)
        for model in models
        for module in model.modules()
    ]
    weights = [
        (weight.grad is None, weight.requires_grad, weight.double().sum().item())
        for model in models
        for weight in model.state_dict(keep_vars=True).values()
    ]
    return [hooks, weights, torch.is_grad_enabled(), torch.is_inference_mode_enabled()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after", [1, 17])
def test_raising_in_progress_stops_at_once_and_leaves_everything_as_it_was(method, after):
    classifier = make_timm("test_efficientnet", (64, 64))
    scan = make_scan((64, 64))
    before = state_of(classifier)
    calls = []

    def cancel(done: int, total: int) -> None:
        calls.append(done)
        if done >= after or done == total:
            raise Cancelled

    with pytest.raises(Cancelled):
        explain(classifier, scan, method, progress=cancel)
    assert calls[-1] == min(after, calls[-1])
    assert state_of(classifier) == before
    # The lock is free and the next caller gets a whole map.
    assert np.isfinite(explain(classifier, scan, method).attribution).all()
    assert state_of(classifier) == before


def test_a_failing_forward_pass_leaves_no_hook(resnet):
    classifier = make_timm("test_resnet", (96, 96))
    scan = make_scan((96, 96))
    explain(classifier, scan)
    before = state_of(classifier)
    with classifier.private_model() as model:
        head = model.fc
        model.fc = nn.Linear(1, 3)
    with pytest.raises(RuntimeError, match="shapes"):
        explain(classifier, scan)
    with classifier.private_model() as model:
        model.fc = head
    assert state_of(classifier) == before


@pytest.mark.parametrize("method", METHODS)
def test_a_callers_grad_mode_changes_nothing(method):
    scan = make_scan((64, 64))
    expected = explain(make_timm("test_resnet", (64, 64)), scan, method, **COARSE[method]).attribution
    for mode in (torch.no_grad, torch.inference_mode):
        classifier = make_timm("test_resnet", (64, 64))
        with mode():
            assert METHODS[method].applicable(classifier) is None
            assert np.array_equal(explain(classifier, scan, method, **COARSE[method]).attribution, expected)


def test_many_callers_at_once_get_their_own_answers(efficientnet):
    scans = [make_scan((96, 96), seed) for seed in range(4)]

    def answer(task: tuple[str, int, str]) -> np.ndarray:
        kind, scan, label = task
        if kind == "predict":
            return np.array(list(efficientnet.predict(scans[scan]).probabilities.values()))
        return explain(efficientnet, scans[scan], kind, label, **COARSE[kind]).attribution

    # Mostly Grad-CAM, whose hooks would meet on a model that is not private.
    kinds = ["grad_cam", "occlusion", "grad_cam", "predict", "grad_cam"]
    tasks = [(kind, scan, label) for scan in range(4) for label in LABELS for kind in kinds]
    serial = [answer(task) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(answer, tasks))
    for task, alone, among_others in zip(tasks, serial, parallel, strict=True):
        assert among_others == pytest.approx(alone, abs=1e-6), task


# From a checkpoint folder and a real scan


def test_a_saved_checkpoint_explains_a_real_scan(data_root: Path, tmp_path: Path):
    preprocessing = Preprocessing((96, 96), **IMAGENET)
    save_checkpoint(
        tmp_path,
        make_timm("test_efficientnet", (96, 96)).model,
        label_names=LABELS,
        preprocessing=preprocessing,
        brain_xai={"attribution_scale": {"grad_cam": 0.25}},
    )
    classifier = load_checkpoint(tmp_path)
    scan = sorted((data_root / "brain-tumor-mri" / "Testing" / "glioma").iterdir())[0]
    for method in METHODS:
        explanation = explain(classifier, scan, method)
        assert explanation.attribution.shape == explanation.view.size[::-1] == (96, 96)
        assert np.ptp(explanation.attribution) > 0
    assert explain(classifier, scan).scale == 0.25
