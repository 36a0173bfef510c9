"""Verify that Anima reads text and predicts as diffusers' own blocks do, on tiny random models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AnimaAutoBlocks,
    AnimaTextConditioner,
    AutoencoderKLQwenImage,
    ClassifierFreeGuidance,
    CosmosTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.models.transformers import transformer_cosmos
from diffusers.modular_pipelines.anima.before_denoise import AnimaTextConditioningStep
from diffusers.modular_pipelines.anima.encoders import AnimaTextEncoderStep, encode_vae_image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3Model

from neonym import generate
from neonym.errors import ModelError
from neonym.models.families.anima import ANIMA, QWEN, T5
from neonym.models.loading.folder import Weights
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_of
from neonym.models.model import load_model
from support.families import tiny_model

PROMPTS = ["a photo of a cat", "A knight (in armour), by the sea", ""]
WORD = "mychar4"
CPU = torch.device("cpu")
COMPONENTS = {
    "transformer": CosmosTransformer3DModel, "text_conditioner": AnimaTextConditioner, "vae": AutoencoderKLQwenImage,
    "text_encoder": Qwen3Model, "tokenizer": AutoTokenizer, "t5_tokenizer": AutoTokenizer,
    "scheduler": FlowMatchEulerDiscreteScheduler,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model("anima", tmp_path_factory.mktemp("anima") / "model")


@pytest.fixture
def pipeline(folder, monkeypatch):
    """Return diffusers' modular pipeline. It resizes the mask of padding with torchvision, which may be missing."""

    def resize(mask: torch.Tensor, size: list[int], interpolation: str) -> torch.Tensor:
        return torch.nn.functional.interpolate(mask, size, mode=interpolation)

    modes = SimpleNamespace(NEAREST="nearest")
    own = SimpleNamespace(functional=SimpleNamespace(resize=resize), InterpolationMode=modes)
    monkeypatch.setattr(transformer_cosmos, "transforms", own, raising=False)
    pipeline = AnimaAutoBlocks().init_pipeline()
    pipeline.update_components(**{name: kind.from_pretrained(folder / name) for name, kind in COMPONENTS.items()})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def encoded(pipeline, prompts: list[str]) -> torch.Tensor:
    """Return the states of prompts that diffusers' transformer reads, [B,512,D]."""
    found = AnimaTextEncoderStep.encode_prompt(pipeline, prompts, prepare_unconditional_embeds=False)
    own: Any = {name: tensor for name, tensor in found.items() if not name.startswith("negative")}
    return AnimaTextConditioningStep._condition_prompt_embeds(
        pipeline, **own, device=CPU, conditioning_dtype=torch.float32, output_dtype=torch.float32
    )


@torch.no_grad()
def test_text_and_velocity_are_those_of_diffusers(folder, pipeline):
    model, states = load_model(str(folder)), encoded(pipeline, PROMPTS)
    text = model.text.encode(model.text.batch(PROMPTS))
    torch.testing.assert_close(text.sequence, states, rtol=0, atol=1e-5)
    x_t, t = torch.randn(3, 16, 4, 6), torch.tensor([700.0, 125.0, 1000.0])
    expected = pipeline.transformer(
        hidden_states=x_t[:, :, None], timestep=t / 1000, encoder_hidden_states=states,
        padding_mask=torch.zeros(1, 1, 32, 48), return_dict=False,
    )[0]  # fmt: skip
    torch.testing.assert_close(model.predict(x_t, t, text), expected[:, :, 0], rtol=0, atol=1e-5)


def test_an_empty_caption_has_a_state_of_its_end_and_zeros(folder):
    model = load_model(str(folder))
    (states,) = model.text.encode(model.text.batch([""])).sequence
    assert states.isfinite().all()
    assert states[0].any()
    assert not states[1:].any()


