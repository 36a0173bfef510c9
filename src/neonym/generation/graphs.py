"""Sampling by CUDA graphs: what the denoiser predicts for latents and texts of one shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from neonym.generation.lora import Networks
from neonym.models.graphs.graphs import Graph, Graphs, recorded, with_room
from neonym.models.graphs.recorder import CudaRecorder, Recorder
from neonym.models.graphs.values import mapped, shape_of, tensors_in
from neonym.models.model import Model
from neonym.types import Conditions, TextCond


@dataclass(frozen=True)
class Given:
    """A frozen record of what a prediction reads."""

    x_t: Tensor  # [B,C,h,w]
    t: Tensor  # [] or [B]
    text: TextCond
    conditions: Conditions
    multipliers: tuple[float, ...]  # of the model's LoRAs, which are numbers of Python and part of a graph


class PredictionGraphs(Graphs[Given, Tensor]):
    """The predictions of a model by graphs. Recording one takes two predictions, so up to 20 steps do without."""

    eager_calls = 20
    most_shortages = 1

    def __init__(self, recorder: Recorder, note: Callable[[str], None], networks: Networks | None = None):
        super().__init__(recorder, note)
        self.networks = networks

    def __call__(self, model: Model, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions) -> Tensor:
        """Return what `model.predict` returns, [B,C,h,w]."""
        multipliers = () if self.networks is None else tuple(self.networks.weights or ())
        given = Given(x_t, t, text, conditions, multipliers)
        graph = self.graph_for(shape_of(given), lambda recorder: recorded_prediction(recorder, model, given))
        return with_room(self, partial(prediction, model, given)) if graph is None else graph(given)


def recorded_prediction(recorder: Recorder, model: Model, given: Given) -> Graph[Given, Tensor]:
    """Return a graph of the prediction for inputs like these. Raises RuntimeError if it cannot be recorded."""
    own = mapped(given, Tensor.clone)
    varied = [tensor for tensor in tensors_in(own) if tensor.is_floating_point()]
    return recorded(recorder, own, partial(prediction, model), varied)


def prediction(model: Model, given: Given) -> Tensor:
    """Return what a model predicts, [B,C,h,w]."""
    return model.predict(given.x_t, given.t, given.text, given.conditions)


def graphs_for(
    model: Model, setting: str, note: Callable[[str], None], networks: Networks | None = None
) -> PredictionGraphs | None:
    """Return graphs for sampling with a model, by the setting of `--cuda_graphs`; None if it is to run without.

    Only a U-Net needs them: the kernels of a transformer, made of equal blocks, take longer than their launches.
    """
    if setting == "off" or model.device.type != "cuda" or model.source.family.denoiser.blocks:
        return None
    return PredictionGraphs(CudaRecorder(), note, networks)
