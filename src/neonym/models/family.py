"""What a family of models is, as a record: everything that sets it apart from other families. Needs no torch.

A family is one file in `families/` that makes such a record and one line in `registry.py`; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from neonym.models.defaults import Defaults
from neonym.models.loading.weight_files import Header

BY_USER = "--v_parameterization"  # what says the prediction type, if the user does
Configs = dict[str, dict[str, Any]]  # per component of a Diffusers folder


@dataclass(frozen=True)
class EncoderSpec:
    """A text encoder of a family."""

    name: str  # ours, and the component's in Diffusers: "text_encoder"
    module: str  # its class in transformers
    file_key: str  # its key in an embedding file: "clip_l", "t5xxl"
    aliases: tuple[str, ...] = ()  # keys that other programs write for it
    kind: Literal["clip", "t5"] = "clip"  # which tokenizer reads captions for it
    width: int | None = None  # numbers of a row in published models; None: the config says it
    max_length: int = 0  # ids of a sequence, its end among them; CLIP reads in chunks
    id_zero_pads: bool = False  # padding is id 0, which is no token that a text can have

    @property
    def tokenizer(self) -> str:
        """Return the name of its tokenizer's folder in a Diffusers folder."""
        return self.name.replace("text_encoder", "tokenizer")


@dataclass(frozen=True)
class LatentSpec:
    """The latents of a family, where a model's own configs do not say otherwise."""

    channels: int = 4
    pixels: int = 8  # of an image's side per latent
    multiple: int = 8  # what the sides of an image must be multiples of
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    module: str = "AutoencoderKL"  # the class of its VAE in diffusers


@dataclass(frozen=True)
class DenoiserSpec:
    """The network that predicts: its component in a Diffusers folder and its class in diffusers, or a dotted path."""

    part: str
    module: str


@dataclass(frozen=True)
class CheckpointHints:
    """What is known of a checkpoint file beside what is in it."""

    v_parameterization: bool | None = None  # what the user says of the prediction
    other_vae: bool = False  # its own VAE may be missing
    sidecar: str = ""  # the text of the .yaml beside it


@dataclass(frozen=True)
class CheckpointLayout:
    """How models of some families are kept in one file."""

    recognises: Callable[[Header], bool]
    configs: Callable[[Header, str, CheckpointHints], Configs]  # those of a Diffusers folder. Raises ModelError
    prefixes: Callable[[str], Mapping[str, str]]  # a family's name -> part -> how the names of its weights begin


@dataclass(frozen=True)
class Recognised:
    """What a model's configs say of it beyond its family."""

    native_size: int  # pixels of a side that the model was made for
    text_layers: int
    prediction_type: str = "velocity"
    prediction_from: str = "its scheduler's config"  # what says the prediction type; empty for a guess


@dataclass(frozen=True)
class Family:
    """A family of text-to-image models. No torch is imported to read it."""

    name: str  # "sd1"
    label: str  # "Stable Diffusion 1.x"
    encoders: tuple[EncoderSpec, ...]
    denoiser: DenoiserSpec
    latents: LatentSpec
    process: Literal["diffusion", "flow"]
    recognise: Callable[
        [Configs, str], Recognised | None
    ]  # None: another family's. Raises ModelError, TypeError, ValueError
    module: str  # where its networks live: `load_network`, and `renamed` for other layouts; imported with the weights
    pipeline: str  # diffusers' class that generates with it
    guidance: float  # the guidance scale that suits it
    defaults: Defaults  # of settings, each with its source
    architectures: Mapping[str, str] = field(default_factory=dict)  # prediction type -> modelspec's architecture
    checkpoint: CheckpointLayout | None = None
    flag: str | None = None  # sd-scripts' flag that names it
    other_schedules: tuple[str, ...] = ()  # how schedules in diffusers begin that are not its own, whatever its configs
    reads_sizes: bool = False  # it is conditioned on the sizes and the crop of images
    fixed_text_layer: bool = False  # it always reads the last layer but one
    clip_skip_note: tuple[str, str] | None = None  # what is wrong with a --clip_skip above 1, and how to fix it
    prediction_varies: bool = False  # its models predict noise or v, and files that do not say which are common
    vae_overflows: bool = False  # in fp16
    latent_cache_suffix: str | None = None  # what the names of sd-scripts' cached latents end with

    @property
    def components(self) -> tuple[str, ...]:
        """Return the folders of a Diffusers folder that are used."""
        texts = [part for encoder in self.encoders for part in (encoder.name, encoder.tokenizer)]
        return (self.denoiser.part, "vae", "scheduler", *texts)

    def architecture(self, prediction_type: str) -> str:
        """Return modelspec's name of the architecture; the family's own name where modelspec has none."""
        return self.architectures.get(prediction_type, self.name)

    def fits(self, widths: Mapping[str, int]) -> bool:
        """Return whether rows of these widths ({encoder: W}) fit the published models of the family."""
        return widths == {encoder.name: encoder.width for encoder in self.encoders}
