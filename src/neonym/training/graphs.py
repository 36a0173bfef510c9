"""Training steps by CUDA graphs: forward and backward of a micro-batch, from the noised latents to the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neonym.models.graphs.graphs import Graph, Graphs, recorded
from neonym.models.graphs.recorder import CudaRecorder, Recorder
from neonym.models.graphs.values import mapped, shape_of
from neonym.models.lexicon import Lexicon
from neonym.models.model import Model
from neonym.preflight.plan import TrainingPlan
from neonym.training.memory import idle_encoders
from neonym.training.objective import Objective
from neonym.training.step import Inputs, backward, losses_of

TEST_FACTOR = 256.0  # of the losses when a graph is tested: in fp16, gradients neither vanish nor overflow


@dataclass(frozen=True)
class Given:
    """A frozen record of what a graph reads."""

    inputs: Inputs
    factors: Tensor  # [B]
    rows: dict[str, Tensor]  # {encoder: [n,W]}; in a graph, n is at least the number of rows


@dataclass(frozen=True)
class Found:
    """A frozen record of what a graph writes."""

    losses: Tensor  # [B]
    gradients: dict[str, Tensor]  # of the rows that need them, {encoder: [n,W]}


class StepGraphs(Graphs[Given, Found]):
    """The function `backward` by graphs."""

    def __call__(self, model: Model, inputs: Inputs, factors: Tensor, objective: Objective) -> Tensor:
        """Add the gradients of the losses times `factors` [B] to those of the rows, and return the losses [B]."""
        given = Given(inputs, factors, {} if self.is_off else joined_rows(model))
        graph = self.graph_of(model, given, objective)
        if graph is None:
            return backward(model, inputs, factors, objective)
        found = graph(given)
        rows = [given.rows[name] for name in found.gradients]
        gradients = [own[: len(rows[i])] for i, own in enumerate(found.gradients.values())]
        torch.autograd.backward(rows, gradients)
        return found.losses

    def graph_of(self, model: Model, given: Given, objective: Objective) -> Graph[Given, Found] | None:
        """Return the graph of inputs like these, which may be recorded now; None if they are to run without one."""
        if not any(own.requires_grad for own in given.rows.values()):
            return None
        needs = tuple((name, room_for(own), own.requires_grad) for name, own in given.rows.items())
        shape = shape_of(given.inputs), needs, objective
        return self.graph_for(shape, lambda recorder: recorded_step(recorder, model, given, objective))


def recorded_step(recorder: Recorder, model: Model, given: Given, objective: Objective) -> Graph[Given, Found]:
    """Return a graph that computes the losses of inputs like these and the gradients of the rows.

    Raises RuntimeError if it cannot be recorded, or computes something else than the model.
    """
    leaves = {name: leaf_like(own) for name, own in given.rows.items()}
    own = Given(mapped(given.inputs, Tensor.clone), torch.full_like(given.factors, TEST_FACTOR), leaves)
    names = model.text.tables
    lexicon = Lexicon(model.text.tokenizers, {name: [leaves[name]] if name in leaves else [] for name in names})
    trained = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}

    def compute(given: Given) -> Found:
        with model.text.using(lexicon):
            losses = losses_of(model, given.inputs, objective)  # [B]
        total = (losses * given.factors).sum()
        gradients = torch.autograd.grad(total, [*trained.values()], materialize_grads=True)
        return Found(losses.detach(), dict(zip(trained, gradients, strict=True)))

    return recorded(recorder, own, compute, [own.inputs.noisy.x_t, own.inputs.noisy.t, *leaves.values()])


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


def graphs_for(plans: Sequence[TrainingPlan], device: torch.device, note: Callable[[str], None]) -> StepGraphs | None:
    """Return graphs for the steps of words that learn together; None if these are to run without.

    Blocks that wait in the memory of the CPU, and states that are kept there, are not in the same place each time.
    """
    compute = plans[0].run.compute
    is_compiled_so = compute.torch_compile and compute.dynamo_backend == "cudagraphs"
    if device.type != "cuda" or compute.cuda_graphs == "off" or compute.blocks_to_swap or is_compiled_so:
        return None
    return None if idle_encoders(plans) else StepGraphs(CudaRecorder(), note)
