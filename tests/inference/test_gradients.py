"""Gradient methods: computed by hand, equal to Captum's summed over the channels, guided methods only with ReLU."""

import warnings

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop, GuidedGradCam, IntegratedGradients, NoiseTunnel, Saliency
from PIL import Image
from torch import nn

from brain_xai import METHODS, explain
from brain_xai.methods.cam import resample_to_image
from brain_xai.methods.gradients import guided_unsupported
from brain_xai.methods.target_layer import target_layer
from tests.helpers.nets import IMAGENET, PLAIN, Corner, Places, make_classifier, make_scan, make_timm, make_vgg

STD = torch.tensor(IMAGENET["std"]).view(3, 1, 1)


class Squares(nn.Module):
    """The logits are the sum of the squares of all gray values, its negative, and the sum of the gray values."""

    def forward(self, pixel_values):
        squares = pixel_values[:, 0].square().sum(dim=(1, 2))
        return torch.stack([squares, -squares, pixel_values[:, 1].sum(dim=(1, 2))], dim=1)


class Halves(nn.Module):
    """ReLU of the gray value; the left half speaks for the cat, the right half against it, each pixel by 2.

    The feature map is as large as the image and has two channels: one for the left half and one for the right.
    """

    def __init__(self):
        super().__init__()
        self.num_features = 2
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(3, 2, kernel_size=1, bias=False)
        self.conv.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).view(2, 3, 1, 1)

    def forward_features(self, pixel_values):
        return self.relu(self.conv(pixel_values))

    def forward(self, pixel_values):
        features = self.forward_features(pixel_values)
        middle = features.shape[3] // 2
        left, right = features[:, 0, :, :middle].sum(dim=(1, 2)), features[:, 1, :, middle:].sum(dim=(1, 2))
        return torch.stack([2 * left - 2 * right, right, left], dim=1)


class Functional(Halves):
    """Halves with one more ReLU, which is no module."""

    def forward_features(self, pixel_values):
        return torch.relu(super().forward_features(pixel_values))


class Leaky(Halves):
    """Halves with a leaky ReLU, which is no module either."""

    def forward_features(self, pixel_values):
        return torch.nn.functional.leaky_relu(super().forward_features(pixel_values))


@pytest.fixture(scope="module")
def gray() -> tuple[Image.Image, np.ndarray]:
    """An image of 16 gray values in equal areas, and those values, 0 to 1."""
    values = np.arange(0, 256, 17, dtype=np.uint8).reshape(4, 4).repeat(8, axis=0).repeat(8, axis=1)
    return Image.fromarray(values), values / 255


@pytest.fixture(scope="module")
def resnet():
    return make_timm("test_resnet", (96, 96))


# Saliency, SmoothGrad, integrated gradients


def test_gradients_by_hand(gray):
    image, values = gray
    for normalization in (PLAIN, IMAGENET):
        classifier = make_classifier(Squares(), (32, 32), normalization)
        mean, std = normalization["mean"], normalization["std"]
        # The model squares the normalized value, which has a gradient of 1 / std with respect to the gray value.
        slope = 2 * (values - mean[0]) / std[0] ** 2
        for label in ("cat", "dog"):
            assert explain(classifier, image, "saliency", label).attribution == pytest.approx(abs(slope), abs=1e-4)
        assert explain(classifier, image, "saliency", "owl").attribution == pytest.approx(1 / std[1], abs=1e-4)
        # How much larger the square is than that of black.
        gain = ((values - mean[0]) ** 2 - mean[0] ** 2) / std[0] ** 2
        for label, sign in (("cat", 1), ("dog", -1)):
            attribution = explain(classifier, image, "integrated_gradients", label).attribution
            assert attribution == pytest.approx(sign * gain, abs=1e-4)
        # The mean of the 16 noise values of a pixel, doubled, is added to its slope.
        noise = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0)).mean(dim=0)[0].numpy()
        smooth = explain(classifier, image, "smooth_grad", "cat", samples=16, noise=0.5).attribution
        assert smooth == pytest.approx(abs(slope + 2 * 0.5 * noise / std[0] ** 2), abs=1e-3)


