"""Where several methods agree: a mean of their maps, weighted by how good each was measured to be."""

from dataclasses import replace

import numpy as np

from brain_xai.classifier import Classifier
from brain_xai.doubts import density
from brain_xai.methods.cam import cam_unsupported, layer_cam
from brain_xai.methods.gradients import guided_cam_unsupported, guided_grad_cam, integrated_gradients, smooth_grad
from brain_xai.methods.request import Request, no_progress

# Fast methods of different kinds, each with its requirement and the settings that keep it fast. LayerCAM represents all
# class-activation maps, because its map is the finest: Grad-CAM added nothing on 80 and 40 validation scans of the
# bundled models.
MEMBERS = {
    "layer_cam": (cam_unsupported, layer_cam, {}),
    "guided_grad_cam": (guided_cam_unsupported, guided_grad_cam, {}),
    "smooth_grad": (lambda classifier: None, smooth_grad, {"samples": 4}),
    "integrated_gradients": (lambda classifier: None, integrated_gradients, {"steps": 8}),
}


def consensus(request: Request) -> tuple[np.ndarray, dict]:
    """Compute where fast methods of different kinds agree that there is evidence for the class.

    Each map's positive evidence is blurred and divided by its mean, so that no method dominates by its unit. The
    weighted mean of the maps is multiplied by the weighted fraction of the methods that are above their own mean there.

    Returns:
        The attribution, float32 [H, W] >= 0 in multiples of evidence that is spread uniformly, and the settings:
        `members` {method: weight} and whether the `weights` were measured (`explanations["consensus_weights"]` of the
        classifier) or are equal. A method without any positive evidence agrees with nothing.

    Reference:
        Rieger and Hansen 2019, https://arxiv.org/abs/1903.00519 (for the mean)
    """
    applicable = [key for key, (unsupported, _, _) in MEMBERS.items() if unsupported(request.classifier) is None]
    weights, source = _weights(request.classifier, applicable)
    mean, agreement = np.zeros((2, *request.size), dtype=np.float32)
    for done, (key, weight) in enumerate(weights.items(), start=1):
        _, attribute, settings = MEMBERS[key]
        attribution, _ = attribute(replace(request, progress=no_progress), **settings)
        evidence = density(attribution)
        mean += weight * evidence
        agreement += weight * (evidence > 1)
        request.progress(done, len(weights))
    return mean * agreement, {"engine": "combined", "members": weights, "weights": source}


def _weights(classifier: Classifier, applicable: list[str]) -> tuple[dict[str, float], str]:
    """Return the weights of the members, which sum to 1, and where they come from."""
    measured = classifier.explanations.get("consensus_weights", {})
    known = {key: measured[key] for key in applicable if measured.get(key, 0) > 0}
    if known:
        return {key: weight / sum(known.values()) for key, weight in known.items()}, "measured on validation scans"
    return dict.fromkeys(applicable, 1 / len(applicable)), "equal"
