"""Verify that a family defined only here is learned with like any other, although nothing in `src/` knows it.

It is all that Stable Diffusion is not: a flow, one T5 encoder with a mask, a transformer, latents of 16 channels that
are scaled and shifted, images whose sides are multiples of 16.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from neonym import generate, read_embedding, train
from neonym.cli.main import main
from neonym.config.generate import GenerateSettings
from neonym.config.without_effect import FLOW_ONLY
from neonym.errors import ModelError, UserError
from neonym.models import registry
from neonym.models.defaults import published
from neonym.models.encoders.clip import Keep
from neonym.models.encoders.rows import nearest_tokens
from neonym.models.families.sdxl_network import StableDiffusionXL
from neonym.models.family import (
    CheckpointHints,
    CheckpointLayout,
    Configs,
    DenoiserSpec,
    EncoderSpec,
    Family,
    LatentSpec,
    Recognised,
)
from neonym.models.loading.identify import identify
from neonym.models.loading.parts import flow_of, load_parts, vae_of
from neonym.models.loading.weight_files import Header
from neonym.models.model import Model, load_model
from neonym.models.process.flow import Flow
from neonym.models.process.sigmas import FlowSpec, ShiftLine
from neonym.models.source import latents_in
from neonym.models.text_side import TextSide
from neonym.models.vae import Vae
from neonym.preflight.preflight import preflight
from neonym.training.concept import initial_rows
from neonym.training.metadata import prediction_metadata
from neonym.training.setup import objective_of, process_of
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond
from support.checks import check, settings
from support.commands import generate as command
from support.commands import shown
from support.data_sets import make_images

SPEC = EncoderSpec("text_encoder", "T5EncoderModel", "t5xxl", aliases=("t5",), kind="t5", max_length=24, width=64)
PATCH, WIDTH = 2, SPEC.width or 0
INVISIBLE = "\u2060"  # a word joiner, which the tokenizer ignores, as T5's does


T5_SIZES = {"vocab_size": 96, "d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4}
VAE_SIZES: dict[str, Any] = {
    "block_out_channels": (8, 8, 8, 8), "latent_channels": 16, "norm_num_groups": 4, "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.36, "shift_factor": 0.12, "sample_size": 64,
}  # fmt: skip


class ToyTransformer(ModelMixin, ConfigMixin):
    """A transformer of image patches that attend to text."""

    @register_to_config
    def __init__(self, channels: int = 16, width: int = WIDTH):
        super().__init__()
        self.into = nn.Conv2d(channels, width, PATCH, PATCH)
        self.time = nn.Linear(1, width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.out = nn.ConvTranspose2d(width, channels, PATCH, PATCH)

    def forward(self, x: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        patches = self.into(x) + self.time(sigma[:, None])[..., None, None]  # [B,W,h/2,w/2]
        flat = patches.flatten(2).transpose(1, 2)  # [B,N,W]
        read, _ = self.attention(flat, text, text, key_padding_mask=~mask, need_weights=False)
        return self.out((flat + read).transpose(1, 2).reshape(patches.shape))


class ToyText(TextSide):
    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        ids = text.ids[SPEC.name][:, 0]  # [B,L]
        mask = ids != self.tokenizers[SPEC.name].pad  # pyright: ignore
        states = self.encoders[SPEC.name](ids, attention_mask=mask.long()).last_hidden_state
        return TextCond(states, mask=mask)


class ToyModel(Model):
    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        sigma = (t.float() / 1000).expand(len(x_t)).to(self.dtype)
        return self.denoiser(x_t.to(self.dtype), sigma, text.sequence.to(self.dtype), text.mask).float()


def load(source, tokenizers, device, dtype, clip_skip) -> ToyModel:
    parts = load_parts(source, device, dtype)
    text = ToyText({SPEC.name: parts[SPEC.name]}, tokenizers)
    return ToyModel(
        source, parts["transformer"], text, vae_of(source, parts), flow_of(source, dtype), source.configs["scheduler"]
    )


def recognise(configs: Configs, name: str) -> Recognised | None:
    if configs.get("transformer", {}).get("_class_name") != "ToyTransformer":
        return None
    return Recognised(native_size=64, text_layers=2)


# A checkpoint in one file: each part under a prefix, the transformer under names of its own.
PREFIXES = {"transformer": "net.", "vae": "ae.", SPEC.name: "t5."}
ORIGINAL_NAMES = {"into.": "patch_in.", "out.": "patch_out."}  # name in `ToyTransformer` -> name in the file


def checkpoint_configs(header: Header, name: str, hints: CheckpointHints) -> Configs:
    """Return the configs of a checkpoint from its shapes. Heads and other sizes are those of every toy."""
    del name, hints
    vocab, width = header.shapes["t5.shared.weight"]
    return {
        "transformer": {"_class_name": "ToyTransformer", "channels": header.shapes["net.patch_in.weight"][1], "width": width},
        SPEC.name: T5Config(**T5_SIZES | {"vocab_size": vocab, "d_model": width}).to_dict(),
        "vae": {"_class_name": "AutoencoderKL", **VAE_SIZES},
        "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    }  # fmt: skip


def from_original_names(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the transformer under the names of `ToyTransformer`."""
    del config
    named = {name.removeprefix(PREFIXES["transformer"]): tensor for name, tensor in tensors.items()}
    for own, original in ORIGINAL_NAMES.items():
        named = {name.replace(original, own): tensor for name, tensor in named.items()}
    return named


