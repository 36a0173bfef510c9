"""What a model is to the rest of the program, and how one is found and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from neonym.errors import ModelError, Problem
from neonym.models import single_file
from neonym.models.assemble import UNET_KIND, VAE_KIND, check_part
from neonym.models.folder import (
    HALVES,
    Weights,
    check_variant,
    diffusers_configs,
    folder_weights,
    lacking,
    order_of,
    read_config,
    weights_in,
)
from neonym.models.hub import config_folder, fetch_weights, is_hub_id, not_cached, vae_folder
from neonym.models.kinds import SUPPORTED
from neonym.models.process import Diffusion, Key
from neonym.models.text import WordTokenizer
from neonym.models.weights import ENDINGS, hash_of_files, hash_of_tensors, read_header
from neonym.types import TextCond

BUILTIN = "builtin:emoji"
BUILTIN_MODELS = Path(__file__).parent / "builtin"
OTHER_SCHEDULES = ("EDM", "FlowMatch")  # how their names in diffusers begin: Playground 2.5, CosXL, rectified flows
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
    text_kinds: dict[str, str]  # text encoder -> its class in transformers
    text_layers: int
    guidance: float  # guidance scale that suits it
    learning_rate: float | None = None  # that suits its words, if its folder says one
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
    def encoders(self) -> tuple[str, ...]:
        return tuple(self.text_kinds)

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


def identify(
    name: str,
    vae: str | None = None,
    v_parameterization: bool | None = None,
    offline: bool = False,
    variant: str | None = None,
) -> ModelSource:
    """Recognise a model by its configs, or by the names and shapes in its file; no weight is read. Raises ModelError.

    The network is used for a hub ID (owner/name) alone, and for what of it is not in the user's cache. `variant`: of a
    Diffusers folder's weights (such as "fp16"), where a part has it.
    """
    path, own_vae = Path(name), vae_path(vae, offline)
    if path.is_file():
        header, beside = read_header(checkpoint_file(path)), text_beside(path)
        configs = single_file.configs_of(header, name, v_parameterization, vae is not None, beside)
        source = replace(recognised(name, path.parent, configs), file=path, vae=own_vae, variant=variant)
        starts = single_file.starts(source.family)
        found = {part: Weights((path,), start=starts[part]) for part in source.own_parts}
        shapes = {path: header.shapes}
    else:
        folder = folder_of(name, offline)
        configs = as_told(diffusers_configs(folder, name), v_parameterization)
        source = replace(recognised(name, folder, configs), vae=own_vae, variant=variant, offline=offline)
        found, shapes = weights_there(source), {}
        if offline or not source.on_hub:
            check_variant(found, name, variant)
    if source.vae is not None:
        configs["vae"], found["vae"] = other_vae(source)
    source = replace(source, weights=found)
    if not name.startswith("builtin:"):
        check_weights(source, shapes)
    return source


def folder_of(name: str, offline: bool) -> Path:
    """Of a model that is no file. Raises ModelError."""
    if name.startswith("builtin:"):
        path = BUILTIN_MODELS / name.removeprefix("builtin:")
        if not path.is_dir():
            raise ModelError("there is no such built-in model", name, f"Use {BUILTIN}")
        return path
    return config_folder(name, offline) if is_hub_id(name) else Path(name)


def as_told(configs: dict[str, dict[str, Any]], v_parameterization: bool | None) -> dict[str, dict[str, Any]]:
    """A scheduler's config that does not say what is predicted says what the user says."""
    scheduler = configs.get("scheduler", {})
    if v_parameterization and "prediction_type" not in scheduler:
        return {
            **configs,
            "scheduler": {**scheduler, "prediction_type": "v_prediction"},
            "said": {"prediction": single_file.BY_USER},
        }
    return configs


def recognised(name: str, folder: Path, configs: dict[str, dict[str, Any]]) -> ModelSource:
    """By the first family that knows it. Raises ModelError."""
    for module in map(import_module, FAMILIES):
        try:
            source = module.recognise(name, folder, configs)
        except (TypeError, ValueError) as error:
            raise ModelError(f"its configs are odd ({error})", name, "Fetch them again") from error
        if source is not None:
            if "scheduler" not in configs:
                raise ModelError("scheduler/scheduler_config.json is missing", name, "Is the folder complete?")
            schedule = str(configs["scheduler"].get("_class_name", ""))
            if schedule.startswith(OTHER_SCHEDULES):
                raise ModelError(f"was made for another noise schedule ({schedule})", name, SUPPORTED)
            return source
    kind = str(configs.get("model_index", {}).get("_class_name") or "a model without a name")
    what = f"is a {kind}, of no family that is supported yet (text-to-image Stable Diffusion 1.x, 2.x and XL are)"
    raise ModelError(what, name)


def prediction_from(configs: dict[str, dict[str, Any]]) -> str:
    """What says the prediction type, empty if nothing does."""
    return str(configs["said"]["prediction"]) if "said" in configs else "its scheduler's config"


