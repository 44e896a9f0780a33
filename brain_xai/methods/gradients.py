"""Methods that follow the gradient of the logit down to the picture.

A scan is grey and its three channels always change together, so they all ask for the gradient by the grey value, which
is 0 for black and 1 for white. A rise of brightness may speak for a class as well as a fall: where a map is a gradient
its sign says which, not whether the place speaks for the class, so only its strength is shown.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from brain_xai.classifier import Classifier
from brain_xai.methods.cam import cam_unsupported, grad_cam_cells, resample_to_image
from brain_xai.methods.target_layer import target_layer

# Larger batches are no faster on a CPU, and the work can be cancelled between two.
BATCH_SIZE = 8
# Names of autograd's nodes for activations other than ReLU.
NOT_RELU = re.compile(r"leaky|prelu|rrelu|(?<!r)elu|silu|swish|mish|sigmoid|tanh|softplus|clamp|threshold", re.I)


# The plain gradient, and averages of it


def saliency(
    classifier: Classifier, pixel_values: torch.Tensor, target: int, progress: Callable[..., None]
) -> tuple[np.ndarray, dict]:
    """Compute how strongly the logit reacts to the grey value of each pixel: the absolute gradient.

    Returns the attribution [H, W] >= 0 in logits per step from black to white, and the settings.
    Paper: Simonyan et al. 2014, https://arxiv.org/abs/1312.6034, which takes the largest of three colours instead.
    """
    from captum.attr import Saliency  # takes over a second, as it brings matplotlib

    # No hook is set and no weight needs a gradient, so the model that predicts can be used, by many at once.
    engine = Saliency(classifier.model)
    gradient = engine.attribute(pixel_values.clone().requires_grad_(), target=target, abs=False)
    progress(1, 1)
    return _by_grey(gradient, classifier)[0].abs().numpy(), {}


def smooth_grad(
    classifier: Classifier,
    pixel_values: torch.Tensor,
    target: int,
    progress: Callable[..., None],
    *,
    samples: int = 8,
    noise: float = 0.1,
    seed: int = 0,
) -> tuple[np.ndarray, dict]:
    """Compute the absolute value of the mean gradient over noisy copies of the picture.

    Returns the attribution [H, W] >= 0 in logits per step from black to white, and the settings. The noise is grey,
    its standard deviation `noise` times the range of the picture; the same `seed` gives the same map.
    Raises `ValueError`. Paper: Smilkov et al. 2017, https://arxiv.org/abs/1706.03825
    """
    from captum.attr import Saliency  # takes over a second, as it brings matplotlib

    if samples < 1 or not noise >= 0:
        raise ValueError(f"SmoothGrad needs samples >= 1 and noise >= 0, got samples {samples} and noise {noise}.")
    engine = Saliency(classifier.model)
    # The range of the first channel, which is divided by its deviation as the noise is.
    width = (pixel_values[:, 0].max() - pixel_values[:, 0].min()) * classifier.preprocessing.std[0]
    # Not captum's NoiseTunnel, which draws from the generator that all threads share.
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(pixel_values)
    for done in range(0, samples, BATCH_SIZE):
        count = min(BATCH_SIZE, samples - done)
        drawn = torch.randn(count, 1, *pixel_values.shape[2:], generator=generator)
        noisy = pixel_values + noise * width * drawn / _std(classifier)
        total += engine.attribute(noisy.requires_grad_(), target=target, abs=False).sum(dim=0, keepdim=True)
        progress(done + count, samples)
    mean = _by_grey(total / samples, classifier)[0]
    return mean.abs().numpy(), {"samples": samples, "noise": noise, "seed": seed}


def integrated_gradients(
    classifier: Classifier,
    pixel_values: torch.Tensor,
    target: int,
    progress: Callable[..., None],
    *,
    steps: int = 16,
) -> tuple[np.ndarray, dict]:
    """Compute what the grey value of each pixel adds to the logit on the way from a black picture to this one.

    Returns the attribution [H, W] in logits and the settings. It sums to the logit less that of the black picture, as
    exactly as `steps` points of the Gauss-Legendre rule follow the way. Raises `ValueError`.
    Paper: Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365
    """
    from captum.attr import IntegratedGradients  # takes over a second, as it brings matplotlib

    if steps < 1:
        raise ValueError(f"Integrated gradients need steps >= 1, got {steps}.")
    done = 0

    def forward(batch: torch.Tensor) -> torch.Tensor:
        nonlocal done
        logits = classifier.model(batch)
        done += len(batch)
        progress(done, steps)
        return logits

    # captum's own baseline, 0, is a mean grey, which no scan is empty at.
    black = -torch.tensor(classifier.preprocessing.mean).view(1, 3, 1, 1) / _std(classifier)
    attribution = IntegratedGradients(forward).attribute(
        pixel_values.clone(),
        baselines=black.expand_as(pixel_values),
        target=target,
        n_steps=steps,
        internal_batch_size=BATCH_SIZE,
    )
    return attribution[0].sum(dim=0).detach().float().numpy(), {"steps": steps, "baseline": "black"}


def _by_grey(gradient: torch.Tensor, classifier: Classifier) -> torch.Tensor:
    """Turn a gradient by the normalised pixel values [N, 3, H, W] into that by the grey value they all show."""
    return (gradient / _std(classifier)).sum(dim=1)


def _std(classifier: Classifier) -> torch.Tensor:
    return torch.tensor(classifier.preprocessing.std).view(1, 3, 1, 1)


# Guided by the rectifiers


def guided_unsupported(classifier: Classifier) -> str | None:
    """Return why guided methods do not work on this classifier, None where they do."""
    if (activation := _activation_besides_relu(classifier)) is None:
        return None
    return (
        f"Guided methods change how nn.ReLU passes gradients back; {classifier.info.architecture} also has {activation}"
        ", where they would be the plain gradient. Use integrated_gradients or smooth_grad."
    )


def guided_cam_unsupported(classifier: Classifier) -> str | None:
    """Return why guided Grad-CAM does not work on this classifier, None where it does."""
    return guided_unsupported(classifier) or cam_unsupported(classifier)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
@torch.enable_grad()
def _activation_besides_relu(classifier: Classifier) -> str | None:
    """Return the name of an activation that is no nn.ReLU, None where there is none; read off autograd's graph."""
    calls = []
    with classifier.private_model() as model:
        rectifiers = [module for module in model.modules() if isinstance(module, nn.ReLU)]
        hooks = [module.register_forward_hook(lambda *call: calls.append(None)) for module in rectifiers]
        try:
            logits = model(torch.zeros(1, 3, *classifier.preprocessing.size).requires_grad_())
        finally:
            for hook in hooks:
                hook.remove()
    nodes, waiting = set(), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [earlier for earlier, _ in node.next_functions]
    names = Counter(re.sub(r"Backward\d*$", "", node.name()) for node in nodes)
    for name, _ in names.most_common():
        if NOT_RELU.search(name):
            return name
    # captum's hooks are on modules: a rectifier that is only a function would slip through.
    return "a rectifier that is no module" if names["Relu"] > len(calls) else None


