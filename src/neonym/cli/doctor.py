"""Run `neonym doctor`, which prints for bug reports what is installed and what is missing for what.

It sends, fetches and writes nothing. Only the standard library is imported unguarded, because the command is run where
something is broken.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neonym._version import __version__
from neonym.errors import EXIT_USER_ERROR
from neonym.extras import OPTIONAL, install_command, is_installed

DESCRIPTION = (
    "Say what is installed, which devices there are, and what is missing for what. Nothing leaves this machine."
)
VARIABLES = (  # environment variables that change what the libraries do
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU",
)  # fmt: skip
COMPILERS = ("g++", "c++", "clang++", "cl")
GIB = 1 << 30
MISSING = "missing"
Facts = dict[str, Any]


def main(argv: list[str], prog: str) -> int:
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    flags, found = parser.parse_args(argv), facts()
    print(json.dumps(found, indent=1, ensure_ascii=False) if flags.json else as_text(found))
    return EXIT_USER_ERROR if found["missing"] else 0


def facts() -> Facts:
    """Return all facts, section by section. A fact that cannot be found out says so."""
    needed = told(dependencies)
    places = {"here": Path.cwd, "neonym's cache": own_cache, "the hub's cache": hub_cache}
    return {
        "neonym": {
            "version": __version__,
            "place": short(Path(__file__).parent.parent),
            "built-in model": told(lambda: there("models/builtin/emoji/model_index.json")),
            "example images": told(lambda: there("examples/demo.toml")),
        },
        "system": {"python": sys.version.split()[0], "platform": platform.platform(), "cpu cores": os.cpu_count()},
        "devices": told(devices),
        "dependencies": needed,
        "optional": {optional.package: told(lambda o=optional: of_optional(o.module)) for optional in OPTIONAL},
        "C++ compiler": next((name for name in COMPILERS if shutil.which(name)), "none: --torch_compile needs one"),
        "disk": {name: told(lambda p=place: free_space(p())) for name, place in places.items()},
        "caches": {name: told(lambda p=place: size_of(p())) for name, place in places.items() if "cache" in name},
        "environment": {name: short(os.environ[name]) for name in VARIABLES if name in os.environ},
        "missing": wrong(needed),
    }


def told(find_out: Callable[[], Any]) -> Any:
    """Return what `find_out` returns, or a text that says why it failed. A broken library may raise anything."""
    try:
        return find_out()
    except Exception as error:
        return (
            f"cannot be told ({type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''})"
        )


def short(path: str | Path) -> str:
    """Return a path with the home folder as ~."""
    home = told(lambda: str(Path.home()))
    return str(path).replace(home, "~") if home not in ("", "/") else str(path)


def there(name: str) -> str:
    return "there" if (Path(__file__).parent.parent / name).is_file() else "missing: install the package again"


def dependencies() -> Facts:
    """Return the version of each required package, by package, with the version that is needed if it is another."""
    from packaging.requirements import Requirement

    found = {}
    for wanted in map(Requirement, importlib.metadata.requires("neonym") or []):
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            version = version_of(wanted.name)
            fits = version != MISSING and wanted.specifier.contains(version, prereleases=True)
            found[wanted.name] = version if fits else f"{version}, needed: {wanted.name}{wanted.specifier}"
    return found


def wrong(needed: Any) -> list[str]:
    """Return the packages that must be installed before anything works."""
    if not isinstance(needed, dict):
        return ["what is needed cannot be told: pip install neonym"]
    return [f"{name} {version}" for name, version in needed.items() if ", needed: " in version]


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def of_optional(module: str) -> str:
    """Return the version of an optional package, or the purpose for which it is missing and how to install it."""
    optional = next(o for o in OPTIONAL if o.module == module)
    return (
        version_of(optional.package)
        if is_installed(module)
        else f"{MISSING} for {optional.purpose}: {install_command(module)}"
    )


def devices() -> Facts:
    """Return what torch can compute on, and in which precisions."""
    import torch

    cpu = torch.backends.cpu.get_cpu_capability()
    found: Facts = {
        "torch": f"{torch.__version__}, built for {torch.version.cuda or torch.version.hip or 'the CPU'}",
        "cpu": f"{cpu}, {torch.get_num_threads()} threads; float32 (bf16 is computed, fp16 becomes float32)",
    }
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        precisions = "float32, fp16" + (", bf16" if facts.major >= 8 else "; bf16 is slow here")
        found[f"cuda:{index}"] = f"{facts.name}, {facts.total_memory / GIB:.1f} GiB; {precisions}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU; float32, fp16"
    return found


def own_cache() -> Path:
    from neonym.io.memo import cache_folder

    return cache_folder()


def hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def free_space(path: Path) -> str:
    """Return a text about the free space in the nearest existing folder, and whether it can be written to."""
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    writable = "" if os.access(folder, os.W_OK) else ", cannot be written to"
    return f"{shutil.disk_usage(folder).free / GIB:.1f} GiB free ({short(path)}{writable})"


def size_of(path: Path) -> str:
    """Return a text about the size of a folder. Links, which the hub's cache is full of, are not followed."""
    if not path.is_dir():
        return "empty"
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return f"{sum(file.stat().st_size for file in files) / GIB:.2f} GiB in {len(files)} files"


def as_text(found: Facts) -> str:
    """Return the facts as text for people."""
    lines = []
    for section, content in found.items():
        if isinstance(content, dict):
            lines += [f"{section}:", *(f"  {name}: {value}" for name, value in content.items())] if content else []
        elif isinstance(content, list):
            lines += [f"{section}: {', '.join(content) or 'nothing that is always needed'}"]
        else:
            lines.append(f"{section}: {content}")
    return "\n".join(lines)
