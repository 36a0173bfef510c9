"""Agreement between the processes of a run: what happens in one of them alone ends the same work in all of them.

Every process calls these functions at the same points. With a single process they communicate nothing. Only a UserError
or a stop is shared: any other error, such as too little memory on one GPU, ends its process, and the others save their
states when they notice that it is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from neonym.errors import Problem, RefuseRun, UserError
from neonym.runs.stop import StopRequested

Ending = UserError | StopRequested  # what ends a piece of work
Value = TypeVar("Value")


def largest(accelerator: Accelerator, values: Sequence[int]) -> list[int]:
    """Return the largest of each value over all processes, by one small reduction."""
    if accelerator.num_processes == 1:
        return [int(value) for value in values]
    own = torch.tensor([[int(value) for value in values]], device=accelerator.device)  # [1,values]
    found: torch.Tensor = accelerator.gather(own)  # pyright: ignore[reportAssignmentType]  # [processes,values]
    return found.amax(dim=0).tolist()


def agree(accelerator: Accelerator, value: int) -> int:
    """Return the largest value over all processes."""
    return largest(accelerator, [value])[0]


@contextmanager
def together(accelerator: Accelerator) -> Iterator[None]:
    """End the block with the same error or stop in every process: they wait for each other at its end.

    Otherwise the others would go on, and wait until their time is up for the one that has left. The block itself must
    not communicate. An error of another process is a RefuseRun with the same message.
    """
    own: Ending | None = None
    try:
        yield
    except (UserError, StopRequested) as ending:
        own = ending
    (ending,) = endings_of_all(accelerator, [own])
    if ending is not None:
        raise ending


def endings_of_all(accelerator: Accelerator, own: Sequence[Ending | None]) -> list[Ending | None]:
    """Return what ends each of several pieces of work in the first process where one ends, given what ends them here.

    Only if something has ended is more communicated than one small reduction.
    """
    if accelerator.num_processes == 1 or not any(largest(accelerator, [ending is not None for ending in own])):
        return list(own)
    told: list[list[int | list[Problem] | None]] = gather_object([[as_data(ending) for ending in own]])
    found: list[Ending | None] = []
    for here, of_each in zip(own, zip(*told, strict=True), strict=True):
        rank, data = next(((rank, data) for rank, data in enumerate(of_each) if data is not None), (0, None))
        found.append(here if data is None or rank == accelerator.process_index else from_data(data))
    return found


def as_data(ending: Ending | None) -> int | list[Problem] | None:
    """Return what another process has to know: the signal of a stop, or the problems of an error."""
    if isinstance(ending, StopRequested):
        return ending.signal
    return None if ending is None else ending.problems


def from_data(data: int | list[Problem]) -> Ending:
    """Return a stop or an error of another process."""
    if isinstance(data, int):
        return StopRequested(data)
    error = RefuseRun(data[0].what, data[0].where, data[0].fix)
    error.problems = data
    return error


def main_process_first(accelerator: Accelerator, do: Callable[[], Value]) -> Value:
    """Return what a function returns that the main process calls before the others; its errors end all of them."""
    found: list[Value] = []
    for is_turn in (accelerator.is_main_process, not accelerator.is_main_process):
        with together(accelerator):
            if is_turn:
                found.append(do())
    return found[0]


def leave_processes() -> None:
    """Leave the other processes of a run before Python ends: a connection that is still open then may abort it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
