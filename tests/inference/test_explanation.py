"""Explanations: the table of methods, what `explain` promises for all of them, and that it leaves nothing behind."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from PIL import Image
from torch import nn

from brain_xai import METHODS, MethodNotApplicable, explain, load_checkpoint
from brain_xai.checkpoint.folder import save_checkpoint
from brain_xai.classifier import Classifier, PredictionWarning
from brain_xai.explanation import Cancelled, explain_all
from brain_xai.methods.cam import linear_head
from brain_xai.methods.partial_forward import partial_forward
from brain_xai.methods.request import Request
from brain_xai.methods.target_layer import target_layer
from brain_xai.preprocess import Preprocessing
from tests.helpers.nets import (
    IMAGENET,
    LABELS,
    PLAIN,
    Corner,
    Drifting,
    Total,
    make_classifier,
    make_scan,
    make_timm,
    make_tiny,
    make_vgg,
)

KEYS = [
    "grad_cam",
    "hires_cam",
    "layer_cam",
    "attention_relevance",
    "guided_backprop",
    "guided_grad_cam",
    "saliency",
    "smooth_grad",
    "integrated_gradients",
    "occlusion",
    "layer_activation",
    "consensus",
]
GUIDED = ["guided_backprop", "guided_grad_cam"]
# Settings that are fast.
COARSE = {key: {} for key in KEYS} | {"occlusion": {"window": 0.5, "stride": 0.25}}


@pytest.fixture(scope="module")
def resnet() -> Classifier:
    return make_timm("test_resnet", (96, 96))


@pytest.fixture(scope="module")
def vit() -> Classifier:
    return make_tiny("attention_relevance", 96)


@pytest.fixture
def tiny(method, resnet, vit) -> Classifier:
    return vit if method == "attention_relevance" else resnet


def usable(classifier: Classifier) -> list[str]:
    return [key for key, method in METHODS.items() if method.reason_unsupported(classifier) is None]


def assert_same(attribution: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to the order in which threads add float32 numbers; gradients and consensus divide what they add."""
    assert attribution == pytest.approx(expected, rel=1e-3, abs=1e-4 * float(np.abs(expected).max()))


# The table


def test_table_is_complete():
    assert list(METHODS) == KEYS
    for key, method in METHODS.items():
        assert method.key == key
        assert method.paper.startswith(("https://arxiv.org/abs/", "https://doi.org/"))
        assert method.default_scale > 0
        assert isinstance(method.forward_passes, int)
        assert method.forward_passes > 0
        assert method.unit
        assert method.engines
        assert method.summary.endswith(".")
        assert method.summary.count(". ") == 0, "one sentence"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_the_view(method, tiny):
    scan = make_scan((120, 80))
    explanation = explain(tiny, scan, method)
    assert (explanation.method, explanation.scale) == (method, METHODS[method].default_scale)
    assert explanation.label == explanation.prediction.label == LABELS[explanation.target]
    assert explanation.prediction.probabilities == pytest.approx(tiny.predict(scan).probabilities, abs=1e-6)
    assert explanation.prediction.checkpoint == tiny.info
    assert np.array_equal(explanation.view, tiny.prepare(scan).view)
    assert (explanation.attribution.dtype, explanation.attribution.shape) == (np.float32, (96, 96))
    assert np.isfinite(explanation.attribution).all()
    assert explanation.attribution.std() > 0
    assert (explanation.attribution.min() < 0) <= METHODS[method].signed
    assert json.loads(json.dumps(explanation.settings)).keys() == explanation.settings.keys()


@pytest.mark.parametrize("method", METHODS)
def test_target_is_a_label_an_index_or_the_prediction(method, tiny):
    scan = make_scan((96, 96))
    by_label = [explain(tiny, scan, method, label, **COARSE[method]) for label in LABELS]
    by_index = [explain(tiny, scan, method, index, **COARSE[method]) for index in range(len(LABELS))]
    predicted = explain(tiny, scan, method, **COARSE[method])
    for one, other in zip([*by_label, predicted], [*by_index, by_label[predicted.target]], strict=True):
        assert (one.label, one.target) == (other.label, other.target)
        assert_same(one.attribution, other.attribution)
    assert [explanation.label for explanation in by_label] == list(LABELS)
    depends_on_class = method != "layer_activation"
    assert np.allclose(by_label[0].attribution, by_label[1].attribution, rtol=1e-3) != depends_on_class


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
def test_maps_of_all_classes_are_those_of_each(method, resnet):
    scan = make_scan((96, 96))
    explanations = explain_all(resnet, scan, method)
    assert list(explanations) == list(LABELS)
    for label, explanation in explanations.items():
        alone = explain(resnet, scan, method, label)
        assert (explanation.label, explanation.target) == (label, alone.target)
        assert (explanation.prediction.label, explanation.settings) == (alone.prediction.label, alone.settings)
        assert_same(explanation.attribution, alone.attribution)