CHECKPOINT = CheckpointLayout(
    recognises=lambda header: header.has("net.patch_in."), configs=checkpoint_configs, prefixes=lambda family: PREFIXES
)
TOY = Family(
    name="toy",
    label="Toy",
    encoders=(SPEC,),
    denoiser=DenoiserSpec("transformer", f"{__name__}.ToyTransformer"),
    latents=LatentSpec(channels=16, multiple=16, scaling_factor=0.36, shift_factor=0.12, patch=PATCH),
    process="flow",
    flow=FlowSpec(shift=3.0, source="a guess"),
    recognise=recognise,
    checkpoint=CHECKPOINT,
    module=__name__,
    pipeline="FluxPipeline",
    guidance=3.5,
    flag="toy",
    defaults=published("Toy", learning_rate=(1e-2, "a guess"), max_train_steps=(20, "a guess"), gpu_memory=(1, "tiny")),
)


@pytest.fixture(scope="module", autouse=True)
def known():
    """Register the family while these tests run."""
    registry.register(TOY)
    yield
    registry.unregister(TOY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a tiny random model in Diffusers' layout."""
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("toy")
    words = [
        "<pad>",
        "</s>",
        "<unk>",
        *["▁a", "▁image", "▁photo", "▁of", "▁on", "▁the", "▁red", "▁dog", "▁Dog", "▁cat", ",", "."],
    ]
    letters = [f"▁{c}" for c in "abcdefghijklmnopqrstuvwxyz"] + list("▁abcdefghijklmnopqrstuvwxyz")
    pieces = [(piece, -float(i)) for i, piece in enumerate(dict.fromkeys([*words, *letters]))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Replace(INVISIBLE, "")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=24
    )
    fast.save_pretrained(home / "tokenizer")
    T5EncoderModel(T5Config(**T5_SIZES)).save_pretrained(home / "text_encoder")
    ToyTransformer().save_pretrained(home / "transformer")
    AutoencoderKL(**VAE_SIZES).save_pretrained(home / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(home / "scheduler")
    (home / "model_index.json").write_text(json.dumps({"_class_name": "ToyPipeline"}))
    return home


def test_latents_are_shifted_and_scaled(folder):
    model = load_model(str(folder))
    moments = model.vae.encode(torch.rand(1, 3, 64, 64) * 2 - 1)
    mean = moments[:, :16]
    assert torch.allclose(model.vae.mean(moments), (mean - 0.12) * 0.36)
    shown = model.vae.module.decode(mean).sample
    assert torch.allclose(model.vae.decode(model.vae.mean(moments)), shown, atol=1e-5)


PER_CHANNEL = [0.1 * i - 0.8 for i in range(16)]


@pytest.mark.parametrize(
    ("changes", "scale", "shift"),
    [
        ({}, 0.36, 0.12),
        ({"shift_factor": 0}, 0.36, 0.0),  # not the family's 0.12
        ({"shift_factor": None, "scaling_factor": None}, 0.36, 0.12),
        ({"shift_factor": PER_CHANNEL}, 0.36, PER_CHANNEL),
        ({"scaling_factor": [1 + i for i in range(16)]}, [1 + i for i in range(16)], 0.12),
        (
            {"latents_mean": PER_CHANNEL, "latents_std": [2.0 + i for i in range(16)]},
            [0.36 / (2 + i) for i in range(16)],
            PER_CHANNEL,
        ),
    ],
)
def test_latents_are_normalised_per_channel_as_the_config_says(changes, scale, shift):
    latents = latents_in({**VAE_SIZES, **changes}, TOY.latents)
    vae = Vae(AutoencoderKL(**VAE_SIZES).eval(), latents.scaling_factor, latents.shift_factor)
    x = torch.randn(2, 16, 8, 8)
    scales, shifts = (torch.tensor(own, dtype=torch.float32).expand(16)[:, None, None] for own in (scale, shift))
    assert torch.equal(vae.normalised(x), (x - shifts) * scales)
    assert vae.normalised(x.half()).dtype == torch.float16
    with torch.no_grad():
        assert torch.allclose(vae.decode(vae.normalised(x)), vae.module.decode(x).sample, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"scaling_factor": 0}, {"latents_std": [0.0] * 16}, {"latents_mean": [0.5] * 4}, {"shift_factor": "a"}],
    ids=str,
)
def test_an_invalid_normalisation_is_reported(folder, tmp_path, changes):
    shutil.copytree(folder, tmp_path / "model")
    config = tmp_path / "model" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(ModelError, match="its configs are invalid"):
        identify(str(tmp_path / "model"))


