"""CUDA graphs: forward and backward of a micro-batch are recorded once for each shape, and replayed from then on.

A step is thousands of kernels, most of which take less time than the host needs to launch them. A graph launches all of
them at once. It reads and writes the same memory each time, so the inputs are copied there, the rows among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from neonym.models.lexicon import Lexicon
from neonym.models.model import Model
from neonym.preflight.plan import TrainingPlan
from neonym.training.cuda_recorder import CudaRecorder, Outputs, Recorder
from neonym.training.graph_inputs import copy_into, mapped, shape_of
from neonym.training.memory import idle_encoders
from neonym.training.objective import Objective
from neonym.training.step import Inputs, backward, losses_of

EAGER_STEPS = 2  # of a shape before it is recorded: a rare one is not worth it
MOST = 16  # graphs; steps of further shapes run without
IDLE = 200  # steps after which a graph is not needed any more
MOST_SHAPES = 1000  # whose steps are counted
MOST_SHORTAGES = 3  # of memory, after which graphs are not worth it
CLOSE = 0.05  # kernels that add in any order differ by less, relative to the size of the result
TEST_FACTOR = 256.0  # of the losses when a graph is tested: in fp16, gradients neither vanish nor overflow


@dataclass(frozen=True)
class Graph:
    """The graph of one shape: where it reads, what it does, and where it writes."""

    inputs: Inputs
    factors: Tensor  # [B]
    rows: dict[str, Tensor]  # {encoder: [n,W]}, n is at least the number of rows
    replay: Callable[[], None]
    outputs: Outputs

    def replayed(self, inputs: Inputs, factors: Tensor, rows: Mapping[str, Tensor]) -> Outputs:
        """Return the losses [B] and the gradients of the rows that need them, as copies."""
        copy_into(self.inputs, inputs)
        self.factors.copy_(factors)
        for name, own in rows.items():
            self.rows[name].detach()[: len(own)].copy_(own.detach())
        self.replay()
        losses, gradients = self.outputs
        return losses.clone(), {name: own[: len(rows[name])].clone() for name, own in gradients.items()}


class Graphs:
    """The function `backward` by graphs, recorded once a shape has come up a few times.

    What cannot be recorded runs without a graph, and so does everything from then on, which is noted.
    """

    def __init__(self, recorder: Recorder, note: Callable[[str], None]):
        self.recorder, self.note = recorder, note
        self.graphs: dict[Hashable, Graph] = {}
        self.calls = self.shortages = 0
        self.last_use: dict[Hashable, int] = {}  # the call that used a graph last
        self.eager_calls: Counter[Hashable] = Counter()  # of shapes without a graph
        self.too_large: set[Hashable] = set()
        self.is_off = False

    def __call__(self, model: Model, inputs: Inputs, factors: Tensor, objective: Objective) -> Tensor:
        """Add the gradients of the losses times `factors` [B] to those of the rows, and return the losses [B]."""
        rows = {} if self.is_off else joined_rows(model)
        graph = self.graph_for(model, inputs, rows, objective)
        if graph is None:
            return backward(model, inputs, factors, objective)
        losses, gradients = graph.replayed(inputs, factors, rows)
        torch.autograd.backward([rows[name] for name in gradients], [*gradients.values()])
        return losses

    def graph_for(self, model: Model, inputs: Inputs, rows: Mapping[str, Tensor], objective: Objective) -> Graph | None:
        """Return the graph of inputs like these, which may be recorded now; None if they are to run without one."""
        if not any(own.requires_grad for own in rows.values()):
            return None
        needs = tuple((name, room_for(own), own.requires_grad) for name, own in rows.items())
        shape = shape_of(inputs), needs, objective
        self.calls += 1
        if shape not in self.graphs and self.is_due(shape):
            self.record(shape, model, inputs, rows, objective)
        if shape in self.graphs:
            self.last_use[shape] = self.calls
        return self.graphs.get(shape)

    def is_due(self, shape: Hashable) -> bool:
        """Return whether a shape has come up often enough to be recorded, and there is room for another graph."""
        if len(self.eager_calls) >= MOST_SHAPES:
            self.eager_calls.clear()
        self.eager_calls[shape] += 1
        if shape in self.too_large or self.eager_calls[shape] <= EAGER_STEPS:
            return False
        if len(self.graphs) >= MOST and any(self.calls - self.last_use[own] > IDLE for own in self.graphs):
            self.release()  # all of them: their memory is one
        return len(self.graphs) < MOST

    def record(
        self, shape: Hashable, model: Model, inputs: Inputs, rows: Mapping[str, Tensor], objective: Objective
    ) -> None:
        """Record a graph. If that fails, go on without: this shape if memory does not suffice, else all."""
        reason = None
        try:
            self.graphs[shape] = recorded(self.recorder, model, inputs, rows, objective)
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
        """Run everything without graphs from now on, and note why."""
        self.is_off = True
        self.graphs.clear()
        self.recorder.release()
        line = next(iter(reason.splitlines()), "no reason given").rstrip(".")
        self.note(f"note: steps run without CUDA graphs, which makes small models slower: {line}")

    def release(self) -> None:
        """Free the memory of all graphs, if there are any. They are recorded again when they are needed."""
        self.eager_calls.clear()
        self.last_use.clear()
        if self.graphs:
            self.graphs.clear()
            self.recorder.release()

    def make_room(self) -> bool:
        """Free the memory of all graphs because something else does not fit, and return whether there were any."""
        if not self.graphs:
            return False
        self.shortages += 1
        if self.shortages >= MOST_SHORTAGES:
            self.turn_off("they and everything else do not fit in memory together")
        self.release()
        return True


def recorded(
    recorder: Recorder, model: Model, inputs: Inputs, rows: Mapping[str, Tensor], objective: Objective
) -> Graph:
    """Return a graph that computes the losses of inputs like these and the gradients of the rows.

    Raises RuntimeError if it cannot be recorded, or if it computes something else than the model for other inputs than
    those that it was recorded with.
    """
    inputs, leaves = mapped(inputs, Tensor.clone), {name: leaf_like(own) for name, own in rows.items()}
    factors = torch.full_like(inputs.weight, TEST_FACTOR)  # [B]
    names = model.text.tables
    lexicon = Lexicon(model.text.tokenizers, {name: [leaves[name]] if name in leaves else [] for name in names})
    trained = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}

    def body() -> Outputs:
        with model.text.using(lexicon):
            losses = losses_of(model, inputs, objective)  # [B]
        gradients = torch.autograd.grad((losses * factors).sum(), [*trained.values()], materialize_grads=True)
        return losses.detach(), dict(zip(trained, gradients, strict=True))

    with other_numbers(inputs, leaves):
        expected = recorder.warm_up(body)
    graph = Graph(inputs, factors, leaves, *recorder.record(body))
    with other_numbers(inputs, leaves):
        graph.replay()
        if not is_close(graph.outputs, expected):
            raise RuntimeError("a graph computed something else than the model")
    return graph


@contextmanager
def other_numbers(inputs: Inputs, leaves: Mapping[str, Tensor]) -> Iterator[None]:
    """Negate the noised latents and the rows for the duration of a block."""
    changed = [inputs.noisy.x_t, *(leaf.detach() for leaf in leaves.values())]
    for own in changed:
        own.neg_()
    try:
        yield
    finally:
        for own in changed:
            own.neg_()


def joined_rows(model: Model) -> dict[str, Tensor]:
    """Return the rows of each encoder that has any, [n,W], through which gradients reach those of each word."""
    found = {name: table.joined_rows() for name, table in model.text.tables.items()}
    return {name: own for name, own in found.items() if own is not None}


def leaf_like(rows: Tensor) -> Tensor:
    """Return a copy of rows [n,W] with room for more, so that words may come and go without another graph."""
    leaf = rows.new_zeros(room_for(rows), rows.shape[1])
    leaf[: len(rows)] = rows.detach()
    return leaf.requires_grad_(rows.requires_grad)


def room_for(rows: Tensor) -> int:
    """Return the number of rows that a graph has room for: the next power of two."""
    return 1 << (len(rows) - 1).bit_length()


def is_close(found: Outputs, expected: Outputs) -> bool:
    """Return whether losses and gradients are equal up to rounding, each relative to its size."""
    pairs = [(found[0], expected[0]), *((own, expected[1][name]) for name, own in found[1].items())]
    return all(bool((own - other).norm() <= CLOSE * other.norm()) for own, other in pairs)


def graphs_for(plans: Sequence[TrainingPlan], device: torch.device, note: Callable[[str], None]) -> Graphs | None:
    """Return graphs for the steps of words that learn together; None if these are to run without.

    Blocks that wait in the memory of the CPU, and states that are kept there, are not in the same place each time.
    """
    compute = plans[0].run.compute
    is_compiled_so = compute.torch_compile and compute.dynamo_backend == "cudagraphs"
    if device.type != "cuda" or compute.cuda_graphs == "off" or compute.blocks_to_swap or is_compiled_so:
        return None
    return None if idle_encoders(plans) else Graphs(CudaRecorder(), note)
