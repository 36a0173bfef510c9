"""Recorders for graphs on a CPU: in place of CUDA's own recording, the computation is run again, or fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neonym.models.graphs.values import copy_into, mapped, tensors_in


class Rerun:
    """A recorder that runs the computation again, on the same inputs, and writes to the same outputs."""

    def __init__(self) -> None:
        self.recorded = self.replays = self.released = 0

    def warm_up(self, compute: Callable[[], Any]) -> Any:
        return mapped(compute(), Tensor.clone)

    def record(self, compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        outputs = compute()
        self.recorded += 1

        def replay() -> None:
            self.replays += 1
            copy_into(outputs, compute())

        return replay, outputs

    def release(self) -> None:
        self.released += 1


class Failing(Rerun):
    """A recorder that raises what CUDA raises while something is recorded that cannot be."""

    def record(self, compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        try:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more lines")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


class Doubling(Rerun):
    """A recorder whose graphs compute twice the last of their outputs."""

    def record(self, compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        replay, outputs = super().record(compute)

        def twice() -> None:
            replay()
            [*tensors_in(outputs)][-1].mul_(2)

        return twice, outputs


class Remembering(Rerun):
    """A recorder whose graphs always return what they returned for the inputs that they were recorded with."""

    def record(self, compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        return lambda: None, compute()


class Short(Rerun):
    """A recorder for whose recordings memory does not suffice."""

    def record(self, compute: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        raise torch.OutOfMemoryError("out of memory")