@pytest.fixture
def checkpoint(folder, tmp_path) -> Path:
    """Return the same model as one file. Its tokenizer lies beside it, because the package has none for T5."""
    found = {}
    for part, start in PREFIXES.items():
        (file,) = (folder / part).glob("*.safetensors")
        for name, tensor in load_file(file).items():
            for own, original in ORIGINAL_NAMES.items() if part == "transformer" else ():
                name = name.replace(own, original)
            found[f"{start}{name}"] = tensor
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    save_file(found, tmp_path / "toy.safetensors")
    return tmp_path / "toy.safetensors"


@pytest.fixture
def run_for(folder, tmp_path):
    """Return a function that makes the settings of a short run on the toy model."""
    images = make_images(tmp_path / "images", 3, (96, 64))

    def make(name: str, init_word: str = "dog", model: Path = folder, **more):
        return settings(
            pretrained_model_name_or_path=str(model), train_data_dir=str(images), token_string="mychar4",
            init_word=init_word, num_vectors_per_token=2, train_batch_size=2, output_dir=str(tmp_path / name),
            output_name="word", eval_samples=8, lr_scheduler="constant", lr_warmup_steps="0", **more,
        )  # fmt: skip

    return make


def test_a_word_is_learned_and_resuming_is_exact(run_for, folder):
    (whole,) = train(run_for("whole", max_train_steps=4)).files
    train(run_for("parts", max_train_steps=2))
    (parts,) = train(run_for("parts", max_train_steps=4)).files
    rows = load_file(whole)
    assert {name: tuple(tensor.shape) for name, tensor in rows.items()} == {"t5xxl": (2, WIDTH)}
    assert all(torch.equal(tensor, load_file(parts)[name]) for name, tensor in rows.items())
    model = load_model(str(folder))
    pieces = model.text.tokenizers[SPEC.name].token_ids("dog")
    assert not torch.allclose(rows["t5xxl"][0], model.text.vocabulary(SPEC.name)[pieces[0]])
    facts = read_embedding(whole)
    assert facts.metadata["neonym.family"] == "toy"
    assert facts.metadata["modelspec.architecture"] == "toy/textual-inversion"
    assert "modelspec.prediction_type" not in facts.metadata  # modelspec has no name for a flow's