def test_latents_of_images_are_those_of_diffusers(folder, pipeline):
    """Each channel is normalised with its own mean and spread."""
    model, pixels = load_model(str(folder)), torch.rand(2, 3, 32, 48) * 2 - 1
    found = model.vae.mean(model.vae.encode(pixels))
    with torch.no_grad():
        expected = encode_vae_image(pixels, pipeline.vae, torch.Generator(), CPU, torch.float32)
    torch.testing.assert_close(found, expected[:, :, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_images_are_those_of_diffusers(folder, pipeline, scale):
    noise = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(5))
    pipeline.update_components(guider=ClassifierFreeGuidance(guidance_scale=scale))
    expected = pipeline(
        prompt=PROMPTS[0], height=32, width=48, num_inference_steps=3, latents=noise[:, :, None], output_type="np"
    ).images[0]
    (found,) = generate(PROMPTS[0], model=str(folder), seed=5, steps=3, size=(48, 32), guidance=scale)
    assert np.abs(np.asarray(found) / 255 - expected).max() < 1.01 / 255


def test_a_word_is_id_0_for_the_adapter_once_for_each_vector(folder):
    """So does ComfyUI read it; its states come from the rows for Qwen3, to which the adapter attends."""
    model = load_model(str(folder))
    plain = model.text.tokenize("a photo of a cat").ids[T5.name].shape[1]
    model.text.add_word(WORD, {QWEN.name: torch.randn(3, 64)})
    found = model.text.tokenize(f"a photo of {WORD}")
    ids = found.ids[T5.name].flatten().tolist()
    assert ids.count(0) == 3
    assert len(ids) <= plain + 3
    assert sum(i >= 151936 for i in found.ids[QWEN.name].flatten().tolist()) == 3
    model.text.remove_word(WORD)
    assert 0 not in model.text.tokenize(f"a photo of {WORD}").ids[T5.name]


def test_emphasis_multiplies_the_states_of_the_ids_of_the_adapter(folder):
    model = load_model(str(folder))
    text = model.text.batch(["a photo of a cat"])
    emphasis = torch.ones_like(text.ids[T5.name], dtype=torch.float32)
    emphasis[..., 1] = 1.5
    plain, weighed = (model.text.encode(replace(text, emphasis=own)).sequence for own in (None, {T5.name: emphasis}))
    torch.testing.assert_close(weighed[:, 1], plain[:, 1] * 1.5)
    assert torch.equal(weighed[:, 2:], plain[:, 2:])


def test_a_word_fits_only_the_adapter_that_it_was_learned_with(folder, tmp_path):
    """In a folder and in a file with everything, the hash of the text side depends on it, and not on the transformer."""
    hashes = {}
    for changed in ("", "text_conditioner", "transformer"):
        home = shutil.copytree(folder, tmp_path / f"folder {changed}")
        for part in filter(None, [changed]):
            path = home / part / "diffusion_pytorch_model.safetensors"
            save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
        source = identify(str(home))
        whole = home / "whole.safetensors"
        starts = {"text_encoder": "text_encoders.qwen3.", "text_conditioner": "net.llm_adapter.", "transformer": "net."}
        files = {part: load_file(source.weights[part].files[0]) for part in starts}
        save_file({f"{starts[part]}{n}": t for part, own in files.items() for n, t in own.items()}, whole)
        weights = {part: Weights((whole,), start=start) for part, start in starts.items()}
        in_one = replace(source, file=whole, weights=weights)
        hashes[changed] = source.text_hash(), in_one.text_hash()
    for index in range(2):
        assert hashes[""][index] == hashes["transformer"][index] != hashes["text_conditioner"][index]


def test_the_index_of_a_modular_pipeline_is_read(folder):
    source = identify(str(folder))
    assert source.family is ANIMA
    assert source.guidance == 4.0
    with pytest.raises(ModelError, match="is a part of a Diffusers folder"):
        identify(str(folder / "vae"))


def test_cosmos_is_refused_with_the_reason():
    configs = {"transformer": {"_class_name": "CosmosTransformer3DModel"}}
    with pytest.raises(ModelError, match="is a Cosmos model, not Anima"):
        source_of("cosmos", Path(), configs)
