"""Room for the VAE: where a GPU does not hold it beside the model, the model leaves it while images are converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from neonym.models.model import Model

CPU = torch.device("cpu")


@contextmanager
def room_for_vae(model: Model) -> Iterator[Callable[[Callable[[], Tensor]], Tensor]]:
    """Yield a function that returns what a function of the VAE returns.

    If the memory of the GPU does not suffice, all other parts wait in that of the CPU until the block ends, so no graph
    may hold their addresses then. Denoisers made of blocks stay: they are larger, and have other ways to save memory.
    """
    device, others = model.device, [module for name, module in model.modules().items() if name != "vae"]
    away: list[torch.nn.Module] = []

    def convert(compute: Callable[[], Tensor]) -> Tensor:
        try:
            return compute()
        except torch.OutOfMemoryError:
            if away or model.source.family.denoiser.blocks:
                raise
        move(others, CPU)
        away.extend(others)
        torch.cuda.empty_cache()
        return compute()

    try:
        yield convert
    finally:
        move(away, device)


def move(modules: list[torch.nn.Module], device: torch.device) -> None:
    """Move networks to a device, from which training can go on: autograd saves no tensor that inference mode has made."""
    with torch.inference_mode(False):
        for module in modules:
            module.to(device)