def test_a_single_file_has_the_weights_of_the_folder(folder, checkpoint):
    single, whole = load_model(str(checkpoint)), load_model(str(folder))
    assert single.source.family is TOY
    assert single.source.file == checkpoint
    for part, module in whole.modules().items():
        own, found = module.state_dict(), single.modules()[part].state_dict()
        assert own.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in own.items())
    assert single.text.tokenize("a photo of a dog").ids[SPEC.name].tolist() == (
        whole.text.tokenize("a photo of a dog").ids[SPEC.name].tolist()
    )


def test_a_word_is_learned_from_a_single_file_as_from_the_folder(run_for, checkpoint):
    (single,) = train(run_for("single", model=checkpoint, max_train_steps=1)).files
    (whole,) = train(run_for("whole", max_train_steps=1)).files
    assert torch.equal(load_file(single)["t5xxl"], load_file(whole)["t5xxl"])
    assert read_embedding(single).metadata["neonym.base_model"] == str(checkpoint)


def test_predictions_have_the_names_of_modelspec():
    source = identify("builtin:emoji")
    for kind, name in (("epsilon", "epsilon"), ("v_prediction", "v")):
        predicting = replace(source, facts=replace(source.facts, prediction_type=kind))
        assert prediction_metadata(predicting) == {"modelspec.prediction_type": name}


def test_the_nearest_words_are_words(folder):
    """The table has marks, such as padding and the end, and rows that the tokenizer never uses."""
    text = load_model(str(folder)).text
    tokenizer, table = text.tokenizers[SPEC.name], text.vocabulary(SPEC.name)
    used = tokenizer.backend.get_vocab_size()
    assert used < len(table)
    assert tokenizer.special_ids == {0, 1, 2, *range(used, len(table))}
    nearest = nearest_tokens(table, table, 1, tokenizer.special_ids)[:, 0].tolist()
    assert nearest[3:used] == list(range(3, used))
    assert not tokenizer.special_ids & set(nearest)


def test_a_learned_word_is_inspected(run_for, folder, capsys):
    (file,) = train(run_for("word", max_train_steps=2)).files
    capsys.readouterr()
    assert main(["inspect", str(file), "--model", str(folder), "--for", "toy"]) == 0
    text = capsys.readouterr().out
    assert f"text_encoder: 2 vectors of {WIDTH} (Toy)" in text
    assert "vector 0: nearest words " in text
    assert "fits toy" in text
    assert "neonym.family: toy" in text
    assert main(["inspect", str(file), "--for", "sd1"]) == 2


def test_inspect_knows_families_that_are_registered_after_its_import(word, capsys):
    later = replace(TOY, name="later")
    for registered in (False, True):
        if registered:
            registry.register(later)
        try:
            assert main(["inspect", str(word), "--for", "toy"]) == 2  # known, but the word does not fit it
            capsys.readouterr()
            assert main(["inspect", str(word), "--for", "unknown"]) == 2
            names = re.search(r"is not one of (.+)", capsys.readouterr().err)
            assert names is not None
            assert ("later" in names[1]) == registered
            with pytest.raises(SystemExit):
                main(["inspect", "--help"])
            assert ("later" in capsys.readouterr().out) == registered
        finally:
            if registered:
                registry.unregister(later)


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a photo of mychar4", {"mychar4"}),
        ("A Photo of MyChar4, MYCHAR4", {"mychar4"}),
        ("\u0130 MyChar4 Other", {"mychar4", "other"}),  # a letter that becomes two in lower case
        ("a Dog, mychar44", set()),
        ("a " * 40 + "other", {"other"}),  # it is a word of the caption, although it does not fit
    ],
)
def test_words_are_found_in_any_case_and_once(folder, caption, found, monkeypatch):
    """The words that are reported are those whose rows are read, in text that keeps its case."""
    text = load_model(str(folder)).text
    tokenizer = text.tokenizers[SPEC.name]
    for word in ("MyChar4", "other"):
        text.add_word(word, {SPEC.name: torch.zeros(2, WIDTH)})
    assert tokenizer.words_in(caption) == found
    rows = [i for i in tokenizer.flat(caption) if i >= tokenizer.vocab]
    assert set(rows) == {i for word in found for i in tokenizer.words[word]}
    monkeypatch.setattr(tokenizer, "words_in", None)  # so that there is no second search
    assert text.tokenize(caption).words == found


