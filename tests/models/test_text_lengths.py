"""Verify captions of unlike length in models whose padding is read like text: FLUX.1 and Stable Diffusion 3."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neonym.data.loader import Loader
from neonym.generation.conditioning import TextRules, conditioning
from neonym.generation.guidance import concatenate_texts
from neonym.generation.pipeline import Pipeline, PipelineRules
from neonym.models.encoders.rows import Rows
from neonym.models.model import Model, load_model
from neonym.training.objective import Objective
from neonym.training.step import sample_losses
from neonym.types import Batch, CaptionRules, Draw, Fit, ImageRecord, View
from support import BATCH_INVARIANT, WORD
from support.batches import batch_of
from support.families import SIDE, tiny_model
from support.jobs import JOB, image_of

LONG = "a cat " * 60  # 180 ids of T5: more than ComfyUI pads to for SD3
CAPTIONS = [(f"a photo of {WORD}", False), (f"a photo of {WORD}", True), (f"{LONG} {WORD}", True), ("", True)]
LENGTHS = {"flux1": (512, 256), "sd3": (256, 77)}  # of diffusers and ComfyUI


@pytest.fixture(scope="module", params=LENGTHS)
def folder(request, tmp_path_factory) -> Path:
    return tiny_model(request.param, tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture
def model(folder) -> Model:
    model = load_model(str(folder))
    generator = torch.Generator().manual_seed(1)
    widths = {name: table.frozen.embedding_dim for name, table in model.text.tables.items()}
    model.text.add_word(
        WORD, {name: Rows(torch.randn(2, width, generator=generator)) for name, width in widths.items()}
    )
    return model


def t5_of(model: Model) -> str:
    return list(model.text.tokenizers)[-1]


def batch(model: Model, which: list[int]) -> Batch:
    """Return a batch of some of the captions, each read as by its program."""
    whole = batch_of(model, [caption for caption, _ in CAPTIONS])
    texts = [model.text.tokenize(*CAPTIONS[i]) for i in which]
    return replace(
        whole, moments=whole.moments[which], text=model.text.stacked(texts, model.device),
        keys=[whole.keys[i] for i in which], levels=[whole.levels[i] for i in which],
        concept=whole.concept[which], weight=whole.weight[which],
    )  # fmt: skip


def gradients(model: Model, parts: list[list[int]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the losses of the captions in micro-batches, and the gradients of the rows of each encoder."""
    losses = torch.zeros(len(CAPTIONS))
    rows: dict[str, Rows] = {name: table.rows[0] for name, table in model.text.tables.items()}  # pyright: ignore
    for own in rows.values():
        own.gradients = None
    for which in parts:
        found = sample_losses(model, batch(model, which), Objective())
        found.sum().backward()
        losses[which] = found.detach()
    return losses, {name: own.gradients.float() for name, own in rows.items() if own.gradients is not None}


def test_captions_are_padded_as_by_the_program_that_reads_them(model):
    diffusers, comfyui = LENGTHS[model.source.family.name]
    found = [model.text.tokenize(*own).ids[t5_of(model)].shape[1] for own in CAPTIONS]
    assert found == [diffusers, comfyui, max(comfyui, 183), comfyui]
    whole = batch(model, [0, 1, 2, 3]).text
    assert whole.ids[t5_of(model)].shape[2] == diffusers
    assert whole.lengths[t5_of(model)] == found
    ids = model.text.tokenize(*CAPTIONS[1])
    assert set(ids.ids) == set(model.text.tokenizers)
    assert ids.words == {WORD}


def test_no_sample_depends_on_its_neighbours_nor_on_the_size_of_micro_batches(model):
    together, expected = gradients(model, [[0, 1, 2, 3]])
    for parts in ([[0], [1], [2], [3]], [[2, 0], [3, 1]], [[1, 3, 2], [0]]):
        losses, found = gradients(model, parts)
        assert (losses - together).abs().max() <= (0 if BATCH_INVARIANT else 1e-5), parts
        assert found.keys() == expected.keys() == model.text.tables.keys()
        for name in expected:
            exact = {"rtol": 0, "atol": 0} if BATCH_INVARIANT else {"rtol": 1e-4, "atol": 1e-6}
            torch.testing.assert_close(found[name], expected[name], **exact)


def test_the_padding_that_a_program_adds_is_read(model):
    """The same caption has another prediction with the padding of the other program."""
    losses, _ = gradients(model, [[0, 1, 2, 3]])
    other = replace(batch(model, [0]), text=model.text.stacked([model.text.tokenize(*CAPTIONS[1])], model.device))
    assert (sample_losses(model, other, Objective())[0] - losses[0]).abs() > 1e-7


def test_a_mix_has_captions_of_both_lengths(model):
    fit = Fit((SIDE, SIDE), (SIDE, SIDE), (0, 0, SIDE, SIDE))
    record = ImageRecord(Path("a.png"), "", (SIDE, SIDE), fit, 0, 0, 1, False, CaptionRules())
    loader = Loader(
        [], {}, model.text.tokenize, model.text.stacked, WORD, model.device, 1, [1], tokenize_as="mix"  # pyright: ignore
    )  # fmt: skip
    draws = [Draw(record, f"a {WORD}", View(fit), (1, step, 0), 0.5, 1.0) for step in range(100)]
    found = Counter(loader.encoded(draw).ids[t5_of(model)].shape[1] for draw in draws)
    assert set(found) == set(LENGTHS[model.source.family.name])
    assert all(count > 25 for count in found.values())


def test_prompts_of_unlike_length_are_predicted_as_alone(model):
    rules = TextRules(comfyui=True)
    texts = [conditioning(model, [prompt], 2, rules) for prompt in ("a cat " * 90, "a dog")]
    x_t, t = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([700.0, 300.0])
    with torch.no_grad():
        together = model.predict(x_t, t, concatenate_texts(texts))
        for i, text in enumerate(texts):
            alone = model.predict(x_t[i : i + 1], t[i : i + 1], text)[0]
            assert (together[i] - alone).abs().max() <= (0 if BATCH_INVARIANT else 1e-5)


def test_images_of_comfyui_s_prompts_do_not_depend_on_those_beside_them(model):
    """The prompt is longer than ComfyUI's padding, and the negative prompt is not."""
    pipeline = Pipeline(model, PipelineRules(TextRules(comfyui=True)))
    job = replace(JOB, prompt="a cat " * 90, negative_prompt="bad", width=SIDE, height=SIDE, steps=2, sampler="euler")
    jobs = [job, replace(job, prompt="a cat " * 91, seed=4), replace(job, prompt="a dog", seed=5)]
    together = pipeline.generate(jobs)
    for own, image in zip(jobs, together, strict=True):
        assert np.array_equal(np.asarray(image), image_of(pipeline, own)), own.prompt
