"""Class-activation maps: computed by hand, equal to Captum's before resampling, and centered where they belong."""

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam
from PIL import Image

from brain_xai import METHODS, MethodNotApplicable, explain
from brain_xai.explanation import explain_all, strongest_channels
from brain_xai.methods.cam import linear_head
from brain_xai.methods.target_layer import target_layer
from tests.helpers.nets import PLAIN, Blocks, Places, Unpadded, make_classifier, make_scan, make_timm, make_vgg


@pytest.fixture
def corners() -> Image.Image:
    """White in the upper left quarter, dark gray in the lower right one, black elsewhere."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16, :16], pixels[16:, 16:] = 255, 51
    return Image.fromarray(pixels)


def at_corners(attribution: np.ndarray) -> np.ndarray:
    """The four corner pixels [2, 2]: beyond the outer centers a map is constant."""
    return attribution[::31, ::31]


# Grad-CAM


def test_grad_cam_by_hand():
    pixels = np.zeros((32, 40), np.uint8)
    pixels[8:16, 24:32] = 255  # the block in row 1, column 3 of 4 x 5 blocks
    classifier = make_classifier(Blocks(), (32, 40), PLAIN)
    # Each block has a 20th of the head's weight: 4 / 20 for the white block, 0 for the black ones.
    cat = explain(classifier, Image.fromarray(pixels), target="cat").attribution
    beside_center = (15 / 16) ** 2  # the block is centered between pixels, half a pixel away from each
    assert cat[11:13, 27:29] == pytest.approx(4 / 20 * beside_center, abs=1e-6)
    assert cat.max() == cat[11:13, 27:29].max()
    assert not cat[:, :20].any()
    assert not cat[20:].any()
    # -2 / 20 for the white block: it speaks against the dog, which a ReLU would have hidden.
    dog = explain(classifier, Image.fromarray(pixels), target="dog").attribution
    assert dog == pytest.approx(-cat / 2, abs=1e-6)
    # The second channel is -1 on black and 0 on white: (0 - 1) / 20 and (3 + 0) / 20.
    owl = explain(classifier, Image.fromarray(pixels), target="owl").attribution
    assert owl[20:] == pytest.approx(-1 / 20, abs=1e-6)
    assert owl.max() == pytest.approx(-1 / 20 + 4 / 20 * beside_center, abs=1e-6)


# Without pooling skip connections, every position (i, j) is centered at the pixel (32 i, 32 j).
CENTERED = {"test_resnet": {"avg_down": False}, "test_efficientnet": {}, "efficientnet_b0": {}}


@pytest.mark.parametrize("name", CENTERED)
def test_grad_cam_equals_captum_and_sums_to_the_logit(name):
    classifier = make_timm(name, (96, 128), **CENTERED[name])
    scan = make_scan((96, 128))
    pixel_values = classifier.prepare(scan).pixel_values
    layer = target_layer(classifier)
    with classifier.private_model() as model:
        engine = LayerGradCam(model, model.get_submodule(layer.name))
        grid = engine.attribute(pixel_values, target=2).detach()[0, 0].numpy()
    assert grid.shape == (3, 4)
    ours = explain(classifier, scan, "grad_cam", "owl").attribution
    assert ours[::32, ::32] == pytest.approx(grid, abs=1e-5)
    logit = classifier.logits(pixel_values)[0, 2] - classifier.model.get_classifier().bias[2]
    assert ours[::32, ::32].sum() == pytest.approx(float(logit), abs=1e-4)


def test_grad_cam_refuses_a_model_without_a_feature_map():
    classifier = make_timm("test_vit", (160, 160))
    with pytest.raises(MethodNotApplicable, match="Use occlusion") as refusal:
        explain(classifier, make_scan((160, 160)), "grad_cam")
    assert isinstance(refusal.value, ValueError)
    assert METHODS["grad_cam"].reason_unsupported(classifier) == str(refusal.value)
    assert METHODS["occlusion"].reason_unsupported(classifier) is None


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_one_forward_pass_predicts_and_maps_all_classes(name):
    classifier = make_timm(name, (96, 96), **CENTERED[name])
    scan = make_scan((96, 96))
    # Both are measured once per model.
    assert target_layer(classifier)
    assert linear_head(classifier) is classifier.model.get_classifier()
    passes = []
    with classifier.private_model() as private:
        for model in (classifier.model, private):
            next(model.children()).register_forward_hook(lambda module, *_: passes.append(module))
    explanations = explain_all(classifier, scan)
    assert passes == [next(classifier.model.children())], "one, on the model that predicts"
    explain(classifier, scan)
    assert len(passes) == 2
    bias = classifier.model.get_classifier().bias
    logits = classifier.logits(classifier.prepare(scan).pixel_values)[0] - bias
    sums = [explanation.attribution[::32, ::32].sum() for explanation in explanations.values()]
    assert sums == pytest.approx(logits.tolist(), abs=1e-4)


class ReluBeforePooling(Blocks):
    """Blocks with a ReLU before the average: the head is not linear in the feature map."""

    def get_classifier(self):
        return self.head

    def forward_head(self, features):
        return self.head(features.relu().mean(dim=(2, 3)))

    def forward(self, pixel_values):
        return self.forward_head(self.forward_features(pixel_values))


def test_a_head_counts_as_linear_only_if_it_is():
    assert linear_head(make_classifier(ReluBeforePooling(), (32, 40))) is None
    assert linear_head(make_timm("test_convnext", (96, 96))) is None, "a norm between average and linear layer"
    assert linear_head(make_vgg((64, 64))) is None


@pytest.mark.parametrize("name", ["test_convnext", "mobilenetv3_small_050", "vgg", "relu"])
def test_grad_cam_of_any_head_takes_its_gradient_alone_and_equals_captum(name):
    size = (96, 128)
    made = {"vgg": lambda: make_vgg(size), "relu": lambda: make_classifier(ReluBeforePooling(), size)}
    classifier, scan = made.get(name, lambda: make_timm(name, size))(), make_scan(size)
    assert linear_head(classifier) is None
    assert target_layer(classifier)
    expected = {
        label: explain(classifier, scan, "grad_cam", label, engine="captum") for label in classifier.label_names
    }
    passes = []
    next(classifier.model.children()).register_forward_hook(lambda *_: passes.append(1))
    explanations = explain_all(classifier, scan)
    with torch.inference_mode():  # the caller's mode does not matter
        single = explain(classifier, scan, "grad_cam", "owl")
    assert len(passes) == 2, "one each"
    assert single.settings["engine"] == "shortcut"
    assert np.array_equal(single.attribution, explanations["owl"].attribution)
    assert all(weight.grad is None for weight in classifier.model.parameters())
    for label, explanation in explanations.items():
        largest = float(np.abs(expected[label].attribution).max())
        # Two ways through the head may round differently.
        assert explanation.attribution == pytest.approx(expected[label].attribution, abs=1e-5 * largest)
        assert expected[label].settings["engine"] == "captum"


# HiResCAM and LayerCAM: the net Places has a weight for each position


def test_cams_of_a_head_with_a_weight_per_position_by_hand(corners):
    # The first channel is the brightness of a quarter, the second that minus 1. For the cat their weights are
    # [[4, 8], [0, -20]] and [[0, 2], [0, 0]].
    classifier = make_classifier(Places(), (32, 32), PLAIN)
    assert linear_head(classifier) is None
    bright, darkness = np.array([[1, 0], [0, 0.2]]), np.array([[0, -1], [-1, -0.8]])
    maps = {method: explain(classifier, corners, method, "cat") for method in ("grad_cam", "hires_cam", "layer_cam")}
    # The mean weights are -2 and 0.5.
    assert at_corners(maps["grad_cam"].attribution) == pytest.approx(-2 * bright + 0.5 * darkness, abs=1e-4)
    assert at_corners(maps["hires_cam"].attribution) == pytest.approx(np.array([[4, -2], [0, -4]]), abs=1e-4)
    # Negative weights and, after summing, negative values are dropped.
    assert at_corners(maps["layer_cam"].attribution) == pytest.approx(np.array([[4, 0], [0, 0]]), abs=1e-4)
    assert all(explanation.settings["cells"] == (2, 2) for explanation in maps.values())
    logit = classifier.logits(classifier.prepare(corners).pixel_values)[0, 0]
    assert at_corners(maps["hires_cam"].attribution).sum() == pytest.approx(float(logit), abs=1e-4)


def test_hires_cam_equals_grad_cam_at_the_last_layer_and_is_finer_by_default():
    classifier = make_timm("test_resnet", (96, 96))
    scan = make_scan((96, 96))
    grad_cam = explain(classifier, scan, "grad_cam", "dog")
    last, default = (
        explain(classifier, scan, "hires_cam", "dog", layer="last"),
        explain(classifier, scan, "hires_cam", "dog"),
    )
    assert last.attribution == pytest.approx(grad_cam.attribution, abs=1e-5 * float(np.abs(grad_cam.attribution).max()))
    assert last.settings["target_layer"] == grad_cam.settings["target_layer"]
    assert default.settings["target_layer"] == target_layer(classifier, "penultimate").name
    assert default.settings["cells"] == tuple(2 * count for count in last.settings["cells"])
    assert np.abs(default.attribution - last.attribution).max() > 0.1 * np.abs(last.attribution).max()


@pytest.mark.parametrize("which", ["last", "penultimate"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "vgg"])
def test_hires_cam_and_layer_cam_are_made_of_activations_and_gradients(name, which):
    # Activations and gradients are recorded here with PyTorch alone.
    size = (96, 128)
    classifier = make_vgg(size) if name == "vgg" else make_timm(name, size)
    scan, layer = make_scan(size), target_layer(classifier, which)
    recorded = []
    with classifier.private_model() as model:
        hook = model.get_submodule(layer.name).register_forward_hook(
            lambda module, inputs, output: recorded.append(output.detach().requires_grad_()) or recorded[0].clone()
        )
        logits = model(classifier.prepare(scan).pixel_values)
        hook.remove()
        gradient = torch.autograd.grad(logits[0, 1], recorded[0])[0]
    activations = recorded[0].detach()
    rows, columns = (
        (offset + step * np.arange(count)).round().astype(int)
        for offset, step, count in zip(layer.offset, layer.stride, layer.grid_size, strict=True)
    )
    grids = {
        "hires_cam": (gradient * activations).sum(dim=1),
        "layer_cam": (gradient.relu() * activations).sum(dim=1).relu(),
    }
    for method, grid in grids.items():
        explanation = explain(classifier, scan, method, 1, layer=which)
        assert explanation.settings["cells"] == tuple(activations.shape[2:])
        if name in ("test_resnet", "test_efficientnet"):  # their receptive fields are centered on whole pixels
            tolerance = 1e-4 * float(grid.abs().max())  # of the bilinear weights, at centers rounded to .01 pixels
            assert explanation.attribution[np.ix_(rows, columns)] == pytest.approx(grid[0].numpy(), abs=tolerance)


# Layer activations


def test_strongest_channels_by_hand(corners):
    # Of the two channels of Places the first is the brightness, the second is never above 0.
    classifier = make_classifier(Places(), (32, 32), PLAIN)
    strongest = strongest_channels(classifier, corners)
    assert strongest.channels == [0, 1]
    assert strongest.maps.shape == (2, 32, 32)
    assert at_corners(strongest.maps[0]) == pytest.approx(np.array([[1, 0], [0, 0.2]]), abs=1e-5)
    assert not strongest.maps[1].any()
    mean = explain(classifier, corners, "layer_activation")
    assert mean.attribution == pytest.approx(strongest.maps.mean(axis=0))
    assert explain(classifier, corners, "layer_activation", count=1).settings["channels"] == [0]


def test_strongest_channels_equal_captums_activations():
    classifier, scan = make_timm("test_resnet", (96, 96), avg_down=False), make_scan((96, 96))
    layer, prepared = target_layer(classifier), classifier.prepare(scan)
    with classifier.private_model() as model:
        expected = LayerActivation(model, model.get_submodule(layer.name)).attribute(prepared.pixel_values)[0]
    strongest = strongest_channels(classifier, scan, 5)
    assert strongest.maps[:, ::32, ::32] == pytest.approx(expected[strongest.channels].detach().numpy(), abs=1e-5)
    means = expected.relu().mean(dim=(1, 2))
    assert means[strongest.channels].tolist() == pytest.approx(means.sort(descending=True).values[:5].tolist())
    assert np.array_equal(strongest.view, prepared.view)


def test_channels_are_refused_without_a_feature_map():
    with pytest.raises(MethodNotApplicable, match="Use occlusion"):
        strongest_channels(make_timm("test_vit", (160, 160)), make_scan((160, 160)))


# The target layer and where its feature map lies on the image


TINY_RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
CUT_RESNET = {"layers": [2, 2, 2, 0], "channels": [64, 128, 256, 256]}


@pytest.mark.parametrize(
    ("name", "options", "size", "expected"),
    [
        # Symmetric padding: every layer centers its first position on the first pixel.
        ("resnet18", {}, (96, 160), ("layer4", (3, 5), 32, 0)),
        ("resnet18", CUT_RESNET, (96, 160), ("layer4", (6, 10), 16, 0)),
        ("resnet18", {"output_stride": 16}, (96, 160), ("layer4", (6, 10), 16, 0)),
        ("efficientnet_b0", {}, (96, 160), ("bn2", (3, 5), 32, 0)),
        ("efficientnet_b0", {"output_stride": 16}, (96, 160), ("bn2", (6, 10), 16, 0)),
        # "Same" padding of an even size lies to the right and below: each of five strides adds half its step.
        ("tf_efficientnet_b0", {}, (96, 160), ("bn2", (3, 5), 32, 31)),
        # So few positions that all of them touch the border of the image.
        ("resnet18", TINY_RESNET, (64, 32), ("layer4", (2, 1), 32, 0)),
        ("resnet18", TINY_RESNET, (75, 40), ("layer4", (3, 2), 32, 0)),
        ("tf_efficientnet_b0", {}, (64, 96), ("bn2", (2, 3), 32, 31)),
    ],
)
def test_last_layer_is_measured(name, options, size, expected):
    check(target_layer(make_timm(name, size, **options)), *expected)


@pytest.mark.parametrize(
    ("name", "options", "size", "expected"),
    [
        ("resnet18", {}, (96, 160), ("layer3", (6, 10), 16, 0)),
        ("resnet18", CUT_RESNET, (96, 160), ("layer2", (12, 20), 8, 0)),
        # Its last two stages have the same resolution.
        ("resnet18", {"output_stride": 16}, (96, 160), ("layer2", (12, 20), 8, 0)),
        # Inside the first block of a stage a skip connection leads around every layer of higher resolution.
        ("resnet26", {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}, (96, 160), ("layer3", (6, 10), 16, 0)),
        # No skip connection leads around the expansion before the last reduction, and it ends in an activation.
        ("efficientnet_b0", {}, (96, 160), ("blocks.5.0.bn1", (6, 10), 16, 0)),
        ("tf_efficientnet_b0", {}, (96, 160), ("blocks.5.0.bn1", (6, 10), 16, 15)),
    ],
)
def test_penultimate_layer_is_measured(name, options, size, expected):
    check(target_layer(make_timm(name, size, **options), "penultimate"), *expected)


def test_layers_of_vgg_lie_before_its_poolings():
    # Each pooling of two by two moves the center by half of the stride before it.
    classifier = make_vgg((64, 96))
    check(target_layer(classifier), "features", (4, 6), 16, 0.5 + 1 + 2 + 4)
    check(target_layer(classifier, "penultimate"), "features.10", (8, 12), 8, 0.5 + 1 + 2)


def test_without_a_penultimate_layer_the_last_one_is_read(corners):
    classifier = make_classifier(Places(), (32, 32), PLAIN)
    assert target_layer(classifier, "penultimate") is None
    for method in ("hires_cam", "layer_cam"):
        assert explain(classifier, corners, method).settings["target_layer"] == "quarters"


def check(measured, layer, grid_size, stride, offset):
    assert (measured.name, measured.grid_size) == (layer, grid_size)
    assert measured.stride == pytest.approx((stride, stride), abs=0.02)
    assert measured.offset == pytest.approx((offset, offset), abs=0.02)


@pytest.mark.parametrize(
    ("model", "layer", "grid_size", "stride", "offset"),
    [
        # The center of a block of 8 lies between its pixels 3 and 4.
        (Blocks(), "blocks", (4, 5), 8, 3.5),
        # One pixel for the first layer, one of stride 2 for the second, one of stride 4 for the third.
        (Unpadded(), "body", (5, 7), 4, 1 + 2 + 4),
    ],
)
def test_target_layer_of_nets_without_padding(model, layer, grid_size, stride, offset):
    check(target_layer(make_classifier(model, (32, 40))), layer, grid_size, stride, offset)


@pytest.mark.parametrize(
    ("branch", "skip", "offset"),
    [
        # Each of three skip connections pools two by two positions of stride 4, 8 and 16: half of that further.
        (0, 1, 2 + 4 + 8),
        (1, 0, 0),
        (1, 1, 7),
        (1, 3, 0.9 * 14),  # variances add up: one to nine
    ],
)
def test_branches_of_other_centers_count_as_much_as_they_add(branch, skip, offset):
    classifier = make_timm("resnet18", (224, 224), **TINY_RESNET, avg_down=True)
    for block in (classifier.model.layer2[0], classifier.model.layer3[0], classifier.model.layer4[0]):
        torch.nn.init.constant_(block.bn2.weight, branch)
        torch.nn.init.constant_(block.downsample[2].weight, skip)
    layer = target_layer(classifier)
    assert layer.stride == pytest.approx((32, 32), abs=0.3)
    # The brightness of the probe is not the same everywhere, which shifts the shares a little.
    assert layer.offset == pytest.approx((offset, offset), abs=0 if branch * skip == 0 else 0.5)


def test_a_layer_norm_at_the_end_does_not_hide_the_layer():
    # A plain sum of normalized channels is constant: its gradient is nothing but rounding.
    layer = target_layer(make_timm("test_convnext", (160, 160)))
    assert layer.stride == pytest.approx((32, 32), abs=0.5)
    assert layer.offset == pytest.approx((15.5, 15.5), abs=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", TINY_RESNET), ("resnet18", TINY_RESNET | {"avg_down": True}), ("test_efficientnet", {})],
)
def test_measured_center_is_where_the_model_is_sensitive(name, options):
    # Without the probe, on random models and noise: the center of the pixels that change position (2, 2) most.
    layer = target_layer(make_timm(name, (224, 224), **options))
    sensitivity, generator = torch.zeros(224, 224), torch.Generator().manual_seed(0)
    for seed in range(8):
        noise = torch.randn(1, 3, 224, 224, generator=generator).requires_grad_()
        model = make_timm(name, (224, 224), seed, **options).model
        model.forward_features(noise)[:, :, 2, 2].square().sum().backward()
        sensitivity += noise.grad.square().sum(dim=(0, 1))
    profiles = torch.stack([sensitivity.sum(dim=1), sensitivity.sum(dim=0)]) / sensitivity.sum()
    center = (profiles @ torch.arange(224.0)).numpy()
    stretched = (2 + 0.5) * 32 - 0.5
    assert np.abs(center - layer.offset - np.multiply(layer.stride, 2)).max() < 5
    if not options.get("avg_down"):  # whose pools move the center nearly as far
        assert np.abs(center - stretched).min() > 10, "where stretching the map would put it"
