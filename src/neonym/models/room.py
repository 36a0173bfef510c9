"""Room for the VAE: where a GPU does not hold it beside the model, the model leaves it while images are converted."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn

from neonym.models.model import Model

CPU = torch.device("cpu")
ALLOCATIONS = ("ALLOC_FAILED", "unable to find an engine")  # how cuBLAS and cuDNN say that memory does not suffice


class NoWayBackError(torch.OutOfMemoryError):
    """The error of a model that could not return to its device: it is in two places, and of no use any more."""


@contextmanager
def room_for_vae(model: Model) -> Iterator[Callable[[Callable[[], Tensor]], Tensor]]:
    """Yield a function that returns what a function of the VAE returns.

    If the memory of the GPU does not suffice, all other parts wait in that of the CPU, if they fit there, until the block
    ends; so no graph may hold their addresses then. Denoisers made of blocks stay: they are larger, and have other ways
    to save memory. Raises NoWayBackError if they cannot return.
    """
    room = Room(model)
    try:
        yield room.convert
    finally:
        room.close()


class Room:
    """A model that may be away from its device."""

    def __init__(self, model: Model):
        self.model, self.device, self.is_away = model, model.device, False

    def convert(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return what a function of the VAE returns, for which the model leaves if it has to."""
        try:
            return compute()
        except RuntimeError as error:
            if self.is_away or not is_shortage(error) or not can_leave(self.model):
                raise
        self.is_away = True  # even if the move is interrupted
        move(other_parts(self.model), CPU)
        empty_cache()
        try:
            return compute()
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the activations, and the model needs the memory
            raise

    def close(self) -> None:
        """Let the model return. An interruption, or another program that takes memory, gets a second try."""
        if not self.is_away:
            return
        empty_cache()
        try:
            move(other_parts(self.model), self.device)
        except BaseException as error:
            try:
                move(other_parts(self.model), self.device)
            except RuntimeError:
                raise NoWayBackError("the model does not fit on its device again") from error
            raise


def other_parts(model: Model) -> list[nn.Module]:
    """Return all parts of a model but the VAE."""
    return [module for name, module in model.modules().items() if name != "vae"]


def is_shortage(error: RuntimeError) -> bool:
    """Return whether an error says that the memory of a GPU does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or any(own in str(error) for own in ALLOCATIONS)


def can_leave(model: Model) -> bool:
    """Return whether a model has no blocks that could be swapped, and fits in the free memory of the CPU."""
    tensors = (own for module in other_parts(model) for own in (*module.parameters(), *module.buffers()))
    needed = sum(own.nbytes for own in tensors)
    return not model.source.family.denoiser.blocks and needed < psutil.virtual_memory().available


def is_together(model: Model) -> bool:
    """Return whether a model without blocks is on one device."""
    places = {own.device for module in other_parts(model) for own in module.parameters()}
    return bool(model.source.family.denoiser.blocks) or len(places) == 1


def move(modules: list[nn.Module], device: torch.device) -> None:
    """Move networks to a device, from which training can go on: autograd saves no tensor that inference mode has made."""
    with torch.inference_mode(False):
        for module in modules:
            module.to(device)


def empty_cache() -> None:
    """Let CUDA have the memory that torch holds and does not use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
