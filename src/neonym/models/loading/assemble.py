"""Assemble the parts of a model: each is created empty from its config, then given its weights by name.

The names are those of diffusers and transformers, or those of a single-file checkpoint, which diffusers' converters
translate.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from neonym.errors import ModelError
from neonym.models.encoders.blocks import blocks_of, keep_blocks
from neonym.models.family import Family
from neonym.models.loading.deferred import ready, stored_fp8
from neonym.models.loading.folder import Weights
from neonym.models.loading.quantized_files import plan_of
from neonym.models.loading.reading import read_weights, weights_in_file
from neonym.models.loading.vae_config import PREFIX as VAE_PREFIX
from neonym.models.loading.vocabulary_spread import TOKEN_TABLES
from neonym.models.loading.weight_files import read_header
from neonym.models.offload import swapped_blocks
from neonym.models.quantization import Packed, layers_to_quantize, pack, set_quantized, unpack
from neonym.models.source import ModelSource
from neonym.models.storage import Scheme, SchemeRules

# Prefixes of text encoder weights: in transformers 5 of some encoders, in files of most
BODIES = ("text_model.", "model.language_model.", "language_model.model.", "language_model.", "model.")
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
OPEN_CLIP_BLOCKS = "transformer.resblocks."
ALL = 10_000  # more blocks than any network has
SHOWN = 3  # weights named in a message


def class_named(name: str) -> Any:
    """Return a class of diffusers or transformers, or that at a dotted path. Raises AttributeError or ImportError."""
    module, _, name = name.rpartition(".")
    if module:
        return getattr(import_module(module), name)
    import diffusers
    import transformers

    return getattr(diffusers, name, None) or getattr(transformers, name)


def empty(kind: str, config: dict[str, Any]) -> nn.Module:
    """Return a part without weights; `kind` names its class. An invalid config raises any exception."""
    from accelerate import init_empty_weights
    from transformers import PreTrainedModel

    found = class_named(kind)
    with init_empty_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what the libraries themselves use
        if issubclass(found, PreTrainedModel):
            return found(found.config_class.from_dict(config))  # pyright: ignore[reportOptionalMemberAccess]
        return found.from_config(config)


def load_part(source: ModelSource, part: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return a part with its weights, copied only if they change precision or device. Raises ModelError.

    A source without weights gives a part without them, on the device `meta`.
    """
    module = empty_part(source, part)
    if not source.weights:
        return module.to(dtype)
    kind, weights = source.kinds[part], source.weights[part]
    tensors = (weights_in_file(file, (weights.start,), dtype) for file in weights.files)
    named = fitting(source, part, module, {name: own for found in tensors for name, own in found.items()})
    try:
        place_weights(source, part, module, ((name, named.pop(name)) for name in list(named)), dtype, device)
    except FloatingPointError:
        raise not_finite(kind, weights, dtype) from None
    return module


def place_weights(
    source: ModelSource, part: str, module: nn.Module, named: Iterable[tuple[str, Tensor]], dtype: torch.dtype,
    device: torch.device,
) -> None:  # fmt: skip
    """Give an empty part its weights, which are read, moved to the device and quantized one at a time.

    Neither the CPU nor the device ever has to hold the whole part in another form than its own; weights of blocks to
    swap stay in the memory of the CPU. Raises FloatingPointError if weights are not finite.
    """
    rules = scheme_rules(source.family, part, source.storage.denoiser, source.storage.encoders)
    to_quantize = {f"{name}.weight": found for name, found in layers_to_quantize(module, rules).items()}
    waiting, plain = tuple(f"{name}." for name in swapped_in(source, part, module)), dict[str, Tensor]()
    for name, tensor in named:
        home = torch.device("cpu") if name.startswith(waiting) else device
        if name in to_quantize:
            layer, scheme = to_quantize[name]
            set_quantized(layer, quantized(tensor, scheme, dtype, device).to(home))
        else:
            plain[name] = finite(ready(tensor).to(home, dtype))
        del tensor
    module.load_state_dict(plain, assign=True, strict=not tied(module))
    tie_weights(module)


