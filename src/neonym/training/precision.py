"""The precision of the frozen model: the user's, or the one that suits the model and the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator

from neonym.config.run import RunConfig
from neonym.models.loading.cpu_precision import is_bf16_on_cpu
from neonym.models.source import ModelSource
from neonym.preflight.defaults import with_settings


def with_precision(run: RunConfig, source: ModelSource, note: Callable[[str], None]) -> RunConfig:
    """Return the run with a precision: the user's, else on CUDA the model's default, and on a CPU bf16 or float32."""
    if run.compute.mixed_precision != "auto":
        return run
    precision, default = "no", source.defaults.mixed_precision
    if torch.cuda.is_available() and not run.compute.cpu:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = precision_on_cuda(default.value, has_bf16)
    elif not torch.backends.mps.is_available() and is_bf16_on_cpu(source):
        precision = "bf16"
    if precision != "no":
        note(f"note: --mixed_precision: {precision}, the {default}")
    return with_settings(run, {"mixed_precision": precision})


def precision_on_cuda(suits: str, has_bf16: bool) -> str:
    """Return the first precision in `suits` ("bf16, else fp16") that the device has; all have "fp16" and "no"."""
    first, _, other = suits.partition(", else ")
    return first if has_bf16 or first != "bf16" else other or "no"


def weight_dtype(accelerator: Accelerator) -> torch.dtype:
    """Return the dtype of the frozen weights and of their arithmetic."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
