"""Forward passes of pictures with a window hidden, computed again only where the window reaches.

Hiding a few pixels leaves most of the first layers as they were: a patch of each layer is worked out anew and laid
into what the whole picture gave there. The idea, exact and with bounded patches, is that of Krypton (Nakandala, Kumar
and Papakonstantinou, SIGMOD 2019, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations").
"""

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from brain_xai.classifier import Classifier

# What turns each value into another without looking at its neighbours works on a patch as it does on the whole.
POINTWISE_MODULES = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Identity, nn.Dropout)
POINTWISE_FUNCTIONS = (F.relu, F.silu, torch.relu, torch.sigmoid)
POINTWISE_METHODS = ("relu", "sigmoid")
ADDITIONS = (operator.add, torch.add)
PRODUCTS = (operator.mul, torch.mul)
NOT_IN_PLACE = {operator.iadd: operator.add, operator.imul: operator.mul}


@dataclass(frozen=True, eq=False)
class Patch:
    """What hiding one window each changes in a layer's output, for N windows at once.

    `values` [N, C, h, w] lies at row `top[n]` and column `left[n]` of `whole` [1, C, H, W], the output for the whole
    picture; all around it, the output is taken to be that.
    """

    values: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor
    whole: torch.Tensor

    def with_values(self, values: torch.Tensor, whole: torch.Tensor) -> "Patch":
        return Patch(values, self.top, self.left, whole)

    def everywhere(self) -> torch.Tensor:
        """Return the outputs in full, [N, C, H, W]."""
        canvas = _channels_last(self.whole).repeat(len(self.values), 1, 1, 1)
        return _lay(self.values, canvas, self.top, self.left)


class Network:
    """A model taken apart into its steps, in a private copy with batch norm folded into the convolutions before it.

    It keeps nothing from one run to the next and sets no hook, so many threads can use it at once.
    """

    def __init__(self, model: nn.Module):
        model = copy.deepcopy(model).requires_grad_(False)
        for module in model.modules():
            if hasattr(module, "inplace"):  # the output of every step is kept
                module.inplace = False
        self.graph = _steps(model)
        for node in self.graph.nodes:
            node.target = NOT_IN_PLACE.get(node.target, node.target)
        _fold_batch_norm(model, self.graph)
        self.modules = dict(model.to(memory_format=torch.channels_last).named_modules())
        self.parameters = dict(model.named_parameters()) | dict(model.named_buffers())
        last_reader = {source: node for node in self.graph.nodes for source in node.all_input_nodes}
        self._done_after = {node: [] for node in self.graph.nodes}
        for source, reader in last_reader.items():
            self._done_after[reader].append(source)

    @torch.inference_mode()
    def outputs(self, pixel_values: torch.Tensor) -> dict[fx.Node, Any]:
        """Return what every step gives for one picture, float32 [1, 3, H, W]."""
        outputs = {}
        for node in self.graph.nodes:
            if node.op == "placeholder":
                outputs[node] = pixel_values.contiguous(memory_format=torch.channels_last)
            else:
                outputs[node] = self._step(node, lambda argument: outputs[argument])
        return outputs

    @torch.inference_mode()
    def hidden(self, outputs: dict[fx.Node, Any], patch: Patch, reach: int | None) -> torch.Tensor:
        """Return logits [N, classes] of the picture that `outputs` belong to, changed by `patch`.

        `reach` bounds the patch of each layer to the cells below the patch of the picture and so many more on each
        side; what lies beyond counts as unchanged. None follows every change: exact.
        """
        limits = None if reach is None else (patch, reach)
        results = {}
        for node in self.graph.nodes:
            arguments = fx.node.map_arg(node.args, results.__getitem__)
            if node.op == "placeholder":
                results[node] = patch
            elif any(isinstance(results[source], Patch) for source in node.all_input_nodes):
                results[node] = self._patch_step(node, arguments, outputs[node], limits)
                if results[node] is None:  # a step that looks at the output as a whole
                    results[node] = self._step(node, lambda source: _plain(results[source]))
            else:
                results[node] = self._step(node, results.__getitem__)
            for source in self._done_after[node]:
                del results[source]
        return results[node]

    def _step(self, node: fx.Node, value_of: Callable[[fx.Node], Any]) -> Any:
        """Run one step of the model as it is written."""
        arguments, options = fx.node.map_arg((node.args, node.kwargs), value_of)
        if node.op == "call_module":
            return self.modules[node.target](*arguments, **options)
        if node.op == "call_function":
            return node.target(*arguments, **options)
        if node.op == "call_method":
            return getattr(arguments[0], node.target)(*arguments[1:], **options)
        return arguments[0] if node.op == "output" else self.parameters[node.target]

    def _patch_step(self, node: fx.Node, arguments: tuple, whole: Any, limits: tuple | None) -> Any:
        """Run one step on a patch; None where that cannot be done."""
        patch, *others = arguments
        module = self.modules.get(node.target) if node.op == "call_module" else None
        if _is_pointwise(node, module):
            values = self._step(node, lambda source: patch.values)
            return patch.with_values(values, whole)
        if type(module) is nn.Conv2d and isinstance(module.padding, tuple) and module.padding_mode == "zeros":
            return _slide(module, patch, whole, 0.0, limits)
        if type(module) is nn.MaxPool2d and not module.ceil_mode:
            return _slide(module, patch, whole, float("-inf"), limits)
        if node.target in ADDITIONS and all(isinstance(term, Patch) for term in arguments):
            return _add(*arguments, whole)
        # The weights of squeeze-and-excitation, one per channel, change the whole output a little.
        if node.target in PRODUCTS and limits and isinstance(patch, Patch) and _is_per_channel(others[0]):
            return patch.with_values(patch.values * others[0], whole)
        if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
            return _mean(patch)[:, :, None, None]
        if (node.op, node.target) == ("call_method", "mean") and others == [(2, 3)]:
            mean = _mean(patch)
            return mean[:, :, None, None] if node.kwargs.get("keepdim") else mean
        return None


