"""Record computations as CUDA graphs, and leave CUDA usable if one cannot be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from neonym.models.graphs.values import mapped

Found = TypeVar("Found")  # a value that holds tensors: what is computed


class Recorder(Protocol):
    """A way to record a computation on tensors that stay where they are."""

    def warm_up(self, compute: Callable[[], Found]) -> Found:
        """Compute once without recording, and return copies of the outputs. Raises RuntimeError if the host waits."""
        ...

    def record(self, compute: Callable[[], Found]) -> tuple[Callable[[], None], Found]:
        """Return a function that repeats the computation, and where it writes its outputs. Raises RuntimeError."""
        ...

    def release(self) -> None:
        """Free what all recordings hold, none of which may be repeated any more."""


class CudaRecorder:
    """A recorder of CUDA graphs. They share their memory, which one at a time uses."""

    def __init__(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def warm_up(self, compute: Callable[[], Found]) -> Found:
        """Compute on the stream of the recording, so that libraries make what they need there."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), waits_as_errors():
            copies = mapped(compute(), Tensor.clone)
        torch.cuda.current_stream().wait_stream(self.stream)
        return copies

    def record(self, compute: Callable[[], Found]) -> tuple[Callable[[], None], Found]:
        """Return a function that launches a graph, and where it writes its outputs."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                outputs = compute()
        except RuntimeError:
            self.abandon(before)
            raise
        return graph.replay, outputs

    def abandon(self, stream: torch.cuda.Stream) -> None:
        """Undo what a failed recording leaves behind: its stream, and allocations that go to its pool."""
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # where the recording has done so itself
            torch._C._cuda_endAllocateToPool(stream.device_index, self.pool)

    def release(self) -> None:
        """Free the memory of all graphs. Their stream is used again: libraries keep memory for each."""
        self.pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()


@contextmanager
def waits_as_errors() -> Iterator[None]:
    """Let torch raise RuntimeError where the host would wait for a GPU, for the duration of the block."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
