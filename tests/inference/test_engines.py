"""Captum is the reference: our shortcuts compute the same maps, and every map says which engine made it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam, LayerGradientXActivation, Occlusion

from brain_xai import METHODS, explain
from brain_xai.classifier import Classifier
from brain_xai.explanation import Cancelled, explain_all
from brain_xai.methods.cam import resample_to_image
from brain_xai.methods.target_layer import target_layer
from tests.helpers.nets import make_scan, make_timm, make_tiny, make_vgg

SIZES = {"test_vit": (160, 160)}
WINDOWS = {"occlusion": {"window": 0.25, "stride": 0.125}}
WITH_SHORTCUT = [key for key, method in METHODS.items() if "shortcut" in method.engines]


def make(name: str) -> Classifier:
    size = SIZES.get(name, (75, 96))  # odd: windows reach over the lower border
    return make_vgg((64, 96)) if name == "vgg" else make_timm(name, size)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "vgg", "test_convnext", "test_vit"])
def test_both_engines_give_the_same_map(name, record_property):
    # Both add the same float32 products in another order, which changes sums of some 1,000 terms by about 1e-6 of the
    # largest term. Occlusion subtracts two logits, so its rounding error is relative to the logits, not to the map.
    classifier = make(name)
    scan = make_scan(classifier.preprocessing.size)
    largest_logit = float(classifier.logits(classifier.prepare(scan).pixel_values).abs().max())
    compared = []
    for method in WITH_SHORTCUT:
        if METHODS[method].reason_unsupported(classifier):
            continue
        for target in range(3):
            ours, captums = (
                explain(classifier, scan, method, target, engine=engine, **WINDOWS.get(method, {}))
                for engine in ("auto", "captum")
            )
            assert captums.settings["engine"] == "captum"
            difference = float(np.abs(ours.attribution - captums.attribution).max())
            scale = max(largest_logit, 1.0) if method == "occlusion" else float(np.abs(captums.attribution).max())
            assert difference <= 1e-5 * scale, method
            assert np.ptp(captums.attribution) > 0
            record_property(f"{method} {name} {target}", f"{difference:.2g} of {scale:.2g}")
        compared.append(method)
    assert compared == (["occlusion"] if name == "test_vit" else WITH_SHORTCUT)


@pytest.mark.parametrize("name", ["test_resnet", "vgg"])
def test_the_captum_engine_is_captum(name):
    # Called here without any of our code but the resampling.
    classifier = make(name)
    size = classifier.preprocessing.size
    scan, pixel_values = make_scan(size), classifier.prepare(make_scan(size)).pixel_values
    window, stride = (tuple(round(part * side) for side in size) for part in (0.25, 0.125))
    with classifier.private_model() as model:
        last, finer = (target_layer(classifier, which) for which in ("last", "penultimate"))
        expected = {
            "grad_cam": (last, LayerGradCam(model, model.get_submodule(last.name)).attribute(pixel_values, target=1)),
            "hires_cam": (
                finer,
                LayerGradientXActivation(model, model.get_submodule(finer.name)).attribute(pixel_values, target=1),
            ),
            "layer_activation": (last, LayerActivation(model, model.get_submodule(last.name)).attribute(pixel_values)),
        }
        drops = Occlusion(model).attribute(
            pixel_values, (3, *window), (3, *stride), baselines=classifier.black, target=1, perturbations_per_eval=8
        )
    for method, (layer, grid) in expected.items():
        explanation = explain(classifier, scan, method, 1, engine="captum")
        if method == "layer_activation":
            grid = grid.relu()[:, explanation.settings["channels"]].mean(dim=1, keepdim=True)
        else:
            grid = grid.sum(dim=1, keepdim=True)
        attribution = resample_to_image(grid.detach(), layer, size)[0, 0].numpy()
        assert explanation.attribution == pytest.approx(attribution, abs=1e-5 * float(np.abs(attribution).max())), (
            method
        )
    explanation = explain(classifier, scan, "occlusion", 1, engine="captum", **WINDOWS["occlusion"])
    assert explanation.attribution == pytest.approx(drops[0, 0].detach().numpy(), abs=1e-5)


def test_every_map_says_which_engine_made_it():
    scan = make_scan((96, 96))
    linear = make_timm("test_resnet", (96, 96))
    expected = dict.fromkeys(METHODS, "captum")
    expected |= {
        "grad_cam": "shortcut",
        "layer_activation": "shortcut",
        "occlusion": "shortcut",
        "consensus": "combined",
        "attention_relevance": "own",
    }
    for method in METHODS:
        settings = {"window": 0.5, "stride": 0.5} if method == "occlusion" else {}
        assert explain(make_tiny(method, 96), scan, method, **settings).settings["engine"] == expected[method]
        assert expected[method] in METHODS[method].engines
    other = make_vgg((96, 96))  # its head is more than one linear layer
    assert explain(other, scan, "grad_cam").settings["engine"] == "shortcut"
    assert {map_.settings["engine"] for map_ in explain_all(linear, scan).values()} == {"shortcut"}
    assert {map_.settings["engine"] for map_ in explain_all(linear, scan, engine="captum").values()} == {"captum"}


def test_an_engine_that_cannot_be_used_is_refused():
    classifier, scan = make_timm("test_resnet", (64, 64)), make_scan((64, 64))
    with pytest.raises(ValueError, match=r"consensus has no counterpart in Captum.*: grad_cam, .*, layer_activation\."):
        explain(classifier, scan, "consensus", engine="captum")
    with pytest.raises(ValueError, match=r"'cuda' is not an engine\. Use one of: auto, captum\."):
        explain(classifier, scan, engine="cuda")
    for setting in ({"reach": 3}, {"seconds": 1.0}):
        with pytest.raises(ValueError, match="need engine='auto'"):
            explain(classifier, scan, "occlusion", engine="captum", **setting)


def test_captums_occlusion_reports_progress_and_can_be_cancelled():
    classifier, scan = make_timm("test_resnet", (64, 64)), make_scan((64, 64))
    calls = []

    def stop_after_two_batches(done: int, total: int) -> None:
        calls.append((done, total))
        if done > 16:
            raise Cancelled

    quarters = {"window": 0.25, "stride": 0.25}
    explain(classifier, scan, "occlusion", engine="captum", progress=lambda *call: calls.append(call), **quarters)
    assert calls == [(1, 17), (9, 17), (17, 17)], "the full image, then 16 windows in batches of 8"
    calls.clear()
    with pytest.raises(Cancelled):
        explain(classifier, scan, "occlusion", engine="captum", progress=stop_after_two_batches)
    assert [done for done, _ in calls] == [1, 9, 17]
    with classifier.private_model() as private:
        assert not any(module._forward_hooks for module in private.modules())


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam", "layer_activation", "guided_backprop"])
def test_two_threads_with_captum_get_their_own_maps_while_a_third_predicts(method):
    # Captum's hooks belong to the modules: on a shared model these threads would get each other's maps, or crash.
    classifier = make_timm("test_resnet", (64, 64))
    scans = [make_scan((64, 64), seed) for seed in (0, 1)]
    engine = "captum" if "captum" in METHODS[method].engines else "auto"
    alone = [explain(classifier, scan, method, 1, engine=engine).attribution for scan in scans]
    answers = [classifier.predict(scan).probabilities for scan in scans]
    assert np.abs(alone[0] - alone[1]).max() > 0.01 * np.abs(alone[0]).max()

    def work(task: int) -> None:
        scan = scans[task % 2]
        if task % 3 == 2:
            assert classifier.predict(scan).probabilities == pytest.approx(answers[task % 2], abs=1e-6)
        else:
            attribution = explain(classifier, scan, method, 1, engine=engine).attribution
            assert attribution == pytest.approx(alone[task % 2], abs=1e-5 * float(np.abs(alone[task % 2]).max()))

    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(work, range(24)))) == 24
    assert not torch.is_inference_mode_enabled()
