"""Describe a recognised model before its weights are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from neonym.models.defaults import Defaults, defaults_of
from neonym.models.family import Configs, EncoderSpec, Family, LatentSpec, PerChannel, Recognised
from neonym.models.loading.folder import Weights
from neonym.models.loading.weight_files import hash_of_files, hash_of_tensors
from neonym.models.process.sigmas import FlowSpec
from neonym.models.storage import Storage

BUILTIN = "builtin:emoji"
LATER = "scaled to the spread of its words when the weights are read"  # a rate for a vocabulary that is unknown yet
BUILTIN_MODELS = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class ModelSource:
    """A recognised model, before its weights are read."""

    name: str  # as the user wrote it
    folder: Path  # its Diffusers folder, or the folder of the file
    family: Family
    configs: Configs
    facts: Recognised
    word_spread: float  # standard deviation of a coordinate in its token table
    guidance: float  # default guidance scale
    file: Path | None = None  # the checkpoint, if the model is one file
    vae: Path | None = None  # a separate VAE: file or folder
    spreads: Mapping[str, float] = field(default_factory=dict)  # encoder -> spread of its vocabulary, if measured
    # Part -> its weights; empty until those of a hub ID are downloaded
    weights: dict[str, Weights] = field(default_factory=dict)
    variant: str | None = None  # the requested variant of weights in a Diffusers folder
    version: str | None = None  # which of several models of the same shapes it is, as the user says
    offline: bool = False
    tokenizers: Path | None = None  # a folder with tokenizers to use instead of the model's
    storage: Storage = field(default_factory=Storage)  # how its weights are kept in memory

    @property
    def native_size(self) -> int:
        """The number of pixels per side that the model was trained for."""
        return self.facts.native_size

    @property
    def text_layers(self) -> int:
        """The number of layers of its first text encoder."""
        return self.facts.text_layers

    @property
    def prediction_type(self) -> str:
        """The target of the denoiser: "epsilon", "v_prediction" or "velocity"."""
        return self.facts.prediction_type

    @property
    def prediction_from(self) -> str:
        """The place where the prediction type was read; empty for a guess."""
        return self.facts.prediction_from

    @property
    def defaults(self) -> Defaults:
        """The default settings for this model."""
        return self.defaults_for(self.encoders[0])

    def defaults_for(self, encoder: str) -> Defaults:
        """Return the default settings for words that are trained in `encoder` first."""
        is_clip = any(spec.kind == "clip" for spec in self.family.encoders if spec.name == encoder)
        family, own = self.family.defaults, self.configs.get("neonym", {})
        if not self.knows_spread(encoder):
            later = f"{family.learning_rate.source}; {LATER}"
            family = replace(family, learning_rate=replace(family.learning_rate, source=later))
        return defaults_of(family, self.spread_of(encoder), own, is_clip)

    def knows_spread(self, encoder: str) -> bool:
        """Return whether the spread of an encoder's vocabulary is known before its weights are read."""
        published = (spec.published_spread for spec in self.family.encoders if spec.name == encoder)
        return encoder in self.spreads or self.defines_spread or any(published)

    @property
    def defines_spread(self) -> bool:
        """Whether its neonym.json defines the spread of its vocabulary."""
        return "word_spread" in self.configs.get("neonym", {})

    def spread_of(self, encoder: str) -> float:
        """Return the spread of an encoder's vocabulary, or the first encoder's if it is unknown or has the same rate."""
        return self.word_spread if self.family.one_rate else self.spreads.get(encoder, self.word_spread)

    @property
    def flow(self) -> FlowSpec:
        """The record of how a flow is trained, which follows from its configs or else from its family."""
        return self.facts.flow or self.family.flow

    @property
    def encoder_specs(self) -> tuple[EncoderSpec, ...]:
        """The records of its text encoders: those of its family, without optional ones that it lacks."""
        return tuple(spec for spec in self.family.encoders if not spec.optional or spec.name in self.configs)

    @property
    def differs_in_comfyui(self) -> bool:
        """Whether ComfyUI makes other ids of a caption with a new word than diffusers, padding that is read included."""

        def differs(spec: EncoderSpec) -> bool:
            length = self.facts.text_lengths.get(spec.name, spec.max_length)
            return spec.kind == "causal_lm" or (spec.kind == "t5" and spec.layout.pads_otherwise_in_comfyui(length))

        return any(map(differs, self.encoder_specs))

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names of its text encoders."""
        return tuple(encoder.name for encoder in self.encoder_specs)

    def encoders_named(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the encoders with these names or keys in files, in the order of the family; all of them without any."""
        found = {self.family.encoder_named(name) for name in names}
        return tuple(encoder for encoder in self.encoders if encoder in found or not found)

    @property
    def widths(self) -> dict[str, int]:
        """The width W of each text encoder's token table."""
        return {encoder: width_in(self.configs[encoder]) for encoder in self.encoders}

    @cached_property
    def latents(self) -> LatentSpec:
        """The latents of the family, with the values in the config of the VAE.

        Raises ValueError or TypeError if they are invalid.
        """
        return latents_in(self.configs.get("vae", {}), self.family.latents)

    @property
    def kinds(self) -> dict[str, str]:
        """The class of each part in diffusers or transformers, with the largest part first."""
        texts = {encoder.name: encoder.module for encoder in self.encoder_specs}
        denoiser, adapters = self.family.denoiser, self.family.adapters
        return {denoiser.part: denoiser.module, **texts, **adapters, "vae": self.family.latents.module}

    @property
    def own_parts(self) -> tuple[str, ...]:
        """All parts of the model itself, without a separate VAE."""
        return tuple(part for part in self.kinds if part != "vae" or self.vae is None)

    @property
    def on_hub(self) -> bool:
        """Whether the model was named by a hub ID, so that its weights may still have to be downloaded."""
        return self.file is None and not self.name.startswith("builtin:") and not Path(self.name).exists()

    def vae_hash(self) -> str:
        """Return the SHA-256 of the VAE's weights, which must be available. Cached latents depend on it."""
        if self.vae is not None and self.vae.is_file():
            return hash_of_tensors(self.vae, ("",))
        if self.vae is None and self.file is not None:
            return hash_of_tensors(self.file, (self.weights["vae"].start,))
        return hash_of_files(*self.weights["vae"].files)

    def text_hash(self) -> str:
        """Return the SHA-256 of the weights of text encoders and adapters, which must be available.

        A learned word fits only them.
        """
        texts = [self.weights[encoder] for encoder in self.encoders]
        between = [self.weights[adapter] for adapter in self.family.adapters]
        if self.file is not None and all(own.files == (self.file,) for own in texts):
            roots = {own.start.partition(".")[0] + "." for own in texts}
            return hash_of_tensors(self.file, tuple(sorted({*roots, *(own.start for own in between)})))
        hashes = [
            hash_of_tensors(own.files[0], (own.start,)) if own.start else hash_of_files(*own.files)
            for own in (*texts, *between)
        ]
        return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()


