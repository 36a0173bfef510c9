"""Define what a family of models is: a record of everything that distinguishes it. This module does not need torch.

A family is one file in `families/` that makes such a record, and one line in `registry.py`; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from neonym.models.defaults import PUBLISHED_SPREAD, Defaults
from neonym.models.file_layout import FileLayout
from neonym.models.loading.weight_files import Header
from neonym.models.process.sigmas import FlowSpec
from neonym.models.signatures import Choice

BY_USER = "--v_parameterization"  # the source of the prediction type if the user gives it
PerChannel = float | tuple[float, ...]  # one number for all C channels of latents, or one for each
Configs = dict[str, dict[str, Any]]  # component of a Diffusers folder -> its config


@dataclass(frozen=True)
class SequenceSpec:
    """A record of how a caption is laid out for an encoder, as the family's pipeline in diffusers does it."""

    template: tuple[str, str] = ("", "")  # the text before and after the caption
    suffix_last: bool = False  # the text after the caption stands behind the padding
    empty: str = ""  # what an empty caption is replaced by
    lower_case: bool = False  # captions are put in lower case
    repaired: bool = True  # CLIP: broken characters and HTML entities are repaired, as OpenAI's tokenizer does
    full_length: bool = True  # padding reaches the encoder's `max_length`; otherwise, the longest caption of a batch
    padded: Literal["right", "left"] = "right"  # the side of the padding
    pads_with: int | None = None  # CLIP: the id of padding in models that are one file; None: that of their config
    masked: bool = False  # the encoder is told which ids are padding
    # What (text:1.3) can be: emphasis of its ids, a piece of its own that weighs nothing here, or plain text
    brackets: Literal["weigh", "split", "text"] = "weigh"
    word_id: int | None = None  # the id that stands for each vector of a learned word, if there is no row to learn
    chunks_in_comfyui: bool = (
        False  # CLIP: ComfyUI reads a text in as many chunks as it needs, diffusers only the first
    )
    comfyui_length: int = 0  # ids to which ComfyUI pads a caption, at least; CLIP has chunks of 77
    comfyui_zeros: int | None = None  # the id that marks padding whose states are zero, as ComfyUI makes it, if it does

    def pads_otherwise_in_comfyui(self, max_length: int) -> bool:
        """Return whether ComfyUI has another number of padding ids that are read, in an encoder of this `max_length`."""
        return self.full_length and not self.masked and self.comfyui_length != max_length


