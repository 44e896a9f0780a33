"""Attention relevance: computed by hand, different for each class, refused where more than attention mixes places."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from brain_xai import METHODS, MethodNotApplicable, explain
from brain_xai.methods.attention import attention_unsupported
from tests.helpers.nets import PLAIN, EvenAttention, TwoAttentions, make_classifier, make_scan, make_timm

SIDE = 64


def make_vit(name: str = "test_vit", **options):
    return make_timm(name, (SIDE, SIDE), img_size=SIDE, **options)


def test_two_layers_by_hand():
    """Quarters of brightness 1, .6, .2 and 0, a class token of 0: five tokens, every attention 1/5.

    Layer 1 adds the mean m = 1.8 / 5 to every token, layer 2 the mean of those, 2 m; the logit is 2 * 3 m.
    """
    brightness = np.array([1.0, 0.6, 0.2, 0.0])
    pixels = np.kron(brightness.reshape(2, 2) * 255, np.ones((16, 16))).astype(np.uint8)
    classifier = make_classifier(TwoAttentions(), (32, 32), PLAIN)
    m = brightness.sum() / 5
    assert classifier.logits(classifier.prepare(Image.fromarray(pixels)).pixel_values)[0, 0] == pytest.approx(6 * m)
    # The gradient of the logit by what token i reads from token j: 2 (x_j + m) in layer 2, where only the class token
    # counts; in layer 1 2 (6/5) x_j for the class token and 2 (1/5) x_j for the others. Times the attention, 1/5.
    last = 2 / 5 * (brightness + m)
    of_class, of_others = 2 / 5 * 6 / 5 * brightness, 2 / 5 * 1 / 5 * brightness
    # The class token reads patch j in layer 1, in layer 2, or in layer 2 what token k had read from it in layer 1.
    expected = of_class + last + 2 / 5 * m * of_class + last.sum() * of_others
    explanation = explain(classifier, Image.fromarray(pixels), "attention_relevance", "cat")
    # Beyond the centers of the outer patches a map is constant.
    assert explanation.attribution[::31, ::31].ravel() == pytest.approx(expected, abs=1e-5)
    assert explanation.settings["layers"] == 2
    assert not explain(classifier, Image.fromarray(pixels), "attention_relevance", "dog").attribution.any()


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit4", "test_vit_relpos"])
def test_only_patches_that_reach_the_answer_are_relevant(name):
    """With the first layer's attention alone as a way to the answer, relevance is attention × gradient, by hand."""
    classifier = make_vit(name)
    model = classifier.model
    blocks = model.blocks
    for block in blocks[1:]:  # what they would add is multiplied by 0
        block.attn.proj.weight.data.zero_()
        if block.attn.proj.bias is not None:
            block.attn.proj.bias.data.zero_()
    recorded = []
    blocks[0].attn.fused_attn = False
    hook = blocks[0].attn.attn_drop.register_forward_hook(
        lambda module, inputs, output: recorded.append(output.detach().requires_grad_()) or recorded[0]
    )
    scan = make_scan((SIDE, SIDE))
    logit = model(classifier.prepare(scan).pixel_values)[0, 1]
    hook.remove()
    gradient = torch.autograd.grad(logit, recorded[0])[0]
    raised = (gradient * recorded[0]).clamp(min=0)[0].mean(dim=0).detach()
    prefix = model.num_prefix_tokens
    read = raised[0] if model.global_pool == "token" else raised[prefix:].mean(dim=0)
    explanation = explain(classifier, scan, "attention_relevance", 1)
    assert explanation.settings["cells"] == (4, 4)
    # Patches side by side are centered where stretching puts them, other than the positions of most convolutions.
    expected = torch.nn.functional.interpolate(read[prefix:].view(1, 1, 4, 4), (SIDE, SIDE), mode="bilinear")[0, 0]
    assert explanation.attribution == pytest.approx(expected.numpy(), abs=1e-4 * float(expected.max()))