@lru_cache(maxsize=4)
@torch.inference_mode()
def network_of(classifier: Classifier) -> Network | None:
    """Make the network of a classifier, once; None where its model cannot be taken apart, or gives other logits then.

    Whether the logits are the same, to 1e-5, is tried on noise with a window hidden.
    """
    size = classifier.preprocessing.size
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    window = tuple(max(1, side // 8) for side in size)
    places = [torch.tensor([0, side // 2, side - length // 2]) for side, length in zip(size, window, strict=True)]
    hidden = (noise, *places, window, torch.zeros(3))
    try:
        network = Network(classifier.model)
        logits = network.hidden(network.outputs(noise), hidden_patch(*hidden), reach=None)
    except Exception:  # models that look at sizes or decide by what they see fail in many ways
        return None
    expected = classifier.logits(hide(*hidden))
    tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
    same = logits.shape == expected.shape and bool(((logits - expected).abs() <= tolerance).all())
    return network if same else None


def hide(
    pixel_values: torch.Tensor, tops: torch.Tensor, lefts: torch.Tensor, window: tuple[int, int], black: torch.Tensor
) -> torch.Tensor:
    """Return copies of a picture [N, 3, H, W], each with one window black; windows are cut off at the border."""
    copies = pixel_values.repeat(len(tops), 1, 1, 1)
    for picture, top, left in zip(copies, tops.tolist(), lefts.tolist(), strict=True):
        picture[:, top : top + window[0], left : left + window[1]] = black.view(3, 1, 1)
    return copies


def hidden_patch(
    pixel_values: torch.Tensor, tops: torch.Tensor, lefts: torch.Tensor, window: tuple[int, int], black: torch.Tensor
) -> Patch:
    """Return what `hide` changes. Where a window is cut off, its patch begins further up or left with the picture."""
    first = [
        start.clamp(max=side - length)
        for start, side, length in zip((tops, lefts), pixel_values.shape[2:], window, strict=True)
    ]
    values = _cut(pixel_values, *first, *window)
    rows, columns = (start[:, None] + torch.arange(length) for start, length in zip(first, window, strict=True))
    covered = (rows >= tops[:, None])[:, :, None] & (columns >= lefts[:, None])[:, None, :]
    values = torch.where(covered[:, None], black.view(1, 3, 1, 1), values)
    return Patch(values, *first, pixel_values)


def _steps(model: nn.Module) -> fx.Graph:
    """Write down the steps of a model that only this thread holds; each layer of torch and each batch norm is one.

    torch's own `symbolic_trace` changes `nn.Module` while it runs, under the feet of every other thread.
    """
    tracer = fx.Tracer()
    tracer.root, tracer.graph, tracer.tensor_attrs = model, fx.Graph(), {}
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if name and (isinstance(layer, nn.BatchNorm2d) or tracer.is_leaf_module(layer, name))
    }
    for name, layer in layers.items():
        layer.forward = partial(_note_layer, tracer, name)
    try:
        logits = model(tracer.create_proxy("placeholder", "pixel_values", (), {}))
    finally:
        for layer in layers.values():
            del layer.forward
    tracer.create_node("output", "output", (tracer.create_arg(logits),), {})
    return tracer.graph


def _note_layer(tracer: fx.Tracer, name: str, *arguments: Any, **options: Any) -> fx.Proxy:
    return tracer.create_proxy("call_module", name, arguments, options)


def _fold_batch_norm(model: nn.Module, graph: fx.Graph) -> None:
    """Let each convolution do the work of the batch norm after it, where nothing else reads its output."""
    modules = dict(model.named_modules())
    for node in graph.nodes:
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = node.args[0]
        conv = modules.get(before.target) if before.op == "call_module" else None
        if type(conv) is not nn.Conv2d or len(before.users) > 1:
            continue
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        # timm's batch norm does the activation, too.
        model.set_submodule(node.target, getattr(norm, "act", nn.Identity()))


def _is_pointwise(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) in POINTWISE_MODULES or isinstance(module, nn.BatchNorm2d)
    if node.op == "call_function":
        return node.target in POINTWISE_FUNCTIONS
    return node.op == "call_method" and node.target in POINTWISE_METHODS


def _is_per_channel(factor: Any) -> bool:
    return isinstance(factor, torch.Tensor) and factor.shape[2:] == (1, 1)


def _slide(
    module: nn.Conv2d | nn.MaxPool2d, patch: Patch, whole: torch.Tensor, fill: float, limits: tuple | None
) -> Patch | torch.Tensor:
    """Run a convolution or max-pooling where its kernel meets the patch, with `fill` around the picture."""
    kernel, stride, padding, dilation = map(_pair, (module.kernel_size, module.stride, module.padding, module.dilation))
    spans = [dilation[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    starts, lengths, needed, places = [], [], [], []
    for axis, start in enumerate((patch.top, patch.left)):
        side = whole.shape[2 + axis]
        met = -(-(patch.values.shape[2 + axis] + spans[axis] - 1) // stride[axis])  # cells whose kernel may meet it
        length = min(met, side, _limit(limits, side, axis))
        first = -((spans[axis] - 1 - padding[axis] - start) // stride[axis])
        first = (first + (met - length) // 2).clamp(0, side - length)
        starts.append(first)
        lengths.append(length)
        needed.append((length - 1) * stride[axis] + spans[axis])
        places.append(start + padding[axis] - first * stride[axis])
    if tuple(lengths) == whole.shape[2:]:
        return module(patch.everywhere())
    # Where the kernel steps over cells, or the patch is bounded, some of it lies outside of what is needed.
    before = max(0, -int(min(place.min() for place in places)))
    after = max(0, *(int(p.max()) + s - n for p, s, n in zip(places, patch.values.shape[2:], needed, strict=True)))
    rim = [(padding[axis] + before, padding[axis] + before + after + needed[axis]) for axis in (1, 0)]
    padded = F.pad(patch.whole, (*rim[0], *rim[1]), value=fill)
    corner = [first * step for first, step in zip(starts, stride, strict=True)]
    around = _cut(padded, *corner, *(count + before + after for count in needed))
    canvas = _lay(patch.values, _channels_last(around), *(place + before for place in places))
    canvas = canvas[:, :, before : before + needed[0], before : before + needed[1]]
    if isinstance(module, nn.Conv2d):
        values = F.conv2d(canvas, module.weight, module.bias, stride, 0, dilation, module.groups)
    else:
        values = F.max_pool2d(canvas, kernel, stride, 0, dilation)
    return Patch(values, *starts, whole)


def _limit(limits: tuple | None, side: int, axis: int) -> int:
    """Return how long a patch may be in a layer of `side` cells."""
    if limits is None:
        return side
    first, reach = limits
    return -(-first.values.shape[2 + axis] * side // first.whole.shape[2 + axis]) + 2 * reach


def _add(one: Patch, other: Patch, whole: torch.Tensor) -> Patch | None:
    """Add two patches: the smaller one is widened to the larger one's place by what lies around it."""
    large, small = (one, other) if one.values.shape[2] >= other.values.shape[2] else (other, one)
    height, width = large.values.shape[2:]
    if small.values.shape[3] > width:
        return None
    down, right = small.top - large.top, small.left - large.left
    rim = max(height, width)  # more than a patch can stick out
    padded = F.pad(small.whole, (rim, rim, rim, rim))
    canvas = _channels_last(_cut(padded, large.top, large.left, height + 2 * rim, width + 2 * rim))
    terms = _lay(small.values, canvas, down + rim, right + rim)[:, :, rim : rim + height, rim : rim + width]
    return large.with_values(large.values + terms, whole)


def _mean(patch: Patch) -> torch.Tensor:
    """Return the mean over all cells, [N, C]."""
    before = _cut(patch.whole, patch.top, patch.left, *patch.values.shape[2:])
    change = (patch.values - before).sum(dim=(2, 3))
    return patch.whole.mean(dim=(2, 3)) + change / patch.whole[0, 0].numel()


def _cut(whole: torch.Tensor, top: torch.Tensor, left: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return N pieces [N, C, height, width] of `whole` [1, C, H, W]."""
    rows, columns = top[:, None] + torch.arange(height), left[:, None] + torch.arange(width)
    return _channels_last(whole)[0][rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _lay(values: torch.Tensor, canvas: torch.Tensor, top: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Lay `values` [N, C, h, w] into `canvas` [N, H, W, C], which is overwritten; return it as [N, C, H, W]."""
    height, width = values.shape[2:]
    rows, columns = top[:, None] + torch.arange(height), left[:, None] + torch.arange(width)
    canvas[torch.arange(len(values))[:, None, None], rows[:, :, None], columns[:, None, :]] = _channels_last(values)
    return canvas.permute(0, 3, 1, 2)


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    """Return [N, H, W, C] of [N, C, H, W]: no copy, and cells are cut out and laid down in one piece."""
    return values.permute(0, 2, 3, 1)


def _plain(result: Any) -> Any:
    return result.everywhere() if isinstance(result, Patch) else result


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