def source_notes(source: ModelSource) -> Iterator[Problem]:
    """What is said of a model that does not say itself whether it predicts noise or v, and of a variant of a file."""
    if source.variant is not None and source.file is not None:
        yield Problem("warning", "a checkpoint file has no variants: it has no effect", f"--variant {source.variant}")
    silent = "it does not say whether it predicts noise or v"
    if source.prediction_from == single_file.BY_USER:
        yield Problem("note", f"{silent}: v, as --v_parameterization says", source.name)
    if source.family == "sd2" and not source.prediction_from:
        fix = "If it is a 768-v model, give --v_parameterization"
        yield Problem("warning", f"{silent}; it is taken to predict noise", source.name, fix)


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


def vae_path(name: str | None, offline: bool = False) -> Path | None:
    """A separate VAE: a file, a Diffusers folder of it or with it, or a hub ID of one. Raises ModelError."""
    if name is None:
        return None
    path = Path(name)
    if path.is_file():
        return checkpoint_file(path)
    if is_hub_id(name):
        return vae_folder(name, offline)
    for folder in (path, path / "vae"):
        if (folder / "config.json").is_file() and "model_index.json" not in {p.name for p in folder.iterdir()}:
            return folder
    raise ModelError("is neither a VAE's file nor its Diffusers folder", name, "Check --vae")


def other_vae(source: ModelSource) -> tuple[dict[str, Any], Weights]:
    """Config and weights of a VAE in the place of the model's own. Raises ModelError."""
    place = source.vae
    assert place is not None
    if place.is_dir():
        return read_config(place / "config.json"), weights_in(place, str(place))
    header = read_header(place)
    start = single_file.VAE if header.has(single_file.VAE) else ""
    factor = float(source.configs.get("vae", {}).get("scaling_factor", 0.18215))
    try:
        return single_file.vae_config(header, start, factor), Weights((place,), start=start)
    except (KeyError, IndexError) as error:
        raise ModelError("holds no VAE", str(place), "Name a VAE with --vae, or leave it out") from error


def weights_there(source: ModelSource) -> dict[str, Weights]:
    """Of a Diffusers folder. A hub ID may have none as yet. Raises ModelError."""
    parts = source.own_parts
    missing = lacking(source.folder, parts) if source.on_hub else []
    if missing and source.offline:
        raise not_cached(source.name, missing)
    return {} if missing else folder_weights(source.folder, parts, source.name, source.variant)


def check_weights(source: ModelSource, shapes: dict[Path, Mapping[str, tuple[int, ...]]]) -> None:
    """Whether every weight is there in its shape, by headers alone: `shapes` are those that were read already. Raises ModelError."""
    for part, weights in source.weights.items():
        named = {n: s for file in weights.files for n, s in (shapes.get(file) or read_header(file).shapes).items()}
        try:
            check_part(source.kinds[part], source.configs[part], weights, named)
        except ModelError:
            raise
        except Exception as error:  # whatever a library makes of odd configs
            what = f"its configs are odd ({part}: {str(error).splitlines()[0][:120]})"
            raise ModelError(what, source.name, "Fetch them again") from error


def load_tokenizers(source: ModelSource, max_token_length: int) -> dict[str, WordTokenizer]:
    """The tokenizers alone: what a check needs. Raises ModelError."""
    return import_module(source.module).load_tokenizers(source, max_token_length)


def fetched(source: ModelSource, dtype: torch.dtype = torch.float32) -> ModelSource:
    """A model of the hub with its weights at hand, any other as it is: what is not in the cache, or only in a precision that
    is not enough, is fetched, in the smallest form that is enough for `dtype` (the VAE's is always float32). Raises ModelError."""
    if not source.on_hub or source.offline:
        return source
    half = dtype != torch.float32
    halved = {part: half and part != "vae" for part in source.own_parts}
    if not all(enough(source.weights.get(part), source.variant, halved[part]) for part in halved):
        orders = {part: order_of(source.variant, halved[part]) for part in halved}
        try:
            fetch_weights(source.name, source.folder, orders, source.variant)
        except ModelError:
            if lacking(source.folder, source.own_parts):
                raise
    others = {part: weights for part, weights in source.weights.items() if part not in halved}
    there = weights_there(source)
    check_variant(there, source.name, source.variant)
    source = replace(source, weights={**there, **others})
    check_weights(source, {})
    return source


def enough(weights: Weights | None, variant: str | None, half: bool) -> bool:
    """Whether no better form has to be looked for on the network."""
    if weights is None or variant is not None:
        return weights is not None and weights.variant == variant
    return half or weights.variant not in HALVES


def load_model(
    name: str | ModelSource = BUILTIN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_token_length: int = 75,
    clip_skip: int = 1,
) -> Model:
    """Load a frozen model onto `device`, its U-Net and text encoder in `dtype`. Raises ModelError."""
    source = fetched(identify(name) if isinstance(name, str) else name, dtype)
    return import_module(source.module).load(source, torch.device(device), dtype, max_token_length, clip_skip)