def test_it_depends_on_the_class():
    classifier, scan = make_vit(), make_scan((SIDE, SIDE))
    maps = [explain(classifier, scan, "attention_relevance", label).attribution for label in ("cat", "dog", "owl")]
    assert all(one.min() >= 0 and one.max() > 0 for one in maps)
    correlations = np.corrcoef([one.ravel() for one in maps])
    assert correlations[~np.eye(3, dtype=bool)].max() < 0.99


def test_threads_get_their_own_maps_and_predictions_stay_fused():
    classifier, scans = make_vit(), [make_scan((SIDE, SIDE), seed) for seed in (0, 1)]
    alone = [explain(classifier, scan, "attention_relevance", 1).attribution for scan in scans]
    answers = [classifier.predict(scan).probabilities for scan in scans]

    def work(task: int) -> None:
        scan = scans[task % 2]
        assert classifier.predict(scan).probabilities == pytest.approx(answers[task % 2], abs=1e-6)
        attribution = explain(classifier, scan, "attention_relevance", 1).attribution
        assert attribution == pytest.approx(alone[task % 2], abs=1e-5 * float(alone[task % 2].max()))

    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(work, range(12)))) == 12
    with classifier.private_model() as private:
        for model in (classifier.model, private):
            assert all(block.attn.fused_attn for block in model.blocks)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_it_works_in_bfloat16(name):
    full, scan = make_vit(name), make_scan((SIDE, SIDE))
    half = replace(full, model=copy.deepcopy(full.model).bfloat16())
    maps = [explain(each, scan, "attention_relevance", 1).attribution for each in (full, half)]
    # 8 bits of a number: about a percent per layer.
    assert maps[1] == pytest.approx(maps[0], abs=0.2 * float(maps[0].max()))


class Windows(EvenAttention):
    """Attends within the first and the second half of the tokens."""

    def forward(self, tokens):
        return torch.cat([super(Windows, self).forward(part) for part in tokens.chunk(2, dim=1)], dim=1)


class Shifting(TwoAttentions):
    """Hands every token to its neighbor, without attention."""

    def forward_features(self, pixel_values):
        return super().forward_features(pixel_values).roll(1, dims=1)


class Weighing(TwoAttentions):
    """Reads every patch with its own weight."""

    def forward_head(self, tokens):
        return self.head((tokens * torch.arange(5.0).view(1, 5, 1)).sum(dim=1))


def with_windows() -> TwoAttentions:
    model = TwoAttentions()
    model.layers[1] = Windows()
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (with_windows(), "attends within windows"),
        (Shifting(), "also mixes places of the image outside of its attention"),
        (Weighing(), "weighs its patches once more in its head"),
    ],
    ids=["windows", "shifting", "weighing"],
)
def test_what_attention_alone_does_not_decide_is_refused(model, reason):
    classifier = make_classifier(model, (32, 32), PLAIN)
    with pytest.raises(MethodNotApplicable, match=rf"vision transformer.* {type(model).__name__} {reason}.* Use occl"):
        explain(classifier, make_scan((32, 32)), "attention_relevance")


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("test_resnet", {}, "has no attention layers"),
        ("test_convnext", {}, "has no attention layers"),
        ("swin_tiny_patch4_window7_224", {"img_size": SIDE, "depths": (1, 1, 1, 1), "embed_dim": 12}, "within windows"),
        ("levit_128s", {"img_size": SIDE}, "within windows, at several resolutions"),
        ("test_coatnet", {"img_size": SIDE}, "or between convolutions"),
        ("test_vit3", {"img_size": SIDE}, "weighs its patches once more in its head"),
    ],
)
def test_other_architectures_are_refused_by_name(name, options, reason):
    torch.manual_seed(0)
    classifier = make_classifier(timm.create_model(name, num_classes=3, **options), (SIDE, SIDE))
    assert reason in attention_unsupported(classifier)
    assert METHODS["occlusion"].reason_unsupported(classifier) is None