def test_only_the_pixel_that_decides_is_marked():
    classifier = make_classifier(Corner(), (32, 32), PLAIN)
    expected = np.zeros((32, 32))
    expected[-1, -1] = 1
    white = Image.new("L", (32, 32), 255)
    for method in ("saliency", "smooth_grad", "guided_backprop", "integrated_gradients"):
        assert explain(classifier, white, method, "cat").attribution == pytest.approx(expected, abs=1e-6), method
    assert explain(classifier, white, "integrated_gradients", "dog").attribution == pytest.approx(-expected, abs=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_gradients_equal_captums_summed_over_the_channels(name):
    side = 160 if name == "test_vit" else 96
    classifier = make_timm(name, (side, side))
    scan = make_scan((side, side))
    pixel_values = classifier.prepare(scan).pixel_values
    model = classifier.model

    def check(method: str, expected: torch.Tensor, **settings) -> None:
        ours = explain(classifier, scan, method, "dog", **settings).attribution
        assert ours == pytest.approx(expected.detach().numpy(), abs=1e-5 * float(expected.abs().max()), rel=1e-4)

    gradient = Saliency(model).attribute(pixel_values.clone().requires_grad_(), target=1, abs=False)
    check("saliency", (gradient[0] / STD).sum(dim=0).abs())
    check("smooth_grad", (gradient[0] / STD).sum(dim=0).abs(), noise=0.0)
    black = -torch.tensor(IMAGENET["mean"]).view(1, 3, 1, 1) / STD
    integrated = IntegratedGradients(model).attribute(
        pixel_values, baselines=black.expand_as(pixel_values), target=1, n_steps=12
    )
    check("integrated_gradients", integrated[0].sum(dim=0).float(), steps=12)


def test_smooth_grad_equals_captums_with_the_same_noise(resnet):
    scan = make_scan((96, 96))
    values = torch.from_numpy(np.array(scan, dtype=np.float32) / 255)[None, None]
    std = float(0.1 * (values.max() - values.min()))
    engine = NoiseTunnel(
        Saliency(lambda gray: resnet.model((gray - torch.tensor(IMAGENET["mean"]).view(3, 1, 1)) / STD))
    )
    torch.manual_seed(7)  # Captum draws from the global generator
    expected = engine.attribute(
        values.requires_grad_(), nt_samples=8, nt_samples_batch_size=8, stdevs=std, target=2, abs=False
    )[0, 0].abs()
    ours = explain(resnet, scan, "smooth_grad", "owl", samples=8, noise=0.1, seed=7).attribution
    assert ours == pytest.approx(expected.numpy(), abs=1e-4 * float(expected.max()))


def test_smooth_grad_is_reproducible_and_does_not_touch_the_global_generator(resnet):
    scan = make_scan((96, 96))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = explain(resnet, scan, "smooth_grad").attribution
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    tolerance = 1e-5 * float(first.max())  # sums in another order on a busy machine
    assert explain(resnet, scan, "smooth_grad").attribution == pytest.approx(first, abs=tolerance)
    assert not np.allclose(explain(resnet, scan, "smooth_grad", seed=1).attribution, first, rtol=0.1)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_integrated_gradients_sum_to_the_logit_minus_that_of_black(name):
    side = 160 if name == "test_vit" else 96
    classifier = make_timm(name, (side, side))
    scan, black = make_scan((side, side)), Image.new("L", (side, side))
    for target in range(3):
        logits = [classifier.logits(classifier.prepare(image).pixel_values)[0, target] for image in (scan, black)]
        sums = [
            float(explain(classifier, scan, "integrated_gradients", target, steps=steps).attribution.sum())
            for steps in (16, 64)
        ]
        errors = [abs(total - float(logits[0] - logits[1])) for total in sums]
        assert errors[0] < 0.15 * float((logits[0] - logits[1]).abs()) + 0.02
        assert errors[1] < 0.05 * float((logits[0] - logits[1]).abs()) + 0.01
    assert not explain(classifier, black, "integrated_gradients").attribution.any()


@pytest.mark.parametrize(("method", "setting"), [("smooth_grad", "samples"), ("integrated_gradients", "steps")])
def test_batches_are_of_eight_at_most_and_can_be_cancelled_between(method, setting, resnet):
    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        counted.append((done, total))
        if done > 12:
            raise Enough

    sizes, counted = [], []
    hook = resnet.model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    try:
        explain(resnet, make_scan((96, 96)), method, **{setting: 20})
        assert sizes == [8, 8, 4]  # the prediction runs the parts of the model one by one
        with pytest.raises(Enough):
            explain(resnet, make_scan((96, 96)), method, progress=stop, **{setting: 20})
    finally:
        hook.remove()
    assert sizes[3:] == [8, 8]
    assert counted == [(8, 20), (16, 20)]


# Guided by the ReLUs


def test_guided_methods_by_hand(gray):
    image, values = gray
    classifier = make_classifier(Halves(), (32, 32), PLAIN)
    left, right = np.zeros((2, 32, 32))
    left[:, :16], right[:, 16:] = 2, 2
    bright = values > 0
    saliency = explain(classifier, image, "saliency", "cat").attribution
    assert saliency == pytest.approx((left + right) * bright)
    # Negative gradients do not pass a ReLU: those of the right half, which speaks against.
    guided = explain(classifier, image, "guided_backprop", "cat").attribution
    assert guided == pytest.approx(left * bright)
    # The left channel's gradient is 2 in one half and 0 in the other, 1 on average, the right one's is -1 on average:
    # both have the same values, so Grad-CAM is zero. For the owl the left channel's mean gradient is 1 / 2.
    assert not explain(classifier, image, "guided_grad_cam", "cat").attribution.any()
    owl = explain(classifier, image, "guided_grad_cam", "owl").attribution
    assert owl == pytest.approx(values / 2 * (left / 2) * bright, abs=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "vgg"])
