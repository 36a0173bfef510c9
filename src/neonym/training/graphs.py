"""CUDA graphs: forward and backward of a micro-batch are recorded once for each shape, and replayed from then on.

A step is thousands of kernels, most of which take less time than the host needs to launch them. A graph launches all of
them at once. It reads and writes the same memory each time, so the inputs are copied there, the rows among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from neonym.config.run import RunConfig
from neonym.models.lexicon import Lexicon
from neonym.models.model import Model
from neonym.training.graph_inputs import copy_into, mapped, shape_of
from neonym.training.objective import Objective
from neonym.training.step import Inputs, backward, losses_of

EAGER_STEPS = 2  # of a shape before it is recorded: a rare one is not worth it
MOST = 16  # graphs; steps of further shapes run without
CLOSE = 0.01  # kernels that add in any order differ by less, relative to the largest number

Gradients = dict[str, Tensor]  # {encoder: [n,W]}
Body = Callable[[], tuple[Tensor, Gradients]]  # returns the losses [B], and the gradients of the rows


class Recorder(Protocol):
    """A way to record a computation, such as `CudaRecorder`."""

    def record(self, body: Body) -> Recorded:
        """Record a computation on tensors that stay where they are."""
        ...

    def release(self) -> None:
        """Free what all recordings hold."""


@dataclass(frozen=True)
class Recorded:
    """A recorded computation. `replay` writes to the outputs; `expected` are those of the same inputs without a graph."""

    replay: Callable[[], None]
    outputs: tuple[Tensor, Gradients]
    expected: tuple[Tensor, Gradients]


class CudaRecorder:
    """A recorder of CUDA graphs, which share their memory: one at a time uses it."""

    def __init__(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def record(self, body: Body) -> Recorded:
        """Run a computation once, so that libraries make what they need, and record it."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            losses, gradients = body()
            expected = losses.clone(), {name: own.clone() for name, own in gradients.items()}
        torch.cuda.current_stream().wait_stream(self.stream)
        del losses, gradients
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            outputs = body()
        return Recorded(graph.replay, outputs, expected)

    def release(self) -> None:
        """Free the memory of all graphs, none of which may be replayed any more."""
        self.pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Graph:
    """The graph of one shape: where it reads, what it does, and where it writes."""

    inputs: Inputs
    factors: Tensor  # [B]
    rows: Gradients  # {encoder: [n,W]}, n is at least the number of rows
    recorded: Recorded

    def replayed(self, inputs: Inputs, factors: Tensor, rows: Mapping[str, Tensor]) -> tuple[Tensor, Gradients]:
        """Return the losses [B] and the gradients of the rows that need them, as copies."""
        copy_into(self.inputs, inputs)
        self.factors.copy_(factors)
        for name, own in rows.items():
            self.rows[name].detach()[: len(own)].copy_(own.detach())
        self.recorded.replay()
        losses, gradients = self.recorded.outputs
        return losses.clone(), {name: own[: len(rows[name])].clone() for name, own in gradients.items()}


