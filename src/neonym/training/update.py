"""One optimizer step of a word, which a gradient that is not finite undoes on the device: the host does not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class StepCounts:
    """Counts of a word's steps, which stay on their device until they are read."""

    def __init__(self) -> None:
        self._counts: tuple[Tensor, Tensor, Tensor] | None = None  # int64 [] each, as `read` returns them

    def add(self, step: int, norm: Tensor, scale: Tensor | None) -> None:
        """Count a step whose gradient has this `norm` []; if that is not finite, the step is skipped.

        A skipped step does not count if the gradient scale [] of fp16 may have made its gradient infinite: scaled
        gradients overflow while the scale falls from its initial 65536, and once whenever it has been doubled. At a
        scale of 1 or less they would not be finite without a scaler either.
        """
        if self._counts is None:
            zero = torch.zeros((), dtype=torch.int64, device=norm.device)
            self._counts = zero, zero, zero
        without, skipped, first = self._counts
        finite = norm.isfinite()
        counted = ~finite if scale is None else ~finite & (scale <= 1)
        self._counts = (
            torch.where((norm == 0) & (without >= 0), without + 1, -1),  # -1 from the first gradient on
            torch.where(finite, 0, skipped + counted),
            torch.where(counted & (skipped == 0), step, first),
        )

    def read(self) -> tuple[int, int, int]:
        """Return the steps without a gradient, if no step had one; the steps skipped in a row; and the first of these.

        Waits for the device.
        """
        without, skipped, first = (0, 0, 0) if self._counts is None else torch.stack(self._counts).tolist()
        return max(0, without), skipped, first


def step_if_finite(norm: Tensor, take: Callable[[], None], changing: Callable[[], Iterator[Tensor]]) -> None:
    """Take a step, and undo it if the `norm` [] of its gradient is not finite, without waiting for the device.

    `changing` returns the tensors that the step changes, all on the device of the norm.
    """
    before = [tensor.clone() for tensor in changing()]
    take()
    finite = norm.isfinite()
    for tensor, old in zip(changing(), before, strict=True):
        tensor.copy_(torch.where(finite, tensor, old))


def can_undo(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Return whether a step changes nothing but tensors on this device, all of which are there before it.

    This holds for those of torch's own optimizers whose count of steps is on the device (on a GPU: AdamW and others that
    are `capturable`), from the second step on. Optimizers of other packages also count in Python's numbers.
    """
    if isinstance(optimizer, torch.optim.SGD) and all(group["momentum"] == 0 for group in optimizer.param_groups):
        return True  # it keeps nothing
    kept = [*tensors_in(optimizer)]
    is_known = type(optimizer).__module__.startswith("torch.optim")
    return is_known and bool(kept) and all(tensor.device == device for tensor in kept)


def tensors_in(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Return the tensors that an optimizer keeps for its parameters."""
    return (own for values in optimizer.state.values() for own in values.values() if isinstance(own, Tensor))
