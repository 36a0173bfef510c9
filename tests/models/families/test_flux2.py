"""Verify that FLUX.2 klein and dev read text and predict as diffusers' own pipeline does, on tiny random models."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from safetensors.torch import load_file, save_file

from neonym import generate
from neonym.models.families.flux2 import FLUX2_DEV, FLUX2_KLEIN_4B, FLUX2_KLEIN_9B, layers_of, mu
from neonym.models.families.flux2_network import folded, unfolded
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_of
from neonym.models.model import load_model
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.models.tokenizers.shipped import shipped
from neonym.types import Conditions
from support.families import tiny_model

PROMPTS = ["a photo of a cat", "A knight (in armour), by the sea"]


@pytest.fixture(scope="module", params=["base", "distilled", "dev"])
def folder(request, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp(request.param) / "model"
    if request.param == "dev":
        return tiny_model("flux2_dev", home)
    return tiny_model("flux2_klein_4b", home, distilled=request.param == "distilled")


@pytest.fixture(scope="module")
def dev(tmp_path_factory) -> Path:
    return tiny_model("flux2_dev", tmp_path_factory.mktemp("flux2_dev") / "model")


@pytest.fixture
def pipeline(folder) -> Any:
    is_dev = identify(str(folder)).family is FLUX2_DEV
    pipeline = (Flux2Pipeline if is_dev else Flux2KleinPipeline).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def test_text_and_velocity_are_those_of_diffusers(folder, pipeline):
    model = load_model(str(folder))
    states, places = pipeline.encode_prompt(list(PROMPTS))
    text = model.text.encode(model.text.batch(PROMPTS))
    torch.testing.assert_close(text.sequence, states, rtol=0, atol=1e-5)
    x_t, t = torch.randn(2, 32, 2, 3), torch.tensor([700.0, 125.0])
    guidance = torch.tensor([4.0, 1.0]) if model.source.family is FLUX2_DEV else None
    tokens = pipeline.transformer(
        hidden_states=pipeline._pack_latents(x_t), timestep=t / 1000, encoder_hidden_states=states, txt_ids=places,
        img_ids=pipeline._prepare_latent_ids(x_t), guidance=guidance, return_dict=False,
    )[0]  # fmt: skip
    expected = Flux2KleinPipeline._unpack_latents_with_ids(tokens, pipeline._prepare_latent_ids(x_t), 2, 3)
    torch.testing.assert_close(model.predict(x_t, t, text, Conditions(guidance=guidance)), expected, rtol=0, atol=1e-5)


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
    if pipeline.config.get("is_distilled", True) and scale > 1:
        pytest.skip("diffusers gives a distilled model no guidance")
    embedded = {} if identify(str(folder)).family is not FLUX2_DEV else {"guidance_scale": 4.0}
    expected = pipeline(
        prompt=PROMPTS[0], height=32, width=48, num_inference_steps=3, latents=noise, output_type="np",
        **({"guidance_scale": scale} | embedded),
    ).images[0]  # fmt: skip
    (found,) = generate(PROMPTS[0], model=str(folder), seed=5, steps=3, size=(48, 32), guidance=scale)
    assert np.abs(np.asarray(found) / 255 - expected).max() < 1.01 / 255


def test_a_distilled_model_takes_few_steps_without_guidance(folder, pipeline):
    source = identify(str(folder))
    if source.family is FLUX2_DEV:
        assert (source.guidance, source.facts.embedded_guidance, source.facts.steps) == (1.0, 4.0, 50)
    else:
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


def test_three_layers_are_read_of_each_size():
    families = (FLUX2_KLEIN_4B, FLUX2_KLEIN_9B, FLUX2_DEV)
    assert [layers_of(family.encoders[0]) for family in families] == [(9, 18, 27), (9, 18, 27), (10, 20, 30)]


def test_only_the_text_part_of_dev_is_loaded(dev):
    """Neither what sees images nor the layers above the last one that is read are in memory."""
    encoder = load_model(str(dev)).text.encoders["text_encoder"]
    assert len(encoder.layers) == 30
    assert not [name for name in encoder.state_dict() if "vision" in name or "projector" in name or "lm_head" in name]


@pytest.mark.parametrize("start", ["model.language_model.", "language_model.", "model.", ""])
def test_the_names_of_other_files_are_read(dev, tmp_path, start):
    """transformers writes the text part as `language_model.model`, and loads it as `model.language_model`."""
    home = tmp_path / "renamed"
    shutil.copytree(dev, home)
    file, written = home / "text_encoder" / "model.safetensors", "language_model.model."
    tensors = load_file(file)
    assert any(name.startswith(written) for name in tensors)
    save_file({n.replace(written, start) if n.startswith(written) else n: t for n, t in tensors.items()}, file)
    one, other = (load_model(str(own)).text.encoders["text_encoder"].state_dict() for own in (dev, home))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


@torch.no_grad()
def test_padding_as_comfyui_makes_it_has_zeros_for_states(dev):
    """The states of the text are the same, whatever stands before it, and samples of both kinds go in one batch."""
    text = load_model(str(dev)).text
    read = [text.tokenize(PROMPTS[0], comfyui) for comfyui in (False, True)]
    count = int(read[0].masks["text_encoder"].sum())
    assert [own.ids["text_encoder"].shape for own in read] == [(1, 512)] * 2
    diffusers, comfyui = text.encode(text.stacked(read, text.device)).sequence
    torch.testing.assert_close(comfyui[-count:], diffusers[-count:], rtol=0, atol=1e-5)
    assert comfyui[:-count].eq(0).all()
    assert diffusers[:-count].ne(0).any(1).all()


def test_a_word_that_opens_a_prompt_needs_a_space_in_comfyui(dev):
    """The template of dev ends in a bracket, after which ComfyUI does not look for `embedding:`."""
    tokenizer = load_tokenizers(identify(str(dev)))["text_encoder"]
    tokenizer.add_word("mychar4", 2)
    first = tokenizer.vocab
    for caption in ("mychar4 in a park", " embedding:mychar4 in a park"):
        ids = tokenizer(caption, True).ids[0]
        assert ids[ids.index(first) - 1 : ids.index(first) + 2] == [1032, first, first + 1], caption  # after a space
    assert first not in tokenizer("embedding:mychar4 in a park", True).ids[0]
    assert any("needs a space before" in note for note in FLUX2_DEV.prompt_notes)


def test_the_tokenizer_of_dev_merges_by_rank():
    """Another implementation of byte-pair encoding, over the same vocabulary, yields the same ids."""
    backend = shipped("mistral3").backend
    ranks = {token: i for token, i in backend.get_vocab().items() if i >= 1000}
    texts = [
        *PROMPTS,
        "aaaaaaaaab abababab",
        "Zo\u00eb's 1234 caf\u00e9s \u6f22\u5b57 \U0001f600\U0001f469\u200d\U0001f469",
        "  two\n\n lines\t",
    ]
    for text in texts:
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        expected = [ranks[token] for piece in pieces for token in merged_by_rank(list(piece), ranks)]
        assert backend.encode(text, add_special_tokens=False).ids == expected, text
        assert backend.decode(expected) == text
    marks = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    assert [backend.token_to_id(mark) for mark in marks] == [0, 1, 2, 3, 4, 11, 17, 18]
    assert backend.get_vocab_size() == 131072


def merged_by_rank(parts: list[str], ranks: dict[str, int]) -> list[str]:
    """Return the tokens of a piece: the two neighbours whose token comes first are merged until there are none."""
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not found:
            return parts
        at = min(found)[1]
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