def quantized(tensor: Tensor, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> Packed:
    """Return the weights of a layer, quantized on the device; those that a file has in fp8 stay as they are for `fp8`.

    Raises FloatingPointError if they are not finite in the precision `dtype`.
    """
    stored = stored_fp8(tensor) if scheme == "fp8" else None
    if stored is None:
        return pack(finite(ready(tensor).to(device, dtype)), scheme)
    stored = stored.to(device)
    finite(unpack(stored, dtype))
    return stored


def empty_part(source: ModelSource, part: str) -> nn.Module:
    """Return a part without weights, and without the blocks of a text encoder above the last one that is read."""
    module = empty(source.kinds[part], source.configs[part])
    for encoder in source.family.encoders:
        if encoder.name == part and encoder.blocks_read is not None:
            keep_blocks(module, encoder.blocks_read)
    return module


def scheme_rules(family: Family, part: str, denoiser: Scheme | None, encoders: Scheme | None) -> SchemeRules:
    """Return which layers of a part are quantized, given the schemes of denoiser and encoders. CLIP is too small."""
    if part == family.denoiser.part:
        return SchemeRules(denoiser, family.denoiser.not_quantized, family.denoiser.in_int8)
    is_large = any(encoder.name == part and encoder.is_large for encoder in family.encoders)
    return SchemeRules(encoders if is_large else None)


def block_names(family: Family, part: str, module: nn.Module) -> list[str]:
    """Return the names of a part's blocks in the order of the forward pass; none for CLIP and VAEs."""
    if part == family.denoiser.part:
        return swapped_blocks(module, family.denoiser.blocks, ALL)
    is_large = any(encoder.name == part and encoder.is_large for encoder in family.encoders)
    return [name for name, found in module.named_modules() if is_large and found in [*blocks_of(module)]]


def swapped_in(source: ModelSource, part: str, module: nn.Module) -> list[str]:
    """Return the names of a part's blocks that wait in the memory of the CPU."""
    denoiser, storage = source.family.denoiser, source.storage
    if part in storage.waiting:
        return block_names(source.family, part, module)
    if part != denoiser.part or not storage.blocks_to_swap:
        return []
    return swapped_blocks(module, denoiser.blocks, storage.blocks_to_swap)


def tied(module: nn.Module) -> bool:
    """Return whether a module has tied weights: one tensor under several names, such as the vocabulary of T5."""
    return bool(getattr(module, "_tied_weights_keys", None))


def tie_weights(module: nn.Module) -> None:
    """Tie the weights of a module again, since files have them under only one name."""
    if tied(module):
        module.tie_weights()  # pyright: ignore[reportCallIssue]


def finite(tensor: Tensor) -> Tensor:
    """Return a tensor whose numbers are all finite. Raises FloatingPointError for others."""
    if not is_finite(tensor):
        raise FloatingPointError
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers are finite. A finite sum proves it in one pass, but the sum itself can overflow."""
    if tensor.is_meta:  # it has no data
        return True
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def not_finite(kind: str, weights: Weights, dtype: torch.dtype) -> ModelError:
    """Return the error about weights that are not finite: damaged in the file, or too large for `dtype`."""
    found = {
        file: [n for n, t in weights_in_file(file, (weights.start,)).items() if not is_finite(ready(t).float())]
        for file in weights.files
    }
    for file, names in found.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            what = f"weights of its {kind} are infinite or not numbers: {', '.join(names[:SHOWN])}{more}"
            return ModelError(what, str(file), "The file is damaged or badly merged: download or merge it again")
    what = f"weights of its {kind} are too large for {str(dtype).removeprefix('torch.')}"
    return ModelError(what, str(weights.files[0]), "Use --mixed_precision bf16 or no")


def token_table(weights: Weights) -> Tensor:
    """Return the token table of a text encoder, float32 [V,W].

    Only the table is read. Raises ModelError if there is none.
    """
    for file in weights.files:
        for name in plan_of(file, read_header(file), (weights.start,)).plain:
            if name.endswith(TOKEN_TABLES):
                return read_weights(file, (name.removesuffix("weight"),))[name].float()
    raise ModelError("has no token table", str(weights.files[0]), "Is the file complete?")


def check_part(source: ModelSource, part: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelError unless all weights of a part that are read have the right shapes.

    `shapes` come from the headers of the files.
    """
    own = {name: shape for name, shape in shapes.items() if name.startswith(source.weights[part].start)}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in own.items()}
    fitting(source, part, empty_part(source, part), tensors)


