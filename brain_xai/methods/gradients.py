"""Methods that follow the gradient of the logit down to the pixels.

A scan is gray and its three channels always change together, so all of these compute the gradient with respect to the
gray value, which is 0 for black and 1 for white. Brighter as well as darker pixels may be evidence for a class: the
sign of a gradient says which of the two, not whether a pixel speaks for the class, so only its magnitude is shown.
"""

import re
import warnings
from collections import Counter

import numpy as np
import torch
from torch import nn

from brain_xai.classifier import Classifier, model_fact
from brain_xai.methods.cam import cam_unsupported, captum_grad_cam, resample_to_image
from brain_xai.methods.request import Request
from brain_xai.methods.target_layer import target_layer

# Larger batches are no faster on a CPU, and cancellation happens between batches.
BATCH_SIZE = 8
# Names of autograd's nodes for activations other than ReLU.
NOT_RELU = re.compile(r"leaky|prelu|rrelu|(?<!r)elu|silu|swish|mish|sigmoid|tanh|softplus|clamp|threshold", re.I)

# Captum warns on every call that it sets hooks; here it sets them on the private copy. Once for the whole process,
# because the list of filters is shared by all threads.
warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU activations")


# The plain gradient, and averages of it


def saliency(request: Request) -> tuple[np.ndarray, dict]:
    """Compute how strongly the logit depends on the gray value of each pixel: the absolute gradient.

    Returns:
        The attribution, float32 [H, W] >= 0 in logits per gray range (from black to white), and the settings.

    Reference:
        Simonyan et al. 2014, https://arxiv.org/abs/1312.6034, which takes the maximum over three color channels.
    """
    gradient = _gradient(request.classifier, request.pixel_values, request.target)
    request.progress(1, 1)
    return _to_gray(gradient, request.classifier)[0].abs().cpu().numpy(), {"engine": "captum"}


def smooth_grad(request: Request, *, samples: int = 8, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, dict]:
    """Compute the absolute value of the mean gradient over noisy copies of the image.

    Args:
        request: The class and image to explain.
        samples: Number of copies.
        noise: Standard deviation of the gray noise, as a fraction of the range of gray values in the image.
        seed: The same seed gives the same map.

    Returns:
        The attribution, float32 [H, W] >= 0 in logits per gray range (from black to white), and the settings.

    Raises:
        ValueError: There are no samples, or the noise is negative.

    Reference:
        Smilkov et al. 2017, https://arxiv.org/abs/1706.03825
    """
    if samples < 1 or not noise >= 0:
        raise ValueError(f"SmoothGrad needs samples >= 1 and noise >= 0, got samples {samples} and noise {noise}.")
    classifier, pixel_values = request.classifier, request.pixel_values
    std = _std(classifier)
    # Range of channel 0 in gray units (undo its std), because the noise is also given in gray units.
    gray_range = (pixel_values[:, 0].max() - pixel_values[:, 0].min()) * std[0, 0]
    # Not Captum's NoiseTunnel, which draws from the generator that all threads share. Drawn on the CPU, the noise is
    # the same on every device.
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(pixel_values)
    for done in range(0, samples, BATCH_SIZE):
        count = min(BATCH_SIZE, samples - done)
        drawn = classifier.to_device(torch.randn(count, 1, *request.size, generator=generator))
        noisy = pixel_values + noise * gray_range * drawn / std
        total += _gradient(classifier, noisy, request.target).sum(dim=0, keepdim=True)
        request.progress(done + count, samples)
    mean = _to_gray(total / samples, classifier)[0]
    return mean.abs().cpu().numpy(), {"engine": "captum", "samples": samples, "noise": noise, "seed": seed}


def integrated_gradients(request: Request, *, steps: int = 16) -> tuple[np.ndarray, dict]:
    """Compute what the gray value of each pixel adds to the logit on the straight path from a black image to this one.

    Args:
        request: The class and image to explain.
        steps: Points of the Gauss-Legendre rule along the path.

    Returns:
        The attribution, float32 [H, W] in logits, > 0 for and < 0 against the class, and the settings. It sums to the
        logit minus that of the black image, as exactly as `steps` allow.

    Raises:
        ValueError: There are no steps.

    Reference:
        Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365
    """
    from captum.attr import IntegratedGradients  # takes over a second, because it imports matplotlib

    if steps < 1:
        raise ValueError(f"Integrated gradients need steps >= 1, got {steps}.")
    classifier, done = request.classifier, 0

    def forward(batch: torch.Tensor) -> torch.Tensor:
        nonlocal done
        logits = classifier.model(batch)
        done += len(batch)
        request.progress(done, steps)
        return logits

    # Captum's default baseline 0 is mid-gray after normalization; an empty scan is black.
    attribution = IntegratedGradients(forward).attribute(
        request.pixel_values.clone(),
        baselines=classifier.black.expand_as(request.pixel_values),
        target=request.target,
        n_steps=steps,
        internal_batch_size=BATCH_SIZE,
    )
    attribution = attribution[0].detach().float().sum(dim=0).cpu().numpy()
    return attribution, {"engine": "captum", "steps": steps, "baseline": "black"}