class Graphs:
    """The function `backward` by graphs, recorded once a shape has come up a few times.

    Whatever cannot be recorded runs without a graph, and so does everything from the first failure on, which is noted.
    """

    def __init__(self, recorder: Recorder, note: Callable[[str], None]):
        self.recorder, self.note = recorder, note
        self.graphs: dict[Hashable, Graph] = {}
        self.steps: Counter[Hashable] = Counter()  # of shapes without a graph
        self.is_off = False

    def __call__(self, model: Model, inputs: Inputs, factors: Tensor, objective: Objective) -> Tensor:
        """Add the gradients of the losses times `factors` [B] to those of the rows, and return the losses [B]."""
        if self.is_off:
            return backward(model, inputs, factors, objective)
        rows = {name: own for name, table in model.text.tables.items() if (own := table.joined_rows()) is not None}
        graph = self.graph_for(model, inputs, factors, rows, objective)
        if graph is None:
            return backward(model, inputs, factors, objective)
        losses, gradients = graph.replayed(inputs, factors, rows)
        torch.autograd.backward([rows[name] for name in gradients], [*gradients.values()])
        return losses

    def graph_for(
        self, model: Model, inputs: Inputs, factors: Tensor, rows: Mapping[str, Tensor], objective: Objective
    ) -> Graph | None:
        """Return the graph of inputs like these, which may be recorded now; None if they are to run without one."""
        needs = tuple((name, room_for(own), own.requires_grad) for name, own in rows.items())
        if not any(needed for _, _, needed in needs):
            return None
        shape = shape_of(inputs), needs, objective
        if shape not in self.graphs and len(self.graphs) < MOST:
            self.steps[shape] += 1
            if self.steps[shape] > EAGER_STEPS:
                try:
                    self.graphs[shape] = record(self.recorder, model, inputs, factors, rows, objective)
                except RuntimeError as error:  # what CUDA, cuDNN, cuBLAS and torch raise
                    self.turn_off(str(error))
        return self.graphs.get(shape)

    def turn_off(self, reason: str) -> None:
        """Run everything without graphs from now on, and note why."""
        self.release()
        self.is_off = True
        line = next(iter(reason.splitlines()), "no reason given").rstrip(".")
        self.note(f"note: steps run without CUDA graphs, which makes small models slower: {line}")

    def release(self) -> bool:
        """Free the memory of all graphs, which are recorded again when they are needed, and return whether any was."""
        had = bool(self.graphs)
        self.graphs.clear()
        self.steps.clear()
        if had:
            self.recorder.release()
        return had


def record(
    recorder: Recorder, model: Model, inputs: Inputs, factors: Tensor, rows: Mapping[str, Tensor], objective: Objective
) -> Graph:
    """Return a graph that computes the losses of inputs like these and the gradients of the rows.

    Raises RuntimeError if it cannot be recorded, or if it computes something else.
    """
    inputs, factors, leaves = (
        mapped(inputs, Tensor.clone),
        factors.clone(),
        {name: leaf_like(own) for name, own in rows.items()},
    )
    lexicon = Lexicon(
        model.text.tokenizers, {name: [leaves[name]] if name in leaves else [] for name in model.text.tables}
    )
    trained = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}

    def body() -> tuple[Tensor, Gradients]:
        with model.text.using(lexicon):
            losses = losses_of(model, inputs, objective)  # [B]
        gradients = torch.autograd.grad((losses * factors).sum(), [*trained.values()], materialize_grads=True)
        return losses.detach(), dict(zip(trained, gradients, strict=True))

    recorded = recorder.record(body)
    recorded.replay()
    (losses, gradients), (expected, expected_gradients) = recorded.outputs, recorded.expected
    if not (
        is_close(losses, expected) and all(is_close(gradients[name], expected_gradients[name]) for name in trained)
    ):
        raise RuntimeError("a graph computed something else than the model")
    return Graph(inputs, factors, leaves, recorded)


def leaf_like(rows: Tensor) -> Tensor:
    """Return a copy of rows [n,W] with room for more, so that words may come and go without another graph."""
    leaf = rows.new_zeros(room_for(rows), rows.shape[1])
    leaf[: len(rows)] = rows.detach()
    return leaf.requires_grad_(rows.requires_grad)


def room_for(rows: Tensor) -> int:
    """Return the number of rows that a graph has room for: the next power of two."""
    return 1 << (len(rows) - 1).bit_length()


def is_close(found: Tensor, expected: Tensor) -> bool:
    """Return whether two results are equal up to rounding, relative to their largest number."""
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(found, expected, rtol=CLOSE, atol=CLOSE * largest, equal_nan=True)


def graphs_for(run: RunConfig, device: torch.device, note: Callable[[str], None]) -> Graphs | None:
    """Return graphs for the steps of a run; None if it is to run without.

    Blocks that wait in the memory of the CPU, and texts that are remembered there, are not in the same place each time.
    """
    compute = run.compute
    if device.type != "cuda" or compute.cuda_graphs == "off" or compute.blocks_to_swap:
        return None
    return Graphs(CudaRecorder(), note)
