"""Torch's device `meta`, whose tensors have a shape but no numbers: computing there shows what a graph cannot hold."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Copies(TorchDispatchMode):
    """A mode that collects every operator which has tensors on the host and on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        flat = [own for own in tree_leaves((args, kwargs, result)) if isinstance(own, Tensor) and own.ndim]
        if len({own.device.type for own in flat}) > 1:
            self.found.append(str(func))
        return result


class PythonNumbers(TorchFunctionMode):
    """A mode that collects calls which copy numbers of Python to the device, where no operator shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        indices = (args[1] if isinstance(args[1], tuple) else args[1:]) if func is Tensor.__getitem__ else ()
        by_list = any(isinstance(own, list) for own in indices)
        made = func in (torch.tensor, torch.as_tensor) and result.device.type == "meta"
        if by_list or made:
            self.found.append(f"{func.__name__} {args}")
        return result


def on_meta(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape without numbers."""
    return tensor.to("meta")
