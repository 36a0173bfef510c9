"""Measures of a training step: how fast the device could be, what a step computes, and what it asks of the device."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import torch

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
READS = ("aten::item", "aten::_local_scalar_dense")  # which wait for the device where there is one


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a large matrix product on the device, the best of some tries."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        wait_for(device)
        begun = time.perf_counter()
        a @ b
        wait_for(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - begun))
    return best


def operations(step: Callable[[], Any]) -> int:
    """Return the floating-point operations of the matrix products, convolutions and attention of a step."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


class Profiled:
    """What some steps ask of their device: kernels that are launched, and waits of the host for the device.

    Without a GPU, kernels are counted as calls of operators that compute something, and waits as numbers that are read.
    """

    def __init__(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.profiler = torch.profiler.profile(activities=activities)
        self.profiler.start()

    def stop(self, steps: int) -> dict[str, float]:
        """Return the counts of one step, of the `steps` since the beginning."""
        self.profiler.stop()
        counts = {event.key: event.count for event in self.profiler.key_averages()}
        has_gpu = torch.cuda.is_available()
        kernels = sum(n for key, n in counts.items() if (key in LAUNCHES if has_gpu else computes(key)))
        waits = sum(counts.get(key, 0) for key in (WAITS if has_gpu else READS[1:]))
        return {"kernels_per_step": kernels / steps, "waits_per_step": waits / steps}


VIEWS = {
    "view", "as_strided", "transpose", "t", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "reshape",
    "detach", "alias", "empty", "empty_like", "empty_strided", "_unsafe_view", "split", "chunk", "narrow", "linear",
    "matmul", "to", "_to_copy", "conv2d", "convolution", "contiguous", "clone", "scaled_dot_product_attention",
    "layer_norm", "group_norm", "embedding", "item", "resolve_conj", "resolve_neg", "unbind", "flatten", "numpy_T",
}  # fmt: skip


def computes(key: str) -> bool:
    """Return whether a CPU operator would launch a kernel on a GPU: not views, and not those that only call others."""
    kind, _, name = key.partition("::")
    return kind in ("aten", "mkldnn") and bool(name) and name not in VIEWS


def peak_memory(device: str) -> float:
    """Return the peak memory in MiB: of the GPU, or of the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def wait_for(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()
