"""A second device for machines without one: it computes on the CPU, but like a GPU it refuses tensors of the CPU.

PyTorch lets tensors be created on and moved to its "meta" device anywhere. Inside `other_device()` they are `Remote`
tensors, which keep their values, and every operation that mixes them with others fails, as it would on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("meta")
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Remote(torch.Tensor):
    """A tensor on the other device; its values are `on_cpu`."""

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, device=DEVICE, **layout)

    def __init__(self, values: torch.Tensor):
        self.on_cpu = values

    def __repr__(self) -> str:
        return f"Remote({self.on_cpu})"

    def tolist(self) -> list:
        return self.on_cpu.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _OtherDevice(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        with self:  # inference mode does not split operations into their parts before they arrive here
            parts = operation.decompose(*args, **kwargs or {})
        if parts is not NotImplemented:
            return parts
        return _run(operation, args, kwargs or {})


def _run(operation, args: tuple, kwargs: dict):
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    remote = any(isinstance(tensor, Remote) for tensor in tensors)
    # As on a GPU, a single number may come from the CPU.
    if remote and operation not in MOVES and any(tensor.ndim for tensor in tensors if not isinstance(tensor, Remote)):
        raise RuntimeError(f"Expected all tensors to be on the same device: {operation}")
    options = dict(kwargs)
    if options.get("device") is not None:
        remote = torch.device(options["device"]) == DEVICE
        options["device"] = torch.device("cpu")
    result = operation(*_here(args), **_here(options))
    if operation is torch.ops.aten.copy_.default:
        return args[0]
    if not remote:
        return result
    # A view shares the version of its base, which tensors made in inference mode do not have.
    inference = torch.is_inference_mode_enabled()
    with torch.inference_mode(inference and all(tensor.is_inference() for tensor in tensors)):
        result = pytree.tree_map_only(torch.Tensor, Remote, result)
    if not tensors or inference:  # nothing to tell autograd about views
        return result
    return return_and_correct_aliasing(operation, args, kwargs, result)


def _here(values):
    return pytree.tree_map_only(Remote, lambda tensor: tensor.on_cpu, values)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Make `DEVICE` usable in this thread."""
    with _OtherDevice():
        yield DEVICE
