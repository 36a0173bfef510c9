"""Keep blocks of a frozen network in the memory of the CPU, and copy each to the device shortly before it is used.

Frozen weights never change, so they are only ever copied to the device, into a ring of buffers: block j of the swapped
blocks always uses buffer j modulo the number of buffers. While a block computes, the next one is copied on a stream of
its own: in the forward pass the one after it, in the backward pass the one before it.

The backward pass, if there is one, must recompute each block (gradient checkpointing), which fetches it again. Without,
autograd finds that a weight was overwritten and raises a RuntimeError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neonym.models.storage import spread

BUFFERS = 2  # one for the block that computes, one for the block that is copied
ALIGNMENT = 256  # bytes: where a tensor in a buffer may begin
CHUNK = 2**25  # bytes: pinned memory is allocated in powers of two, so that larger pieces could waste half of it


def swapped_blocks(network: nn.Module, lists: Sequence[str], count: int) -> list[str]:
    """Return the names of `count` blocks in the lists of blocks `lists`, spread evenly over the forward pass."""
    names = [f"{name}.{i}" for name in lists for i in range(len(network.get_submodule(name)))]  # pyright: ignore
    return [names[i] for i in spread(count, len(names))]


def swap_blocks(network: nn.Module, names: Sequence[str], device: torch.device) -> Ring:
    """Let the named blocks of a network wait in the memory of the CPU, and return the ring that fetches them."""
    return Ring([network.get_submodule(name) for name in names], device)


class Ring:
    """The buffers of swapped blocks on a device. Every block fetches its own weights before it computes."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, buffers: int = BUFFERS):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        size = max((packed_size(block) for block in blocks), default=0)
        self.buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(min(buffers, len(blocks)))]
        self.held: list[int | None] = [None] * len(self.buffers)  # the block whose weights are in each buffer
        self.ready: list[torch.cuda.Event | None] = [None] * len(self.buffers)  # when its copy is complete
        self.last = -1  # the block that computed last
        self.masters: list[list[Tensor]] = []
        for index, block in enumerate(blocks):
            self.masters.append(moved_to_master(block, self.buffers[index % len(self.buffers)]))
            block.register_forward_pre_hook(self.hook(index))

    def hook(self, index: int) -> Any:
        """Return the forward hook of a block."""

        def before_forward(*_: Any) -> None:
            self.prepare(index)

        return torch.compiler.disable(before_forward)

    def prepare(self, index: int) -> None:
        """Make the device wait for the weights of a block, and begin to fetch those of the next."""
        self.fetch(index)
        ready = self.ready[index % len(self.buffers)]
        if ready is not None:
            torch.cuda.current_stream(self.device).wait_event(ready)
        is_forward = index in (0, self.last + 1)
        self.last = index
        following = index + 1 if is_forward else index - 1
        if 0 <= following < len(self.masters) and len(self.buffers) > 1:
            self.fetch(following)

    @torch.no_grad()
    def fetch(self, index: int) -> None:
        """Begin to copy the weights of a block to its buffer, unless they are there.

        The copy waits for everything that the device has been given to compute, so that the buffer is no longer read.
        """
        place = index % len(self.buffers)
        if self.held[place] == index:
            return
        self.held[place] = index
        if self.stream is None:
            copy_chunks(self.masters[index], self.buffers[place])
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            copy_chunks(self.masters[index], self.buffers[place])
            event = self.ready[place] = torch.cuda.Event()
            event.record(self.stream)


def copy_chunks(chunks: Sequence[Tensor], buffer: Tensor) -> None:
    """Copy the chunks of a block, one after the other, to a buffer."""
    start = 0
    for chunk in chunks:
        buffer[start : start + len(chunk)].copy_(chunk, non_blocking=True)
        start += len(chunk)


def tensors_in(block: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield the module, name and value of every parameter and buffer in a block."""
    for module in block.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    yield module, name, tensor


def aligned(size: int) -> int:
    """Return a number of bytes, rounded up to where the next tensor may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def packed_size(block: nn.Module) -> int:
    """Return the bytes that a block needs in a buffer."""
    return sum(aligned(tensor.nbytes) for _, _, tensor in tensors_in(block))


@torch.no_grad()
def moved_to_master(block: nn.Module, buffer: Tensor) -> list[Tensor]:
    """Return the weights of a block as chunks of bytes, pinned for a GPU, and let the block read from `buffer`.

    The block's tensors become views of the buffer, with its version, so that autograd notices when it is overwritten.
    """
    whole = torch.zeros(packed_size(block), dtype=torch.uint8)
    start = 0
    for module, name, tensor in list(tensors_in(block)):
        view = buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        whole[start : start + tensor.nbytes] = tensor.detach().contiguous().cpu().flatten().view(torch.uint8)
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(view, requires_grad=False)
        else:
            module._buffers[name] = view
        start += aligned(tensor.nbytes)
    chunks = whole.split(CHUNK)
    return [chunk.pin_memory() for chunk in chunks] if buffer.is_cuda else list(chunks)
