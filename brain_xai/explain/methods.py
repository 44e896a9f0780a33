"""METHODS, the one table that page, API, tests and README are made from, and `explain`, which runs one of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from brain_xai.classifier import Classifier, Prediction
from brain_xai.explain.activations import channel_maps, layer_activation
from brain_xai.explain.cam import grad_cam, grad_cam_of_all, hires_cam, layer_cam, needs_cells
from brain_xai.explain.consensus import consensus
from brain_xai.explain.gradients import (
    guided_backprop,
    guided_grad_cam,
    integrated_gradients,
    needs_relu,
    needs_relu_and_cells,
    saliency,
    smooth_grad,
)
from brain_xai.explain.occlusion import occlusion
from brain_xai.preprocess import ModelInput

Progress = Callable[..., None]


class MethodNotApplicable(ValueError):
    """The method cannot work on this architecture; the message says why and what to use instead."""


class Cancelled(Exception):
    """For a `progress` callback to raise when the map is no longer wanted."""


@dataclass(frozen=True)
class Method:
    """One way to explain: what people read about it, and the functions that do it.

    `summary` is one sentence for everybody, `description` one for experts. `needs` says in words what the architecture
    must have, `layer` which layer is read. `signed`: whether the map can also speak against the target.
    `cost` is about how many forward passes of one picture a map takes with its prediction, a way back counted as two.
    `default_scale` is the evidence drawn in full colour, in `unit`, where the checkpoint has measured none.
    `applicable(classifier)` returns why the method cannot work there, or None.
    `attribute(classifier, pixel_values, target, progress, **settings)` returns the attribution, float32 [H, W]
    (> 0 speaks for the target, < 0 against), and the settings used, ready for JSON.
    `of_all(classifier, pixel_values, **settings)` returns logits [classes], attributions [classes, H, W] and settings
    from one forward pass, or None where the architecture does not allow it.
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
    cost: int
    applicable: Callable[[Classifier], str | None]
    attribute: Callable[..., tuple[np.ndarray, dict]]
    of_all: Callable[..., tuple[torch.Tensor, np.ndarray, dict] | None] = lambda *_, **__: None


@dataclass(frozen=True, eq=False)
class Explanation:
    """What in the picture speaks for one class, and what against.

    `method` is a key of METHODS, `label` the explained class and `target` its index. `attribution` is float32 [H, W],
    as large as `view` (RGB, what the model sees): > 0 speaks for the label, < 0 against, in the method's unit. `scale`
    is the evidence drawn in full colour, the same for every picture of a checkpoint. `settings` are ready for JSON.
    """

    method: str
    label: str
    target: int
    attribution: np.ndarray
    scale: float
    view: Image.Image
    prediction: Prediction
    settings: dict


@dataclass(frozen=True, eq=False)
class Channels:
    """What the last layer reacts to: its strongest channels, the strongest first.

    `maps` is float32 [k, H, W] >= 0, as large as `view`, in units of the layer's output; `channels` holds their k
    numbers in the layer and `strengths` the mean of each over all cells.
    """

    maps: np.ndarray
    channels: list[int]
    strengths: list[float]
    view: Image.Image


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
            cost=1,
            applicable=needs_cells,
            attribute=grad_cam,
            of_all=grad_cam_of_all,
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
            cost=2,
            applicable=needs_cells,
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
            cost=3,
            applicable=needs_cells,
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
            cost=4,
            applicable=needs_relu,
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
            cost=5,
            applicable=needs_relu_and_cells,
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
            cost=4,
            applicable=lambda classifier: None,
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
            cost=25,
            applicable=lambda classifier: None,
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
            cost=49,
            applicable=lambda classifier: None,
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
            cost=200,
            applicable=lambda classifier: None,
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
            cost=2,
            applicable=needs_cells,
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
            cost=44,
            applicable=lambda classifier: None,
            attribute=consensus,
        ),
    )
}