def test_an_init_word_is_read_as_the_tokenizer_reads_it(folder):
    """T5's tokenizer keeps upper case, so "Dog" and "dog" start from different rows."""
    model = load_model(str(folder))
    tokenizer, table = model.text.tokenizers[SPEC.name], model.text.vocabulary(SPEC.name)
    for word in ("Dog", "dog", " Dog "):
        (piece,) = tokenizer.ids_of(word)
        assert tokenizer.read(piece) == word.strip()
        assert torch.equal(initial_rows(model, word, 1)[SPEC.name], table[[piece]].float())


def test_an_init_word_without_a_token_is_refused_before_training(run_for, folder):
    run = run_for("none", INVISIBLE, max_train_steps=1)
    (error,) = [problem for problem in preflight(run).problems if problem.severity == "error"]
    assert "the init word of `mychar4`" in error.where
    assert "has no token that the model knows" in error.what
    with pytest.raises(UserError, match="has no token for text_encoder"):
        initial_rows(load_model(str(folder)), INVISIBLE, 1)


def test_sides_that_the_network_cannot_take_are_refused(run_for):
    found = preflight(run_for("odd", resolution="72", enable_bucket=False))
    assert "not a multiple of 16" in "\n".join(str(p) for p in found.problems if p.severity == "error")


def test_the_word_changes_what_is_generated(run_for, folder):
    (file,) = train(run_for("word", max_train_steps=2)).files
    prompts = ["a photo of mychar4", "a photo of mychar4", "a photo of dog"]
    shared = {"words": [f"mychar4={file}"], "model": load_model(str(folder)), "seed": 1, "steps": 2, "size": (64, 48)}
    with_word, again, without = (generate(prompt, **shared)[0] for prompt in prompts)
    assert with_word.size == (64, 48)
    assert with_word.tobytes() == again.tobytes() != without.tobytes()


def test_a_dynamic_shift_counts_the_patches_of_the_family(folder, monkeypatch):
    """An image of 64 x 48 pixels is 8 x 6 latents, which are 12 tokens in patches of 2 x 2."""
    model, seen = load_model(str(folder)), []
    dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 20, "base_shift": 1.0}
    model.scheduler_config = {**model.scheduler_config, **dynamic, "max_shift": 2.0}
    plain = FlowMatchEulerDiscreteScheduler.set_timesteps

    def watched(self, *arguments, sigmas=None, mu=None, **more):
        seen.append(mu)
        return plain(self, *arguments, sigmas=sigmas, mu=mu, **more)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "set_timesteps", watched)
    generate("a dog", model=model, seed=1, steps=2, size=(64, 48))
    assert seen == [1.5]


def test_sample_images_have_valid_sizes_and_a_sampler_of_the_process(run_for, tmp_path):
    (tmp_path / "prompts.txt").write_text("a photo of mychar4 --w 90 --h 64 --s 2\n")
    prompts = str(tmp_path / "prompts.txt")
    train(run_for("samples", max_train_steps=1, sample_prompts=prompts, sample_every_n_steps=1))
    (image,) = [file for file in (tmp_path / "samples" / "sample").iterdir() if "sheet" not in file.name]
    assert shown(image).size == (80, 64)
    assert json.loads(shown(image).text["prompt"])["width"] == 80


