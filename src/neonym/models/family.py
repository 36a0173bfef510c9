"""What a model is to the rest of the program, and how one is found and loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from neonym.errors import ModelError
from neonym.models import single_file
from neonym.models.process import Diffusion, Key
from neonym.models.text import WordTokenizer
from neonym.models.weights import ENDINGS, hash_of_files, hash_of_tensors, read_header
from neonym.types import TextCond

BUILTIN = "builtin:emoji"
BUILTIN_MODELS = Path(__file__).parent / "builtin"
PART = re.compile(  # a file of weights: its variant, and which of several it is
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d+-of-\d+)?(?:\.([\w-]+?))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
)
PREFERRED = ("fp32", "ema", "bf16", "fp16")  # of the variants, if there are no plain weights
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CONFIGS = ("*.json", "*/*.json", "tokenizer*/*")
FILES = (*CONFIGS, "unet/*.safetensors", "vae/*.safetensors", "text_encoder*/*.safetensors")
VAE_FILES = ("config.json", "*.safetensors", "vae/config.json", "vae/*.safetensors")
FAMILIES = ("neonym.models.sd", "neonym.models.sdxl")  # modules with `recognises(configs)` and `load(source, ...)`

Keep = Literal["none", "original", "abs"]  # what weights in a text leave as it was: nothing, the mean, the mean size


class Model(Protocol):
    """A frozen model. The only tensors with gradients are rows added by `add_word`."""

    source: ModelSource
    process: Diffusion
    tokenizers: dict[str, WordTokenizer]  # per encoder
    pipeline_class: str  # diffusers' pipeline that draws with it
    device: torch.device
    dtype: torch.dtype  # of the U-Net

    def add_word(self, token: str, rows: dict[str, Tensor]) -> None: ...
    def vocabulary(self, encoder: str) -> Tensor: ...  # [V,W]
    def encode_images(self, pixels: Tensor) -> Tensor: ...  # [B,3,H,W] -> [B,2C,h,w]
    def draw_latents(self, moments: Tensor, keys: Sequence[Key]) -> Tensor: ...  # -> [B,C,h,w]
    def tokenize(self, caption: str) -> dict[str, Tensor]: ...  # {e: [K,L]}
    def emphasis(self, caption: str) -> dict[str, Tensor] | None: ...  # {e: [K,L]}, None if captions have no weights
    def encode_text(
        self, tokens: dict[str, Tensor], emphasis: dict[str, Tensor] | None = None, keep: Keep = "none"
    ) -> TextCond: ...
    def denoise(
        self, x_t: Tensor, t: Tensor, text: TextCond, sizes: Tensor | None = None
    ) -> Tensor: ...  # sizes [B,6] -> [B,C,h,w]
    def modules(self) -> dict[str, nn.Module]: ...
    def enable_gradient_checkpointing(self) -> None: ...
    def compile(self, backend: str) -> None: ...  # torch.compile of what is the most work


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
    learning_rate: float | None = None  # that suits its words, if its folder says one
    prediction_from: str = "its scheduler's config"  # what says the prediction type; empty for a guess
    vae_factor: int = 8
    encoders: tuple[str, ...] = ("text_encoder",)
    file: Path | None = None  # the checkpoint, if the model is one file
    vae: Path | None = None  # a VAE of its own: file or folder
    variants: dict[str, str | None] = field(default_factory=dict)  # part -> "fp16": its files carry that in their names
    offline: bool = False

    @property
    def on_hub(self) -> bool:
        """Whether it was named by a hub ID: its weights may still have to be fetched."""
        return self.file is None and not self.name.startswith("builtin:") and not Path(self.name).exists()

    def vae_hash(self) -> str:
        """SHA-256 of the VAE's weights: what cached moments depend on."""
        if self.vae is not None:
            return hash_of_files(self.vae) if self.vae.is_dir() else hash_of_tensors(self.vae, ("",))
        if self.file is not None:
            return hash_of_tensors(self.file, (single_file.VAE,))
        return hash_of_files(self.folder / "vae")

    def text_hash(self) -> str:
        """SHA-256 of the text encoder's weights: what a learned word depends on most."""
        if self.file is not None:
            return hash_of_tensors(self.file, single_file.TEXT)
        hashes = [hash_of_files(self.folder / encoder) for encoder in self.encoders]
        return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()


