"""Move and pick tensors of a device without letting the host wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def picked(tensor: Tensor, which: Sequence[int]) -> Tensor:
    """Return the rows [b,...] of a tensor [B,...] with these indices, which are not copied to its device."""
    import torch

    return tensor if list(which) == [*range(len(tensor))] else torch.stack([tensor[i] for i in which])


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; to a GPU it is copied from pinned memory while the host goes on.

    Raises RuntimeError while a CUDA graph is recorded, which would copy again whatever is in that memory later.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("a copy from the host cannot be part of a CUDA graph")
    return tensor.pin_memory().to(device, non_blocking=True)
