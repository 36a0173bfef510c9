"""Verify that Chroma reads text and predicts as diffusers' own pipeline does, on a tiny random model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ChromaPipeline

from neonym import generate
from neonym.errors import ModelError
from neonym.models.families.flow_network import image_positions, pack, unpack
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.types import TextCond
from support.families import tiny_model

PROMPTS = ["a photo of a cat", "A knight (in armour), by the sea, with a sword"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model("chroma", tmp_path_factory.mktemp("chroma") / "model")


@pytest.fixture
def pipeline(folder) -> ChromaPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what diffusers itself uses
        pipeline = ChromaPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def cut(states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states [1,S,D] that a mask [1,L] keeps, and a mask of ones.

    diffusers adds its mask to the attention, where 0 and 1 hide nothing.
    """
    kept = states[:, : int(mask.sum())]
    return kept, torch.ones(kept.shape[:2])


@torch.no_grad()
def test_text_and_velocity_are_those_of_diffusers(folder, pipeline):
    model = load_model(str(folder))
    text = model.text.encode(model.text.batch(PROMPTS))
    x_t, t = torch.randn(2, 16, 4, 6), torch.tensor([700.0, 125.0])
    found = model.predict(x_t, t, text)
    for i, prompt in enumerate(PROMPTS):
        states, ids, mask, *_ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        states, _ = cut(states, mask)
        torch.testing.assert_close(text.sequence[i][text.mask[i]], states[0], rtol=0, atol=1e-5)
        tokens = pipeline.transformer(
            hidden_states=pack(x_t[i : i + 1]), timestep=t[i : i + 1] / 1000, encoder_hidden_states=states,
            txt_ids=ids[: states.shape[1]], img_ids=image_positions(2, 3, torch.device("cpu")), return_dict=False,
        )[0]  # fmt: skip
        torch.testing.assert_close(found[i], unpack(tokens, 4, 6)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_images_are_those_of_diffusers(folder, pipeline, scale):
    noise = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(5))
    states, _, mask, negative, _, negative_mask = pipeline.encode_prompt(PROMPTS[0], "")
    (states, mask), (negative, negative_mask) = cut(states, mask), cut(negative, negative_mask)
    expected = pipeline(
        prompt_embeds=states, prompt_attention_mask=mask, negative_prompt_embeds=negative,
        negative_prompt_attention_mask=negative_mask, height=32, width=48, num_inference_steps=3, latents=pack(noise),
        guidance_scale=scale, output_type="np",
    ).images[0]  # fmt: skip
    (found,) = generate(PROMPTS[0], model=str(folder), seed=5, steps=3, size=(48, 32), guidance=scale)
    assert np.abs(np.asarray(found) / 255 - expected).max() < 1.01 / 255


@torch.no_grad()
def test_padding_is_not_read(folder):
    """States behind a caption change nothing, whatever their value; gradient checkpointing makes no difference."""
    model = load_model(str(folder))
    text = model.text.encode(model.text.batch(PROMPTS))
    noise = torch.where(text.mask[..., None], text.sequence, torch.randn_like(text.sequence))
    x_t, t = torch.randn(2, 16, 4, 6), torch.tensor([500.0])
    plain = model.predict(x_t, t, text)
    assert torch.equal(model.predict(x_t, t, TextCond(noise, mask=text.mask)), plain)
    model.enable_gradient_checkpointing()
    with torch.enable_grad():
        sequence = noise.requires_grad_()
        again = model.predict(x_t, t, TextCond(sequence, mask=text.mask))
        again.sum().backward()
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-6)
    assert sequence.grad is not None
    assert sequence.grad[text.mask].abs().sum(-1).gt(0).all()
    assert not sequence.grad[~text.mask].any()


@torch.no_grad()
def test_emphasis_moves_states_away_from_an_empty_text(folder):
    model = load_model(str(folder))
    model.text.tokenizers["text_encoder"].reads_emphasis = True
    once, twice, empty = (
        model.text.encode(model.text.batch([caption])).sequence for caption in ("(a cat:1)", "(a cat:2)", "")
    )
    end = model.text.encode(model.text.batch(["a cat"])).mask.sum() - 2  # neither the end nor padding is emphasised
    moved = once + (once - model.text.empty_states(once.shape[1]))
    torch.testing.assert_close(twice[:, :end], moved[:, :end], rtol=0, atol=1e-5)
    assert torch.equal(twice[:, end:], once[:, end:])
    assert empty.shape[1] == 2


def test_flash_is_not_guided(folder):
    assert identify(str(folder)).guidance == 5.0
    flash = folder.parent / "Chroma1-Flash"
    flash.symlink_to(folder)
    assert identify(str(flash)).guidance == 1.0


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"_class_name": "ChromaRadianceTransformer2DModel"}, "pixels without latents"),
        ({"in_channels": 128}, "takes 128 channels"),
    ],
)
def test_models_for_other_tasks_are_refused(tmp_path, changes, what):
    home = tiny_model("chroma", tmp_path / "model")
    config = home / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(ModelError, match=what):
        identify(str(home))
