"""Verify that Z-Image reads text and predicts as diffusers' own pipeline does, on tiny random models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline

from neonym import generate
from neonym.models.model import load_model
from support.families import tiny_model

PROMPTS = ["a photo of a cat", "a knight in armour " * 12]  # captions that are padded to 32 and to 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model("zimage", tmp_path_factory.mktemp("zimage") / "model")


@pytest.fixture
def pipeline(folder) -> ZImagePipeline:
    pipeline = ZImagePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def test_text_and_velocity_are_those_of_diffusers(folder, pipeline):
    model = load_model(str(folder))
    states, _ = pipeline.encode_prompt(list(PROMPTS), do_classifier_free_guidance=False)
    text = model.text.encode(model.text.batch(PROMPTS))
    assert text.mask is not None
    for own, mask, expected in zip(text.sequence, text.mask, states, strict=True):
        torch.testing.assert_close(own[mask], expected, rtol=0, atol=1e-5)
    x_t, t = torch.randn(2, 16, 4, 6), torch.tensor([700.0, 125.0])
    expected = -torch.stack(pipeline.transformer(list(x_t[:, :, None]), 1 - t / 1000, states, return_dict=False)[0])
    torch.testing.assert_close(model.predict(x_t, t, text), expected[:, :, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_images_are_those_of_diffusers(folder, pipeline, scale):
    """diffusers adds its guidance scale to 1: a scale of 4 is 3 there, and no guidance is 0."""
    noise = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(5))
    expected = pipeline(
        [PROMPTS[0]], height=32, width=48, num_inference_steps=3, latents=noise, guidance_scale=scale - 1,
        output_type="np",
    ).images[0]  # fmt: skip
    (found,) = generate(PROMPTS[0], model=str(folder), seed=5, steps=3, size=(48, 32), guidance=scale)
    assert np.abs(np.asarray(found) / 255 - expected).max() < 1.01 / 255