def identify(
    name: str, vae: str | None = None, v_parameterization: bool | None = None, offline: bool = False
) -> ModelSource:
    """Recognise a model by its configs, or by the names and shapes in its file; no weight is read. Raises ModelError.

    The network is used for a hub ID (owner/name) alone, and for what of it is not in the user's cache.
    """
    path, file = Path(name), None
    if name.startswith("builtin:"):
        path = BUILTIN_MODELS / name.removeprefix("builtin:")
        if not path.is_dir():
            raise ModelError("there is no such built-in model", name, f"Use {BUILTIN}")
    elif path.is_file():
        file = checkpoint_file(path)
    elif not path.exists() and HUB_ID.fullmatch(name) and path.suffix.lower() not in ENDINGS:
        path = hub_folder(name, CONFIGS, offline)
    if file is not None:
        header, beside = read_header(file), text_beside(file)
        configs = single_file.configs_of(header, name, v_parameterization, vae is not None, beside)
        folder = path.parent
    else:
        folder, configs = path, diffusers_configs(path, name)
    for module in map(import_module, FAMILIES):
        try:
            source = module.recognise(name, folder, configs)
        except (TypeError, ValueError) as error:
            raise ModelError(f"its configs are odd ({error})", name, "Fetch them again") from error
        if source is not None:
            if "scheduler" not in configs:
                raise ModelError("scheduler/scheduler_config.json is missing", name, "Is the folder complete?")
            source = replace(source, file=file, vae=vae_path(vae, offline), offline=offline)
            if file is None and (offline or not source.on_hub):
                source = replace(source, variants=check_weights(source))
            return source
    kind = str(configs.get("model_index", {}).get("_class_name") or "a model without a name")
    what = f"is a {kind}, of no family that is supported yet (text-to-image Stable Diffusion 1.x, 2.x and XL are)"
    raise ModelError(what, name)


def prediction_from(configs: dict[str, dict[str, Any]]) -> str:
    """What says the prediction type, empty if nothing does."""
    return str(configs["said"]["prediction"]) if "said" in configs else "its scheduler's config"


def text_beside(file: Path) -> str:
    """The .yaml that some checkpoints come with, nothing if there is none."""
    try:
        return file.with_suffix(".yaml").read_text("utf-8", errors="replace")[:100_000]
    except OSError:
        return ""


def checkpoint_file(path: Path) -> Path:
    """Raises ModelError for a file of another kind."""
    if path.suffix.lower() not in ENDINGS:
        raise ModelError(f"is no checkpoint ({', '.join(ENDINGS)})", str(path))
    return path


def diffusers_configs(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Raises ModelError."""
    if not (folder / "model_index.json").is_file():
        if folder.exists() and not Path(name).exists():
            raise ModelError(f"model_index.json is not in the cache ({folder})", name, "Fetch it without --offline")
        if (folder.parent / "model_index.json").is_file():
            raise ModelError("is a part of a Diffusers folder", name, f"Name the whole: {folder.parent}")
        known = (
            "a checkpoint file, a Diffusers folder (with model_index.json), a hub ID (owner/name) or the built-in model"
        )
        what = f"is not {known}" if folder.exists() else f"there is no such file or folder, nor is it {known}"
        raise ModelError(what, name, "Check how its name is written")
    return read_configs(folder)


def vae_path(name: str | None, offline: bool = False) -> Path | None:
    """A separate VAE: a file, a Diffusers folder of it or with it, or a hub ID of one. Raises ModelError."""
    if name is None:
        return None
    path = Path(name)
    if path.is_file():
        return checkpoint_file(path)
    if not path.exists() and HUB_ID.fullmatch(name) and path.suffix.lower() not in ENDINGS:
        path = hub_folder(name, VAE_FILES, offline)
    for folder in (path, path / "vae"):
        if (folder / "config.json").is_file() and "model_index.json" not in {p.name for p in folder.iterdir()}:
            variant_in(folder, name)
            return folder
    raise ModelError("is neither a VAE's file nor its Diffusers folder", name, "Check --vae")


def hub_folder(name: str, patterns: tuple[str, ...], offline: bool) -> Path:
    """Files of a model on the hub, from the user's cache where they are. Raises ModelError."""
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), local_files_only=offline))
    except Exception as error:  # no such repository, no network, no permission, not in the cache: many classes
        if offline:
            what = f"nothing of it is in the cache ({constants.HF_HUB_CACHE}), {patterns[0].replace('*', 'model_index')} to begin with"
            raise ModelError(what, name, "It must be in the cache for --offline: fetch it without") from error
        line = str(error).strip().split("\n", 1)[0][:200]
        fix = "Check the name, the network, and your login"
        raise ModelError(f"cannot be had from the hub ({line})", name, fix) from error