def test_the_command_generates_from_text_from_an_image_and_within_a_mask(folder, tmp_path, capsys):
    """The sampler is a flow's by default, sides are multiples of 16, and settings without effect are reported."""
    Image.new("RGB", (64, 48), (200, 40, 40)).save(tmp_path / "photo.png")
    Image.new("L", (64, 48), 0).save(tmp_path / "keep.png")
    flags = ("--ckpt", folder, "--prompt", "a photo of a dog", "--steps", 3, "--seed", 1)
    (plain,) = command(tmp_path, *flags, "--W", 64, "--H", 40, "--crop_top", 3, "--zero_terminal_snr")
    said = capsys.readouterr().err
    assert "40 is not a multiple of 16: using 32" in said
    assert "--crop_top: only SDXL reads the sizes of images" in said
    assert "--zero_terminal_snr has no effect: Toy always starts at pure noise" in said
    assert (shown(plain).size, shown(plain).text["sampler"]) == ((64, 32), "euler")
    (again,) = command(tmp_path, "--like", plain)
    assert shown(again).tobytes() == shown(plain).tobytes()
    begun = ("--image_path", tmp_path / "photo.png", "--W", 64, "--H", 48, "--strength", 0.7)
    (image,) = command(tmp_path, *flags, *begun)
    assert shown(image).size == (64, 48)
    (kept,) = command(tmp_path, *flags, *begun, "--mask_path", tmp_path / "keep.png")
    assert shown(kept).tobytes() == shown(tmp_path / "photo.png").tobytes()


SAMPLINGS = (
    {"timestep_sampling": "sigma"},
    {"timestep_sampling": "sigma", "discrete_flow_shift": 1.0},
    {"timestep_sampling": "sigma", "weighting_scheme": "logit_normal", "logit_mean": -1.0},
    {"timestep_sampling": "sigma", "weighting_scheme": "mode", "mode_scale": 1.6},
    {"timestep_sampling": "uniform"},
    {"timestep_sampling": "sigmoid"},
    {"timestep_sampling": "sigmoid", "sigmoid_scale": 0.2},
    {"timestep_sampling": "shift", "discrete_flow_shift": 1.5},
    {"timestep_sampling": "flux_shift"},
    {"timestep_sampling": "logit_normal", "discrete_flow_shift": 8.0},
    {"timestep_sampling": "logit_normal", "logit_mean": 0.7},
    {"timestep_sampling": "logit_normal", "logit_std": 0.3},
    {"timestep_sampling": "inverted_parabola"},
    {"timestep_draws": "uniform"},
    {"model_prediction_type": "sigma_scaled"},
    {"model_prediction_type": "sigma_scaled", "weighting_scheme": "sigma_sqrt", "loss_type": "huber"},
    {"model_prediction_type": "sigma_scaled", "weighting_scheme": "cosmap"},
    {"min_timestep": 300, "max_timestep": 600},
)


def test_words_are_learned_with_each_way_of_drawing_sigma(run_for):
    """Every one of the settings changes what is learned, and none of them warns that it has no effect."""
    learned = []
    for index, flags in enumerate(({}, *SAMPLINGS)):
        run = run_for(f"sampling {index}", max_train_steps=2, **flags)
        assert not [p for p in preflight(run).problems if "has no effect" in p.what], flags
        learned.append(load_file(train(run).files[0])["t5xxl"])
    for index, rows in enumerate(learned):
        assert bool(rows.isfinite().all())
        assert not any(torch.equal(rows, other) for other in learned[:index]), ({}, *SAMPLINGS)[index]


def test_the_family_decides_how_sigma_is_drawn_and_the_user_may_choose_otherwise(run_for):
    found = preflight(run_for("defaults", max_train_steps=2))
    shown = {name: (default.value, str(default)) for name, default in found.defaults.items()}
    assert shown["timestep_sampling"] == ("logit_normal", "default for Toy (a guess)")
    assert shown["discrete_flow_shift"] == (3.0, "default for Toy (a guess)")
    plain, same = (
        load_file(train(run_for(name, max_train_steps=2, **flags)).files[0])["t5xxl"]
        for name, flags in (("plain", {}), ("same", {"timestep_sampling": "shift", "discrete_flow_shift": 3.0}))
    )
    assert torch.equal(plain, same)  # sigmoid(n), shifted
    assert "discrete_flow_shift" not in preflight(run_for("uniform", timestep_sampling="uniform")).defaults


