"""Verify that Stable Diffusion 3 reads text and predicts as diffusers' own pipeline does, on tiny random models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from neonym import generate, read_embedding, train
from neonym.errors import ModelError, UserError
from neonym.generation.conditioning import TextRules, conditioning, words_and_tokens_cut
from neonym.generation.pipeline import Pipeline, PipelineRules
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_notes
from neonym.models.model import load_model
from neonym.preflight.preflight import preflight
from support.checks import settings
from support.commands import generate as generate_command
from support.commands import shown
from support.data_sets import make_images
from support.families import SIDE, tiny_model
from support.jobs import JOB, image_of

PROMPTS = ["a photo of a cat", "A knight (in armour), by the sea! " * 9]
END = 49407
KINDS = {"3.5": {}, "3": {"newer": False}, "without T5": {"t5": False}}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory) -> Path:
    return tiny_model("sd3", tmp_path_factory.mktemp(request.param) / "model", **KINDS[request.param])


@pytest.fixture
def pipeline(folder) -> StableDiffusion3Pipeline:
    return load_pipeline(folder)


def load_pipeline(folder: Path) -> StableDiffusion3Pipeline:
    """Return diffusers' pipeline with the model in a folder."""
    absent = {} if (folder / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, **absent)
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        encoder.config.eos_token_id = END  # else it pools at the highest id
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def test_text_and_velocity_are_those_of_diffusers(folder, pipeline):
    model = load_model(str(folder))
    states, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    text = model.text.encode(model.text.batch(PROMPTS))
    torch.testing.assert_close(text.sequence, states, rtol=0, atol=1e-5)
    torch.testing.assert_close(text.pooled, pooled, rtol=0, atol=1e-5)
    x_t, t = torch.randn(2, 16, 4, 6), torch.tensor([700.0, 125.0])
    expected = pipeline.transformer(
        hidden_states=x_t, timestep=t, encoder_hidden_states=states, pooled_projections=pooled, return_dict=False
    )[0]
    torch.testing.assert_close(model.predict(x_t, t, text), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_images_are_those_of_diffusers(folder, pipeline, scale):
    noise = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(5))
    expected = pipeline(
        PROMPTS[0], height=32, width=48, num_inference_steps=3, latents=noise, guidance_scale=scale, output_type="np"
    ).images[0]
    (found,) = generate(PROMPTS[0], model=str(folder), seed=5, steps=3, size=(48, 32), guidance=scale)
    assert np.abs(np.asarray(found) / 255 - expected).max() < 1.01 / 255


def test_the_pooled_text_is_read_at_the_end_of_a_caption_with_a_word(folder):
    """A learned row has the highest id, at which transformers would pool with the published configs."""
    model = load_model(str(folder))
    rows = {name: torch.randn(1, table.frozen.embedding_dim) for name, table in model.text.tables.items()}
    model.text.add_word("mychar4", rows)
    captions = [f"a photo of mychar4 {rest}" for rest in ("in the rain", "at night")]
    with torch.no_grad():
        first, second = model.text.encode(model.text.batch(captions)).pooled
    assert not torch.equal(first, second)  # causal: what stands behind the word is read only at the end


@torch.no_grad()
def test_emphasis_multiplies_the_states_of_clip_and_moves_those_of_t5(plain):
    """T5's states move away from those of an empty text, as in ComfyUI. The pooled text has no emphasis."""
    model = load_model(str(plain))
    for tokenizer in model.text.tokenizers.values():
        tokenizer.reads_emphasis = True
    once, twice, empty = (model.text.encode(model.text.batch([caption])) for caption in ("(a cat:1)", "(a cat:2)", ""))
    assert torch.equal(once.pooled, twice.pooled)
    torch.testing.assert_close(twice.sequence[:, 1:3], 2 * once.sequence[:, 1:3])  # CLIP's ids of "a cat"
    assert torch.equal(twice.sequence[:, 3:77], once.sequence[:, 3:77])
    words = slice(77, 77 + 3)  # T5's ids of "a cat"
    moved = 2 * once.sequence[:, words] - empty.sequence[:, words]
    torch.testing.assert_close(twice.sequence[:, words], moved, rtol=0, atol=1e-5)
    assert torch.equal(twice.sequence[:, words.stop :], once.sequence[:, words.stop :])


@pytest.fixture(scope="module")
def medium(tmp_path_factory) -> Path:
    """Return a model with the blocks that skip-layer guidance skips."""
    return tiny_model("sd3", tmp_path_factory.mktemp("medium") / "model", layers=10)


