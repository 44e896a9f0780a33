"""Class-activation maps: by hand, equal to captum's before they are laid on the picture, and laid where they belong."""

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam, LayerGradientXActivation
from PIL import Image

from brain_xai import METHODS, MethodNotApplicable, explain
from brain_xai.explanation import explain_all, strongest_channels
from brain_xai.methods.cam import layer_gradient, linear_head
from brain_xai.methods.target_layer import target_layer
from tests.helpers.nets import PLAIN, Blocks, Places, Unpadded, make_classifier, make_scan, make_timm, make_vgg


@pytest.fixture
def corners() -> Image.Image:
    """White in the upper left quarter, half grey in the lower right, black elsewhere."""
    picture = np.zeros((32, 32), np.uint8)
    picture[:16, :16], picture[16:, 16:] = 255, 51
    return Image.fromarray(picture)


def at_corners(attribution: np.ndarray) -> np.ndarray:
    """The four corner pixels [2, 2]: outside the centres of the outer cells a map is that of the cell."""
    return attribution[::31, ::31]


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
    assert METHODS["grad_cam"].reason_unsupported(classifier) == str(refusal.value)
    assert METHODS["occlusion"].reason_unsupported(classifier) is None


@pytest.fixture(scope="module")
def resnet_scan():
    return make_timm("test_resnet", (96, 96)), make_scan((96, 96))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_one_forward_pass_predicts_and_maps_all_classes(name):
    classifier = make_timm(name, (96, 96))
    scan = make_scan((96, 96))
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


class Rectified(Blocks):
    """Blocks with a rectifier before the average: the head is no longer linear in the cells."""

    def get_classifier(self):
        return self.head

    def forward_head(self, features):
        return self.head(features.relu().mean(dim=(2, 3)))

    def forward(self, pixel_values):
        return self.forward_head(self.forward_features(pixel_values))


def test_a_head_is_taken_for_linear_only_where_it_is():
    assert linear_head(make_classifier(Rectified(), (32, 40))) is None
    assert linear_head(make_timm("test_convnext", (96, 96))) is None, "it has a norm between average and linear layer"
    assert linear_head(make_vgg((64, 64))) is None


# HiResCAM and LayerCAM: the net Places weighs each place by itself


def test_cams_of_a_head_that_knows_places_by_hand(corners):
    # The first channel is the brightness of a quarter, the second that less 1. For the cat they weigh
    # [[4, 8], [0, -20]] and [[0, 2], [0, 0]].
    classifier = make_classifier(Places(), (32, 32), PLAIN)
    assert linear_head(classifier) is None
    bright, darkness = np.array([[1, 0], [0, 0.2]]), np.array([[0, -1], [-1, -0.8]])
    maps = {method: explain(classifier, corners, method, "cat") for method in ("grad_cam", "hires_cam", "layer_cam")}
    # The mean weights are -2 and 0.5.
    assert at_corners(maps["grad_cam"].attribution) == pytest.approx(-2 * bright + 0.5 * darkness, abs=1e-4)
    assert at_corners(maps["hires_cam"].attribution) == pytest.approx(np.array([[4, -2], [0, -4]]), abs=1e-4)
    # What speaks against by its own weight or by its own value is left out.
    assert at_corners(maps["layer_cam"].attribution) == pytest.approx(np.array([[4, 0], [0, 0]]), abs=1e-4)
    assert all(explanation.settings["cells"] == (2, 2) for explanation in maps.values())
    logit = classifier.logits(classifier.prepare(corners).pixel_values)[0, 0]
    assert at_corners(maps["hires_cam"].attribution).sum() == pytest.approx(float(logit), abs=1e-4)


@pytest.mark.parametrize("which", ["last", "fine"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "vgg"])
def test_hires_cam_and_layer_cam_are_made_of_captums_cells(name, which):
    size = (96, 128)
    classifier = make_vgg(size) if name == "vgg" else make_timm(name, size)
    scan = make_scan(size)
    pixel_values = classifier.prepare(scan).pixel_values
    layer = target_layer(classifier, which)
    with classifier.private_model() as model:
        engine = LayerGradientXActivation(model, model.get_submodule(layer.name))
        expected = engine.attribute(pixel_values, target=1).detach()
        grad_cam = LayerGradCam(model, model.get_submodule(layer.name)).attribute(pixel_values, target=1).detach()
    activations, gradient = layer_gradient(classifier, pixel_values, 1, layer)
    close = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
    assert torch.allclose(gradient * activations, expected, **close)
    ours = (gradient.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1, keepdim=True)
    assert torch.allclose(ours, grad_cam, rtol=1e-5, atol=1e-5 * float(grad_cam.abs().max()))
    hires = explain(classifier, scan, "hires_cam", 1, layer=which)
    assert hires.settings["cells"] == tuple(expected.shape[2:])
    rows, columns = (
        (offset + step * np.arange(count)).round().astype(int)
        for offset, step, count in zip(layer.offset, layer.stride, layer.cells, strict=True)
    )
    if name.startswith("test_") and name != "test_convnext":  # their cells are centred on whole pixels
        cells = expected.sum(dim=1)[0].numpy()
        assert hires.attribution[np.ix_(rows, columns)] == pytest.approx(cells, abs=1e-4 * float(np.abs(cells).max()))
    if which == "last" and linear_head(classifier):
        grad_cam = explain(classifier, scan, "grad_cam", 1).attribution
        assert hires.attribution == pytest.approx(grad_cam, abs=1e-5 * float(np.abs(grad_cam).max()))