def test_a_shift_by_size_is_that_of_the_family_unless_a_number_is_given(folder, run_for):
    model = load_model(str(folder))
    x0, key = torch.zeros(1, 16, 64, 96), [(1, 2, 3)]
    spec = FlowSpec(shift=2.0, line=ShiftLine(100, 1.0, 1000, 3.0))
    model.process = Flow.of(spec, PATCH, torch.float32)
    tokens, run = 32 * 48, run_for("line")
    for flags, shift in (
        ({}, math.exp(1 + 2 * (tokens - 100) / 900)),
        ({"discrete_flow_shift": 5.0}, 5.0),
        ({"timestep_sampling": "shift"}, 2.0),
        ({"timestep_sampling": "flux_shift"}, math.exp(0.5 + 0.65 * (tokens - 256) / 3840)),
        ({"timestep_sampling": "sigmoid"}, 1.0),
    ):
        given = run.model_copy(update={"objective": run.objective.model_copy(update=flags)})
        t = float(process_of(model, given).add_noise(x0, key, [0.5]).t)
        assert t == pytest.approx(1000 * shift / (1 + shift), rel=1e-6), flags


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"zero_terminal_snr": True}, "--zero_terminal_snr has no effect on a flow: it always ends at pure noise"),
        ({"min_snr_gamma": 5.0}, "--min_snr_gamma has no effect on a flow"),
        ({"debiased_estimation_loss": True}, "--debiased_estimation_loss has no effect on a flow"),
        ({"scale_v_pred_loss_like_noise_pred": True}, "has no effect on a flow: it predicts neither noise nor v"),
        ({"v_pred_like_loss": 0.5}, "--v_pred_like_loss has no effect on a flow"),
        ({"v_parameterization": True}, "--v_parameterization has no effect on a flow"),
        ({"guidance_scale": 3.5}, "--guidance_scale has no effect on a model that reads no guidance scale"),
        ({"sigmoid_scale": 2.0}, "--sigmoid_scale has no effect on --timestep_sampling=logit_normal"),
        ({"timestep_sampling": "uniform", "discrete_flow_shift": 2.0}, "--discrete_flow_shift has no effect on"),
        ({"timestep_sampling": "sigma", "logit_std": 2.0}, "--logit_std has no effect without"),
        ({"mode_scale": 1.0}, "--mode_scale has no effect without --timestep_sampling=sigma"),
        ({"weighting_scheme": "mode"}, "--weighting_scheme has no effect without --timestep_sampling=sigma"),
        ({"weighting_scheme": "cosmap"}, "has no effect without --model_prediction_type=sigma_scaled"),
        ({"model_prediction_type": "additive"}, "--model_prediction_type has no effect as additive"),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_without_meaning_for_a_flow_is_reported_and_has_no_effect(run_for, flags, words, tmp_path):
    run = run_for("flow", max_train_steps=1, **flags)
    found = preflight(run)
    (warning,) = [str(p) for p in found.problems if p.severity == "warning" and "has no effect" in p.what]
    assert words in warning
    assert not [p for p in found.problems if p.severity == "error"]
    plain = train(run_for("plain", max_train_steps=1)).files[0]
    if "timestep_sampling" not in flags:
        assert torch.equal(load_file(train(run).files[0])["t5xxl"], load_file(plain)["t5xxl"])