def latents_in(config: dict[str, Any], usual: LatentSpec) -> LatentSpec:
    """Return the latents in the config of a VAE; what it leaves out is `usual`.

    Per channel, diffusers calls the shift `latents_mean`, and divides the scale by `latents_std`. Raises ValueError or
    TypeError if a number is missing, 0 where it divides, or not a number.
    """
    found = {key: value for key, value in config.items() if value is not None}
    channels = int(found.get("latent_channels", usual.channels / usual.folded**2)) * usual.folded**2
    scale = per_channel("scaling_factor", found.get("scaling_factor", usual.scaling_factor), channels)
    shift = per_channel("shift_factor", found.get("shift_factor", usual.shift_factor), channels)
    if "latents_mean" in found:
        shift = per_channel("latents_mean", found["latents_mean"], channels)
    if "latents_std" in found:
        spread = each_channel(per_channel("latents_std", found["latents_std"], channels), channels)
        if 0 in spread:
            raise ValueError("the VAE's `latents_std` cannot be 0")
        scale = tuple(one / own for one, own in zip(each_channel(scale, channels), spread, strict=True))
    if 0 in each_channel(scale, channels):
        raise ValueError("the VAE's `scaling_factor` cannot be 0")
    return replace(usual, channels=channels, scaling_factor=scale, shift_factor=shift)


def per_channel(name: str, value: Any, channels: int) -> PerChannel:
    """Return a number, or the numbers of all channels. Raises ValueError or TypeError if `value` is neither."""
    if not isinstance(value, (list, tuple)):
        return float(value)
    if len(value) != channels:
        raise ValueError(f"the VAE's `{name}` has {len(value)} numbers for {channels} channels")
    return tuple(map(float, value))


def each_channel(value: PerChannel, channels: int) -> tuple[float, ...]:
    """Return a number for each channel."""
    return value if isinstance(value, tuple) else (value,) * channels


def width_in(config: dict[str, object]) -> int:
    """Return the width of a token table from the config of its encoder (`d_model` in T5's)."""
    width = config.get("hidden_size") or config.get("d_model") or 0
    return int(width) if isinstance(width, (int, float, str)) else 0
