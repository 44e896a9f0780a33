"""`explain`: what in an image speaks for a class, and what against, by one method of METHODS."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from brain_xai.classifier import Classifier, Prediction
from brain_xai.methods import METHODS, Method
from brain_xai.methods.activations import channel_maps
from brain_xai.preprocess import ModelInput

Progress = Callable[..., None]


class MethodNotApplicable(ValueError):
    """The method cannot work on this architecture; the message says why and what to use instead."""


class Cancelled(Exception):
    """For a `progress` callback to raise when the map is no longer wanted."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What in the picture speaks for one class, and what against.

    `method` is a key of METHODS, `label` the explained class and `target` its index. `attribution` is float32 [H, W],
    as large as `view` (RGB, what the model sees): > 0 speaks for the label, < 0 against, in the method's unit. `scale`
    is the evidence drawn in full color, the same for every image of a checkpoint; `unit` belongs to both. A map that is
    not `signed` is >= 0 everywhere. `settings` are ready for JSON.
    """

    method: str
    label: str
    target: int
    attribution: np.ndarray
    scale: float
    unit: str
    signed: bool
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
    together = chosen.attribute_all_classes(classifier, prepared.pixel_values, **settings)
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
    together = chosen.attribute_all_classes(classifier, prepared.pixel_values, **settings)
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


def color_scale(classifier: Classifier, method: str) -> float:
    """Return the evidence drawn in full colour, in the method's unit: as measured for the checkpoint, else usual."""
    return classifier.attribution_scale.get(method, METHODS[method].default_scale)


def _method(classifier: Classifier, key: str) -> Method:
    """Return a method that works on the classifier; raises `ValueError` and `MethodNotApplicable`."""
    if key not in METHODS:
        raise ValueError(f"{key!r} is not a method. Use one of: {', '.join(METHODS)}.")
    if reason := METHODS[key].reason_unsupported(classifier):
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
        scale=color_scale(classifier, method.key),
        unit=method.unit,
        signed=method.signed,
        view=prepared.view,
        prediction=classifier.prediction(logits),
        settings=settings,
    )


def _silent(done: int, total: int, attribution: np.ndarray | None = None) -> None:
    """Report progress to nobody."""
