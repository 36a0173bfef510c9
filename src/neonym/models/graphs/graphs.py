"""The graphs of a computation, recorded once a shape has come up a few times, and only while they are worth it.

A step of training or sampling is thousands of kernels, most of which take less time than the host needs to launch them.
A graph launches all of them at once. It reads and writes the same memory each time, so the inputs are copied there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from neonym.models.graphs.recorder import Recorder
from neonym.models.graphs.values import copy_into, mapped, tensors_in

Given = TypeVar("Given")  # a value that holds tensors: the inputs of a computation
Found = TypeVar("Found")  # likewise: its outputs
Returned = TypeVar("Returned")

MOST = 16  # graphs; further shapes are computed without
IDLE = 200  # calls after which a graph is not needed any more
MOST_SHAPES = 1000  # whose calls are counted
CLOSE = 0.05  # kernels that add in any order differ by less, relative to the size of the result


@dataclass(frozen=True)
class Graph(Generic[Given, Found]):
    """The graph of one shape: where it reads, what it does, and where it writes."""

    inputs: Given
    replay: Callable[[], None]
    outputs: Found

    def __call__(self, inputs: Given) -> Found:
        """Return the outputs for inputs like those of the graph, as copies."""
        copy_into(self.inputs, inputs)
        self.replay()
        return mapped(self.outputs, Tensor.clone)


class Graphs(Generic[Given, Found]):
    """The graphs of one computation by the shapes of its inputs.

    What cannot be recorded runs without a graph, and so does everything from then on, which is noted.
    """

    eager_calls = 2  # of a shape before it is recorded: a rare one is not worth it
    most_shortages = 3  # of memory, after which graphs are not worth it

    def __init__(self, recorder: Recorder, note: Callable[[str], None]):
        self.recorder, self.note = recorder, note
        self.graphs: dict[Hashable, Graph[Given, Found]] = {}
        self.calls = self.shortages = 0
        self.last_use: dict[Hashable, int] = {}  # the call that used a graph last
        self.seen: Counter[Hashable] = Counter()  # calls of shapes without a graph
        self.too_large: set[Hashable] = set()
        self.is_off = False

    def graph_for(
        self, shape: Hashable, record: Callable[[Recorder], Graph[Given, Found]]
    ) -> Graph[Given, Found] | None:
        """Return the graph of a shape, which `record` may record now; None if it is to be computed without one."""
        if self.is_off:
            return None
        self.calls += 1
        if shape not in self.graphs and self.is_due(shape):
            self.try_to_record(shape, record)
        if shape in self.graphs:
            self.last_use[shape] = self.calls
        return self.graphs.get(shape)

    def is_due(self, shape: Hashable) -> bool:
        """Return whether a shape has come up often enough to be recorded, and there is room for another graph."""
        if len(self.seen) >= MOST_SHAPES:
            self.seen.clear()
        self.seen[shape] += 1
        if shape in self.too_large or self.seen[shape] <= self.eager_calls:
            return False
        if len(self.graphs) >= MOST and any(self.calls - self.last_use[own] > IDLE for own in self.graphs):
            self.release()  # all of them: their memory is one
        return len(self.graphs) < MOST

    def try_to_record(self, shape: Hashable, record: Callable[[Recorder], Graph[Given, Found]]) -> None:
        """Record a graph. If that fails, go on without: this shape if memory does not suffice, else all."""
        reason = None
        try:
            self.graphs[shape] = record(self.recorder)
        except torch.OutOfMemoryError:
            self.too_large.add(shape)
        except RuntimeError as error:  # what CUDA, cuDNN, cuBLAS and torch raise
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            reason = str(cause)
        if shape in self.too_large:
            self.graphs.clear()
            self.recorder.release()
        if reason is not None:  # only now: the error holds activations
            self.turn_off(reason)

    def turn_off(self, reason: str) -> None:
        """Compute everything without graphs from now on, and note why."""
        self.is_off = True
        self.graphs.clear()
        self.recorder.release()
        line = next(iter(reason.splitlines()), "no reason given").rstrip(".")
        self.note(f"note: steps run without CUDA graphs, which makes small models slower: {line}")

    def release(self) -> None:
        """Free the memory of all graphs, if there are any. They are recorded again when they are needed."""
        self.seen.clear()
        self.last_use.clear()
        if self.graphs:
            self.graphs.clear()
            self.recorder.release()

    def make_room(self) -> bool:
        """Free the memory of all graphs because something else does not fit, and return whether there were any."""
        if not self.graphs:
            return False
        self.shortages += 1
        if self.shortages >= self.most_shortages:
            self.turn_off("they and everything else do not fit in memory together")
        self.release()
        return True


def with_room(graphs: Graphs[Any, Any] | None, compute: Callable[[], Returned]) -> Returned:
    """Return what a function returns. If the memory of a GPU does not suffice, it gets that of the graphs."""
    try:
        return compute()
    except torch.OutOfMemoryError:
        if graphs is None or not graphs.make_room():
            raise
    return compute()


def recorded(
    recorder: Recorder, inputs: Given, compute: Callable[[Given], Found], varied: Sequence[Tensor]
) -> Graph[Given, Found]:
    """Return a graph that reads `inputs`, which nothing else uses.

    Raises RuntimeError if it cannot be recorded, or if it computes something else than `compute` when the `varied` ones
    of its inputs are not those that it was recorded with.
    """
    with negated(varied):
        expected = recorder.warm_up(lambda: compute(inputs))
    graph = Graph(inputs, *recorder.record(lambda: compute(inputs)))
    with negated(varied):
        graph.replay()
        if not is_close(graph.outputs, expected):
            raise RuntimeError("a graph computed something else than the model")
    return graph


@contextmanager
def negated(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Negate tensors in place for the duration of a block."""
    for own in tensors:
        own.detach().neg_()
    try:
        yield
    finally:
        for own in tensors:
            own.detach().neg_()


def is_close(found: Any, expected: Any) -> bool:
    """Return whether the tensors in two values are equal up to rounding, each relative to its size."""
    pairs = zip(tensors_in(found), tensors_in(expected), strict=True)
    return all(bool((own - other).norm() <= CLOSE * other.norm()) for own, other in pairs)