class Counting(Total):
    """Counts the images that it sees; its forward cannot be traced, so every pass goes through it."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, pixel_values):
        self.seen += len(pixel_values) if pixel_values.isfinite().all() else 0
        return super().forward(pixel_values)


def test_occlusion_covers_the_image_once_for_all_classes():
    classifier, scan = make_classifier(Counting(), (32, 32), PLAIN), make_scan((32, 32))
    alone = {label: explain(classifier, scan, "occlusion", label, window=0.25, stride=0.25) for label in LABELS}
    seen = classifier.model.seen
    together = explain_all(classifier, scan, "occlusion", window=0.25, stride=0.25)
    assert (classifier.model.seen - seen) * len(LABELS) == seen
    for label, explanation in together.items():
        assert (explanation.label, explanation.settings) == (label, alone[label].settings)
        assert explanation.prediction == alone[label].prediction
        assert_same(explanation.attribution, alone[label].attribution)
    with pytest.raises(ValueError, match="stride <= window"):
        explain_all(classifier, scan, "occlusion", window=0.1, stride=0.2)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "vgg"])
def test_every_method_works_or_says_why_not(name):
    classifier = (
        make_vgg((64, 64)) if name == "vgg" else make_timm(name, (160, 160) if name == "test_vit" else (64, 64))
    )
    scan = make_scan((64, 64))
    refused = {key for key, method in METHODS.items() if method.reason_unsupported(classifier)}
    relu_only = name in ("test_resnet", "vgg")
    cams = {"grad_cam", "hires_cam", "layer_cam", "layer_activation"}
    expected = (set() if relu_only else set(GUIDED)) | (cams if name == "test_vit" else {"attention_relevance"})
    assert refused == expected
    for key in METHODS:
        if key in refused:
            with pytest.raises(MethodNotApplicable, match=rf"{classifier.info.architecture}.* Use \w+") as refusal:
                explain(classifier, scan, key)
            assert isinstance(refusal.value, ValueError)
            assert METHODS[key].reason_unsupported(classifier) == str(refusal.value)
        else:
            attribution = explain(classifier, scan, key, **COARSE[key]).attribution
            assert np.isfinite(attribution).all()
            assert np.ptp(attribution) > 0


def test_a_measured_scale_replaces_the_default():
    classifier = make_classifier(Total(), (32, 32), PLAIN, attribution_scale={"occlusion": 7.5})
    assert explain(classifier, make_scan((32, 32)), "occlusion").scale == 7.5


@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_draws_itself(method, tiny, tmp_path):
    explanation = explain(tiny, make_scan((96, 96)), method, **COARSE[method])
    assert (explanation.unit, explanation.signed) == (METHODS[method].unit, METHODS[method].signed)
    drawn = explanation.image()
    assert (drawn.mode, drawn.width) == ("RGB", 480)
    assert not np.array_equal(drawn, explanation.image(opacity=0.2))
    explanation.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as saved:
        assert np.array_equal(saved, drawn)


def test_an_outline_is_drawn_on_request():
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16, :16] = 255
    classifier = make_classifier(Total(), (32, 32), PLAIN, attribution_scale={"occlusion": 64.0})
    explanation = explain(classifier, Image.fromarray(pixels), "occlusion", "cat", window=0.25, stride=0.25)
    assert not np.array_equal(explanation.image(), explanation.image(outline=True))


def test_an_array_is_explained_as_the_image_it_holds(resnet):
    scan = make_scan((120, 80))
    expected = explain(resnet, scan).attribution
    assert explain(resnet, np.asarray(scan)).attribution == pytest.approx(expected, abs=1e-5)


def test_progress_and_engine_are_keywords(resnet):
    with pytest.raises(TypeError, match="positional"):
        explain(resnet, make_scan((96, 96)), "grad_cam", "cat", lambda *_: None)


# What is computed once per model


def test_a_replaced_classifier_of_the_same_model_shares_what_was_computed():
    classifier = make_timm("test_resnet", (64, 64))
    warned = replace(classifier, warnings=(PredictionWarning("hub_unreachable", "The Hub is unreachable."),))
    passes = []
    classifier.model.register_forward_hook(lambda *_: passes.append(1))
    layer, network, head = target_layer(classifier), partial_forward(classifier), linear_head(classifier)
    with classifier.private_model() as private:
        passes.clear()
        assert target_layer(warned) is target_layer(warned, "last") is layer
        assert (partial_forward(warned), linear_head(warned)) == (network, head)
        with warned.private_model() as private_of_warned:
            assert private_of_warned is private
    assert not passes, "nothing is computed again"
    assert [warning.code for warning in warned.predict(make_scan((64, 64))).warnings] == ["hub_unreachable"]
    assert classifier.predict(make_scan((64, 64))).warnings == ()


def test_a_replaced_model_shares_nothing():
    classifier = make_timm("test_resnet", (64, 64))
    other = replace(classifier, model=make_timm("test_resnet", (64, 64), seed=1).model)
    with classifier.private_model() as one, other.private_model() as two:
        assert one is not two
    assert linear_head(other) is other.model.get_classifier()
    assert linear_head(classifier) is classifier.model.get_classifier()


def test_a_dropped_model_is_freed():
    classifier = make_timm("test_resnet", (64, 64))
    for method in usable(classifier):
        explain(classifier, make_scan((64, 64)), method, **COARSE[method])
    with classifier.private_model() as private:
        pass
    traced = partial_forward(classifier).model
    references = [weakref.ref(module) for module in (classifier.model, private, traced)]
    del classifier, private, traced
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_wrong_names_are_refused_with_the_right_ones(resnet):
    with pytest.raises(
        ValueError, match=r"'gradcam' is not a method. Use one of: grad_cam, hires_cam, .*, consensus\."
    ):
        explain(resnet, make_scan((96, 96)), "gradcam")
    with pytest.raises(ValueError, match="cat, dog, owl"):
        explain(resnet, make_scan((96, 96)), target="wolf")
    for method, known in (
        ("grad_cam", "none"),
        ("layer_cam", "layer"),
        ("smooth_grad", "samples, noise, seed"),
        ("occlusion", "window, stride, reach, seconds"),
    ):
        message = rf"^{method} has no setting 'color'\. Its settings are: {known}\.$"
        for explain_any in (explain, explain_all):
            with pytest.raises(ValueError, match=message):
                explain_any(resnet, make_scan((96, 96)), method, color=0.5)
    for method in ("hires_cam", "layer_cam"):
        with pytest.raises(ValueError, match=r"'first' is not a layer. Use one of: last, penultimate\."):
            explain(resnet, make_scan((96, 96)), method, layer="first")
    for method, settings in (
        ("smooth_grad", {"samples": 0}),
        ("smooth_grad", {"noise": -1}),
        ("integrated_gradients", {"steps": 0}),
        ("layer_activation", {"count": 0}),
    ):
        with pytest.raises(ValueError, match="got"):
            explain(resnet, make_scan((96, 96)), method, **settings)


# Occlusion


def test_occlusion_by_hand():
    # 0.25 of 32 is a window of 8, side by side: each hides 64 white pixels, a logit of 64 in every channel.
    pixels = np.full((32, 32), 255, np.uint8)
    pixels[:8, 8:16] = 0
    classifier = make_classifier(Total(), (32, 32), PLAIN)
    explanation = explain(classifier, Image.fromarray(pixels), "occlusion", "dog", window=0.25, stride=0.25)
    expected = np.full((32, 32), 64.0)
    expected[:8, 8:16] = 0
    assert np.array_equal(explanation.attribution, expected), "exactly zero where black hides black"
    assert explanation.settings.items() >= {"window": (8, 8), "stride": (8, 8), "baseline": "black"}.items()


def test_occlusion_averages_the_windows_that_hide_a_pixel():
    # Windows of 16 at 0, 8, 16: columns 0-7 lie only in the first, 8-15 in the first two, and so on. Column 0 is
    # white: hiding 16 of its rows takes 16.
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:, 0] = 255
    classifier = make_classifier(Total(), (32, 32), PLAIN)
    attribution = explain(classifier, Image.fromarray(pixels), "occlusion", 0, window=0.5, stride=0.25).attribution
    assert np.array_equal(attribution, np.repeat([[16.0, 8.0, 0.0, 0.0]], 8, axis=1).repeat(32, axis=0))


@pytest.mark.parametrize(("side", "cut_to"), [(32, 8), (34, 2), (39, 7)])
def test_occlusion_reaches_the_right_and_lower_border(side, cut_to):
    # Windows of 8, side by side: the last one is cut off at the border, and only it hides the corner.
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


def test_hiding_black_pixels_changes_exactly_nothing():
    pixels = np.array(make_scan((96, 96)))
    classifier = make_classifier(Drifting(), (96, 96))
    attribution = explain(classifier, Image.fromarray(pixels), "occlusion", window=0.125, stride=0.125).attribution
    assert not pixels[:24].any()
    assert not attribution[:24].any()
    assert attribution[24:].all()


@pytest.mark.parametrize("sizes", [(0.2, 0.3), (1.5, 0.5), (0.2, 0.0), (0.2, -0.1), (float("nan"), 0.1)])
def test_occlusion_refuses_windows_that_leave_gaps(sizes, resnet):
    with pytest.raises(ValueError, match="stride <= window"):
        explain(resnet, make_scan((96, 96)), "occlusion", window=sizes[0], stride=sizes[1])


# Progress, and that nothing is left behind


@pytest.mark.parametrize("method", METHODS)
def test_progress_counts_up_to_the_total(method, tiny):
    calls = []
    explain(tiny, make_scan((96, 96)), method, progress=lambda *call: calls.append(call))
    done, totals = zip(*(call[:2] for call in calls), strict=True)
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}
    expected = {"smooth_grad": (8,), "integrated_gradients": (8, 16), "guided_grad_cam": (1, 2)}
    assert done == expected.get(method, done)


class Failing(nn.Module):
    """A head that runs out of memory."""

    def forward(self, features):
        raise RuntimeError("out of memory")


def state_of(classifier: Classifier) -> list:
    """Everything that an explanation could leave behind in the models: hooks, gradients, modes, weights."""
    with classifier.private_model() as private:
        models = (classifier.model, private)
    hooks = [
        (
            *(len(found) for found in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)),
            module.training,
            getattr(module, "fused_attn", None),
        )
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
@pytest.mark.parametrize("after", [1, 9])
def test_raising_in_progress_stops_at_once_and_leaves_everything_as_it_was(method, after):
    classifier = make_tiny(method, 64)
    scan = make_scan((64, 64))
    assert METHODS[method].reason_unsupported(classifier) is None
    before = state_of(classifier)
    calls = []

    def cancel(done: int, total: int, attribution: np.ndarray | None = None) -> None:
        calls.append(done)
        if done >= after or done == total:
            raise Cancelled

    with pytest.raises(Cancelled):
        explain(classifier, scan, method, progress=cancel)
    assert all(done < after for done in calls[:-1])
    assert state_of(classifier) == before
    # The lock is free, and the next caller gets a complete map.
    assert np.isfinite(explain(classifier, scan, method).attribution).all()
    assert state_of(classifier) == before


@pytest.mark.parametrize("method", METHODS)
def test_a_failing_forward_pass_leaves_no_hook(method):
    classifier = make_tiny(method, 96)
    scan = make_scan((96, 96))
    METHODS[method].reason_unsupported(classifier)
    before = state_of(classifier)
    name = classifier.model.pretrained_cfg["classifier"]
    with classifier.private_model() as private:
        models = classifier.model, private
    heads = [model.get_submodule(name) for model in models]
    for model in models:  # the head is the last layer, so every hook has been set when it fails
        model.set_submodule(name, Failing())
    with pytest.raises(RuntimeError, match="out of memory"):
        explain(classifier, scan, method)
    for model, head in zip(models, heads, strict=True):
        model.set_submodule(name, head)
    assert state_of(classifier) == before
    assert np.isfinite(explain(classifier, scan, method).attribution).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_tensor_stays_untouched(method, tiny):
    pixel_values = tiny.prepare(make_scan((96, 96))).pixel_values
    before = pixel_values.clone()
    METHODS[method].attribute(Request(tiny, pixel_values, target=1), **COARSE[method])
    assert torch.equal(pixel_values, before)
    assert not pixel_values.requires_grad
    assert pixel_values.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_a_callers_grad_mode_changes_nothing(method):
    scan = make_scan((64, 64))
    expected = explain(make_tiny(method, 64), scan, method, **COARSE[method]).attribution
    for mode in (torch.no_grad, torch.inference_mode):
        classifier = make_tiny(method, 64)
        with mode():
            assert METHODS[method].reason_unsupported(classifier) is None
            assert_same(explain(classifier, scan, method, **COARSE[method]).attribution, expected)


# From a checkpoint folder and a real scan


def test_a_saved_checkpoint_explains_a_real_scan(data_root: Path, tmp_path: Path):
    preprocessing = Preprocessing((96, 96), **IMAGENET)
    save_checkpoint(
        tmp_path,
        make_timm("test_resnet", (96, 96)).model,
        label_names=LABELS,
        preprocessing=preprocessing,
        brain_xai={"attribution_scale": {"grad_cam": 0.25}},
    )
    classifier = load_checkpoint(tmp_path)
    scan = sorted((data_root / "brain-tumor-mri" / "Testing" / "glioma").iterdir())[0]
    for method in usable(classifier):
        explanation = explain(classifier, scan, method)
        assert explanation.attribution.shape == explanation.view.size[::-1] == (96, 96)
        assert np.ptp(explanation.attribution) > 0
    assert explain(classifier, scan).scale == 0.25
