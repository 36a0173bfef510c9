"""Sampling by CUDA graphs: what the denoiser predicts for latents and texts of one shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from neonym.models.graphs.graphs import Graph, Graphs, recorded, with_room
from neonym.models.graphs.recorder import CudaRecorder, Recorder
from neonym.models.graphs.values import mapped, shape_of
from neonym.models.model import Model
from neonym.types import Conditions, TextCond


@dataclass(frozen=True)
class Given:
    """A frozen record of what a prediction reads."""

    x_t: Tensor  # [B,C,h,w]
    t: Tensor  # [] or [B]
    text: TextCond
    conditions: Conditions


class PredictionGraphs(Graphs[Given, Tensor]):
    """The predictions of a model by graphs, in which its LoRAs keep their multipliers."""

    def __call__(self, model: Model, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions) -> Tensor:
        """Return what `model.predict` returns, [B,C,h,w]."""
        given = Given(x_t, t, text, conditions)
        graph = self.graph_for(shape_of(given), lambda recorder: recorded_prediction(recorder, model, given))
        return with_room(self, partial(prediction, model, given)) if graph is None else graph(given)


def recorded_prediction(recorder: Recorder, model: Model, given: Given) -> Graph[Given, Tensor]:
    """Return a graph of the prediction for inputs like these. Raises RuntimeError if it cannot be recorded."""
    own = mapped(given, Tensor.clone)
    return recorded(recorder, own, partial(prediction, model), [own.x_t])


def prediction(model: Model, given: Given) -> Tensor:
    """Return what a model predicts, [B,C,h,w]."""
    return model.predict(given.x_t, given.t, given.text, given.conditions)


def graphs_for(model: Model, setting: str, note: Callable[[str], None]) -> PredictionGraphs | None:
    """Return graphs for sampling with a model, by the setting of `--cuda_graphs`; None if it is to run without.

    Only a U-Net needs them: the kernels of a transformer, made of equal blocks, take longer than their launches, and
    the lengths of its texts differ from prompt to prompt.
    """
    if setting == "off" or model.device.type != "cuda" or model.source.family.denoiser.blocks:
        return None
    return PredictionGraphs(CudaRecorder(), note)
