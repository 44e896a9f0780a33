"""The layers that class-activation methods read, and where their feature maps lie on the image; both are measured."""

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from brain_xai.classifier import Classifier, model_fact

# "last" is the last layer whose output is a spatial feature map, "penultimate" the last one of higher resolution.
LAYERS = ("last", "penultimate")
# Fewer positions than this along an axis all touch the border of the image, which would falsify the measurement.
MIN_PROBE_GRID = 4
# A multiple of all usual strides, so that a layer pads an image that is this much larger in the same way.
PROBE_MARGIN = 128


@dataclass(frozen=True)
class TargetLayer:
    """A layer whose output is a spatial feature map, and how that lies on the image.

    Attributes:
        name: Its name in the model, for `model.get_submodule`.
        grid_size: Height and width of its feature map.
        stride: Distance in pixels between two neighboring positions of the feature map, per axis.
        offset: Where the first position is centered, per axis, in pixels from the center of the upper left pixel:
            position (i, j) is centered at (offset[0] + stride[0] * i, offset[1] + stride[1] * j).
    """

    name: str
    grid_size: tuple[int, int]
    stride: tuple[float, float]
    offset: tuple[float, float]


def target_layer(classifier: Classifier, which: str = "last") -> TargetLayer | None:
    """Find a layer of a classifier and measure where its feature map lies on the image.

    Args:
        classifier: The layer is measured once per model.
        which: "last" is the last module whose output is the very tensor that `forward_features` returns (`layer4` of a
            ResNet, `bn2` of an EfficientNet). "penultimate" is the last module of higher resolution that every path to
            the output passes through (`layer3` of a ResNet, the first expansion of the last stage of an EfficientNet).

    Returns:
        The layer, or None for a model whose features are not a spatial feature map.

    Raises:
        ValueError: `which` is neither of the two.
    """
    if which not in LAYERS:
        raise ValueError(f"{which!r} is not a layer. Use one of: {', '.join(LAYERS)}.")
    return _measure(classifier, which)


@model_fact
@torch.inference_mode(False)  # the probe needs gradients, whatever mode the caller is in
@torch.enable_grad()
def _measure(classifier: Classifier, which: str) -> TargetLayer | None:
    if not hasattr(classifier.model, "forward_features"):
        return None
    size = classifier.preprocessing.size
    with classifier.private_model() as model:
        finished, features = _module_outputs(model, classifier.to_device(torch.zeros(1, 3, *size)))
        names = [name for name, output in finished if output is features]
        if not names or features.ndim != 4 or features.shape[1] != model.num_features:
            return None
        name, grid_size = names[-1], tuple(features.shape[2:])
        if which == "penultimate":
            noise = classifier.to_device(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)))
            name, grid_size = _last_of_higher_resolution(model, noise, finished, grid_size)
            if name is None:
                return None
        # A copy for this thread alone, because its weights are overwritten.
        probe = _keep_center_taps(copy.deepcopy(model).float())
    margins = [0 if count >= MIN_PROBE_GRID else PROBE_MARGIN for count in grid_size]
    probe_size = [side + margin for side, margin in zip(size, margins, strict=True)]
    stride, offset = _measure_grid(probe, name, probe_size, classifier.device)
    # If normalization cancels the overwritten weights the probe fails; returning None beats a wrong grid.
    if not all(0.5 < step * count / side < 2 for step, count, side in zip(stride, grid_size, size, strict=True)):
        return None
    return TargetLayer(name, grid_size, stride, offset)


