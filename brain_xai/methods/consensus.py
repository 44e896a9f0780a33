"""Where several methods agree: a mean of their maps, weighted by how good each was measured to be."""

from collections.abc import Callable

import numpy as np
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from brain_xai.classifier import Classifier
from brain_xai.methods.cam import cam_unsupported, layer_cam
from brain_xai.methods.gradients import guided_cam_unsupported, guided_grad_cam, integrated_gradients, smooth_grad

# Quick methods of different kinds, with what each needs and the settings that keep it quick. LayerCAM stands for all
# that read cells, as its are the smallest: on 80 and 40 validation scans of the bundled models Grad-CAM added nothing.
MEMBERS = {
    "layer_cam": (cam_unsupported, layer_cam, {}),
    "guided_grad_cam": (guided_cam_unsupported, guided_grad_cam, {}),
    "smooth_grad": (lambda classifier: None, smooth_grad, {"samples": 4}),
    "integrated_gradients": (lambda classifier: None, integrated_gradients, {"steps": 8}),
}
# Maps of pixels and maps of cells can agree only where neither is finer: the blur, as a share of the picture's sides.
BLUR = 0.03


def consensus(
    classifier: Classifier, pixel_values: torch.Tensor, target: int, progress: Callable[..., None]
) -> tuple[np.ndarray, dict]:
    """Compute where quick methods of different kinds agree that the evidence lies.

    Each map's positive evidence is blurred and divided by its mean, so that all count alike; a weighted mean of the
    maps is then multiplied by the weighted share of the methods that mark the place, that is more than their mean.
    Returns the attribution [H, W] >= 0, in multiples of evidence spread evenly, and the settings: `members` {method:
    weight} and whether the weights were measured (`explanations["consensus_weights"]` of the classifier) or are equal.
    A method without any positive evidence agrees with nothing.
    Paper: Rieger and Hansen 2019, https://arxiv.org/abs/1903.00519 (the mean)
    """
    applicable = [key for key, (reason, _, _) in MEMBERS.items() if reason(classifier) is None]
    weights, source = _weights(classifier, applicable)
    mean, agreement = np.zeros((2, *pixel_values.shape[2:]), dtype=np.float32)
    for done, (key, weight) in enumerate(weights.items(), start=1):
        _, attribute, settings = MEMBERS[key]
        attribution, _ = attribute(classifier, pixel_values, target, lambda *_: None, **settings)
        density = _density(attribution)
        mean += weight * density
        agreement += weight * (density > 1)
        progress(done, len(weights))
    return mean * agreement, {"members": weights, "weights": source}


def _weights(classifier: Classifier, applicable: list[str]) -> tuple[dict[str, float], str]:
    """Return the weights of the members, which sum to 1, and where they come from."""
    measured = classifier.explanations.get("consensus_weights", {})
    known = {key: measured[key] for key in applicable if measured.get(key, 0) > 0}
    if known:
        return {key: weight / sum(known.values()) for key, weight in known.items()}, "measured on validation scans"
    return dict.fromkeys(applicable, 1 / len(applicable)), "equal"


def _density(attribution: np.ndarray) -> np.ndarray:
    """Return the blurred positive evidence, [H, W] with mean 1; zeros where nothing is positive."""
    evidence = torch.from_numpy(attribution).clamp(min=0)[None]
    sigma = [BLUR * side for side in attribution.shape[::-1]]
    blurred = gaussian_blur(evidence, [2 * round(3 * side) + 1 for side in sigma], sigma)[0]
    total = blurred.mean()
    return (blurred / total if total > 0 else blurred).numpy()