def test_settings_of_flows_without_meaning_for_diffusion_are_reported(tmp_path):
    flags = {
        "timestep_sampling": "uniform", "discrete_flow_shift": 3.0, "sigmoid_scale": 2.0, "logit_mean": 1.0,
        "logit_std": 2.0, "mode_scale": 1.0, "weighting_scheme": "cosmap", "model_prediction_type": "sigma_scaled",
        "guidance_scale": 3.5,
    }  # fmt: skip
    found = check(make_images(tmp_path / "a", 3), **flags)
    warned = {p.where: p for p in found.problems if "has no effect on a diffusion model" in p.what}
    assert set(warned) == {f"--{name}" for name in flags} == {f"--{name}" for name in FLOW_ONLY}
    assert "--timestep_draws=uniform" in warned["--timestep_sampling"].fix
    assert found.plan is not None
    objective, plain = (objective_of(run, found.plan.source) for run in (found.run, check(tmp_path / "a").run))
    assert objective == plain


def test_all_wrong_values_of_a_flow_are_reported_at_once(folder, tmp_path, capsys):
    wrong = {
        "timestep_sampling": "sigmoidal", "discrete_flow_shift": "0", "sigmoid_scale": "-1", "logit_mean": "nan",
        "logit_std": "0", "mode_scale": "1.8", "weighting_scheme": "minsnr", "model_prediction_type": "v",
        "guidance_scale": "-0.5", "timestep_draws": "often", "min_timestep": "700", "max_timestep": "200",
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in wrong.items()]
    images = make_images(tmp_path / "images", 2)
    out = tmp_path / "out"
    run = [f"--pretrained_model_name_or_path={folder}", f"--train_data_dir={images}", "--token_string=mychar4"]
    assert main(["train", *run, *flags, f"--output_dir={out}"]) == 2
    said = capsys.readouterr().err
    assert all(f"--{name}" in said for name in wrong), said
    assert not out.exists()


def test_samplers_of_diffusion_are_refused_before_a_weight_is_read(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("neonym.generation.run.load_model", None)
    for flags in (("--sampler", "ddim"), ("--sampler", "dpm++_2m_sde"), ("--x", "sampler=euler,Heun Karras")):
        command(tmp_path, "--ckpt", folder, "--prompt", "a dog", *flags, code=2)
        assert "does not support Toy, which is a rectified flow. Use euler" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["v1", "v2", "sdxl"])
def test_a_flag_that_names_another_family_is_refused(folder, tmp_path, capsys, flag):
    command(tmp_path, "--ckpt", folder, "--prompt", "a dog", f"--{flag}", code=2)
    assert f"--{flag}: the model is Toy, not " in capsys.readouterr().err


def test_the_flag_of_a_family_need_not_be_a_setting(tmp_path):
    """`TOY.flag` names no field of the settings, and images are generated with any model."""
    assert TOY.flag not in GenerateSettings.model_fields
    assert len(command(tmp_path, "--prompt", "a dog", "--steps", 1, "--W", 64, "--H", 64)) == 1


@pytest.mark.parametrize(
    ("encoder", "widths", "family"),
    [
        ("text_encoder", {"text_encoder": 768, "text_encoder_2": 1280}, "SDXL (its first encoder)"),
        ("text_encoder_2", {"text_encoder": 768, "text_encoder_2": 1280}, "SDXL (its second encoder)"),
        ("text_encoder", {"text_encoder": 768}, "Stable Diffusion 1.x"),
        ("text_encoder", {"text_encoder": 1280}, "SDXL (its second encoder)"),  # by its width alone
        ("text_encoder", {"text_encoder": WIDTH}, "Toy"),
        ("text_encoder", {"text_encoder": 5}, None),
    ],
)
def test_vectors_are_made_for_the_family_that_they_fit(encoder, widths, family):
    assert registry.made_for(encoder, widths) == family


def test_sdxl_names_what_it_misses():
    """Its size conditioning and pooled text are missing where a caller treats all families as one of the others."""
    text = TextCond(torch.zeros(1, 77, 8))
    predict = StableDiffusionXL.predict
    with pytest.raises(ValueError, match="`sizes` are missing"):
        predict(None, torch.zeros(1), torch.zeros(1), text)  # pyright: ignore
    with pytest.raises(ValueError, match="the pooled text"):
        predict(None, torch.zeros(1), torch.zeros(1), text, Conditions(torch.zeros(1, 6)))  # pyright: ignore