def guided_backprop(
    classifier: Classifier, pixel_values: torch.Tensor, target: int, progress: Callable[..., None]
) -> tuple[np.ndarray, dict]:
    """Compute the absolute gradient by the grey value where every rectifier passes back only what is positive.

    Returns the attribution [H, W] >= 0 in logits per step from black to white, and the settings.
    Paper: Springenberg et al. 2015, https://arxiv.org/abs/1412.6806
    """
    gradient = _guided_gradient(classifier, pixel_values, target)
    progress(1, 1)
    return gradient.abs().numpy(), {}


def guided_grad_cam(
    classifier: Classifier, pixel_values: torch.Tensor, target: int, progress: Callable[..., None]
) -> tuple[np.ndarray, dict]:
    """Compute guided backpropagation times the positive part of Grad-CAM, each cell laid at its true place.

    Returns the attribution [H, W] >= 0, in squared logits per cell and step from black to white, and the settings.
    Paper: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
    """
    layer = target_layer(classifier)
    cells = grad_cam_cells(classifier, pixel_values, target).relu()
    progress(1, 2)
    gradient = _guided_gradient(classifier, pixel_values, target)
    progress(2, 2)
    attribution = gradient.abs() * resample_to_image(cells, layer, pixel_values.shape[2:])[0, 0]
    return attribution.numpy(), {"target_layer": layer.name}


def _guided_gradient(classifier: Classifier, pixel_values: torch.Tensor, target: int) -> torch.Tensor:
    """Return the guided gradient of the logit by the grey value, [H, W]."""
    from captum.attr import GuidedBackprop  # takes over a second, as it brings matplotlib

    with classifier.private_model() as model:
        # captum says on every call that it sets hooks, which is why it gets the private model.
        warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU activations")
        gradient = GuidedBackprop(model).attribute(pixel_values.clone().requires_grad_(), target=target)
    return _by_grey(gradient.detach(), classifier)[0]