def fitting(source: ModelSource, part: str, module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the module's names, without those that nothing uses.

    Raises ModelError if weights are missing or have other shapes, or if a denoiser has unknown weights (it is then a
    denoiser of another architecture).
    """
    kind, where, wanted = source.kinds[part], str(source.weights[part].files[0]), module.state_dict()
    try:
        named = {as_wanted(n, wanted): t for n, t in under_library_names(source, part, module, tensors).items()}
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        what = f"weights of its {kind} are missing or have other shapes ({str(error).strip(chr(39))[:120]})"
        raise ModelError(what, where, "Is the file complete?") from error
    named |= identities(source, part, wanted, named)
    missing = sorted(set(wanted) - set(named) - other_names(module, named))
    extra = sorted(set(named) - set(wanted)) if part == source.family.denoiser.part else ()
    misshapen = [
        f"{n} {[*named[n].shape]} instead of {[*t.shape]}"
        for n, t in wanted.items()
        if n in named and named[n].shape != t.shape
    ]
    for names, wrong in ((missing, "missing"), (misshapen, "of other shapes"), (extra, "unknown")):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            what = f"{len(names)} weights of its {kind} are {wrong}: {', '.join(names[:SHOWN])}{more}"
            raise ModelError(what, where, "Is the file complete?")
    return {name: tensor for name, tensor in named.items() if name in wanted}


def identities(
    source: ModelSource, part: str, wanted: Mapping[str, Tensor], named: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights that a file leaves out because they are the identity, as the family's record says."""
    missing = [n for spec in source.encoder_specs if spec.name == part for n in spec.identities if n not in named]
    return {name: torch.eye(*wanted[name].shape, device="cpu") for name in missing if named}


def other_names(module: nn.Module, named: Mapping[str, Tensor]) -> set[str]:
    """Return the names of tied weights whose tensor is in `named` under another name."""
    keys = getattr(module, "_tied_weights_keys", None) or {}
    pairs = keys.items() if isinstance(keys, Mapping) else ()  # transformers 5: name -> name in files
    return {name for name, source in pairs if source in named}


def under_library_names(
    source: ModelSource, part: str, module: nn.Module, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights under the names of diffusers and transformers; files may have original or older names."""
    from diffusers.loaders import single_file_utils as converters

    start, config = source.weights[part].start, source.configs[part]
    if source.weights[part].original:
        files = source.family.files or import_module(source.family.module)
        return files.from_original_names(dict(tensors), dict(config))
    if part == "vae":
        return under_vae_names(tensors, start, config)
    if start and any(OPEN_CLIP_BLOCKS in name for name in tensors):
        return converters.convert_open_clip_checkpoint(module, dict(tensors), prefix=start)
    return unprefixed(tensors, start)


def under_vae_names(tensors: dict[str, Tensor], start: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a VAE under the names of diffusers; `start` is their prefix."""
    from diffusers.loaders import single_file_utils as converters

    own = unprefixed(tensors, start)
    if any(".down." in name for name in own):
        statistics = {n: t for n, t in own.items() if n.startswith("bn.")}  # the converter drops them
        return (
            converters.convert_ldm_vae_checkpoint({f"{VAE_PREFIX}{n}": t for n, t in own.items()}, config) | statistics
        )
    if any(".downsamples." in name for name in own):
        return converters.convert_wan_vae_to_diffusers(own)
    return {newer(name): tensor for name, tensor in own.items()}


def unprefixed(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Return tensors under their names without the prefix `start`."""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items()}


def newer(name: str) -> str:
    """Return the current name of a VAE weight: older Diffusers folders name its attention differently."""
    for old, new in OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def as_wanted(name: str, wanted: Mapping[str, Any]) -> str:
    """Return a name with or without one of the prefixes in BODIES, whichever the module has."""
    forms = (form for body in BODIES for form in (name.removeprefix(body), f"{body}{name}"))
    return next((form for form in (name, *forms) if form in wanted), name)