def test_images_with_skip_layer_guidance_are_those_of_diffusers(medium):
    """It guides steps 1 and 2 of 12: those after 1 % and before 20 % of the steps."""
    pipeline, model = load_pipeline(medium), load_model(str(medium))
    with torch.no_grad():  # random blocks make hardly a difference
        for block in (pipeline.transformer.transformer_blocks[8], model.denoiser.transformer_blocks[8]):  # pyright: ignore
            block.ff.net[-1].weight *= 30
    noise = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(5))
    shared = {"height": 32, "width": 48, "num_inference_steps": 12, "guidance_scale": 4.0, "output_type": "np"}
    skipping = {"skip_guidance_layers": [7, 8, 9], "skip_layer_guidance_scale": 40.0}
    expected, plain = (
        pipeline(PROMPTS[0], latents=noise.clone(), **shared, **more).images[0] for more in (skipping, {})
    )
    assert np.abs(expected - plain).max() > 4 / 255
    job = replace(JOB, prompt=PROMPTS[0], seed=5, width=48, height=32, steps=12, scale=4.0, sampler="euler")
    ours = Pipeline(model, PipelineRules(skip_layer_scale=40.0))
    together = ours.generate([job, replace(job, prompt="a dog", seed=6)])
    assert np.abs(np.asarray(together[0]) / 255 - expected).max() < 1.01 / 255
    assert np.array_equal(np.asarray(together[1]), image_of(ours, replace(job, prompt="a dog", seed=6)))
    unguided = [image_of(Pipeline(model, rules), replace(job, scale=1.0)) for rules in (ours.rules, PipelineRules())]
    assert np.array_equal(*unguided)


def test_skip_layer_guidance_is_an_error_for_models_that_are_not_meant_for_it(plain, medium, tmp_path, capsys):
    flags = ("--prompt", "a cat", "--steps", 2, "--W", 32, "--H", 32, "--seed", 1)
    out = tmp_path / "out"
    generate_command(out, "--ckpt", plain, *flags, "--skip_layer_guidance_scale", 2.8, code=2)
    assert "(Stable Diffusion 3) is not meant for it" in capsys.readouterr().err
    assert not out.exists()
    (image,) = generate_command(tmp_path, "--ckpt", medium, *flags, "--skip_layer_guidance_scale", 2.8)
    assert json.loads(shown(image).text["neonym"])["settings"]["skip_layer_guidance_scale"] == 2.8
    capsys.readouterr()
    generate_command(tmp_path, "--ckpt", medium, *flags, "--skip_layer_guidance_scale", 2.8, "--scale", 1)
    assert "--skip_layer_guidance_scale has no effect" in capsys.readouterr().err


