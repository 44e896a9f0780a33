"""Count what work costs, whatever the machine and however busy: arithmetic and activations, never seconds."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

CONVOLUTION = torch.ops.aten.convolution


class Costs(TorchDispatchMode):
    """What was computed inside: `with Costs() as costs`.

    Torch's own `FlopCounterMode` fails on the hooks of guided methods.

    Attributes:
        flops: Floating-point operations of convolutions and matrix products, forward and backward.
        convolutions: How many convolutions ran, whatever their batch.
        activation_bytes: Bytes of what convolutions returned.
    """

    def __init__(self):
        super().__init__()
        self.flops = self.convolutions = self.activation_bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        """Run one operation and count it."""
        options = options or {}
        packet = operation._overloadpacket
        if packet not in flop_registry:
            with self:  # an operation made of others counts as these
                parts = operation.decompose(*arguments, **options)
            return operation(*arguments, **options) if parts is NotImplemented else parts
        result = operation(*arguments, **options)
        self.flops += flop_registry[packet](*arguments, **options, out_val=result)
        if packet is CONVOLUTION:
            self.convolutions += 1
            self.activation_bytes += result.numel() * result.element_size()
        return result
