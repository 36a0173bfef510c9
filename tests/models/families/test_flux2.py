"""Verify that FLUX.2 klein reads text and predicts as diffusers' own pipeline does, on tiny random models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from safetensors.torch import save_file

from neonym import generate
from neonym.errors import ModelError
from neonym.models.families.flux2 import FLUX2_KLEIN_4B, FLUX2_KLEIN_9B, mu
from neonym.models.families.flux2_network import folded, unfolded
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_of
from neonym.models.model import load_model
from support.families import tiny_model

PROMPTS = ["a photo of a cat", "A knight (in armour), by the sea"]


@pytest.fixture(scope="module", params=["base", "distilled"])
def folder(request, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp(request.param) / "model"
    return tiny_model("flux2_klein_4b", home, distilled=request.param == "distilled")


@pytest.fixture
def pipeline(folder) -> Flux2KleinPipeline:
    pipeline = Flux2KleinPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def test_text_and_velocity_are_those_of_diffusers(folder, pipeline):
    model = load_model(str(folder))
    states, places = pipeline.encode_prompt(list(PROMPTS))
    text = model.text.encode(model.text.batch(PROMPTS))
    torch.testing.assert_close(text.sequence, states, rtol=0, atol=1e-5)
    x_t, t = torch.randn(2, 32, 2, 3), torch.tensor([700.0, 125.0])
    tokens = pipeline.transformer(
        hidden_states=pipeline._pack_latents(x_t), timestep=t / 1000, encoder_hidden_states=states, txt_ids=places,
        img_ids=pipeline._prepare_latent_ids(x_t), return_dict=False,
    )[0]  # fmt: skip
    expected = pipeline._unpack_latents_with_ids(tokens, pipeline._prepare_latent_ids(x_t), 2, 3)
    torch.testing.assert_close(model.predict(x_t, t, text), expected, rtol=0, atol=1e-5)


def test_latents_of_images_are_those_of_diffusers(folder, pipeline):
    """Latents are folded before they are normalised, with the running statistics of the batch norm."""
    model, pixels = load_model(str(folder)), torch.rand(2, 3, 32, 48) * 2 - 1
    found = model.vae.mean(model.vae.encode(pixels))
    with torch.no_grad():
        expected = pipeline._encode_vae_image(pixels, torch.Generator())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    before = {name: own.clone() for name, own in model.vae.module.bn.named_buffers()}
    model.vae.decode(found)
    assert all(torch.equal(own, before[name]) for name, own in model.vae.module.bn.named_buffers())


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_images_are_those_of_diffusers(folder, pipeline, scale):
    noise = torch.randn(1, 32, 2, 3, generator=torch.Generator().manual_seed(5))
    if pipeline.config.is_distilled and scale > 1:
        pytest.skip("diffusers gives a distilled model no guidance")
    expected = pipeline(
        prompt=PROMPTS[0], height=32, width=48, num_inference_steps=3, latents=noise, guidance_scale=scale,
        output_type="np",
    ).images[0]  # fmt: skip
    (found,) = generate(PROMPTS[0], model=str(folder), seed=5, steps=3, size=(48, 32), guidance=scale)
    assert np.abs(np.asarray(found) / 255 - expected).max() < 1.01 / 255


def test_a_distilled_model_takes_few_steps_without_guidance(folder, pipeline):
    source = identify(str(folder))
    assert source.family is FLUX2_KLEIN_4B
    assert (source.guidance, source.facts.steps) == ((1.0, 4) if pipeline.config.is_distilled else (4.0, 50))


@pytest.mark.parametrize("tokens", [256, 1024, 4096, 4300, 4301, 9216])
@pytest.mark.parametrize("steps", [4, 28, 50])
def test_the_shift_of_noise_levels_is_that_of_diffusers(tokens, steps):
    assert mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps), abs=1e-12)


def test_folding_is_undone():
    x = torch.randn(2, 8, 4, 6)
    assert torch.equal(folded(x), Flux2KleinPipeline._patchify_latents(x))
    assert torch.equal(unfolded(folded(x)), x)


def configs(width: int, **index: object) -> dict:
    return {
        "model_index": {"_class_name": "Flux2KleinPipeline", **index},
        "transformer": {"_class_name": "Flux2Transformer2DModel", "guidance_embeds": False},
        "text_encoder": {"hidden_size": width, "num_hidden_layers": 36},
        "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    }


@pytest.mark.parametrize(("width", "family"), [(2560, FLUX2_KLEIN_4B), (4096, FLUX2_KLEIN_9B)])
def test_the_text_encoder_tells_the_size(width, family):
    assert source_of("klein", Path(), configs(width)).family is family


@pytest.mark.parametrize(
    ("name", "index", "steps"),
    [
        ("FLUX.2-klein-base-4B", {"is_distilled": True}, 4),
        ("FLUX.2-klein-4B", {"is_distilled": False}, 50),
        ("FLUX.2-klein-4B", {}, 4),
        ("FLUX.2-klein-base-4B", {}, 50),
        ("my-finetune", {}, 50),
    ],
)
def test_the_index_or_else_the_name_tells_a_distilled_model(name, index, steps):
    assert source_of(name, Path(), configs(2560, **index)).facts.steps == steps


def test_dev_is_refused_with_the_reason(tmp_path):
    own = configs(5120)
    own["transformer"]["guidance_embeds"] = True
    with pytest.raises(ModelError, match="FLUX.2 dev, whose text encoder"):
        source_of("dev", Path(), own)
    file = tmp_path / "flux2-dev.safetensors"
    save_file(
        {"double_stream_modulation_img.lin.weight": torch.ones(2, 2), "txt_in.weight": torch.ones(2, 15360)}, file
    )
    with pytest.raises(ModelError, match="FLUX.2 dev, whose text encoder"):
        identify(str(file))
