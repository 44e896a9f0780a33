"""METHODS, the one table that page, API, tests and README are made from; one file per family of methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from brain_xai.classifier import Classifier
from brain_xai.forward import ModelOutput
from brain_xai.methods import activations, attention, cam, consensus, gradients, occlusion


@dataclass(frozen=True)
class Method:
    """One way to explain: what people read about it, and the functions that compute it.

    Attributes:
        key: Its name in Python and in the API.
        title: Its name for people.
        summary: One sentence for everybody.
        paper: Where it was published.
        unit: The unit of its attributions.
        default_scale: The attribution drawn in full color, in `unit`, if none was measured for the checkpoint.
        signed: Whether it can show evidence against the target.
        forward_passes: About what a map costs with its prediction, in forward passes of one image, by the arithmetic
            counted for the bundled ResNet-18 (`tests/inference/test_costs.py`).
        reason_unsupported: Returns why the method cannot work on a classifier, None if it can.
        attribute: Computes a `Request` with the method's settings. Returns the attribution, float32 [H, W] (> 0 speaks
            for the target, < 0 against it), and the settings used, ready for JSON.
        attribute_each_class: Computes the attributions of all classes, [classes, H, W], for the price of one, from a
            `Request`, whose target does not matter, and the method's settings; None if the method has no such way.
        attribute_of_pass: Computes attributions [targets, H, W] of some classes and settings from the forward pass that
            predicts one image; None if method or architecture do not allow it.
        engines: What can compute it: "captum", "shortcut", "combined" or "own", see `Explanation.settings`.
    """

    key: str
    title: str
    summary: str
    paper: str
    unit: str
    default_scale: float
    signed: bool
    forward_passes: int
    reason_unsupported: Callable[[Classifier], str | None]
    attribute: Callable[..., tuple[np.ndarray, dict]]
    attribute_each_class: Callable[..., tuple[np.ndarray, dict]] | None = None
    attribute_of_pass: Callable[[Classifier, ModelOutput, Sequence[int]], tuple[np.ndarray, dict] | None] = (
        lambda classifier, output, targets: None
    )
    engines: tuple[str, ...] = ("captum",)


def _always_supported(classifier: Classifier) -> None:
    """Return no reason against the method: it works for every model."""


PER_POSITION = "logits per position"  # of the feature map
PER_GRAY = "logits per gray range"  # from black to white

METHODS = {
    method.key: method
    for method in (
        Method(
            key="grad_cam",
            title="Grad-CAM",
            summary="Shows at a glance which areas of the scan raised or lowered the model's score for this label.",
            paper="https://arxiv.org/abs/1610.02391",
            unit=PER_POSITION,
            default_scale=0.2,
            signed=True,
            forward_passes=1,
            reason_unsupported=cam.cam_unsupported,
            attribute=cam.grad_cam,
            attribute_of_pass=cam.grad_cam_of_pass,
            engines=("shortcut", "captum"),
        ),
        Method(
            key="hires_cam",
            title="HiResCAM",
            summary="Like Grad-CAM in finer detail: each area is weighted by its own gradient, so no area is "
            "highlighted because of another.",
            paper="https://arxiv.org/abs/2011.08891",
            unit=PER_POSITION,
            default_scale=0.1,
            signed=True,
            forward_passes=2,
            reason_unsupported=cam.cam_unsupported,
            attribute=cam.hires_cam,
        ),
        Method(
            key="layer_cam",
            title="LayerCAM",
            summary="Shows in finer detail which areas of the scan raised the model's score for this label.",
            paper="https://doi.org/10.1109/TIP.2021.3089943",
            unit=PER_POSITION,
            default_scale=0.15,
            signed=False,
            forward_passes=3,
            reason_unsupported=cam.cam_unsupported,
            attribute=cam.layer_cam,
        ),
        Method(
            key="attention_relevance",
            title="Attention relevance",
            summary="Follows what a vision transformer reads from each part of the scan to raise its score for this "
            "label.",
            paper="https://arxiv.org/abs/2103.15679",
            unit="relevance",
            default_scale=0.05,
            signed=False,
            forward_passes=4,
            reason_unsupported=attention.attention_unsupported,
            attribute=attention.attention_relevance,
            engines=("own",),
        ),
        Method(
            key="guided_backprop",
            title="Guided backpropagation",
            summary="Draws the fine lines and edges that the model reacts to, much the same for every label.",
            paper="https://arxiv.org/abs/1412.6806",
            unit=PER_GRAY,
            default_scale=0.15,
            signed=False,
            forward_passes=3,
            reason_unsupported=gradients.guided_unsupported,
            attribute=gradients.guided_backprop,
        ),
        Method(
            key="guided_grad_cam",
            title="Guided Grad-CAM",
            summary="Draws the fine lines and edges inside the areas that raised the model's score for this label.",
            paper="https://arxiv.org/abs/1610.02391",
            unit="logits² per position and gray range",
            default_scale=0.01,
            signed=False,
            forward_passes=4,
            reason_unsupported=gradients.guided_cam_unsupported,
            attribute=gradients.guided_grad_cam,
        ),
        Method(
            key="saliency",
            title="Saliency",
            summary="Shows the points where a small change of brightness would change the score most; it is grainy.",
            paper="https://arxiv.org/abs/1312.6034",
            unit=PER_GRAY,
            default_scale=0.5,
            signed=False,
            forward_passes=3,
            reason_unsupported=_always_supported,
            attribute=gradients.saliency,
        ),
        Method(
            key="smooth_grad",
            title="SmoothGrad",
            summary="Like Saliency, but averaged over noisy copies of the scan, which makes it less grainy.",
            paper="https://arxiv.org/abs/1706.03825",
            unit=PER_GRAY,
            default_scale=0.15,
            signed=False,
            forward_passes=17,
            reason_unsupported=_always_supported,
            attribute=gradients.smooth_grad,
        ),
        Method(
            key="integrated_gradients",
            title="Integrated gradients",
            summary="Fades the scan in from black and adds up, point by point, what that does to the score.",
            paper="https://arxiv.org/abs/1703.01365",
            unit="logits",
            default_scale=0.2,
            signed=True,
            forward_passes=33,
            reason_unsupported=_always_supported,
            attribute=gradients.integrated_gradients,
        ),
        Method(
            key="occlusion",
            title="Occlusion",
            summary="Covers the scan piece by piece with a black square and shows where that changes the score most.",
            paper="https://arxiv.org/abs/1311.2901",
            unit="logits",
            default_scale=2.0,
            signed=True,
            forward_passes=100,
            reason_unsupported=_always_supported,
            attribute=occlusion.occlusion,
            attribute_each_class=occlusion.occlusion_each_class,
            engines=("shortcut", "captum"),
        ),
        Method(
            key="layer_activation",
            title="Layer activations",
            summary="Shows which areas the model reacts to most, whatever the label; it does not say for or against.",
            paper="https://arxiv.org/abs/1311.2901",
            unit="activation",
            default_scale=2.0,
            signed=False,
            forward_passes=2,
            reason_unsupported=cam.cam_unsupported,
            attribute=activations.layer_activation,
            engines=("shortcut", "captum"),
        ),
        Method(
            key="consensus",
            title="Consensus",
            summary="Shows where several methods agree; the ones measured to be better count for more.",
            paper="https://arxiv.org/abs/1903.00519",
            unit="× uniform",
            default_scale=6.0,
            signed=False,
            forward_passes=30,
            reason_unsupported=_always_supported,
            attribute=consensus.consensus,
            engines=("combined",),
        ),
    )
}
