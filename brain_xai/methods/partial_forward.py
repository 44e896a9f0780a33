"""Forward passes of images with a window occluded, recomputed only where the window changes something.

Occluding a few pixels leaves most of the first layers unchanged: only a patch of each layer is recomputed and pasted
into the output for the full image. The idea, exact or with bounded patches, is that of Krypton (Nakandala, Kumar and
Papakonstantinou, SIGMOD 2019, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations").
"""

import copy
import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from brain_xai.classifier import Classifier, model_fact
from brain_xai.methods.traced import CONVOLUTIONS, traced

# Operations on single values work on a patch as they do on the full output.
POINTWISE_MODULES = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Identity, nn.Dropout)
POINTWISE_FUNCTIONS = (F.relu, F.silu, torch.relu, torch.sigmoid)
POINTWISE_METHODS = ("relu", "sigmoid")
ADDITIONS = (operator.add, torch.add)
PRODUCTS = (operator.mul, torch.mul)


@dataclass(frozen=True, eq=False)
class Occlusions:
    """N images that differ from one in a rectangular window each, which is cut off at the border of the image.

    Attributes:
        pixel_values: The full image, float [1, 3, H, W].
        tops: First row of each window, int64 [N].
        lefts: First column of each window, int64 [N].
        window: Height and width of the windows in pixels.
        fill: What the windows are filled with, float [1, 3, 1, 1].
    """

    pixel_values: torch.Tensor
    tops: torch.Tensor
    lefts: torch.Tensor
    window: tuple[int, int]
    fill: torch.Tensor

    def images(self) -> torch.Tensor:
        """Return the occluded images in full, [N, 3, H, W]."""
        height, width = self.window
        copies = self.pixel_values.repeat(len(self.tops), 1, 1, 1)
        for image, top, left in zip(copies, self.tops.tolist(), self.lefts.tolist(), strict=True):
            image[:, top : top + height, left : left + width] = self.fill[0]
        return copies

    def patch(self) -> "Patch":
        """Return what differs from the full image. A window that is cut off gets a patch that begins before it."""
        starts = (self.tops, self.lefts)
        first = [
            start.clamp(max=side - length)
            for start, side, length in zip(starts, self.pixel_values.shape[2:], self.window, strict=True)
        ]
        rows, columns = (_span(start, length) for start, length in zip(first, self.window, strict=True))
        covered = (rows >= self.tops[:, None])[:, :, None] & (columns >= self.lefts[:, None])[:, None, :]
        values = torch.where(covered[:, None], self.fill, _gather(self.pixel_values, *first, *self.window))
        return Patch(values, *first, self.pixel_values)


@dataclass(frozen=True, eq=False)
class Patch:
    """What N occlusions change in the output of a layer.

    Attributes:
        values: The changed values, [N, C, h, w].
        top: Row of the full output at which each patch begins, int64 [N].
        left: Column of the full output at which each patch begins, int64 [N].
        base: The output for the full image, [1, C, H, W]; outside the patches nothing changes.
    """

    values: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor
    base: torch.Tensor

    def with_values(self, values: torch.Tensor, base: torch.Tensor) -> "Patch":
        return Patch(values, self.top, self.left, base)

    def full(self) -> torch.Tensor:
        """Return the full outputs, [N, C, H, W]."""
        canvas = _channels_last(self.base).repeat(len(self.values), 1, 1, 1)
        return _scatter(self.values, canvas, self.top, self.left)


