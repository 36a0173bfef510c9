"""Find a model by its name and recognise it by its configs, or by the names and shapes in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from neonym.errors import ModelError
from neonym.io.memo import memoized, versions
from neonym.models.families.unsupported import refuse_unsupported
from neonym.models.family import CheckpointHints, CheckpointLayout, Family, LatentSpec
from neonym.models.loading.file_roles import FileFacts, facts_of
from neonym.models.loading.folder import (
    HALVES,
    Weights,
    check_variant,
    diffusers_configs,
    folder_weights,
    incomplete_parts,
    index_in,
    order_of,
    read_config,
    weights_in,
)
from neonym.models.loading.hub import config_folder, fetch_weights, is_hub_id, not_cached, vae_folder
from neonym.models.loading.quantized_files import plan_of
from neonym.models.loading.recognise import source_of, with_user_prediction
from neonym.models.loading.refusals import refuse, refuse_version
from neonym.models.loading.separate_files import Given, assemble, given_vae
from neonym.models.loading.vae_config import PREFIX as VAE_PREFIX
from neonym.models.loading.vae_config import vae_config
from neonym.models.loading.vocabulary_spread import spread_of
from neonym.models.loading.weight_files import ENDINGS, Header, read_header
from neonym.models.registry import checkpoint_layouts, family_of_file, supported
from neonym.models.source import BUILTIN, BUILTIN_MODELS, ModelSource


def identify(
    name: str,
    vae: str | None = None,
    v_parameterization: bool | None = None,
    offline: bool = False,
    variant: str | None = None,
    text_encoders: Sequence[Given] = (),
    version: str | None = None,
) -> ModelSource:
    """Recognise a model by its configs, or by the names and shapes in its files.

    No weights are read except a sample of the vocabulary. The network is used only for hub IDs (owner/name), and only
    for files that are not in the user's cache. `variant` (such as "fp16") selects the weights of those parts of a
    Diffusers folder that have it; `text_encoders` are files beside that of a transformer. `version` (such as "turbo")
    says which of several models of the same shapes it is. Raises ModelError if the model is unsupported, incomplete or
    damaged.
    """
    path = Path(name)
    header = read_header(checkpoint_file(path)) if path.is_file() else None
    if header is not None and (found := transformer_in(header, path, name, version)) is not None:
        source = source_of_files(name, path, header, *found, vae, text_encoders, offline)
        return replace(source, variant=variant, version=version)
    if text_encoders:
        fix = f"Leave out {', '.join(f'--{given.flag}' for given in text_encoders)}"
        raise ModelError("has its own text encoders: only a transformer in a file needs others", name, fix)
    own_vae = vae_path(vae, offline)
    if header is not None:
        layout = layout_of(header, name)
        hints = CheckpointHints(v_parameterization, vae is not None, text_beside(path))
        configs = layout.configs(header, name, hints)
        source = replace(source_of(name, path.parent, configs, version), file=path, vae=own_vae, variant=variant)
        prefixes = layout.prefixes(source.family.name)
        found = {
            part: Weights((path,), start=prefixes[part], original=part == source.family.denoiser.part)
            for part in source.own_parts
        }
        headers = {path: header}
    else:
        folder = folder_of(name, offline)
        configs = with_user_prediction(diffusers_configs(folder, name), v_parameterization)
        source = replace(source_of(name, folder, configs, version), vae=own_vae, variant=variant, offline=offline)
        found, headers = available_weights(source), {}
        if offline or not source.on_hub:
            check_variant(found, name, variant)
    if source.vae is not None:
        configs["vae"], found["vae"] = other_vae(source, source.vae)
    source = replace(source, weights=found)
    latents_of(source)
    if not name.startswith("builtin:"):
        check_weights(source, headers)
    return with_spread(source)


def transformer_in(
    header: Header, path: Path, name: str, version: str | None
) -> tuple[FileFacts, Family] | None:  # fmt: skip
    """Return what a file is, and its family, if it is a transformer with or without other parts.

    Return None for a checkpoint that a layout may recognise. Raises ModelError if words cannot be learned for it, or if it
    has no such version.
    """
    facts = facts_of(header, path.name, version)
    family = family_of_file(facts.family, facts.variant)
    if family is not None:
        refuse_version(version, facts.assumed, family.label, name)
    refuse(facts, name)
    return (facts, family) if family is not None else None


def source_of_files(
    name: str, path: Path, header: Header, facts: FileFacts, family: Family, vae: str | None,
    text_encoders: Sequence[Given], offline: bool,
) -> ModelSource:  # fmt: skip
    """Return the source of a model whose transformer is the file at `path`. Raises ModelError with all its problems."""
    wrong, own_vae = [], None
    try:
        own_vae = vae_path(vae, offline)
    except ModelError as error:
        wrong = error.problems
    found = assemble(name, path, header, facts, family, text_encoders, own_vae, wrong)
    source = source_of(name, path.parent, found.configs)
    source = replace(source, file=path, vae=own_vae, weights=found.weights)
    latents_of(source)
    check_weights(source, found.headers)
    return with_spread(source)


def layout_of(header: Header, name: str) -> CheckpointLayout:
    """Return the layout that recognises a checkpoint, or the first one, which reports what is missing.

    Raises ModelError.
    """
    layouts = checkpoint_layouts()
    fitting = next((layout for layout in layouts if layout.recognises(header)), None)
    refuse_unsupported(header, name, fitting is not None, supported())
    return fitting or layouts[0]


def with_spread(source: ModelSource) -> ModelSource:
    """Return the source with the spreads of its vocabularies, unless its neonym.json defines that of the first.

    Those of a hub ID are not measured here: its weights may not have been downloaded yet, and the defaults must be the
    same before and after that. CLIP's is published; others are measured when the model is loaded.
    """
    if source.on_hub or source.defines_spread:
        return source
    found = {encoder: spread_of(source.weights[encoder]) for encoder in source.encoders}
    spreads = {encoder: spread for encoder, spread in found.items() if spread is not None}
    return replace(source, word_spread=spreads.get(source.encoders[0], source.word_spread), spreads=spreads)


def folder_of(name: str, offline: bool) -> Path:
    """Return the folder of a model that is not a file. Raises ModelError."""
    if name.startswith("builtin:"):
        path = BUILTIN_MODELS / name.removeprefix("builtin:")
        if not path.is_dir():
            raise ModelError("there is no such built-in model", name, f"Use {BUILTIN}")
        return path
    return config_folder(name, offline) if is_hub_id(name) else Path(name)


def text_beside(file: Path) -> str:
    """Return the text of the .yaml file beside a checkpoint, or an empty string if there is none."""
    try:
        return file.with_suffix(".yaml").read_text("utf-8", errors="replace")[:100_000]
    except OSError:
        return ""


def checkpoint_file(path: Path) -> Path:
    """Return the path of a checkpoint. Raises ModelError if its extension is not that of one."""
    if path.suffix.lower() not in ENDINGS:
        raise ModelError(f"is not a checkpoint ({', '.join(ENDINGS)})", str(path))
    return path


def vae_path(name: str | None, offline: bool = False) -> Path | None:
    """Return the path of a separate VAE, given as a file, a folder, a folder that contains it, or a hub ID.

    Raises ModelError.
    """
    if name is None:
        return None
    path = Path(name)
    if path.is_file():
        return checkpoint_file(path)
    if is_hub_id(name):
        return vae_folder(name, offline)
    for folder in (path, path / "vae"):
        if (folder / "config.json").is_file() and index_in(folder) is None:
            return folder
    raise ModelError("is neither a VAE file nor a Diffusers folder of a VAE", name, "Check --vae")


def other_vae(source: ModelSource, path: Path) -> tuple[dict[str, Any], Weights]:
    """Return the config and the weights of the separate VAE. Raises ModelError if it does not fit the model."""
    own = source.family.latents
    if source.family.files is not None:
        return given_vae(path, source.family)
    if path.is_dir():
        config = read_config(path / "config.json")
        kind = config.get("_class_name", own.module)
        if kind != own.module:
            raise ModelError(f"is {kind}, but the model needs {own.module}", str(path), "Check --vae")
        return config, weights_in(path, str(path))
    header = read_header(path)
    start = VAE_PREFIX if header.has(VAE_PREFIX) else ""
    latents = latents_of(source)
    try:
        config = vae_config(header, start, latents.scaling_factor, latents.shift_factor)
        return config, Weights((path,), start=start)
    except (KeyError, IndexError) as error:
        raise ModelError("contains no VAE", str(path), "Name a VAE with --vae, or leave it out") from error


def latents_of(source: ModelSource) -> LatentSpec:
    """Return the latents of a model. Raises ModelError if the config of its VAE is invalid."""
    try:
        return source.latents
    except (TypeError, ValueError) as error:
        where = str(source.vae or source.name)
        raise ModelError(f"its configs are invalid ({error})", where, "Download them again") from error


def available_weights(source: ModelSource) -> dict[str, Weights]:
    """Return the weights in a Diffusers folder, or none if a hub model's are incomplete. Raises ModelError."""
    parts = source.own_parts
    missing = incomplete_parts(source.folder, parts) if source.on_hub else []
    if missing and source.offline:
        raise not_cached(source.name, missing)
    return {} if missing else folder_weights(source.folder, parts, source.name, source.variant)