@dataclass(frozen=True)
class EncoderSpec:
    """A text encoder of a family, or a reader of ids that is part of the denoiser."""

    name: str  # its component in a Diffusers folder: "text_encoder"
    module: str  # its class in transformers
    file_key: str  # its key in an embedding file: "clip_l", "t5xxl"
    aliases: tuple[str, ...] = ()  # its keys in files of other programs
    kind: Literal["clip", "t5", "causal_lm"] = "clip"  # which tokenizer reads captions for it
    vocabulary: str = "qwen3"  # of a causal language model: its tokenizer that ships with the package
    width: int | None = None  # vector width in published models; None: it varies
    max_length: int = 0  # ids in a sequence, with its template and end; 0: no limit, and for CLIP chunks of 77
    id_zero_pads: bool = False  # padding is id 0, which no text contains
    # How many blocks of a causal language model are read, as in `blocks[:blocks_read]`; the rest is not loaded
    blocks_read: int | None = None
    optional: bool = False  # a model may lack it
    identities: tuple[str, ...] = ()  # weights that are the identity where files have none
    layout: SequenceSpec = SequenceSpec()
    twin_keys: tuple[str, ...] = ()  # more keys to write the same vectors under, for programs that read no other

    @property
    def is_large(self) -> bool:
        """Whether its weights and activations need so much memory that they are kept in other forms: not CLIP's."""
        return self.kind != "clip"

    @property
    def published_spread(self) -> float | None:
        """The spread of its usual vocabulary, if that is known: CLIP's. None is published for T5's and Qwen3's."""
        return PUBLISHED_SPREAD if self.kind == "clip" else None

    @property
    def tokenizer(self) -> str:
        """The name of its tokenizer's component in a Diffusers folder."""
        return self.name.replace("text_encoder", "tokenizer")

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that programs write for it in an embedding file, the usual one first."""
        return (self.file_key, *self.aliases, *self.twin_keys)


@dataclass(frozen=True)
class OneEncoderFile:
    """An embedding file with the vectors of one encoder alone, for a program that reads no other file of a family."""

    encoder: str  # its component in a Diffusers folder
    program: str
    is_written: bool = True  # a run writes it beside the main file; otherwise, only `neonym convert` does


@dataclass(frozen=True)
class DiffusersSetup:
    """The preparation that a pipeline of diffusers needs before it can use a word."""

    why: str
    code: str  # Python, with the pipeline as `pipe`


@dataclass(frozen=True)
class LatentSpec:
    """The latents of a family, unless the configs of a model say otherwise."""

    channels: int = 4
    pixels: int = 8  # pixels of an image's side per latent pixel
    multiple: int = 8  # the sides of an image must be multiples of this
    scaling_factor: PerChannel = 1.0  # latents of the VAE become (latent - shift_factor) x scaling_factor
    shift_factor: PerChannel = 0.0
    module: str = "AutoencoderKL"  # the class of its VAE in diffusers
    patch: int = 1  # side, in latents, of the patch that the denoiser reads as one token
    folded: int = 1  # side, in latents of the VAE, of the square that becomes one latent with as many more channels


@dataclass(frozen=True)
class DenoiserSpec:
    """The denoising network: its component in a Diffusers folder, and its class (in diffusers, or a dotted path)."""

    part: str
    module: str
    # Beginnings of the names of layers, see `storage.SchemeRules`
    not_quantized: tuple[str, ...] = ()  # layers that stay as they are: small ones that matter most
    in_int8: tuple[str, ...] = ()  # large layers that matter most, such as modulation: int8 in every scheme
    blocks: tuple[str, ...] = ()  # lists of its blocks in the order of the forward pass, if they can be swapped


@dataclass(frozen=True)
class CheckpointHints:
    """Facts about a checkpoint file that are not in it."""

    v_parameterization: bool | None = None  # the prediction type that the user gives
    other_vae: bool = False  # a separate VAE is given
    sidecar: str = ""  # the text of the .yaml file beside it


@dataclass(frozen=True)
class CheckpointLayout:
    """The layout in which models of some families are stored in one file."""

    recognises: Callable[[Header], bool]
    configs: Callable[[Header, str, CheckpointHints], Configs]  # returns those of a Diffusers folder; raises ModelError
    prefixes: Callable[[str], Mapping[str, str]]  # takes the name of a family; returns part -> prefix of its weights


@dataclass(frozen=True)
class Recognised:
    """The facts in a model's configs, apart from its family."""

    native_size: int  # pixels per side that the model was trained for
    text_layers: int
    prediction_type: str = "velocity"
    prediction_from: str = "its scheduler's config"  # where the prediction type was read; empty for a guess
    embedded_guidance: float | None = None  # usual guidance scale that its denoiser reads; None: it reads none
    guidance: float | None = None  # guidance scale that suits this model; None: the family's
    steps: int | None = None  # sampler steps that suit this model; None: as many as any
    # Encoder -> ids in a sequence, for models whose number differs from the family's
    text_lengths: Mapping[str, int] = field(default_factory=dict)
    flow: FlowSpec | None = None  # instead of its family's
    skipped_blocks: tuple[int, ...] = ()  # blocks that skip-layer guidance skips; none: the model is not meant for it
    largest_side: int | None = None  # pixels per side of the largest image that it can read; None: no limit