def _module_outputs(model: nn.Module, image: torch.Tensor) -> tuple[list[tuple[str, torch.Tensor]], torch.Tensor]:
    """Return (name, output) of every module in the order in which they finish, and the features."""
    finished = []

    def record(name: str):
        return lambda module, inputs, output: finished.append((name, output))

    hooks = [module.register_forward_hook(record(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            features = model.forward_features(image)
    finally:
        for hook in hooks:
            hook.remove()
    return finished, features


def _last_of_higher_resolution(
    model: nn.Module, noise: torch.Tensor, finished: list[tuple[str, torch.Tensor]], grid_size: tuple[int, int]
) -> tuple[str | None, tuple[int, ...]]:
    """Return name and grid of the last module with a larger grid than `grid_size` that determines the features."""
    uncut, checked = _feature_difference(model, noise), None
    for name, output in reversed(finished):
        if not isinstance(output, torch.Tensor) or output.ndim != 4 or output is checked:
            continue
        if output.shape[2] > grid_size[0] and output.shape[3] > grid_size[1]:
            if _feature_difference(model, noise, name) < 1e-3 * uncut:
                return name, tuple(output.shape[2:])
            checked = output  # the modules inside this one return the same tensor
    return None, ()


@torch.no_grad()
def _feature_difference(model: nn.Module, noise: torch.Tensor, name: str | None = None) -> float:
    """Return how much the features of a black image and of noise differ if the module `name` gives both the same.

    They do not differ if everything passes through that module and no skip connection leads around it.
    """
    hooks = []
    if name is not None:

        def repeat_first(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            return output[:1].repeat(2, 1, 1, 1)

        hooks.append(model.get_submodule(name).register_forward_hook(repeat_first))
    try:
        features = model.forward_features(torch.cat([torch.zeros_like(noise), noise]))
    finally:
        for hook in hooks:
            hook.remove()
    return float((features[0] - features[1]).abs().max())


def _keep_center_taps(model: nn.Module) -> nn.Module:
    """Overwrite the weights so that every convolution passes on only what lies at the center of its kernel.

    Then the gradient of one position leads straight to the center of its receptive field, even if
    squeeze-and-excitation or a small image makes that field as large as the image. Where branches of other centers
    meet, as in a ResNet whose skip connections pool, each counts as much as the model's own normalization lets it.
    """
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # Positive, so that activations stay where they increase; unequal, or layer norm would cancel them all.
            channels = module.weight.shape[:2]
            center = [slice((side - 1) // 2, side // 2 + 1) for side in module.kernel_size]
            weights = torch.rand(*channels, 1, 1, generator=generator) * 2 / channels[1]
            module.weight.data.zero_()
            module.weight.data[:, :, *center] = weights.to(module.weight.device)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            if module.affine:
                share = module.weight.detach().square()
                module.register_forward_pre_hook(partial(_normalize_energy, share=share))
            module.reset_parameters()
    return model


@torch.no_grad()
def _normalize_energy(module: nn.BatchNorm2d, inputs: tuple[torch.Tensor], share: torch.Tensor) -> None:
    """Give a layer's output, all of which is positive in the probe, the mean `share`, float [C]."""
    module.weight.copy_(share / inputs[0].mean(dim=(0, 2, 3)).abs().clamp(min=1e-12))


def _measure_grid(probe: nn.Module, name: str, size: list[int], device: torch.device) -> tuple[tuple, tuple]:
    """Return stride and offset per axis, from where two positions in the middle of the feature map get their input."""
    # Max-pooling follows the brightest pixel: the center of its kernel lies half-way between where it leads on an image
    # that gets brighter and on one that gets darker.
    ramp = torch.arange(size[0], device=device)[:, None] + torch.arange(size[1], device=device)
    brighter = 1 + ramp / ramp.max()
    darker = brighter.flip(0, 1)
    images = torch.stack([brighter, brighter, darker, darker])[:, None].repeat(1, 3, 1, 1).requires_grad_()
    outputs = []
    probe.get_submodule(name).register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    probe.forward_features(images)
    grid_size = outputs[0].shape[2:]
    first = [(count - 1) // 2 for count in grid_size]
    second = [min(position + 1, count - 1) for position, count in zip(first, grid_size, strict=True)]
    # Unequal, because the plain sum over the channels is the same everywhere after layer norm.
    weights = torch.linspace(1, 2, outputs[0].shape[1], device=device)
    chosen = sum(weights @ outputs[0][item, :, *at] for item, at in enumerate([first, second, first, second]))
    gradient = torch.autograd.grad(chosen, images)[0].abs().sum(dim=1).cpu()
    gradient = _around_peak(gradient, [side / count for side, count in zip(size, grid_size, strict=True)])
    stride, offset = [], []
    for axis, side in enumerate(size):
        profile = gradient.sum(dim=2 - axis)
        centers = profile @ torch.arange(side, dtype=profile.dtype) / profile.sum(dim=1)
        start, end = centers.view(2, 2).mean(dim=0).tolist()
        step = end - start if grid_size[axis] > 1 else float(side)
        stride.append(round(step, 2))
        offset.append(round(start - step * first[axis], 2) + 0.0)  # + 0.0 turns -0.0 into 0.0
    return tuple(stride), tuple(offset)


def _around_peak(gradient: torch.Tensor, reach: list[float]) -> torch.Tensor:
    """Return gradients [N, H, W] with zeros beyond `reach` (rows, columns) of each one's peak.

    Squeeze-and-excitation spreads some gradient over the whole image. Where it does, what is not more than half of the
    peak is zero as well.
    """
    rows, columns = (torch.arange(side) for side in gradient.shape[1:])
    places = gradient.flatten(1).argmax(dim=1)[:, None]
    near_rows = (rows - places // len(columns)).abs() <= reach[0]
    near_columns = (columns - places % len(columns)).abs() <= reach[1]
    near = near_rows[:, :, None] & near_columns[:, None]
    is_spread = (gradient * ~near).any(dim=2).any(dim=1)[:, None, None]
    return gradient * (near & (gradient > is_spread * gradient.amax(dim=(1, 2), keepdim=True) / 2))