@dataclass(frozen=True, eq=False)
class Bound:
    """Limits the patch of every layer to the positions below the patch of the image and `reach` more on each side."""

    image_patch: Patch
    reach: int

    def length(self, side: int, axis: int) -> int:
        """Return how long a patch may be in a layer that has `side` positions along an axis."""
        extent, image_side = self.image_patch.values.shape[2 + axis], self.image_patch.base.shape[2 + axis]
        return -(-extent * side // image_side) + 2 * self.reach


class PartialForward:
    """A model as a graph of steps, in a private copy with batch norm folded into the convolutions before it.

    It keeps nothing from one run to the next and sets no hook, so many threads can use it at once.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int]):
        self.model, self.graph = traced(model, size)
        self._patch_interpreter = _PatchInterpreter(self.model, graph=self.graph)

    @torch.inference_mode()
    def outputs(self, pixel_values: torch.Tensor) -> dict[fx.Node, Any]:
        """Return what every step computes for one image [1, 3, H, W]; the last one is the logits [1, classes]."""
        interpreter = fx.Interpreter(self.model, garbage_collect_values=False, graph=self.graph)
        interpreter.run(pixel_values.contiguous(memory_format=torch.channels_last))
        return interpreter.env

    @torch.inference_mode()
    def occluded(self, outputs: dict[fx.Node, Any], patch: Patch, reach: int | None) -> torch.Tensor:
        """Compute the logits of occluded images.

        Args:
            outputs: What `outputs` returned for the full image.
            patch: What differs from the full image.
            reach: See `Bound`; changes beyond it are ignored. None follows every change, which is exact.

        Returns:
            The logits, [N, classes].
        """
        interpreter = copy.copy(self._patch_interpreter)  # a new one would search the graph again
        interpreter.outputs, interpreter.bound = outputs, None if reach is None else Bound(patch, reach)
        return interpreter.run(patch)


class _PatchInterpreter(fx.Interpreter):
    """Runs a graph on the patch of an image; steps that have no way to work on a patch get the full outputs."""

    outputs: dict[fx.Node, Any]  # of the full image
    bound: Bound | None

    def run_node(self, node: fx.Node) -> Any:
        if any(isinstance(self.env[source], Patch) for source in node.all_input_nodes):
            result = self._run_on_patch(node, *fx.node.map_arg(node.args, self.env.__getitem__))
            if result is not None:
                return result
        return super().run_node(node)

    def fetch_args_kwargs_from_env(self, node: fx.Node) -> tuple[tuple, dict]:
        return fx.node.map_arg((node.args, node.kwargs), lambda source: _full(self.env[source]))

    def _run_on_patch(self, node: fx.Node, patch: Any, *others: Any) -> Any:
        """Run one step on a patch; None if that is impossible."""
        base, module = self.outputs[node], self.submodules.get(node.target) if node.op == "call_module" else None
        if _is_pointwise(node, module):
            arguments, options = fx.node.map_arg((node.args, node.kwargs), lambda source: patch.values)
            return patch.with_values(getattr(self, node.op)(node.target, arguments, options), base)
        if type(module) in (*CONVOLUTIONS, nn.MaxPool2d) and _is_plain(module):
            return _slide(module, patch, base, self.bound)
        if node.target in ADDITIONS and isinstance(patch, Patch) and isinstance(others[0], Patch):
            return _add(patch, others[0], base)
        # The weights of squeeze-and-excitation, one per channel, change the full output a little.
        if node.target in PRODUCTS and self.bound and isinstance(patch, Patch) and _is_per_channel(others[0]):
            return patch.with_values(patch.values * others[0], base)
        if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
            return _mean(patch)[:, :, None, None]
        if (node.op, node.target) == ("call_method", "mean") and others == ((2, 3),):
            mean = _mean(patch)
            return mean[:, :, None, None] if node.kwargs.get("keepdim") else mean
        return None


@model_fact
@torch.inference_mode()
def partial_forward(classifier: Classifier) -> PartialForward | None:
    """Return the classifier's model for partial forward passes; None if it cannot be traced or its logits then differ.

    Whether the logits are the same, to 1e-5, is tested on noise with a window occluded.
    """
    size = classifier.preprocessing.size
    noise = classifier.to_device(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    window = tuple(max(1, side // 8) for side in size)
    starts = [
        torch.tensor([0, side // 2, side - length // 2]).to(noise.device)
        for side, length in zip(size, window, strict=True)
    ]
    occlusions = Occlusions(noise, *starts, window, torch.zeros_like(classifier.black))
    try:
        network = PartialForward(classifier.model, size)
        logits = network.occluded(network.outputs(noise), occlusions.patch(), reach=None).float().cpu()
    except Exception:  # models that read sizes or branch on values fail in many ways
        return None
    expected = classifier.logits(occlusions.images())
    tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
    same = logits.shape == expected.shape and bool(((logits - expected).abs() <= tolerance).all())
    return network if same else None


def _is_pointwise(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) in POINTWISE_MODULES or isinstance(module, nn.BatchNorm2d)
    if node.op == "call_function":
        return node.target in POINTWISE_FUNCTIONS
    return node.op == "call_method" and node.target in POINTWISE_METHODS


def _is_plain(module: nn.Conv2d | nn.MaxPool2d) -> bool:
    if isinstance(module, nn.MaxPool2d):
        return not module.ceil_mode
    return isinstance(module.padding, tuple) and module.padding_mode == "zeros"


def _is_per_channel(factor: Any) -> bool:
    return isinstance(factor, torch.Tensor) and factor.shape[2:] == (1, 1)


@dataclass(frozen=True, eq=False)
class AxisGeometry:
    """Which outputs of a sliding kernel a patch changes along one axis, and which part of the padded input they need.

        padded input     ...........[===patch===].............
        needed input            |...[===patch===]...|              begins at first * stride, is `needed` long
        kernels at first        [-----]
        to first + length - 1                 [-----]

    Attributes:
        first: The first output of each patch, int64 [N].
        length: How many outputs are recomputed.
        needed: How many inputs they need.
        place: Where the patch begins in the needed input, int64 [N]; a bounded patch may stick out on both sides.
        padding: How many positions the layer pads on each side.
        stride: Distance of two kernels.
    """

    first: torch.Tensor
    length: int
    needed: int
    place: torch.Tensor
    padding: int
    stride: int

    @classmethod
    def of(cls, module: nn.Conv2d | nn.MaxPool2d, axis: int, patch: Patch, side: int, most: int) -> "AxisGeometry":
        """Compute it for one of `patch`'s axes, of `side` outputs of which at most `most` may be recomputed."""
        kernel, stride, padding, dilation = (
            _pair(value)[axis] for value in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        span = dilation * (kernel - 1) + 1
        start, extent = (patch.top, patch.left)[axis], patch.values.shape[2 + axis]
        touched = -(-(extent + span - 1) // stride)  # rounded up: outputs whose kernel may touch the patch
        length = min(touched, side, most)
        first = -((span - 1 - padding - start) // stride)
        first = (first + (touched - length) // 2).clamp(0, side - length)
        return cls(first, length, (length - 1) * stride + span, start + padding - first * stride, padding, stride)


def _slide(
    module: nn.Conv2d | nn.MaxPool2d, patch: Patch, base: torch.Tensor, bound: Bound | None
) -> Patch | torch.Tensor:
    """Run a convolution or max-pooling where its kernel touches the patch."""
    sides = base.shape[2:]
    most = [bound.length(side, axis) if bound else side for axis, side in enumerate(sides)]
    axes = [AxisGeometry.of(module, axis, patch, sides[axis], most[axis]) for axis in (0, 1)]
    if (axes[0].length, axes[1].length) == tuple(sides):
        return module(patch.full())
    is_convolution = isinstance(module, nn.Conv2d)
    needed = _needed_input(patch, axes, fill=0.0 if is_convolution else float("-inf"))
    if is_convolution:
        values = F.conv2d(needed, module.weight, module.bias, module.stride, 0, module.dilation, module.groups)
    else:
        values = F.max_pool2d(needed, module.kernel_size, module.stride, 0, module.dilation)
    return Patch(values, axes[0].first, axes[1].first, base)


def _needed_input(patch: Patch, axes: list[AxisGeometry], fill: float) -> torch.Tensor:
    """Return the input that the recomputed outputs need, patch included, with `fill` around the full input."""
    # If the kernel skips positions, or the patch is bounded, some of the patch lies outside of what is needed.
    before = max(0, -int(min(axis.place.min() for axis in axes)))
    ends = [int(axis.place.max()) + extent for axis, extent in zip(axes, patch.values.shape[2:], strict=True)]
    after = max(0, *(end - axis.needed for end, axis in zip(ends, axes, strict=True)))
    margins = [(axis.padding + before, axis.padding + before + after + axis.needed) for axis in reversed(axes)]
    padded = F.pad(patch.base, (*margins[0], *margins[1]), value=fill)
    corner = [axis.first * axis.stride for axis in axes]
    around = _gather(padded, *corner, *(axis.needed + before + after for axis in axes))
    canvas = _scatter(patch.values, _channels_last(around), *(axis.place + before for axis in axes))
    return canvas[:, :, before : before + axes[0].needed, before : before + axes[1].needed]


def _add(one: Patch, other: Patch, base: torch.Tensor) -> Patch | None:
    """Add two patches: the smaller one is extended to the larger one's area by the values around it."""
    large, small = (one, other) if one.values.shape[2] >= other.values.shape[2] else (other, one)
    height, width = large.values.shape[2:]
    if small.values.shape[3] > width:
        return None
    down, right = small.top - large.top, small.left - large.left
    margin = max(height, width)  # more than a patch can stick out
    padded = F.pad(small.base, (margin, margin, margin, margin))
    canvas = _channels_last(_gather(padded, large.top, large.left, height + 2 * margin, width + 2 * margin))
    terms = _scatter(small.values, canvas, down + margin, right + margin)
    terms = terms[:, :, margin : margin + height, margin : margin + width]
    return large.with_values(large.values + terms, base)


def _mean(patch: Patch) -> torch.Tensor:
    """Return the mean over all positions, [N, C]."""
    before = _gather(patch.base, patch.top, patch.left, *patch.values.shape[2:])
    change = (patch.values - before).sum(dim=(2, 3))
    return patch.base.mean(dim=(2, 3)) + change / patch.base[0, 0].numel()


def _gather(base: torch.Tensor, top: torch.Tensor, left: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return N pieces [N, C, height, width] of `base` [1, C, H, W]."""
    rows, columns = _span(top, height), _span(left, width)
    return _channels_last(base)[0][rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _scatter(values: torch.Tensor, canvas: torch.Tensor, top: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Paste `values` [N, C, h, w] into `canvas` [N, H, W, C], which is overwritten; return it as [N, C, H, W]."""
    height, width = values.shape[2:]
    rows, columns = _span(top, height), _span(left, width)
    item = torch.arange(len(values), device=values.device)[:, None, None]
    canvas[item, rows[:, :, None], columns[:, None, :]] = _channels_last(values)
    return canvas.permute(0, 3, 1, 2)


def _span(start: torch.Tensor, length: int) -> torch.Tensor:
    """Return the `length` indices from each start, int64 [N, length]."""
    return start[:, None] + torch.arange(length, device=start.device)


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    """Return [N, C, H, W] as [N, H, W, C]: no copy, and one position is one contiguous piece of memory."""
    return values.permute(0, 2, 3, 1)


def _full(result: Any) -> Any:
    return result.full() if isinstance(result, Patch) else result


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