@dataclass(frozen=True)
class Family:
    """A family of text-to-image models."""

    name: str  # "sd1"
    label: str  # "Stable Diffusion 1.x"
    encoders: tuple[EncoderSpec, ...]
    denoiser: DenoiserSpec
    latents: LatentSpec
    process: Literal["diffusion", "flow"]
    # Returns None for models of other families; raises ModelError, TypeError, ValueError
    recognise: Callable[[Configs, str], Recognised | None]
    module: str  # module with `load`, and `from_original_names` for checkpoints; imported with the weights
    pipeline: str  # its pipeline class in diffusers
    guidance: float  # the guidance scale that suits it
    defaults: Defaults  # default settings, each with its source
    flow: FlowSpec = field(default_factory=FlowSpec)  # how it is trained, if its process is a flow
    architectures: Mapping[str, str] = field(default_factory=dict)  # prediction type -> modelspec architecture
    # Prediction type -> its name in modelspec, which has none for the velocity of a flow
    prediction_names: Mapping[str, str] = field(default_factory=lambda: {"epsilon": "epsilon", "v_prediction": "v"})
    # Tokenizers whose ids the denoiser reads itself, without an encoder; they are named by their component
    id_readers: tuple[EncoderSpec, ...] = ()
    # Frozen networks between the text encoders and the denoiser: component of a Diffusers folder -> class in diffusers.
    # They are never quantized: Anima's, 0.1 billion weights, is as small as CLIP
    adapters: Mapping[str, str] = field(default_factory=dict)
    checkpoint: CheckpointLayout | None = None
    files: FileLayout | None = None  # how its models are made of single files, if they are rectified flows
    # The models of the same shapes as one with these configs, which they may not tell apart
    versions: Callable[[Configs], tuple[Choice, ...]] = lambda _: ()
    flag: str | None = None  # sd-scripts' flag for it
    # Prefixes of diffusers' schedulers that are unsupported, whatever the configs
    other_schedules: tuple[str, ...] = ()
    # Exponent of the shift of noise levels in generation, for (tokens, steps); None: what its scheduler's config says
    mu: Callable[[float, int], float] | None = None
    reads_sizes: bool = False  # it is conditioned on the size and crop of images
    own_levels: bool = False  # samplers take its scheduler's noise levels, down to almost 0, not those down to 1/steps
    fixed_text_layer: bool = False  # it always reads the second-to-last layer
    clip_skip_note: tuple[str, str] | None = None  # a problem with --clip_skip above 1, and its fix
    no_clip_skip: str | None = None  # why --clip_skip above 1 is an error
    prediction_varies: bool = False  # its models predict noise or v, and many files do not record which
    vae_overflows: bool = False  # its VAE overflows in fp16
    one_rate: bool = False  # published learning rates are those of all its encoders alike
    latent_cache_suffix: str | None = None  # suffix of latents cached by sd-scripts
    # A word may have vectors for only some of the encoders, and different numbers of them. An encoder without vectors
    # reads the init word in its place
    partial_words: bool = False
    one_encoder_files: tuple[OneEncoderFile, ...] = ()
    # Programs that read its words, by their names in `formats/consumers`; None: every program has its own rule there
    programs: tuple[str, ...] | None = ("ComfyUI",)
    prompt_notes: tuple[str, ...] = ()  # how to write prompts with a word in ComfyUI, apart from what holds for all
    diffusers_setup: DiffusersSetup | None = None

    @property
    def components(self) -> tuple[str, ...]:
        """The components of a Diffusers folder that are used."""
        texts = [part for encoder in self.encoders for part in (encoder.name, encoder.tokenizer)]
        readers = [reader.name for reader in self.id_readers]
        return (self.denoiser.part, "vae", "scheduler", *texts, *readers, *self.adapters)

    def encoder_named(self, name: str) -> str | None:
        """Return the component name of an encoder that is named by it or by its key in files; None if there is none."""
        return next((spec.name for spec in self.encoders if name in (spec.name, spec.file_key)), None)

    def architecture(self, prediction_type: str) -> str:
        """Return the modelspec name of the architecture, or the family's name if modelspec has none."""
        return self.architectures.get(prediction_type, self.name)

    def allows(self, encoders: Collection[str]) -> bool:
        """Return whether a word of the family can have vectors for exactly these encoders."""
        known = {encoder.name for encoder in self.encoders}
        needed = set() if self.partial_words else {encoder.name for encoder in self.encoders if not encoder.optional}
        return bool(encoders) and needed <= set(encoders) <= known

    def fits(self, widths: Mapping[str, int]) -> bool:
        """Return whether rows of these widths (encoder to W) fit the published models of the family."""
        usual = {encoder.name: encoder.width for encoder in self.encoders}
        return self.allows(widths) and all(usual[name] == width for name, width in widths.items())


def chosen(configs: Configs) -> str | None:
    """Return which of several models of the same shapes this one is taken for; None if nothing says that but its name."""
    return configs.get("origin", {}).get("choice")


def called(configs: Configs, name: str) -> str:
    """Return what a model is called, in lower case: what it is taken for, or else its name."""
    return (chosen(configs) or name).lower()
