"""What is known of a model before a weight of it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from neonym.models.defaults import Defaults, defaults_of
from neonym.models.loading import single_file
from neonym.models.loading.folder import Weights
from neonym.models.loading.unsupported import UNET_KIND, VAE_KIND
from neonym.models.loading.weight_files import hash_of_files, hash_of_tensors

BUILTIN = "builtin:emoji"
BUILTIN_MODELS = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class ModelSource:
    """A model that was recognised, before any weight of it is read."""

    name: str  # as the user wrote it
    folder: Path  # in Diffusers' layout
    family: str  # "sd1" | "sd2" | "sdxl"
    module: str  # the file that computes with it, as a module name
    configs: dict[str, dict[str, Any]]  # per component
    native_size: int  # pixels of a side that the model was made for
    prediction_type: str
    word_spread: float  # standard deviation of a coordinate of the vocabulary
    text_kinds: dict[str, str]  # text encoder -> its class in transformers
    text_layers: int
    guidance: float  # guidance scale that suits it
    unread_padding: tuple[str, ...] = ()  # encoders whose padding, id 0, is no token that a text can have
    prediction_from: str = "its scheduler's config"  # what says the prediction type; empty for a guess
    vae_factor: int = 8
    file: Path | None = None  # the checkpoint, if the model is one file
    vae: Path | None = None  # a VAE of its own: file or folder
    weights: dict[str, Weights] = field(
        default_factory=dict
    )  # per part; of a hub ID's own parts, none before they are fetched
    variant: str | None = None  # of a Diffusers folder's weights, if one was asked for
    offline: bool = False

    @property
    def defaults(self) -> Defaults:
        """The settings that suit it where the user gives none."""
        return defaults_of(self.family, self.word_spread, self.configs.get("neonym", {}))

    @property
    def encoders(self) -> tuple[str, ...]:
        return tuple(self.text_kinds)

    @property
    def widths(self) -> dict[str, int]:
        """W of each text encoder: numbers of a vector."""
        return {encoder: int(self.configs[encoder].get("hidden_size", 0)) for encoder in self.encoders}

    @property
    def kinds(self) -> dict[str, str]:
        """Part -> its class in diffusers or transformers."""
        return {"unet": UNET_KIND, **self.text_kinds, "vae": VAE_KIND}

    @property
    def own_parts(self) -> tuple[str, ...]:
        """All but a VAE that the user put in the place of its own."""
        return tuple(part for part in self.kinds if part != "vae" or self.vae is None)

    @property
    def on_hub(self) -> bool:
        """Whether it was named by a hub ID: its weights may still have to be fetched."""
        return self.file is None and not self.name.startswith("builtin:") and not Path(self.name).exists()

    def vae_hash(self) -> str:
        """SHA-256 of the VAE's weights, which must be there: what cached moments depend on."""
        if self.vae is not None and self.vae.is_file():
            return hash_of_tensors(self.vae, ("",))
        if self.vae is None and self.file is not None:
            return hash_of_tensors(self.file, (single_file.VAE,))
        return hash_of_files(*self.weights["vae"].files)

    def text_hash(self) -> str:
        """SHA-256 of the text encoder's weights, likewise: what a learned word depends on most."""
        if self.file is not None:
            return hash_of_tensors(self.file, single_file.TEXT)
        hashes = [hash_of_files(*self.weights[encoder].files) for encoder in self.encoders]
        return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()
