"""Recognise the files of text encoders and VAEs by their names and shapes. This module does not need torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neonym.models.loading.header import Part
from neonym.models.signatures import Naming

PRUNED = {"mistral3_24b_30_layers": "mistral3_24b"}  # published with only the layers that a model reads
LAYERS = "layers.{}.input_layernorm.weight"
STARTS = ("model.language_model.", "language_model.model.", "language_model.", "model.", "")  # of a language model


@dataclass(frozen=True)
class EncoderFacts:
    """A frozen record of what a text encoder is: its architecture, and which published one, if its sizes are those of one."""

    architecture: str  # "clip", "t5", "qwen3"
    kind: str | None  # "clip_l"
    width: int | None
    prefix: str  # of its weights in the file


@dataclass(frozen=True)
class EncoderSignature:
    """A frozen record of how the encoders of one architecture are recognised."""

    architecture: str
    keys: tuple[str, ...]
    kinds: Mapping[int, str]  # width -> which published one
    width: tuple[str, int]  # weight and axis that has the width
    starts: tuple[str, ...] = ("",)
    absent: tuple[str, ...] = ()
    exact: Callable[[Part, str], str] = lambda _, kind: kind  # what else distinguishes published ones

    def read(self, part: Part) -> EncoderFacts | None:
        """Return what an encoder is, or None if it is not of this architecture."""
        for start in self.starts:
            own = Part(part.header, f"{part.prefix}{start}")
            if all(key in own for key in self.keys) and not any(key in own or key in part for key in self.absent):
                width = own.size(*self.width)
                kind = self.kinds.get(width or 0)
                return EncoderFacts(self.architecture, kind and self.exact(own, kind), width, part.prefix)
        return None


def mistral_kind(part: Part, kind: str) -> str:
    """Return the kind of a Mistral model, which is also published with its first 30 layers only."""
    layers = part.layers(LAYERS)
    return kind if layers == 40 else f"{kind}_{layers}_layers"


T5_LAYER, SECOND = "encoder.block.0.layer.", "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
T5_WIDTH = (f"{T5_LAYER}0.layer_norm.weight", 0)
NORM = ("layers.0.post_attention_layernorm.weight", 0)
VISION = ("visual.deepstack_merger_list.0.norm.weight", "model.visual.deepstack_merger_list.0.norm.weight")
Q_NORM, GEMMA = "layers.0.self_attn.q_norm.weight", "layers.0.post_feedforward_layernorm.weight"
BIAS, KEYS = "layers.0.self_attn.k_proj.bias", "layers.0.self_attn.k_proj.weight"
QWEN_VL = {2048: "qwen3vl_2b", 2560: "qwen3vl_4b", 4096: "qwen3vl_8b"}
ENCODERS = (
    EncoderSignature(
        "clip", ("encoder.layers.0.self_attn.q_proj.weight", "embeddings.token_embedding.weight"),
        {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}, ("embeddings.token_embedding.weight", 1), ("text_model.", ""),
    ),
    EncoderSignature(
        "umt5", (f"{T5_LAYER}1.DenseReluDense.wi_1.weight", SECOND), {4096: "umt5xxl", 2048: "pile_t5xl"}, T5_WIDTH,
    ),
    EncoderSignature("t5", (f"{T5_LAYER}1.DenseReluDense.wi_1.weight",), {4096: "t5xxl", 2048: "t5xl", 768: "t5base"}, T5_WIDTH),
    EncoderSignature("t5_v1", (f"{T5_LAYER}1.DenseReluDense.wi.weight",), {1024: "t5_11b"}, T5_WIDTH),
    EncoderSignature("gemma3", (GEMMA, Q_NORM), {2560: "gemma3_4b", 3840: "gemma3_12b"}, NORM, STARTS),
    EncoderSignature("gemma2", (GEMMA,), {2304: "gemma2_2b"}, NORM, STARTS),
    EncoderSignature("qwen3vl", (Q_NORM, KEYS), QWEN_VL, NORM, STARTS[:1]),
    EncoderSignature("qwen3", (Q_NORM, KEYS), {1024: "qwen3_06b", 2048: "qwen3_17b", 2560: "qwen3_4b", 4096: "qwen3_8b"}, NORM,
                     STARTS, absent=VISION),
    EncoderSignature("qwen3vl", (Q_NORM, KEYS), QWEN_VL, NORM, STARTS),
    EncoderSignature("qwen2.5", (BIAS,), {3584: "qwen25vl_7b", 2048: "qwen25vl_3b"}, NORM, STARTS),
    EncoderSignature("mistral", (KEYS,), {5120: "mistral3_24b"}, NORM, STARTS, exact=mistral_kind),
    EncoderSignature("llama", (KEYS,), {4096: "llama31_8b", 2048: "llama32_1b", 3072: "llama32_3b"}, NORM, STARTS),
)  # fmt: skip


def encoder_in(part: Part) -> EncoderFacts | None:
    """Return what the text encoder with the prefix of `part` is, or None if there is none."""
    found = [facts for signature in ENCODERS if (facts := signature.read(part)) is not None]
    return next((facts for facts in found if facts.kind is not None), found[0] if found else None)


@dataclass(frozen=True)
class VaeFacts:
    """A frozen record of what a VAE is."""

    kind: str  # "kl_16ch"
    naming: Naming
    prefix: str  # of its weights in the file


@dataclass(frozen=True)
class VaeSignature:
    """A frozen record of how a VAE is recognised: by the number of its latent channels, and a weight that only its class has."""

    keys: tuple[str, ...]
    latents: str  # a weight with 2 x C rows: means and log-variances
    axes: int  # of that weight
    kinds: Mapping[int, str] | str  # number of latent channels -> kind, or a format with it
    naming: Naming

    def read(self, part: Part) -> VaeFacts | None:
        """Return what a VAE is, or None if it is not one of these."""
        if not all(key in part for key in (*self.keys, self.latents)) or len(part.shape(self.latents)) != self.axes:
            return None
        channels = part.shape(self.latents)[0] // 2
        if isinstance(self.kinds, str):
            return VaeFacts(self.kinds.format(channels), self.naming, part.prefix)
        return VaeFacts(self.kinds.get(channels, f"unknown_{channels}ch"), self.naming, part.prefix)


CAUSAL = {16: "wan21_or_qwen_image", 48: "wan22"}
OUT = "encoder.conv_out.weight"
VAES = (
    VaeSignature(("encoder.down.0.block.0.conv1.weight",), OUT, 4, "kl_{}ch", "original"),
    VaeSignature(("decoder.up.0.block.0.conv1.weight",), OUT, 4, "kl_{}ch", "original"),
    VaeSignature(("encoder.down_blocks.0.resnets.0.conv1.weight",), OUT, 4, "kl_{}ch", "diffusers"),
    VaeSignature(("encoder.conv1.weight", "encoder.downsamples.0.residual.0.gamma"), "encoder.head.2.weight", 5, CAUSAL, "original"),
    VaeSignature(("encoder.conv_in.weight", "encoder.mid_block.resnets.0.norm1.gamma"), OUT, 5, CAUSAL, "diffusers"),
    VaeSignature(("encoder.conv_in.weight", "encoder.mid_block.resnets.0.norm1.gamma"), OUT, 4, {64: "qwen_image_21"}, "diffusers"),
    VaeSignature(("encoder.conv_in.conv.weight",), "encoder.conv_out.conv.weight", 5, {16: "hunyuan_video"}, "original"),
)  # fmt: skip


def vae_in(part: Part) -> VaeFacts | None:
    """Return what the VAE with the prefix of `part` is, or None if there is none."""
    return next((facts for signature in VAES if (facts := signature.read(part)) is not None), None)
