"""Verify that a family defined only here is learned with like any other, although nothing in `src/` knows it.

It is all that Stable Diffusion is not: a flow, one T5 encoder with a mask, a transformer, latents of 16 channels that
are scaled and shifted, images whose sides are multiples of 16.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from neonym import generate, read_embedding, train
from neonym.cli.main import main
from neonym.models import registry
from neonym.models.defaults import published
from neonym.models.encoders.clip import Keep
from neonym.models.family import Configs, DenoiserSpec, EncoderSpec, Family, LatentSpec, Recognised
from neonym.models.loading.parts import load_parts, vae_of
from neonym.models.model import Model, load_model
from neonym.models.process.flow import Flow
from neonym.models.text_side import TextSide
from neonym.preflight.preflight import preflight
from neonym.types import Encoded, TextCond
from support.checks import settings
from support.commands import generate as command
from support.commands import shown
from support.data_sets import make_images

SPEC = EncoderSpec("text_encoder", "T5EncoderModel", "t5xxl", aliases=("t5",), kind="t5", max_length=24, width=64)
PATCH, WIDTH = 2, SPEC.width or 0


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
    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, sizes: Tensor | None = None) -> Tensor:
        sigma = (t.float() / 1000).expand(len(x_t)).to(self.dtype)
        return self.denoiser(x_t.to(self.dtype), sigma, text.sequence.to(self.dtype), text.mask).float()


def load(source, tokenizers, device, dtype, clip_skip) -> ToyModel:
    parts = load_parts(source, device, dtype)
    text = ToyText({SPEC.name: parts[SPEC.name]}, tokenizers)
    return ToyModel(
        source, parts["transformer"], text, vae_of(source, parts), Flow(shift=3.0), source.configs["scheduler"]
    )


def recognise(configs: Configs, name: str) -> Recognised | None:
    if configs.get("transformer", {}).get("_class_name") != "ToyTransformer":
        return None
    return Recognised(native_size=64, text_layers=2)


TOY = Family(
    name="toy",
    label="Toy",
    encoders=(SPEC,),
    denoiser=DenoiserSpec("transformer", f"{__name__}.ToyTransformer"),
    latents=LatentSpec(channels=16, multiple=16, scaling_factor=0.36, shift_factor=0.12),
    process="flow",
    recognise=recognise,
    module=__name__,
    pipeline="FluxPipeline",
    guidance=3.5,
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
        *["▁a", "▁image", "▁photo", "▁of", "▁on", "▁the", "▁red", "▁dog", "▁cat", ",", "."],
    ]
    letters = [f"▁{c}" for c in "abcdefghijklmnopqrstuvwxyz"] + list("▁abcdefghijklmnopqrstuvwxyz")
    pieces = [(piece, -float(i)) for i, piece in enumerate(dict.fromkeys([*words, *letters]))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=24
    )
    fast.save_pretrained(home / "tokenizer")
    config = T5Config(vocab_size=96, d_model=WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=4)
    T5EncoderModel(config).save_pretrained(home / "text_encoder")
    ToyTransformer().save_pretrained(home / "transformer")
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), latent_channels=16, norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.36, shift_factor=0.12, sample_size=64,
    ).save_pretrained(home / "vae")  # fmt: skip
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


@pytest.fixture
def run_for(folder, tmp_path):
    """Return a function that makes the settings of a short run on the toy model."""
    images = make_images(tmp_path / "images", 3, (96, 64))

    def make(name: str, **more):
        return settings(
            pretrained_model_name_or_path=str(folder), train_data_dir=str(images), token_string="mychar4",
            init_word="dog", num_vectors_per_token=2, train_batch_size=2, output_dir=str(tmp_path / name),
            output_name="word", eval_samples=8, lr_scheduler="constant", lr_warmup_steps="0", **more,
        )  # fmt: skip

    return make


def test_a_word_is_learned_and_resuming_is_exact(run_for, folder):
    (whole,) = train(run_for("whole", max_train_steps=4)).files
    train(run_for("parts", max_train_steps=2))
    (parts,) = train(run_for("parts", max_train_steps=4)).files
    rows = load_file(whole)
    assert {name: tuple(tensor.shape) for name, tensor in rows.items()} == {"emb_params": (2, WIDTH)}
    assert all(torch.equal(tensor, load_file(parts)[name]) for name, tensor in rows.items())
    model = load_model(str(folder))
    pieces = model.text.tokenizers[SPEC.name].pieces("dog")
    assert not torch.allclose(rows["emb_params"][0], model.text.vocabulary(SPEC.name)[pieces[0]])
    facts = read_embedding(whole)
    assert facts.metadata["neonym.family"] == "toy"
    assert facts.metadata["modelspec.architecture"] == "toy/textual-inversion"


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


def test_samplers_of_diffusion_are_refused_before_a_weight_is_read(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("neonym.generation.run.load_model", None)
    for flags in (("--sampler", "ddim"), ("--sampler", "dpm++_2m_sde"), ("--x", "sampler=euler,Heun Karras")):
        command(tmp_path, "--ckpt", folder, "--prompt", "a dog", *flags, code=2)
        assert "does not support Toy, which is a rectified flow. Use euler" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["v1", "v2", "sdxl"])
def test_a_flag_that_names_another_family_is_refused(folder, tmp_path, capsys, flag):
    command(tmp_path, "--ckpt", folder, "--prompt", "a dog", f"--{flag}", code=2)
    assert f"--{flag}: the model is Toy, not " in capsys.readouterr().err
