"""The layers that class-activation methods read, and where their cells lie on the picture; both are measured."""

import copy
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from brain_xai.classifier import Classifier

# "last" is the last layer that still is a picture, "fine" the one before it whose cells are smaller.
LAYERS = ("last", "fine")


@dataclass(frozen=True)
class TargetLayer:
    """A layer that still is a picture: its `name` in the model and how its cells lie on the view.

    `cells` is (height, width) of its output. The cell (i, j) is centred at the pixel
    (`offset[0] + stride[0] * i`, `offset[1] + stride[1] * j`), counted from the centre of the upper left pixel.
    """

    name: str
    cells: tuple[int, int]
    stride: tuple[float, float]
    offset: tuple[float, float]


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # the probe needs gradients, whatever the caller does
@torch.enable_grad()
def target_layer(classifier: Classifier, which: str = "last") -> TargetLayer | None:
    """Measure a layer of a classifier, once; None where its features are not a picture of cells.

    "last" is the last module to finish whose output is the very tensor that `forward_features` returns: `layer4` of a
    ResNet, `bn2` of an EfficientNet. "fine" is the last to finish with smaller cells whose output all that follows
    depends on: `layer3` of a ResNet, the end of the first expansion after the last but one stage of an EfficientNet.
    Raises `ValueError` for another `which`.
    """
    if which not in LAYERS:
        raise ValueError(f"{which!r} is not a layer. Use one of: {', '.join(LAYERS)}.")
    if not hasattr(classifier.model, "forward_features"):
        return None
    size = classifier.preprocessing.size
    with classifier.private_model() as model:
        finished, features = _outputs(model, size)
        names = [name for name, output in finished if output is features]
        if not names or features.ndim != 4 or features.shape[1] != model.num_features:
            return None
        name, cells = names[-1], tuple(features.shape[2:])
        if which == "fine":
            name, cells = _last_finer(model, size, finished, cells)
            if name is None:
                return None
        # A copy for this thread alone: its weights are overwritten.
        probe = _centre_taps_only(copy.deepcopy(model))
    stride, offset = _grid(probe, name, size, cells)
    # Where norms undo the overwritten weights the probe finds nothing, and no place is better than a wrong one.
    if not all(0.5 < step * count / side < 2 for step, count, side in zip(stride, cells, size, strict=True)):
        return None
    return TargetLayer(name, cells, stride, offset)


def _outputs(model: nn.Module, size: tuple[int, int]) -> tuple[list[tuple[str, torch.Tensor]], torch.Tensor]:
    """Return (name, output) of every module in the order they finish, and the features."""
    finished = []

    def note(name: str):
        return lambda module, inputs, output: finished.append((name, output))

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            features = model.forward_features(torch.zeros(1, 3, *size))
    finally:
        for hook in hooks:
            hook.remove()
    return finished, features


def _last_finer(
    model: nn.Module, size: tuple[int, int], finished: list[tuple[str, torch.Tensor]], cells: tuple[int, int]
) -> tuple[str | None, tuple[int, ...]]:
    """Return name and cells of the last module with more cells than `cells` that all the features depend on."""
    uncut, tried = _difference(model, size), None
    for name, output in reversed(finished):
        if not isinstance(output, torch.Tensor) or output.ndim != 4 or output is tried:
            continue
        if min(np.subtract(output.shape[2:], cells)) > 0:
            if _difference(model, size, name) < 1e-3 * uncut:
                return name, tuple(output.shape[2:])
            tried = output  # modules inside of this one return the same
    return None, ()


@torch.no_grad()
def _difference(model: nn.Module, size: tuple[int, int], name: str | None = None) -> float:
    """Return how far the features of two pictures lie apart, at most; the module `name` gives the same for both.

    Then they do not differ where everything passes through that module and no skip leads around it.
    """
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
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


def _centre_taps_only(model: nn.Module) -> nn.Module:
    """Overwrite the weights so that every convolution passes on only what lies in the middle of its kernel.

    Then the gradient of a cell leads straight to the middle of its receptive field, even where squeeze-and-excitation
    or a small picture makes the field itself as large as the picture.
    """
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # Positive, so that activations stay in their rising part; unequal, or layer norm would cancel all.
            channels = module.weight.shape[:2]
            middle = [slice((side - 1) // 2, side // 2 + 1) for side in module.kernel_size]
            module.weight.data.zero_()
            module.weight.data[:, :, *middle] = torch.rand(*channels, 1, 1, generator=generator) * 2 / channels[1]
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model


def _grid(probe: nn.Module, name: str, size: tuple[int, int], cells: tuple[int, int]) -> tuple[tuple, tuple]:
    """Return stride and offset, per axis, from the places of two cells in the middle, whose fields no border cuts."""
    first = [(count - 1) // 2 for count in cells]
    second = [min(cell + 1, count - 1) for cell, count in zip(first, cells, strict=True)]
    # Max-pooling follows the brightest pixel: half-way between where it leads on a picture that grows brighter and on
    # one that grows darker lies the middle of its kernel.
    ramp = torch.arange(size[0])[:, None] + torch.arange(size[1])
    brighter = 1 + ramp / ramp.max()
    darker = brighter.flip(0, 1)
    pictures = torch.stack([brighter, brighter, darker, darker])[:, None].repeat(1, 3, 1, 1).requires_grad_()
    outputs = []
    probe.get_submodule(name).register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    probe.forward_features(pictures)
    chosen = sum(outputs[0][item, :, *cell].sum() for item, cell in enumerate([first, second, first, second]))
    gradient = torch.autograd.grad(chosen, pictures)[0].abs().sum(dim=1)
    # Squeeze-and-excitation spreads a little gradient over the whole picture: only the peak counts.
    gradient = gradient * (gradient > gradient.amax(dim=(1, 2), keepdim=True) / 2)
    stride, offset = [], []
    for axis, side in enumerate(size):
        profile = gradient.sum(dim=2 - axis)
        centres = profile @ torch.arange(side, dtype=profile.dtype) / profile.sum(dim=1)
        start, end = centres.view(2, 2).mean(dim=0).tolist()
        step = end - start if cells[axis] > 1 else float(side)
        stride.append(round(step, 2))
        offset.append(round(start - step * first[axis], 2) + 0.0)  # + 0.0 makes 0.0 of -0.0
    return tuple(stride), tuple(offset)
