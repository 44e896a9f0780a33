"""What is fitted on validation images after training: the temperature, and the color scale of each method's maps."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from brain_xai.classifier import Classifier
from brain_xai.explanation import MethodNotApplicable, explain
from brain_xai.methods import METHODS
from training.evaluation.held_out import for_views

TEMPERATURE_RANGE = (0.05, 20.0)
# Largest number of images that set a method's color scale, and of forward passes spent on them: fewer images for
# expensive methods.
SCALE_IMAGES = 200
SCALE_FORWARD_PASSES = 1600


def fit_temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the temperature that minimizes the negative log-likelihood of softmax(logits / temperature).

    Args:
        logits: float [N, classes] of images that the model was not trained on.
        targets: int64 [N], the true classes.

    Returns:
        A number within `TEMPERATURE_RANGE`; 1 if the fit does not converge to a number.

    Reference:
        Guo et al. 2017, arXiv 1706.04599.
    """
    logits = logits.double()
    log_temperature = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_temperature.exp(), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    temperature = log_temperature.detach().exp()
    return temperature.clamp(*TEMPERATURE_RANGE).item() if temperature.isfinite() else 1.0


def attribution_scales(classifier: Classifier, images: Sequence[np.ndarray]) -> dict[str, float]:
    """Return, per applicable method, the attribution that overlays draw in full color.

    It is the median over the images of the 99.5th percentile of the absolute attribution, so that maps of different
    images can be compared. The maximum would be a poor scale: grainy maps have a few pixels far above the rest and
    would look empty.

    Args:
        classifier: The calibrated classifier.
        images: uint8 [H, W] gray validation images as the model sees them.

    Returns:
        {method: scale}, scale > 0 in the method's unit.
    """
    scales, classifier = {}, for_views(classifier)
    for key, method in METHODS.items():
        count = min(len(images), SCALE_IMAGES, SCALE_FORWARD_PASSES // method.forward_passes)
        chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
        try:
            maps = [explain(classifier, images[i], key).attribution for i in chosen]
        except MethodNotApplicable:
            continue
        scales[key] = float(np.median([np.quantile(np.abs(attribution), 0.995) for attribution in maps]))
    return {method: scale for method, scale in scales.items() if scale > 0}
