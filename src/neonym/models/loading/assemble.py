"""The parts of a model: made without weights from their configs, then given weights by name, each put in its place by itself.

Names are diffusers' and transformers' own, or those of a checkpoint of one file, which diffusers' converters rename.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neonym.errors import ModelError
from neonym.models.loading.folder import Weights
from neonym.models.loading.single_file import OPEN_CLIP, VAE, XL_OPEN_CLIP
from neonym.models.loading.unsupported import UNET_KIND, VAE_KIND
from neonym.models.loading.weight_files import read_tensors

BODY = "text_model."  # transformers 5 has it before the names of some text encoders' layers, files before those of most
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
SHOWN = 3


def empty(kind: str, config: dict[str, Any]) -> nn.Module:
    """A part without weights: `kind` is its class in diffusers or transformers. Raises whatever odd configs make of it."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    libraries: tuple[Any, Any] = (diffusers, transformers)
    with init_empty_weights():
        if kind in (UNET_KIND, VAE_KIND):
            return getattr(libraries[0], kind).from_config(config)
        return getattr(libraries[1], kind)(libraries[1].CLIPTextConfig.from_dict(config))


def load_part(kind: str, config: dict[str, Any], weights: Weights, dtype: torch.dtype, device: torch.device) -> Any:
    """A part with its weights. Nothing is copied but what has another precision or another place. Raises ModelError."""
    module = empty(kind, config)
    tensors = {n: t for file in weights.files for n, t in read_tensors(file, (weights.start,)).items()}
    named = fitting(kind, config, module, tensors, weights)
    for name in list(named):  # one after the other: the mapped file is all that is there twice
        placed = named[name].to(device, dtype)
        if not is_finite(placed):
            raise not_finite(kind, weights, dtype)
        named[name] = placed
    module.load_state_dict(named, assign=True)
    return module


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers are finite. Their sum says so in one pass over them, unless it overflows itself."""
    if tensor.is_meta:  # there are no numbers in it
        return True
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def not_finite(kind: str, weights: Weights, dtype: torch.dtype) -> ModelError:
    """Return the error about a part that would make everything NaN: damaged weights, or too large ones for `dtype`."""
    found = {
        file: [n for n, t in read_tensors(file, (weights.start,)).items() if not is_finite(t.float())]
        for file in weights.files
    }
    for file, names in found.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            what = f"weights of its {kind} are infinite or not numbers: {', '.join(names[:SHOWN])}{more}"
            return ModelError(what, str(file), "The file is damaged or badly merged: fetch or make it again")
    what = f"weights of its {kind} are too large for {str(dtype).removeprefix('torch.')}"
    return ModelError(what, str(weights.files[0]), "Use --mixed_precision bf16 or no")


def token_table(weights: Weights) -> Tensor:
    """The vocabulary of a text encoder, without the rest of it. -> float32 [V,W]. Raises ModelError."""
    for file in weights.files:
        for name, tensor in read_tensors(file, (weights.start,)).items():
            if name.endswith("token_embedding.weight"):
                return tensor.float()
    raise ModelError("has no token table", str(weights.files[0]), "Is the file complete?")


def check_part(kind: str, config: dict[str, Any], weights: Weights, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Whether all weights are there in the right shapes, by the headers of the files alone. Raises ModelError."""
    own = {name: shape for name, shape in shapes.items() if name.startswith(weights.start)}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in own.items()}
    fitting(kind, config, empty(kind, config), tensors, weights)


def fitting(
    kind: str, config: dict[str, Any], module: nn.Module, tensors: dict[str, Tensor], weights: Weights
) -> dict[str, Tensor]:
    """The tensors under the module's names. What nothing uses is left out, but a U-Net with more weights is another one.

    Raises ModelError with the weights that are missing, unknown, or of other shapes.
    """
    where, wanted = str(weights.files[0]), module.state_dict()
    try:
        named = {as_wanted(n, wanted): t for n, t in renamed(kind, config, module, tensors, weights.start).items()}
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        what = f"weights of its {kind} are missing or have other shapes ({str(error).strip(chr(39))[:120]})"
        raise ModelError(what, where, "Is the file complete?") from error
    extra = sorted(set(named) - set(wanted)) if kind == UNET_KIND else ()
    odd = [
        f"{n} {[*named[n].shape]} instead of {[*t.shape]}"
        for n, t in wanted.items()
        if n in named and named[n].shape != t.shape
    ]
    for names, said in ((sorted(set(wanted) - set(named)), "missing"), (odd, "of other shapes"), (extra, "unknown")):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            what = f"{len(names)} weights of its {kind} are {said}: {', '.join(names[:SHOWN])}{more}"
            raise ModelError(what, where, "Is the file complete?")
    return {name: tensor for name, tensor in named.items() if name in wanted}


def renamed(
    kind: str, config: dict[str, Any], module: nn.Module, tensors: dict[str, Tensor], start: str
) -> dict[str, Tensor]:
    """Original names -> the libraries' own, or names that are older than these."""
    from diffusers.loaders import single_file_utils as converters

    if kind == UNET_KIND and start:
        return converters.convert_ldm_unet_checkpoint(dict(tensors), dict(config))
    if kind == VAE_KIND and any(".down." in name for name in tensors):
        return converters.convert_ldm_vae_checkpoint(
            {f"{VAE}{n.removeprefix(start)}": t for n, t in tensors.items()}, config
        )
    if start in (OPEN_CLIP, XL_OPEN_CLIP):
        return converters.convert_open_clip_checkpoint(module, dict(tensors), prefix=start)
    own = {name.removeprefix(start): tensor for name, tensor in tensors.items()}
    return {newer(name): tensor for name, tensor in own.items()} if kind == VAE_KIND else own


def newer(name: str) -> str:
    """Older Diffusers folders have other names for a VAE's attention."""
    for old, new in OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def as_wanted(name: str, wanted: Mapping[str, Any]) -> str:
    """With or without the body's name, as the module has it."""
    return next((n for n in (name, name.removeprefix(BODY), f"{BODY}{name}") if n in wanted), name)