def check_weights(source: ModelSource) -> dict[str, str | None]:
    """Part -> the variant (such as "fp16") that its weights are, None for plain ones. Raises ModelError if a part has none."""
    found = {part: variant_in(source.folder / part, source.name) for part in ("unet", *source.encoders)}
    return found if source.vae is not None else {**found, "vae": variant_in(source.folder / "vae", source.name)}


def variant_in(folder: Path, name: str) -> str | None:
    """Of one part. Raises ModelError if it has no weights, or not all of them."""
    files = [match for p in folder.iterdir() if (match := PART.fullmatch(p.name))] if folder.is_dir() else []
    if not files:
        fix = f"Its place is {folder}: fetch it without --offline, or is the folder incomplete?"
        raise ModelError(
            f"has no weights in `{folder.name}` (such as diffusion_pytorch_model.safetensors or model.safetensors)",
            name,
            fix,
        )
    missing = missing_shards(folder)
    if missing:
        what = f"{len(missing)} of the files of its `{folder.name}` are not there ({', '.join(missing[:3])})"
        raise ModelError(what, name, "Fetch them again: is the folder complete?")
    variants = {match[1] for match in files}
    if None in variants:
        return None
    return next((v for v in PREFERRED if v in variants), sorted(variants)[0])


def missing_shards(folder: Path) -> list[str]:
    """Files that an index of sharded weights names beside others that are there. Raises ModelError."""
    missing: list[str] = []
    for index in sorted(folder.glob("*.index*.json")):
        try:
            named = {str(file) for file in json.loads(index.read_text("utf-8"))["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"is no index of weights ({error})", str(index), "Fetch it again") from error
        absent = sorted(file for file in named if not (folder / file).is_file())
        missing += absent if len(absent) < len(named) else []  # none is there: other weights are used
    return missing


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Every component's config of a Diffusers folder. Raises ModelError."""
    configs = {}
    for file in sorted(
        [*folder.glob("*/config.json"), *folder.glob("*/scheduler_config.json"), *folder.glob("*.json")]
    ):
        try:
            content = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"cannot be read ({error})", str(file)) from error
        if not isinstance(content, dict):
            raise ModelError("is no config: a table is needed", str(file), "Fetch it again")
        configs[file.parent.name if file.parent != folder else file.stem] = content
    return configs


def load_tokenizers(source: ModelSource, max_token_length: int) -> dict[str, WordTokenizer]:
    """The tokenizers alone: what a check needs. Raises ModelError."""
    return import_module(source.module).load_tokenizers(source, max_token_length)


def fetched(source: ModelSource) -> ModelSource:
    """A model of the hub with its weights at hand; any other as it is. Raises ModelError."""
    if not source.on_hub:
        return source
    source = replace(source, folder=hub_folder(source.name, FILES, source.offline))
    return replace(source, variants=check_weights(source))


def load_model(
    name: str | ModelSource = BUILTIN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_token_length: int = 75,
    clip_skip: int = 1,
) -> Model:
    """Load a frozen model onto `device`, its U-Net and text encoder in `dtype`. Raises ModelError."""
    source = fetched(identify(name) if isinstance(name, str) else name)
    return import_module(source.module).load(source, torch.device(device), dtype, max_token_length, clip_skip)
