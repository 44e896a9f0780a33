"""A model as a graph of steps, in a private copy made for speed: batch norm is folded into the convolutions."""

import copy
import operator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

NOT_IN_PLACE = {operator.iadd: operator.add, operator.imul: operator.mul}


class PaddedConv2d(nn.Conv2d):
    """A convolution that pads each of its four sides by a number of its own.

    `padding` is that of the upper and the left side.
    """

    def __init__(self, conv: nn.Conv2d, size: tuple[int, int]):
        """Take over a `Conv2dSame` whose input always has this height and width."""
        spans = [dilation * (kernel - 1) + 1 for dilation, kernel in zip(conv.dilation, conv.kernel_size, strict=True)]
        totals = [
            max((-(-side // stride) - 1) * stride + span - side, 0)
            for side, stride, span in zip(size, conv.stride, spans, strict=True)
        ]
        before = tuple(total // 2 for total in totals)
        # Of one channel, because the weights are replaced.
        super().__init__(1, 1, conv.kernel_size, conv.stride, before, conv.dilation)
        self.weight, self.bias, self.groups = conv.weight, conv.bias, conv.groups
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.margins = (before[1], totals[1] - before[1], before[0], totals[0] - before[0])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Pad and convolve."""
        padded = F.pad(values, self.margins)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


CONVOLUTIONS = (nn.Conv2d, PaddedConv2d)


def traced(model: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, fx.Graph]:
    """Copy a model and record its steps for images of one size; every step keeps its input as it was.

    Fails in many ways for models that read sizes or branch on values.
    """
    model = copy.deepcopy(model).requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    _fix_padding(model, size)
    graph = _trace(model)
    for node in graph.nodes:
        node.target = NOT_IN_PLACE.get(node.target, node.target)
    _fold_batch_norm(model, graph)
    return model.to(memory_format=torch.channels_last), graph


@torch.inference_mode()
def _fix_padding(model: nn.Module, size: tuple[int, int]) -> None:
    """Replace the convolutions of models from TensorFlow: they compute their padding from the size of their input."""
    sizes = {}
    same = {name: module for name, module in model.named_modules() if type(module) is Conv2dSame}
    if not same:
        return
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: sizes.update({name: tuple(inputs[0].shape[2:])}))
        for name, module in same.items()
    ]
    like = next(model.parameters())
    model(torch.zeros(1, 3, *size, dtype=like.dtype, device=like.device))
    for hook in hooks:
        hook.remove()
    for name, its_size in sizes.items():
        model.set_submodule(name, PaddedConv2d(same[name], its_size))


def _trace(model: nn.Module) -> fx.Graph:
    """Record the steps of a model that only this thread holds; each torch layer and each batch norm is one step.

    `torch.fx.symbolic_trace` patches `nn.Module` globally, which is not thread-safe.
    """
    tracer = fx.Tracer()
    tracer.root, tracer.graph, tracer.tensor_attrs = model, fx.Graph(), {}
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if name and (isinstance(layer, nn.BatchNorm2d | PaddedConv2d) or tracer.is_leaf_module(layer, name))
    }
    for name, layer in layers.items():
        layer.forward = partial(_record_layer, tracer, name)
    try:
        logits = model(tracer.create_proxy("placeholder", "pixel_values", (), {}))
    finally:
        for layer in layers.values():
            del layer.forward
    tracer.create_node("output", "output", (tracer.create_arg(logits),), {})
    return tracer.graph


def _record_layer(tracer: fx.Tracer, name: str, *arguments: Any, **options: Any) -> fx.Proxy:
    return tracer.create_proxy("call_module", name, arguments, options)


def _fold_batch_norm(model: nn.Module, graph: fx.Graph) -> None:
    """Fold every batch norm into the convolution before it, if nothing else reads the convolution's output."""
    modules = dict(model.named_modules())
    for node in graph.nodes:
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = node.args[0]
        conv = modules.get(before.target) if before.op == "call_module" else None
        if type(conv) not in CONVOLUTIONS or len(before.users) > 1:
            continue
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        # timm's batch norm includes the activation.
        model.set_submodule(node.target, getattr(norm, "act", nn.Identity()))