@torch.inference_mode(False)  # most methods need gradients, whatever the caller does
@torch.enable_grad()
def explain(
    classifier: Classifier,
    image: Image.Image | str | os.PathLike,
    method: str = "grad_cam",
    target: str | int = "predicted",
    progress: Progress | None = None,
    **settings,
) -> Explanation:
    """Show what in an image (a PIL image or a path) speaks for a class.

    `method` is a key of METHODS, `target` a label, a class index or "predicted". `progress(done, total)` is called
    after every batch of forward passes, by some methods with what the map is so far, float32 [H, W], as a third
    argument; what it raises (`Cancelled`, say) ends the work at once and reaches the caller.
    `settings` are the method's own. Raises `ValueError`, `MethodNotApplicable` and `UnreadableImage`.
    """
    chosen = _method(classifier, method)
    progress = progress or _silent
    prepared = classifier.prepare(image)
    together = chosen.of_all(classifier, prepared.pixel_values, **settings)
    logits = together[0] if together else classifier.logits(prepared.pixel_values)[0]
    index = classifier.target_index(target, logits)
    if together:
        attribution, used = together[1][index], together[2]
        progress(1, 1)
    else:
        attribution, used = chosen.attribute(classifier, prepared.pixel_values, index, progress, **settings)
    return _explanation(classifier, chosen, prepared, logits, index, attribution, used)


@torch.inference_mode(False)
@torch.enable_grad()
def explain_all(
    classifier: Classifier, image: Image.Image | str | os.PathLike, method: str = "grad_cam", **settings
) -> dict[str, Explanation]:
    """Show what in an image speaks for each class: {label: explanation}, in the order of the classes.

    Grad-CAM takes all maps from the one forward pass that predicts, where the head is an average and a linear layer.
    Raises as `explain` does.
    """
    chosen = _method(classifier, method)
    prepared = classifier.prepare(image)
    together = chosen.of_all(classifier, prepared.pixel_values, **settings)
    if together is None:
        return {label: explain(classifier, image, method, label, **settings) for label in classifier.label_names}
    logits, attributions, used = together
    return {
        label: _explanation(classifier, chosen, prepared, logits, index, attributions[index], used)
        for index, label in enumerate(classifier.label_names)
    }


def strongest_channels(classifier: Classifier, image: Image.Image | str | os.PathLike, count: int = 16) -> Channels:
    """Return what the strongest channels of the last layer react to in an image, at most `count` of them.

    Raises `ValueError`, `MethodNotApplicable` and `UnreadableImage`.
    """
    _method(classifier, "layer_activation")
    prepared = classifier.prepare(image)
    return Channels(*channel_maps(classifier, prepared.pixel_values, count), prepared.view)


def scale_of(classifier: Classifier, method: str) -> float:
    """Return the evidence drawn in full colour, in the method's unit: as measured for the checkpoint, else usual."""
    return classifier.attribution_scale.get(method, METHODS[method].default_scale)


def _method(classifier: Classifier, key: str) -> Method:
    """Return a method that works on the classifier; raises `ValueError` and `MethodNotApplicable`."""
    if key not in METHODS:
        raise ValueError(f"{key!r} is not a method. Use one of: {', '.join(METHODS)}.")
    if reason := METHODS[key].applicable(classifier):
        raise MethodNotApplicable(reason)
    return METHODS[key]


def _explanation(
    classifier: Classifier,
    method: Method,
    prepared: ModelInput,
    logits: torch.Tensor,
    target: int,
    attribution: np.ndarray,
    settings: dict,
) -> Explanation:
    return Explanation(
        method=method.key,
        label=classifier.label_names[target],
        target=target,
        attribution=attribution,
        scale=scale_of(classifier, method.key),
        view=prepared.view,
        prediction=classifier.prediction(logits),
        settings=settings,
    )


def _silent(done: int, total: int, attribution: np.ndarray | None = None) -> None:
    """Report progress to nobody."""
