"""METHODS, the one table that page, API, tests and README are made from, and `explain`, which runs one of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from brain_xai.classifier import Classifier, Prediction
from brain_xai.explain.cam import grad_cam, needs_cells
from brain_xai.explain.occlusion import occlusion


class MethodNotApplicable(ValueError):
    """The method cannot work on this architecture; the message says why and what to use instead."""


class Cancelled(Exception):
    """For a `progress` callback to raise when the map is no longer wanted."""


@dataclass(frozen=True)
class Method:
    """One way to explain: what people read about it, and the functions that do it.

    `default_scale` is the evidence drawn in full colour, in `unit`, where the checkpoint has measured none.
    `applicable(classifier)` returns why the method cannot work there, or None.
    `attribute(classifier, pixel_values, target, progress, **settings)` returns the attribution, float32 [H, W]
    (> 0 speaks for the target, < 0 against), and the settings used, ready for JSON.
    """

    key: str
    title: str
    summary: str
    description: str
    paper: str
    unit: str
    default_scale: float
    applicable: Callable[[Classifier], str | None]
    attribute: Callable[..., tuple[np.ndarray, dict]]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What in the picture speaks for one class, and what against.

    `method` is a key of METHODS, `label` the explained class and `target` its index. `attribution` is float32 [H, W],
    as large as `view` (RGB, what the model sees): > 0 speaks for the label, < 0 against, in logits. `scale` is the
    evidence drawn in full colour, the same for every picture of a checkpoint. `settings` are ready for JSON.
    """

    method: str
    label: str
    target: int
    attribution: np.ndarray
    scale: float
    view: Image.Image
    prediction: Prediction
    settings: dict


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
            default_scale=0.5,
            applicable=needs_cells,
            attribute=grad_cam,
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
            applicable=lambda classifier: None,
            attribute=occlusion,
        ),
    )
}


@torch.inference_mode(False)  # Grad-CAM needs gradients, whatever the caller does
def explain(
    classifier: Classifier,
    image: Image.Image | str | os.PathLike,
    method: str = "grad_cam",
    target: str | int = "predicted",
    progress: Callable[[int, int], None] | None = None,
    **settings,
) -> Explanation:
    """Show what in an image (a PIL image or a path) speaks for a class.

    `method` is a key of METHODS, `target` a label, a class index or "predicted". `progress(done, total)` is called
    after every batch of forward passes; what it raises (`Cancelled`, say) ends the work at once and reaches the caller.
    `settings` are the method's own. Raises `ValueError`, `MethodNotApplicable` and `UnreadableImage`.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is not a method. Use one of: {', '.join(METHODS)}.")
    chosen = METHODS[method]
    if reason := chosen.applicable(classifier):
        raise MethodNotApplicable(reason)
    prepared = classifier.prepare(image)
    logits = classifier.logits(prepared.pixel_values)[0]
    index = classifier.target_index(target, logits)
    attribution, used = chosen.attribute(classifier, prepared.pixel_values, index, progress or _silent, **settings)
    return Explanation(
        method=method,
        label=classifier.label_names[index],
        target=index,
        attribution=attribution,
        scale=classifier.attribution_scale.get(method, chosen.default_scale),
        view=prepared.view,
        prediction=classifier.prediction(logits),
        settings=used,
    )


def _silent(done: int, total: int) -> None:
    """Report progress to nobody."""