def test_guided_methods_equal_captums_summed_over_the_channels(name):
    classifier = make_vgg((64, 64)) if name == "vgg" else make_timm(name, (64, 64))
    scan = make_scan((64, 64))
    pixel_values = classifier.prepare(scan).pixel_values
    layer = target_layer(classifier)
    with classifier.private_model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guided = GuidedBackprop(model).attribute(pixel_values.clone().requires_grad_(), target=0).detach()
        product = GuidedGradCam(model, model.get_submodule(layer.name)).attribute(
            pixel_values.clone().requires_grad_(), target=0
        )
    expected = (guided[0] / STD).sum(dim=0).abs().numpy()
    ours = explain(classifier, scan, "guided_backprop", 0).attribution
    assert ours == pytest.approx(expected, abs=1e-5 * float(expected.max()))
    # Captum stretches each position over a block of pixels, we resample it to where it belongs: Captum's map divided by
    # its block's value and multiplied with ours is ours.
    blocks = (product.detach() / guided).nanmedian(dim=1).values[0]
    height, width = layer.grid_size
    grid = blocks.view(height, 64 // height, width, 64 // width).nanmedian(dim=1)
    grid = grid.values.nanmedian(dim=2).values[None, None]
    aligned = resample_to_image(grid, layer, (64, 64))[0, 0].numpy()
    both = explain(classifier, scan, "guided_grad_cam", 0).attribution
    assert both == pytest.approx(expected * aligned, abs=1e-4 * float((expected * aligned).max()))
    assert both.max() > 0


def test_explaining_leaves_the_warning_filters_of_the_process_alone(resnet):
    # They belong to all threads; Captum's warning about its hooks is filtered when the module is imported.
    before = list(warnings.filters)
    explain(resnet, make_scan((96, 96)), "guided_backprop")
    assert warnings.filters == before


def test_guided_grad_cam_equals_captums_if_the_feature_map_is_as_large_as_the_image(gray):
    classifier = make_classifier(Halves(), (32, 32), IMAGENET)
    pixel_values = classifier.prepare(gray[0]).pixel_values
    assert target_layer(classifier).stride == (1, 1)
    with classifier.private_model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        product = GuidedGradCam(model, model.relu).attribute(pixel_values.clone().requires_grad_(), target=2)
    expected = (product[0].detach() / STD).sum(dim=0).abs().numpy()
    assert explain(classifier, gray[0], "guided_grad_cam", "owl").attribution == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("classifier", "activation"),
    [
        (make_timm("test_efficientnet", (64, 64)), "Silu"),
        (make_timm("test_vit", (160, 160)), "Gelu"),
        (make_classifier(Leaky(), (32, 32)), "LeakyRelu"),
        (make_classifier(Functional(), (32, 32)), "a ReLU that is no module"),
        (make_timm("test_resnet", (64, 64)), None),
        (make_vgg((64, 64)), None),
        (make_classifier(Places(), (32, 32)), None),
    ],
)
def test_guided_methods_are_refused_for_activations_other_than_relu(classifier, activation):
    reason = guided_unsupported(classifier)
    assert (reason is None) == (activation is None)
    if reason:
        assert f"has {activation}," in reason
        assert "Use integrated_gradients or smooth_grad." in reason
        assert METHODS["guided_grad_cam"].reason_unsupported(classifier) == reason
