"""Find models of the Hugging Face hub: files are taken from the user's cache, and only missing ones are downloaded."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from neonym.errors import ModelError
from neonym.models.loading.folder import INDEX, INDEXES, TOKENIZER, Choice, choose, index_in, read_config
from neonym.models.loading.weight_files import ENDINGS
from neonym.models.registry import families

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Choose = Callable[[Sequence[str]], Sequence[str]]  # from all file names of a repository to the needed ones


def is_used(file: str) -> bool:
    """Return whether a file in a repository belongs to a component that a family loads."""
    component, _, name = file.partition("/")
    return bool(name) and "/" not in name and any(component in family.components for family in families())


def is_hub_id(name: str) -> bool:
    """Return whether a name is a hub ID: owner/name, not an existing path, and without a checkpoint's extension."""
    path = Path(name)
    return HUB_ID.fullmatch(name) is not None and path.suffix.lower() not in ENDINGS and not path.exists()


def config_folder(name: str, offline: bool) -> Path:
    """Return the folder of a model's configs and tokenizers, downloaded if necessary. Raises ModelError."""
    folder = next(filter(None, (cached(name, index) for index in INDEXES)), None)
    if folder is not None and not missing_configs(folder):
        return folder
    if offline:
        missing = missing_configs(folder) if folder else [INDEX]
        raise not_cached(name, missing)
    return fetch(name, lambda names: config_names(name, names))


def config_names(name: str, names: Sequence[str]) -> list[str]:
    """Return the names of the configs and tokenizers. Raises ModelError if the repository is not a Diffusers folder."""
    indexes = [index for index in INDEXES if index in names]
    if not indexes:
        files = [n for n in names if "/" not in n and n.lower().endswith(ENDINGS)]
        fix = f"Download one of its files and name it: {', '.join(files[:5])}" if files else "Check the name"
        raise ModelError(f"is not a Diffusers folder: it has no {INDEX}", name, fix)
    wanted = [n for n in names if is_used(n) and (n.endswith(".json") or is_tokenizer(n))]
    return [*wanted, *indexes, *(n for n in ("neonym.json",) if n in names)]


def is_tokenizer(file: str) -> bool:
    """Return whether a file in a repository belongs to a tokenizer, or a component is one."""
    return "tokenizer" in file.partition("/")[0]


def missing_configs(folder: Path) -> list[str]:
    """Return the missing configs of the components in the index that a family loads."""
    wanted: list[str] = []
    index = read_config(index_in(folder) or folder / INDEX)
    for part in (p for p, kind in index.items() if kind != [None, None] and is_used(f"{p}/x")):
        if is_tokenizer(part):
            wanted += [] if (folder / part / "tokenizer.json").is_file() else [f"{part}/{file}" for file in TOKENIZER]
        else:
            wanted.append(f"{part}/{'scheduler_config' if part == 'scheduler' else 'config'}.json")
    return [file for file in wanted if not (folder / file).is_file()]


def fetch_weights(name: str, folder: Path, orders: dict[str, tuple[str | None, ...]], variant: str | None) -> None:
    """Download one form of each part's weights to the folder of its configs.

    `orders` maps parts to variants in order of preference; `variant` is the requested one. Raises ModelError.
    """

    def wanted(names: Sequence[str]) -> list[str]:
        found: dict[str, Choice] = {}
        for part, order in orders.items():
            form = choose((n.partition("/")[2] for n in names if n.startswith(f"{part}/")), order)
            if form is None or form.missing:
                raise ModelError(f"its repository has no complete weights in `{part}`", name)
            found[part] = form
        if variant is not None and all(form.variant != variant for form in found.values()):
            raise ModelError(f"its repository has no weights of the variant {variant}", name, "Leave out --variant")
        return [f"{part}/{file}" for part, form in found.items() for file in form.names]

    fetch(name, wanted, revision=folder.name)


def vae_folder(name: str, offline: bool) -> Path:
    """Return the folder of a repository's VAE, on its own or in a whole model. Raises ModelError."""
    for start in ("", "vae/"):
        folder = cached(name, f"{start}config.json")
        if folder is not None and choose(p.name for p in (folder / start).iterdir()) is not None:
            return folder / start
    if offline:
        raise not_cached(name, ["config.json", "diffusion_pytorch_model.safetensors"])

    def wanted(names: Sequence[str]) -> list[str]:
        for start in ("", "vae/"):
            form = choose(n.removeprefix(start) for n in names if n.startswith(start))
            if f"{start}config.json" in names and form is not None and not form.missing:
                return [f"{start}config.json", *(f"{start}{file}" for file in form.names)]
        raise ModelError("is not a VAE: it has no config.json with weights beside it", name, "Check --vae")

    folder = fetch(name, wanted)
    return folder if (folder / "config.json").is_file() else folder / "vae"


def cached(name: str, file: str) -> Path | None:
    """Return the folder of a repository in the user's cache, if it has `file`."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return Path(found).parents[file.count("/")] if isinstance(found, str) else None


def not_cached(name: str, missing: Sequence[str]) -> ModelError:
    """Return the error that files of a repository are not in the cache."""
    from huggingface_hub import constants

    what = f"{', '.join(missing)} not found in the cache ({constants.HF_HUB_CACHE})"
    return ModelError(what, name, "--offline uses only the cache: run once without it to download the files")


def fetch(name: str, choose_names: Choose, revision: str | None = None) -> Path:
    """Download the files that `choose_names` selects, except for cached ones, and return their folder.

    Raises ModelError.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        wanted = choose_names(HfApi().list_repo_files(name, revision=revision))
        return Path(snapshot_download(name, revision=revision, allow_patterns=[glob.escape(n) for n in wanted]))
    except ModelError:
        raise
    except Exception as error:  # no such repository, no network, no permission, a full disk: many classes
        line = str(error).strip().split("\n", 1)[0][:200]
        fix = "Check the name, the network, and your login"
        raise ModelError(f"cannot be downloaded from the hub ({line})", name, fix) from error
