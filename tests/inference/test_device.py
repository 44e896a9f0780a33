"""Everything works on the device that the model is on, in float32 and bfloat16, and results come back to the CPU."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from brain_xai import METHODS, explain
from brain_xai.classifier import Classifier
from brain_xai.explanation import explain_all, strongest_channels
from brain_xai.methods.cam import linear_head, resample_to_image
from brain_xai.methods.occlusion import OcclusionSettings, occlusion_of_all_classes
from brain_xai.methods.partial_forward import partial_forward
from brain_xai.methods.request import no_progress
from brain_xai.methods.target_layer import target_layer
from tests.helpers.nets import make_scan, make_timm, make_vgg
from tests.helpers.other_device import DEVICE, Remote, other_device
from training.learning.losses import BoxLoss

SIZE = (64, 64)
COARSE = {"occlusion": {"window": 0.5, "stride": 0.25}}


@pytest.fixture(scope="module", params=["test_resnet", "test_efficientnet", "vgg"])
def here(request) -> Classifier:
    return make_vgg(SIZE) if request.param == "vgg" else make_timm(request.param, SIZE)


@pytest.fixture(scope="module")
def moved(here) -> Classifier:
    """The same classifier with its model on the other device."""
    with other_device() as device:
        return replace(here, model=copy.deepcopy(here.model).to(device))


@pytest.fixture
def there(moved) -> Iterator[Classifier]:
    with other_device():
        yield moved


def assert_same(result: np.ndarray, expected: np.ndarray) -> None:
    # Both are computed by the CPU, in an order that its threads may change.
    assert result == pytest.approx(expected, rel=1e-4, abs=1e-5 * float(np.abs(expected).max()))


def test_the_other_device_refuses_what_a_gpu_refuses():
    with other_device() as device:
        values = torch.arange(3.0, device=device)
        assert isinstance(values, Remote)
        assert values.device == device
        assert (values * 2 + torch.tensor(1.0)).cpu().tolist() == [1, 3, 5]
        for forbidden in (
            lambda: values + torch.ones(3),
            lambda: values.numpy(),
            lambda: torch.nn.Linear(3, 1)(values),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                forbidden()


def test_logits_and_predictions_come_back_to_the_cpu(here, there):
    scan = make_scan(SIZE)
    assert (here.device, there.device) == (torch.device("cpu"), DEVICE)
    logits = there.logits(there.prepare(scan).pixel_values)
    assert logits.device.type == "cpu"
    assert_same(logits.numpy(), here.logits(here.prepare(scan).pixel_values).numpy())
    assert there.predict(scan).probabilities == pytest.approx(here.predict(scan).probabilities, abs=1e-5)


@pytest.mark.parametrize("which", ["last", "penultimate"])
def test_the_target_layer_is_measured_on_the_device(which, here, there):
    assert target_layer(there, which) == target_layer(here, which)


def test_model_facts_are_found_on_the_device(here, there):
    assert (linear_head(there) is None) == (linear_head(here) is None)
    assert (partial_forward(there) is None) == (partial_forward(here) is None)
    assert linear_head(there) in (None, there.model.get_classifier())


def test_a_feature_map_is_resampled_where_it_is(here):
    layer = target_layer(here)
    feature_map = torch.randn(2, 3, *layer.grid_size)
    expected = resample_to_image(feature_map, layer, SIZE)
    with other_device() as device:
        resampled = resample_to_image(feature_map.to(device), layer, SIZE)
        assert resampled.device == device
        assert_same(resampled.cpu().numpy(), expected.numpy())


@pytest.mark.parametrize("engine", ["auto", "captum"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_on_the_device(method, engine, here, there):
    supported = METHODS[method].reason_unsupported(here) is None
    assert (METHODS[method].reason_unsupported(there) is None) == supported
    if not supported or (engine == "captum" and engine not in METHODS[method].engines):
        pytest.skip("refused on every device")
    expected = explain(here, make_scan(SIZE), method, "dog", engine=engine, **COARSE.get(method, {}))
    explanation = explain(there, make_scan(SIZE), method, "dog", engine=engine, **COARSE.get(method, {}))
    assert type(explanation.attribution) is np.ndarray
    assert explanation.settings == expected.settings
    assert_same(explanation.attribution, expected.attribution)


def test_all_classes_and_channels_work_on_the_device(here, there):
    scan = make_scan(SIZE)
    for label, explanation in explain_all(there, scan).items():
        assert_same(explanation.attribution, explain(here, scan, target=label).attribution)
    assert_same(strongest_channels(there, scan, 4).maps, strongest_channels(here, scan, 4).maps)


def test_bounded_occlusion_works_on_the_device(here, there):
    settings = OcclusionSettings(window=0.25, stride=0.25, reach=2)
    maps = [
        occlusion_of_all_classes(classifier, here.prepare(make_scan(SIZE)).pixel_values, no_progress, settings)[0]
        for classifier in (here, there)
    ]
    assert_same(maps[1], maps[0])


def test_the_box_loss_works_on_the_device():
    classifier = make_timm("test_resnet", SIZE)
    labels, masks = torch.tensor([0, 2]), torch.zeros(2, 1, *SIZE)
    masks[:, :, 16:40, 20:50] = 1
    pixel_values = torch.cat([classifier.prepare(make_scan(SIZE, seed)).pixel_values for seed in (0, 1)])

    def loss_on(device: torch.device) -> float:
        model = copy.deepcopy(classifier.model).to(device)
        box_loss = BoxLoss(model, classifier.preprocessing)
        model(pixel_values.to(device))
        return float(box_loss(labels.to(device), masks.to(device)))

    expected = loss_on(torch.device("cpu"))
    assert expected > 0
    with other_device() as device:
        assert loss_on(device) == pytest.approx(expected, rel=1e-4)


def test_a_model_on_another_device_gets_facts_and_a_private_copy_of_its_own(here):
    model = copy.deepcopy(here.model)
    classifier = replace(here, model=model)
    with classifier.private_model() as private:
        assert next(private.parameters()).device.type == "cpu"
    with other_device() as device:
        model.to(device)
        with classifier.private_model() as private:
            assert next(private.parameters()).device == device


# bfloat16 keeps 8 bits of a number: maps differ by about one per cent per layer, which gradients of gradients amplify.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_every_method_works_in_bfloat16(name, method):
    full = make_timm(name, SIZE)
    if METHODS[method].reason_unsupported(full):
        pytest.skip("refused in every precision")
    scan = make_scan(SIZE)
    expected = explain(full, scan, method, "dog", **COARSE.get(method, {})).attribution
    half = replace(full, model=copy.deepcopy(full.model).bfloat16())
    maps = [explain(half, scan, method, "dog", **COARSE.get(method, {})).attribution]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps.append(explain(replace(full, model=full.model), scan, method, "dog", **COARSE.get(method, {})).attribution)
    for attribution in maps:
        assert attribution.dtype == np.float32
        assert np.corrcoef(attribution.ravel(), expected.ravel())[0, 1] > 0.9


def test_facts_measured_under_autocast_are_those_of_full_precision():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        classifier = make_timm("test_efficientnet", SIZE)
        layer = target_layer(classifier)
        assert linear_head(classifier) is not None
        assert partial_forward(classifier) is not None
    assert layer == target_layer(make_timm("test_efficientnet", SIZE))
