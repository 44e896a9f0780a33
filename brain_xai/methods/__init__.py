"""METHODS, the one table that page, API, tests and README are made from; one file per family of methods."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from brain_xai.classifier import Classifier
from brain_xai.methods.activations import layer_activation
from brain_xai.methods.cam import cam_unsupported, grad_cam, grad_cam_all_classes, hires_cam, layer_cam
from brain_xai.methods.consensus import consensus
from brain_xai.methods.gradients import (
    guided_backprop,
    guided_cam_unsupported,
    guided_grad_cam,
    guided_unsupported,
    integrated_gradients,
    saliency,
    smooth_grad,
)
from brain_xai.methods.occlusion import occlusion


@dataclass(frozen=True)
class Method:
    """One way to explain: what people read about it, and the functions that do it.

    `summary` is one sentence for everybody, `description` one for experts. `needs` says in words what the architecture
    must have, `layer` which layer is read. `signed`: whether the map can also speak against the target.
    `forward_passes` is about what a map costs with its prediction, in forward passes of one picture, a way back counted
    as two.
    `default_scale` is the evidence drawn in full colour, in `unit`, where the checkpoint has measured none.
    `reason_unsupported(classifier)` returns why the method cannot work there, or None.
    `attribute(classifier, pixel_values, target, progress, **settings)` returns the attribution, float32 [H, W]
    (> 0 speaks for the target, < 0 against), and the settings used, ready for JSON.
    `attribute_all_classes(classifier, pixel_values, **settings)` returns logits [classes], attributions
    [classes, H, W] and settings from one forward pass, or None where the architecture does not allow it.
    """

    key: str
    title: str
    summary: str
    description: str
    paper: str
    unit: str
    default_scale: float
    needs: str
    layer: str
    signed: bool
    forward_passes: int
    reason_unsupported: Callable[[Classifier], str | None]
    attribute: Callable[..., tuple[np.ndarray, dict]]
    attribute_all_classes: Callable[..., tuple[torch.Tensor, np.ndarray, dict] | None] = lambda *_, **__: None


CELLS = "a last layer made of cells that lie on the picture (ResNet, EfficientNet, VGG, Inception)"
RECTIFIERS = "nn.ReLU as the only activation (ResNet, VGG, Inception)"
ANY = "nothing: every model that has gradients"
LAST, FINE = "the last that still is a picture", "the last but one stage, whose cells are half as large"
PER_GREY = "logits per grey range"  # from black to white

METHODS = {
    method.key: method
    for method in (
        Method(
            key="grad_cam",
            title="Grad-CAM",
            summary="Shows at a glance which areas of the scan raised or lowered the model's score for this label.",
            description=(
                "Activations of the last convolutional layer, weighted by the mean gradient of the logit, summed over "
                "channels and kept signed; cells are placed at the centre of their receptive field."
            ),
            paper="https://arxiv.org/abs/1610.02391",
            unit="logits per cell",
            default_scale=0.2,
            needs=CELLS,
            layer=LAST,
            signed=True,
            forward_passes=1,
            reason_unsupported=cam_unsupported,
            attribute=grad_cam,
            attribute_all_classes=grad_cam_all_classes,
        ),
        Method(
            key="hires_cam",
            title="HiResCAM",
            summary="Like Grad-CAM, but every area is weighed on its own, so that none is marked for another's sake.",
            description=(
                "Activations times their own gradient, summed over channels and kept signed; on the last layer before "
                'an average and a linear head it equals Grad-CAM, with layer="fine" it reads smaller cells.'
            ),
            paper="https://arxiv.org/abs/2011.08891",
            unit="logits per cell",
            default_scale=0.2,
            needs=CELLS,
            layer=f'{LAST}, or with layer="fine" {FINE}',
            signed=True,
            forward_passes=2,
            reason_unsupported=cam_unsupported,
            attribute=hires_cam,
        ),
        Method(
            key="layer_cam",
            title="LayerCAM",
            summary="Shows in finer detail which areas of the scan raised the model's score for this label.",
            description=(
                "Activations times the positive part of their own gradient, summed over channels and rectified, from "
                'a layer with smaller cells than Grad-CAM\'s; layer="last" reads the same one.'
            ),
            paper="https://doi.org/10.1109/TIP.2021.3089943",
            unit="logits per cell",
            default_scale=0.15,
            needs=CELLS,
            layer=f'{FINE}, or with layer="last" {LAST}',
            signed=False,
            forward_passes=3,
            reason_unsupported=cam_unsupported,
            attribute=layer_cam,
        ),
        Method(
            key="guided_backprop",
            title="Guided backpropagation",
            summary="Draws the fine lines and edges that the model reacts to, much the same for every label.",
            description=(
                "Absolute gradient of the logit by the grey value where each ReLU passes back positive gradients only; "
                "it shows the structure of the picture more than evidence (arXiv 1810.03292)."
            ),
            paper="https://arxiv.org/abs/1412.6806",
            unit=PER_GREY,
            default_scale=0.15,
            needs=RECTIFIERS,
            layer="none: down to the picture",
            signed=False,
            forward_passes=4,
            reason_unsupported=guided_unsupported,
            attribute=guided_backprop,
        ),
        Method(
            key="guided_grad_cam",
            title="Guided Grad-CAM",
            summary="Draws the fine lines and edges inside the areas that raised the model's score for this label.",
            description=(
                "Guided backpropagation times the positive part of Grad-CAM, whose cells are placed at the centre of "
                "their receptive field."
            ),
            paper="https://arxiv.org/abs/1610.02391",
            unit="logits² per cell and grey range",
            default_scale=0.01,
            needs=f"{RECTIFIERS} and {CELLS}",
            layer=LAST,
            signed=False,
            forward_passes=5,
            reason_unsupported=guided_cam_unsupported,
            attribute=guided_grad_cam,
        ),
        Method(
            key="saliency",
            title="Saliency",
            summary="Shows the points whose brightness, changed a little, would change the score most; it is grainy.",
            description="Absolute gradient of the logit by the grey value, with which all three channels change.",
            paper="https://arxiv.org/abs/1312.6034",
            unit=PER_GREY,
            default_scale=0.5,
            needs=ANY,
            layer="none: down to the picture",
            signed=False,
            forward_passes=4,
            reason_unsupported=lambda classifier: None,
            attribute=saliency,
        ),
        Method(
            key="smooth_grad",
            title="SmoothGrad",
            summary="Like Saliency, but averaged over copies of the scan with some noise, which takes out the grain.",
            description=(
                "Absolute value of the mean gradient by the grey value over copies with Gaussian noise of 10 % of the "
                "picture's range from a fixed seed."
            ),
            paper="https://arxiv.org/abs/1706.03825",
            unit=PER_GREY,
            default_scale=0.15,
            needs=ANY,
            layer="none: down to the picture",
            signed=False,
            forward_passes=25,
            reason_unsupported=lambda classifier: None,
            attribute=smooth_grad,
        ),
        Method(
            key="integrated_gradients",
            title="Integrated gradients",
            summary="Lets the scan grow out of black and adds up, point by point, what that does to the score.",
            description=(
                "Mean gradient on the straight way from a black picture times the grey value, by the Gauss-Legendre "
                "rule; it sums to the logit less that of the black picture."
            ),
            paper="https://arxiv.org/abs/1703.01365",
            unit="logits",
            default_scale=0.2,
            needs=ANY,
            layer="none: down to the picture",
            signed=True,
            forward_passes=49,
            reason_unsupported=lambda classifier: None,
            attribute=integrated_gradients,
        ),
        Method(
            key="occlusion",
            title="Occlusion",
            summary="Covers the scan piece by piece with a black square and shows where that changes the score most.",
            description=(
                "Drop of the logit when a black window hides a pixel, averaged over all windows that hide it; needs no "
                "gradients and works for every architecture."
            ),
            paper="https://arxiv.org/abs/1311.2901",
            unit="logits",
            default_scale=2.0,
            needs="nothing: every model",
            layer="none: the model as a whole",
            signed=True,
            forward_passes=200,
            reason_unsupported=lambda classifier: None,
            attribute=occlusion,
        ),
        Method(
            key="layer_activation",
            title="Layer activations",
            summary="Shows which areas the model reacts to most, whatever the label; it does not say for or against.",
            description=(
                "Mean over the 16 channels of the last layer with the largest mean positive activation; the same map "
                "for every class."
            ),
            paper="https://arxiv.org/abs/1311.2901",
            unit="activation",
            default_scale=2.0,
            needs=CELLS,
            layer=LAST,
            signed=False,
            forward_passes=2,
            reason_unsupported=cam_unsupported,
            attribute=layer_activation,
        ),
        Method(
            key="consensus",
            title="Consensus",
            summary="Shows where several methods agree; the ones measured to be better count for more.",
            description=(
                "Weighted mean of the blurred positive evidence of LayerCAM, guided Grad-CAM, SmoothGrad and "
                "integrated gradients, each divided by its own mean, times the weighted share of methods above it."
            ),
            paper="https://arxiv.org/abs/1903.00519",
            unit="times an even spread",
            default_scale=6.0,
            needs=ANY,
            layer="those of its members",
            signed=False,
            forward_passes=44,
            reason_unsupported=lambda classifier: None,
            attribute=consensus,
        ),
    )
}
