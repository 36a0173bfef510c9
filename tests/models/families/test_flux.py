"""Verify that FLUX.1 reads text and predicts as diffusers' own pipeline does, on tiny random models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file

from neonym import generate, train
from neonym.models.families.flow_network import image_positions, pack, unpack
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.preflight.preflight import preflight
from neonym.types import Conditions
from support.checks import settings
from support.data_sets import make_images
from support.families import tiny_model

PROMPTS = ["a photo of a cat", "A knight (in armour), by the sea"]
END = 49407


@pytest.fixture(scope="module", params=["dev", "schnell"])
def folder(request, tmp_path_factory) -> Path:
    return tiny_model("flux1", tmp_path_factory.mktemp(request.param) / "model", guidance=request.param == "dev")


@pytest.fixture
def pipeline(folder) -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(folder)
    pipeline.text_encoder.config.eos_token_id = END  # else it pools at the highest id
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def test_text_and_velocity_are_those_of_diffusers(folder, pipeline):
    model = load_model(str(folder))
    length = 512 if model.source.facts.embedded_guidance else 256
    states, pooled, ids = pipeline.encode_prompt(PROMPTS, None, max_sequence_length=length)
    text = model.text.encode(model.text.batch(PROMPTS))
    torch.testing.assert_close(text.sequence, states, rtol=0, atol=1e-5)
    torch.testing.assert_close(text.pooled, pooled, rtol=0, atol=1e-5)
    x_t, t = torch.randn(2, 16, 4, 6), torch.tensor([700.0, 125.0])
    tokens = pipeline.transformer(
        hidden_states=FluxPipeline._pack_latents(x_t, 2, 16, 4, 6), timestep=t / 1000, pooled_projections=pooled,
        guidance=torch.tensor([3.5, 2.0]) if length == 512 else None, encoder_hidden_states=states, txt_ids=ids,
        img_ids=FluxPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32), return_dict=False,
    )[0]  # fmt: skip
    expected = FluxPipeline._unpack_latents(tokens, 32, 48, 8)
    found = model.predict(x_t, t, text, Conditions(guidance=torch.tensor([3.5, 2.0])))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_images_are_those_of_diffusers(folder, pipeline):
    noise = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(5))
    facts = identify(str(folder)).facts
    expected = pipeline(
        PROMPTS[0], height=32, width=48, num_inference_steps=3, latents=pack(noise), output_type="np",
        max_sequence_length=512 if facts.embedded_guidance else 256,
    ).images[0]  # fmt: skip
    (found,) = generate(PROMPTS[0], model=str(folder), seed=5, steps=3, size=(48, 32))
    assert np.abs(np.asarray(found) / 255 - expected).max() < 1.01 / 255


def test_the_guidance_scale_of_training_is_read(folder, tmp_path, capsys):
    """dev learns otherwise with another scale; schnell reads none, and says so."""
    images, rows = make_images(tmp_path / "images", 1, (32, 32), "a photo of mychar4"), []
    for scale in (1.0, 4.0):
        run = settings(
            pretrained_model_name_or_path=str(folder), train_data_dir=str(images), token_string="mychar4",
            init_word="cat", resolution="32", max_train_steps=2, lr_warmup_steps=0, guidance_scale=scale, seed=1,
            output_dir=str(tmp_path / str(scale)), num_vectors_per_token=1, train_batch_size=1,
        )  # fmt: skip
        rows.append(load_file(train(run).files[0])["clip_l"])
    is_dev = identify(str(folder)).facts.embedded_guidance is not None
    assert torch.equal(*rows) != is_dev
    warned = "\n".join(map(str, preflight(run).problems))
    assert ("on a model that reads no guidance scale" in warned) != is_dev


def test_packing_is_undone():
    x = torch.randn(2, 16, 4, 6)
    assert torch.equal(pack(x), FluxPipeline._pack_latents(x, 2, 16, 4, 6))
    assert torch.equal(unpack(pack(x), 4, 6), x)
    positions = FluxPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32)
    assert torch.equal(image_positions(2, 3, torch.device("cpu")), positions)
