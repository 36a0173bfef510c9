"""A family that nothing in `src/` knows, with its networks and a tiny random model.

It is all that Stable Diffusion is not: a flow, one T5 encoder with a mask, a transformer, latents of 16 channels that
are scaled and shifted, images whose sides are multiples of 16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from neonym.models.defaults import published
from neonym.models.encoders.clip import Keep
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
from neonym.models.loading.parts import flow_of, load_parts, vae_of
from neonym.models.loading.weight_files import Header
from neonym.models.model import Model
from neonym.models.process.sigmas import FlowSpec
from neonym.models.text_side import TextSide
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond

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


def toy_model(home: Path) -> Path:
    """Write a tiny random model in Diffusers' layout, and return its folder."""
    torch.manual_seed(0)
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