def check_weights(source: ModelSource, headers: Mapping[Path, Header]) -> None:
    """Raise ModelError unless every weight is present with the right shape, which the headers of files tell.

    `headers` holds those of files that were already read.
    """
    for part, weights in source.weights.items():
        kind, config = source.kinds[part], source.configs[part]
        named = {n: s for file in weights.files for n, s in plain_shapes(file, weights.start, headers).items()}
        try:
            read = [spec.blocks_read for spec in source.encoder_specs if spec.name == part]
            key = [versions("diffusers", "transformers"), kind, config, read, weights.start, sorted(named.items())]
            memoized("sound-weights", key, partial(check_part_once, source, part, named))
        except ModelError:
            raise
        except Exception as error:  # libraries fail in any way on invalid configs
            what = f"its configs are invalid ({part}: {str(error).splitlines()[0][:120]})"
            raise ModelError(what, source.name, "Download them again") from error


def plain_shapes(file: Path, start: str, headers: Mapping[Path, Header]) -> Mapping[str, tuple[int, ...]]:
    """Return the names and shapes that weights with the prefix `start` have once they are read. Raises ModelError."""
    return plan_of(file, headers[file] if file in headers else read_header(file), (start,)).plain


def check_part_once(source: ModelSource, part: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return True if a part can be assembled.

    Raises ModelError otherwise. The result is cached, as imports take seconds.
    """
    from neonym.models.loading.assemble import check_part

    check_part(source, part, shapes)
    return True


def with_weights(source: ModelSource, half: bool = False) -> ModelSource:
    """Return a hub model with its weights downloaded, and any other model unchanged.

    Weights that are not in the cache, or only in too low a precision, are downloaded in the smallest sufficient form:
    in half precision if `half`, except for the VAE. Raises ModelError.
    """
    if not source.on_hub or source.offline:
        return source
    halved = {part: half and part != "vae" for part in source.own_parts}
    if not all(enough(source.weights.get(part), source.variant, halved[part]) for part in halved):
        orders = {part: order_of(source.variant, halved[part]) for part in halved}
        try:
            fetch_weights(source.name, source.folder, orders, source.variant)
        except ModelError:
            if incomplete_parts(source.folder, source.own_parts):
                raise
    others = {part: weights for part, weights in source.weights.items() if part not in halved}
    available = available_weights(source)
    check_variant(available, source.name, source.variant)
    source = replace(source, weights={**available, **others})
    check_weights(source, {})
    return source


def enough(weights: Weights | None, variant: str | None, half: bool) -> bool:
    """Return whether the cached weights suffice, so that nothing has to be downloaded."""
    if weights is None or variant is not None:
        return weights is not None and weights.variant == variant
    return half or weights.variant not in HALVES
