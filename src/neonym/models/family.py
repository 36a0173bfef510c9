"""What a model is to the rest of the program, and how one is found and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neonym.errors import ModelError
from neonym.models.process import Diffusion, Key
from neonym.models.text import WordTokenizer

BUILTIN = "builtin:emoji"
WEIGHTS = (".safetensors", ".bin")
FAMILIES = ("neonym.models.sd",)  # modules with `recognises(configs)` and `load(source, ...)`


class Model(Protocol):
    """A frozen model. The only tensors with gradients are rows added by `add_word`."""

    source: ModelSource
    process: Diffusion
    tokenizers: dict[str, WordTokenizer]  # per encoder
    device: torch.device

    def add_word(self, token: str, rows: dict[str, Tensor]) -> None: ...
    def vocabulary(self, encoder: str) -> Tensor: ...  # [V,W]
    def encode_images(self, pixels: Tensor) -> Tensor: ...  # [B,3,H,W] -> [B,2C,h,w]
    def draw_latents(self, moments: Tensor, keys: Sequence[Key]) -> Tensor: ...  # -> [B,C,h,w]
    def tokenize(self, caption: str) -> dict[str, Tensor]: ...  # {e: [K,L]}
    def emphasis(self, caption: str) -> dict[str, Tensor] | None: ...  # {e: [K,L]}, None if captions have no weights
    def encode_text(
        self, tokens: dict[str, Tensor], emphasis: dict[str, Tensor] | None = None
    ) -> Tensor: ...  # -> [B,S,D]
    def denoise(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor: ...  # -> [B,C,h,w]
    def modules(self) -> dict[str, nn.Module]: ...
    def enable_gradient_checkpointing(self) -> None: ...


@dataclass(frozen=True)
class ModelSource:
    """A model that was recognised, before any weight of it is read."""

    name: str  # as the user wrote it
    folder: Path  # in Diffusers' layout
    family: str  # "sd1" | "sd2"
    module: str  # the family's file, as a module name
    configs: dict[str, dict[str, Any]]  # per component
    native_size: int  # pixels of a side that the model was made for
    prediction_type: str
    word_spread: float  # standard deviation of a coordinate of the vocabulary
    text_layers: int
    guidance: float  # guidance scale that suits it
    vae_factor: int = 8

    def vae_hash(self) -> str:
        """SHA-256 of the VAE's weights: what cached moments depend on."""
        return files_hash(self.folder / "vae")

    def text_hash(self) -> str:
        """SHA-256 of the text encoder's weights: what a learned word depends on most."""
        return files_hash(self.folder / "text_encoder")


def files_hash(folder: Path) -> str:
    """SHA-256 of every weight file in `folder`, in name order."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS):
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def identify(name: str) -> ModelSource:
    """Recognise a model by its configs alone. Raises ModelError."""
    if name.startswith("builtin:"):
        folder = Path(__file__).parent / "builtin" / name.removeprefix("builtin:")
        if not folder.is_dir():
            raise ModelError("there is no such built-in model", name, f"Use {BUILTIN}")
    else:
        folder = Path(name)
    if not (folder / "model_index.json").is_file():
        known = "a Diffusers folder (with model_index.json) or the built-in model"
        raise ModelError(f"is not {known}", name, "Check --pretrained_model_name_or_path")
    configs = read_configs(folder)
    for module in map(import_module, FAMILIES):
        source = module.recognise(name, folder, configs)
        if source is not None:
            check_weights(source)
            return source
    raise ModelError("is of no family that is supported yet (text-to-image Stable Diffusion 1.x and 2.x are)", name)


def check_weights(source: ModelSource) -> None:
    """Raises ModelError if a part has no file of weights."""
    for part in ("unet", "vae", "text_encoder"):
        folder = source.folder / part
        if not folder.is_dir() or not any(p.suffix in WEIGHTS for p in folder.iterdir()):
            raise ModelError(f"has no weights in `{part}`", source.name, "Is the folder complete?")


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Every component's config of a Diffusers folder. Raises ModelError."""
    configs = {}
    for file in sorted(
        [*folder.glob("*/config.json"), *folder.glob("*/scheduler_config.json"), *folder.glob("*.json")]
    ):
        try:
            configs[file.parent.name if file.parent != folder else file.stem] = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot be read ({error})", str(file)) from error
    return configs


def load_tokenizers(source: ModelSource, max_token_length: int) -> dict[str, WordTokenizer]:
    """The tokenizers alone: what a check needs. Raises ModelError."""
    return import_module(source.module).load_tokenizers(source, max_token_length)


def load_model(
    name: str | ModelSource = BUILTIN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_token_length: int = 75,
    clip_skip: int = 1,
) -> Model:
    """Load a frozen model onto `device`, its U-Net and text encoder in `dtype`. Raises ModelError."""
    source = identify(name) if isinstance(name, str) else name
    return import_module(source.module).load(source, torch.device(device), dtype, max_token_length, clip_skip)