def _gradient(classifier: Classifier, pixel_values: torch.Tensor, target: int) -> torch.Tensor:
    """Return the gradient of each image's logit with respect to its normalized pixel values, [N, 3, H, W]."""
    from captum.attr import Saliency

    # No hook is set and no weight needs a gradient, so many threads can use the shared model.
    engine = Saliency(classifier.model)
    return engine.attribute(pixel_values.clone().requires_grad_(), target=target, abs=False)


def _to_gray(gradient: torch.Tensor, classifier: Classifier) -> torch.Tensor:
    """Turn a gradient with respect to pixel values [N, 3, H, W] into that with respect to gray values, [N, H, W]."""
    return (gradient / _std(classifier)).float().sum(dim=1)


def _std(classifier: Classifier) -> torch.Tensor:
    return classifier.to_device(torch.tensor(classifier.preprocessing.std).view(1, 3, 1, 1))


# Guided by the ReLUs


def guided_unsupported(classifier: Classifier) -> str | None:
    """Return why guided methods do not work on this classifier, None if they do."""
    if (activation := _activation_besides_relu(classifier)) is None:
        return None
    return (
        f"Guided methods change how nn.ReLU passes gradients back; {classifier.info.architecture} also has {activation}"
        ", where they would be the plain gradient. Use integrated_gradients or smooth_grad."
    )


def guided_cam_unsupported(classifier: Classifier) -> str | None:
    """Return why guided Grad-CAM does not work on this classifier, None if it does."""
    return guided_unsupported(classifier) or cam_unsupported(classifier)


@model_fact
@torch.inference_mode(False)
@torch.enable_grad()
def _activation_besides_relu(classifier: Classifier) -> str | None:
    """Return the name of an activation other than nn.ReLU, None if there is none; read off autograd's graph."""
    calls = []
    with classifier.private_model() as model:
        relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
        hooks = [module.register_forward_hook(lambda *call: calls.append(None)) for module in relus]
        try:
            blank = classifier.to_device(torch.zeros(1, 3, *classifier.preprocessing.size))
            logits = model(blank.requires_grad_())
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
    # Captum's hooks are on modules, so it would miss a ReLU that is only a function.
    return "a ReLU that is no module" if names["Relu"] > len(calls) else None


def guided_backprop(request: Request) -> tuple[np.ndarray, dict]:
    """Compute the absolute gradient with respect to the gray value, with only positive gradients through every ReLU.

    Returns:
        The attribution, float32 [H, W] >= 0 in logits per gray range (from black to white), and the settings.

    Reference:
        Springenberg et al. 2015, https://arxiv.org/abs/1412.6806
    """
    gradient = _guided_gradient(request)
    request.progress(1, 1)
    return gradient.abs().cpu().numpy(), {"engine": "captum"}


def guided_grad_cam(request: Request) -> tuple[np.ndarray, dict]:
    """Compute guided backpropagation × the positive part of Grad-CAM, resampled to its true position.

    Returns:
        The attribution, float32 [H, W] >= 0 in logits² per position of the feature map and gray range (from black to
        white), and the settings.

    Reference:
        Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
    """
    layer = target_layer(request.classifier)
    grid = captum_grad_cam(request, layer).relu()
    request.progress(1, 2)
    gradient = _guided_gradient(request)
    request.progress(2, 2)
    attribution = gradient.abs() * resample_to_image(grid, layer, request.size)[0, 0]
    return attribution.cpu().numpy(), {"engine": "captum", "target_layer": layer.name}


def _guided_gradient(request: Request) -> torch.Tensor:
    """Return the guided gradient of the logit with respect to the gray value, float32 [H, W]."""
    from captum.attr import GuidedBackprop

    with request.classifier.private_model() as model:
        pixel_values = request.pixel_values.clone().requires_grad_()
        gradient = GuidedBackprop(model).attribute(pixel_values, target=request.target)
    return _to_gray(gradient.detach(), request.classifier)[0]