def chunk_states(encoder, ids: list[int], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what transformers makes of a chunk of up to 75 ids: the second-to-last states and the pooled text."""
    row = torch.tensor([[49406, *ids, END, *[pad] * (75 - len(ids))]])
    encoder.config.eos_token_id = encoder.text_model.eos_token_id = END
    found = encoder(row, output_hidden_states=True)
    return found.hidden_states[-2], found.text_embeds


@torch.no_grad()
def test_a_long_prompt_of_comfyui_has_several_chunks_of_clip_and_t5_beside_them(plain):
    """Each chunk is encoded alone, all states stand behind one another, and the first chunk is pooled."""
    model, prompt = load_model(str(plain)), " ".join(["cat"] * 160)
    found = conditioning(model, [prompt], rules=TextRules(comfyui=True))
    expected, pooled = [], []
    for name, pad in (("text_encoder", END), ("text_encoder_2", 0)):
        ids = model.text.tokenizers[name].ids_of(prompt)
        parts = [chunk_states(model.text.encoders[name], ids[i : i + 75], pad) for i in (0, 75, 150)]
        expected.append(torch.cat([states for states, _ in parts], dim=1))  # [1,3*77,D]
        pooled.append(parts[0][1])
    t5 = torch.tensor([[*model.text.tokenizers["text_encoder_3"].ids_of(prompt), 1]])
    states = model.text.encoders["text_encoder_3"](t5).last_hidden_state
    assert states.shape[1] > 77
    torch.testing.assert_close(
        found.sequence, torch.cat([torch.cat(expected, dim=-1), states], dim=1), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(found.pooled, torch.cat(pooled, dim=-1), rtol=0, atol=1e-5)
    assert conditioning(model, [prompt]).sequence.shape[1] == 77 + 256  # diffusers cuts it off


@torch.no_grad()
def test_prompts_of_comfyui_keep_their_number_of_chunks(plain):
    """No prompt has an empty chunk because of another one; of unlike numbers for L and G, both have the smaller one."""
    model, rules = load_model(str(plain)), TextRules(comfyui=True)
    model.text.add_word("mychar4", {"text_encoder": torch.randn(70, 64), "text_encoder_2": torch.randn(1, 128)})
    prompts = ["a dog", "cat " * 80, "a dog and a cat and a embedding:mychar4"]
    alone = [conditioning(model, [prompt], 2, rules) for prompt in prompts]
    assert [text.sequence.shape[1] for text in alone] == [77 + 77, 2 * 77 + 81, 77 + 77]
    together = conditioning(model, prompts, 2, rules)
    assert together.mask is not None
    for i, text in enumerate(alone):
        assert torch.equal(together.sequence[i, together.mask[i]], text.sequence[0])
    tokenizer = model.text.tokenizers["text_encoder"]
    assert words_and_tokens_cut(tokenizer, "cat " * 80, rules) == (set(), 0)
    assert words_and_tokens_cut(tokenizer, "cat " * 80) == (set(), 5)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return tiny_model("sd3", tmp_path_factory.mktemp("plain") / "model")


def test_a_missing_projection_is_the_identity(plain, tmp_path):
    home = tmp_path / "model"
    shutil.copytree(plain, home)
    weights = home / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["text_projection.weight"]
    save_file(tensors, weights, {"format": "pt"})
    projection = load_model(str(home)).text.encoders["text_encoder"].text_projection.weight
    assert torch.equal(projection, torch.eye(64))
    weights = home / "text_encoder_2" / "model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if k != "text_projection.weight"}, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing: text_projection\.weight"):
        identify(str(home))


@pytest.mark.parametrize("how", ["null in the index", "no folder"])
def test_a_word_is_learned_without_t5(plain, tmp_path, how):
    home, word = tmp_path / "model", "mychar4"
    shutil.copytree(plain, home)
    if how == "no folder":
        shutil.rmtree(home / "text_encoder_3")
        shutil.rmtree(home / "tokenizer_3")
    else:
        index = json.loads((home / "model_index.json").read_text())
        (home / "model_index.json").write_text(json.dumps(index | {"text_encoder_3": [None, None]}))
    images = make_images(tmp_path / "images", count=2, size=(SIDE, SIDE), caption=f"a photo of {word}")
    run = settings(
        pretrained_model_name_or_path=str(home), train_data_dir=str(images), token_string=word, init_word="cat",
        num_vectors_per_token=2, resolution=str(SIDE), enable_bucket=False, train_batch_size=1, max_train_steps=2,
        output_dir=str(tmp_path / "out"), output_name=word, seed=3, learning_rate=1e-2, lr_warmup_steps=0,
    )  # fmt: skip
    (file,) = train(run).files
    assert {name: tuple(rows.shape) for name, rows in read_embedding(file).vectors.items()} == {
        "text_encoder": (2, 64), "text_encoder_2": (2, 128),
    }  # fmt: skip
    assert set(load_file(file)) >= {"clip_l", "clip_g"}
    shared = {"model": str(home), "seed": 1, "steps": 2, "size": (SIDE, SIDE)}
    (image,) = generate(f"a photo of {word}", words=[f"{word}={file}"], **shared)
    assert image.tobytes() != generate("a photo of a cat", **shared)[0].tobytes()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("sd3-medium", {"newer": False}, (7.0, 28)),
        ("sd3.5-large", {}, (4.0, 28)),
        ("sd3.5-large-turbo", {}, (1.0, 4)),
    ],
)
def test_guidance_and_steps_are_those_of_the_variant(tmp_path, name, options, expected):
    source = identify(str(tiny_model("sd3", tmp_path / name, **options)))
    assert (source.guidance, source.facts.steps) == expected


@pytest.mark.parametrize(
    ("file", "changes", "what"),
    [
        ("transformer/config.json", {"in_channels": 33}, "takes 33 channels"),
        ("model_index.json", {"_class_name": "StableDiffusion3ControlNetPipeline"}, "with a ControlNet"),
    ],
)
def test_models_for_other_tasks_are_refused(plain, tmp_path, file, changes, what):
    home = tmp_path / "model"
    shutil.copytree(plain, home)
    (home / file).write_text(json.dumps(json.loads((home / file).read_text()) | changes))
    with pytest.raises(ModelError, match=what):
        identify(str(home))


def test_sizes_beyond_the_positions_are_refused(plain, tmp_path, capsys):
    """The tiny model has 12 x 12 positions of 16 pixels."""
    images = make_images(tmp_path / "images", count=1, size=(208, 208), caption="a photo of mychar4")
    (tmp_path / "prompts.txt").write_text("mychar4 --w 208 --h 64\nmychar4 --w 192 --h 192\n")
    run = settings(
        pretrained_model_name_or_path=str(plain), train_data_dir=str(images), token_string="mychar4", init_word="cat",
        resolution="208", output_dir=str(tmp_path / "out"), sample_prompts=str(tmp_path / "prompts.txt"),
        sample_every_n_steps=1,
    )  # fmt: skip
    errors = [problem.what for problem in preflight(run).problems if problem.severity == "error"]
    assert len(errors) == 2
    assert errors[0] == "the prompt `mychar4` asks for 208 pixels a side, but the model reads at most 192"
    assert "up to 208 pixels a side, but the model reads at most 192" in errors[1]
    with pytest.raises(UserError, match="208 x 64 is too large for Stable Diffusion 3"):
        generate("a cat", model=str(plain), size=(208, 64), steps=1)
    generate_command(tmp_path, "--ckpt", plain, "--prompt", "a cat", "--W", "208", code=2)
    assert "a side of 208 pixels is not possible" in capsys.readouterr().err


def test_a_model_without_t5_is_reported(tmp_path):
    source = identify(str(tiny_model("sd3", tmp_path / "model", t5=False)))
    assert [problem.what for problem in source_notes(source)] == [
        "the model has no text_encoder_3 (t5xxl): a word gets no vectors for it, and zeros replace its states"
    ]