# Layer activations


def test_strongest_channels_by_hand(corners):
    # Of the two channels of Places the first is the brightness, the second never above 0.
    classifier = make_classifier(Places(), (32, 32), PLAIN)
    found = strongest_channels(classifier, corners)
    assert found.channels == [0, 1]
    assert found.strengths == pytest.approx([(1 + 0.2) / 4, 0], abs=1e-5)
    assert found.maps.shape == (2, 32, 32)
    assert at_corners(found.maps[0]) == pytest.approx(np.array([[1, 0], [0, 0.2]]), abs=1e-5)
    assert not found.maps[1].any()
    mean = explain(classifier, corners, "layer_activation")
    assert mean.attribution == pytest.approx(found.maps.mean(axis=0))
    assert explain(classifier, corners, "layer_activation", count=1).settings["channels"] == [0]


def test_layer_activations_are_captums(resnet_scan):
    classifier, scan = resnet_scan
    layer = target_layer(classifier)
    with classifier.private_model() as model:
        expected = LayerActivation(model, model.get_submodule(layer.name)).attribute(
            classifier.prepare(scan).pixel_values
        )[0]
    found = strongest_channels(classifier, scan, 5)
    assert found.maps[:, ::32, ::32] == pytest.approx(expected[found.channels].detach().numpy(), abs=1e-5)
    means = expected.mean(dim=(1, 2))
    assert found.strengths == pytest.approx(means.sort(descending=True).values[:5].tolist(), abs=1e-5)
    assert np.array_equal(found.view, classifier.prepare(scan).view)


def test_channels_are_refused_where_there_are_no_cells():
    with pytest.raises(MethodNotApplicable, match="Use occlusion"):
        strongest_channels(make_timm("test_vit", (160, 160)), make_scan((160, 160)))


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
    check(target_layer(make_timm(name, size, **options)), layer, cells, stride, offset)


@pytest.mark.parametrize(
    ("name", "options", "size", "layer", "cells", "stride", "offset"),
    [
        ("resnet18", {}, (96, 160), "layer3", (6, 10), 16, 0),
        ("resnet18", CUT_RESNET, (96, 160), "layer2", (12, 20), 8, 0),
        # Its last two stages have cells of one size.
        ("resnet18", {"output_stride": 16}, (96, 160), "layer2", (12, 20), 8, 0),
        # Inside the first block of a stage a skip leads around every finer layer.
        ("resnet26", {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}, (96, 160), "layer3", (6, 10), 16, 0),
        # No skip leads around the expansion before the last reduction, and it ends in an activation.
        ("efficientnet_b0", {}, (96, 160), "blocks.5.0.bn1", (6, 10), 16, 0),
        ("tf_efficientnet_b0", {}, (96, 160), "blocks.5.0.bn1", (6, 10), 16, 15),
    ],
)
def test_fine_layer_is_measured(name, options, size, layer, cells, stride, offset):
    check(target_layer(make_timm(name, size, **options), "fine"), layer, cells, stride, offset)


def test_layers_of_vgg_lie_before_its_poolings():
    # Each pooling of two by two moves the middle by half of what a cell was wide.
    classifier = make_vgg((64, 96))
    check(target_layer(classifier), "features", (4, 6), 16, 0.5 + 1 + 2 + 4)
    check(target_layer(classifier, "fine"), "features.10", (8, 12), 8, 0.5 + 1 + 2)


def test_where_nothing_is_finer_the_last_layer_is_read(corners):
    classifier = make_classifier(Places(), (32, 32), PLAIN)
    assert target_layer(classifier, "fine") is None
    assert explain(classifier, corners, "layer_cam").settings["target_layer"] == "quarters"


def check(measured, layer, cells, stride, offset):
    assert (measured.name, measured.cells) == (layer, cells)
    assert measured.stride == pytest.approx((stride, stride), abs=0.02)
    assert measured.offset == pytest.approx((offset, offset), abs=0.02)


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
    check(target_layer(make_classifier(model, (32, 40))), layer, cells, stride, offset)


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
