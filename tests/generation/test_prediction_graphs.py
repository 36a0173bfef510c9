"""Sampling by graphs, on a CPU and, where there is one, on a GPU: the same images as without."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.checkpoints import make_parts, save_folder
from neonym.generation.conditioning import conditioning
from neonym.generation.graphs import PredictionGraphs, graphs_for
from neonym.generation.guidance import concatenate_texts
from neonym.generation.lora import Networks
from neonym.generation.pipeline import Pipeline, PipelineRules
from neonym.models.graphs.graphs import Graph
from neonym.models.graphs.values import mapped
from neonym.models.loading import parts
from neonym.models.model import load_model
from neonym.models.registry import family_named
from neonym.types import Conditions
from support.commands import pixels
from support.jobs import JOB, JOBS, image_of
from support.lora import make_lora
from support.meta import Copies, PythonNumbers, on_meta
from support.recorders import Failing, Remembering, Rerun

EAGER, USUAL = 2, PredictionGraphs.eager_calls  # steps without a graph
AT_ONCE = PipelineRules(at_once=True)  # as on a GPU


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Let shapes be recorded after few steps, so that short images show it."""
    monkeypatch.setattr(PredictionGraphs, "eager_calls", EAGER)


def graphed(model, recorder, rules=AT_ONCE, networks=None, notes=None):
    """Return a pipeline that samples by graphs of a recorder."""
    return Pipeline(
        model, rules, networks, PredictionGraphs(recorder, [].append if notes is None else notes.append, networks)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"negative_prompt": "blurry", "steps": 6},
        {"negative_prompt": "blurry", "negative_scale": 2.0, "sampler": "heun", "steps": 3},
        {"scale": 1.0, "sampler": "euler_a", "steps": 6},
    ],
)
def test_images_are_the_same_with_graphs(model, changes):
    """Texts and sizes that come again are replayed: images of another prompt need no other graph."""
    recorder, jobs = Rerun(), [replace(job, **changes) for job in JOBS[:2]]
    pipeline = graphed(model, recorder)
    for batch in ([jobs[0]], [jobs[1]]):
        found, eager = pipeline.generate(batch)[0], Pipeline(model, AT_ONCE).generate(batch)[0]
        assert np.array_equal(pixels(found), pixels(eager))
    assert recorder.recorded == 1
    assert recorder.replays >= 2 * 5 - EAGER + 1  # once more when it is recorded, to compare


def test_each_of_two_stages_has_its_graph(model):
    rules = replace(AT_ONCE, highres_scale=0.5, highres_steps=6)
    job, recorder = replace(JOB, width=128, height=128, steps=8, strength=0.8), Rerun()
    assert np.array_equal(image_of(graphed(model, recorder, rules), job), image_of(Pipeline(model, rules), job))
    assert recorder.recorded == 2


def test_the_multipliers_of_loras_have_graphs_of_their_own(tmp_path):
    """They are numbers of Python, which a recording on a GPU reads once."""
    model = load_model()
    save_file(make_lora(model), tmp_path / "lora.safetensors")
    networks, recorder = Networks(model, [str(tmp_path / "lora.safetensors")], (1.0,)), Rerun()
    pipeline = graphed(model, recorder, networks=networks)
    jobs = [replace(JOB, steps=6, multipliers=(multiplier,)) for multiplier in (1.0, 0.5, 1.0)]
    recorded = [(image_of(pipeline, job), recorder.recorded)[1] for job in jobs]
    assert recorded == [1, 2, 2]


@pytest.mark.parametrize(
    ("recorder", "why"), [(Failing(), "when stream is capturing"), (Remembering(), "computed something else")]
)
def test_what_cannot_be_recorded_is_sampled_without_graphs_and_says_so(model, recorder, why):
    notes: list[str] = []
    job = replace(JOB, steps=6)
    assert np.array_equal(image_of(graphed(model, recorder, notes=notes), job), image_of(Pipeline(model, AT_ONCE), job))
    (note,) = notes
    assert why in note


def test_a_single_image_is_not_worth_a_graph(model, monkeypatch):
    monkeypatch.setattr(PredictionGraphs, "eager_calls", USUAL)
    recorder = Rerun()
    pipeline = graphed(model, recorder)
    image_of(pipeline, replace(JOB, steps=20))
    assert not recorder.recorded
    image_of(pipeline, replace(JOB, steps=2))
    assert recorder.recorded == 1


def test_decoding_gets_the_memory_of_the_graphs(model, monkeypatch):
    job, recorder = replace(JOB, steps=6), Rerun()
    eager, pipeline, clean = image_of(Pipeline(model, AT_ONCE), job), graphed(model, recorder), model.vae.decode

    def decode(latents):
        if not recorder.released:
            raise torch.OutOfMemoryError("out of memory")
        return clean(latents)

    monkeypatch.setattr(model.vae, "decode", decode)
    assert np.array_equal(image_of(pipeline, job), eager)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_prediction_can_be_recorded(tmp_path, monkeypatch, kind):
    """Nothing in it is copied from the host, and the host reads nothing."""
    monkeypatch.setattr(parts, "make_batch_invariant", lambda network: None)
    if kind == "sdxl":
        save_folder(make_parts("sdxl", tiny=True, dtype=torch.float32), "sdxl", tmp_path / "model", "epsilon")
    model = load_model(str(tmp_path / "model") if kind == "sdxl" else "builtin:emoji")
    with torch.inference_mode():
        text = concatenate_texts([conditioning(model, [prompt]) for prompt in ("blurry", "a (cat:1.2)")])
        text, sizes = mapped(text, on_meta), torch.zeros(2, 6, device="meta")
        model.denoiser.to("meta")
        side = model.source.native_size // model.source.latents.pixels
        x_t = torch.zeros(2, model.source.latents.channels, side, side, device="meta")  # [B,C,h,w]
        with PythonNumbers() as numbers, Copies() as copies:
            model.predict(x_t, torch.zeros((), device="meta"), text, Conditions(sizes))
    assert numbers.found + copies.found == []


def test_only_unets_on_a_gpu_are_sampled_by_graphs(monkeypatch):
    monkeypatch.setattr("neonym.generation.graphs.CudaRecorder", Rerun)

    def made(family: str, device: str, setting: str) -> bool:
        source = SimpleNamespace(family=family_named(family))
        model: Any = SimpleNamespace(source=source, device=torch.device(device))
        return graphs_for(model, setting, print) is not None

    assert made("sd1", "cuda", "auto")
    assert made("sdxl", "cuda", "auto")
    assert not made("sd1", "cuda", "off")
    assert not made("sd1", "cpu", "auto")
    assert not made("flux1", "cuda", "auto")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and NEONYM_TEST_CUDA=1")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_images_are_the_same_with_graphs_of_cuda(monkeypatch, dtype):
    """The same kernels compute them, with other choices of algorithms at most."""
    model, notes, replays, clean = load_model(device="cuda", dtype=dtype), [], [], Graph.__call__
    monkeypatch.setattr(Graph, "__call__", lambda self, *given: replays.append(1) or clean(self, *given))
    pipeline = Pipeline(model, graphs=graphs_for(model, "auto", notes.append))
    for job in (replace(job, steps=8) for job in JOBS[:2]):
        assert np.abs(image_of(pipeline, job) - image_of(Pipeline(model), job)).max() <= 2
    assert len(replays) == 2 * 8 - EAGER
    assert not notes
