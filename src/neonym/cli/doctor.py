"""Run `neonym doctor`, which prints what is installed, what is missing, and which features need it, for bug reports.

It writes no files and does not use the network. Only imports of the standard library are unguarded, because the command
is for installations that are broken.
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
    "Show what is installed, which devices there are, what is missing, and what needs it. Nothing leaves this machine."
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
    """Print the facts and return the exit code, which is 2 if something necessary is missing."""
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    flags, found = parser.parse_args(argv), collect_facts()
    print(json.dumps(found, indent=1, ensure_ascii=False) if flags.json else report_text(found))
    return EXIT_USER_ERROR if found["missing"] else 0


def collect_facts() -> Facts:
    """Return all facts, section by section. A text takes the place of a fact that cannot be found out."""
    needed = fact_or_reason(dependencies)
    places = {"here": Path.cwd, "neonym's cache": own_cache, "the hub's cache": hub_cache}
    return {
        "neonym": {
            "version": __version__,
            "place": short(Path(__file__).parent.parent),
            "built-in model": fact_or_reason(lambda: presence("models/builtin/emoji/model_index.json")),
            "example images": fact_or_reason(lambda: presence("examples/demo.toml")),
        },
        "system": {"python": sys.version.split()[0], "platform": platform.platform(), "cpu cores": os.cpu_count()},
        "devices": fact_or_reason(devices),
        "dependencies": needed,
        "optional": {
            optional.package: fact_or_reason(lambda o=optional: optional_version(o.module)) for optional in OPTIONAL
        },
        "C++ compiler": next((name for name in COMPILERS if shutil.which(name)), "none: --torch_compile needs one"),
        "disk": {name: fact_or_reason(lambda p=place: free_space(p())) for name, place in places.items()},
        "caches": {
            name: fact_or_reason(lambda p=place: folder_size(p())) for name, place in places.items() if "cache" in name
        },
        "environment": {name: short(os.environ[name]) for name in VARIABLES if name in os.environ},
        "missing": unmet_requirements(needed),
    }


def fact_or_reason(find_out: Callable[[], Any]) -> Any:
    """Return the result of `find_out`, or a text that says why it failed: a broken library may raise anything."""
    try:
        return find_out()
    except Exception as error:
        return f"unknown ({type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''})"


def short(path: str | Path) -> str:
    """Return a path with the home folder written as ~."""
    home = fact_or_reason(lambda: str(Path.home()))
    return str(path).replace(home, "~") if home not in ("", "/") else str(path)


def presence(name: str) -> str:
    """Return whether a file of the package is present, as a text."""
    return "present" if (Path(__file__).parent.parent / name).is_file() else "missing: install the package again"


def dependencies() -> Facts:
    """Return the version of each required package; if it does not fit, with the version that is needed."""
    from packaging.requirements import Requirement

    found = {}
    for wanted in map(Requirement, importlib.metadata.requires("neonym") or []):
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            version = version_of(wanted.name)
            fits = version != MISSING and wanted.specifier.contains(version, prereleases=True)
            found[wanted.name] = version if fits else f"{version}, needed: {wanted.name}{wanted.specifier}"
    return found


def unmet_requirements(needed: Any) -> list[str]:
    """Return the required packages that are missing or have the wrong version."""
    if not isinstance(needed, dict):
        return ["the requirements are unknown: pip install neonym"]
    return [f"{name} {version}" for name, version in needed.items() if ", needed: " in version]


def version_of(package: str) -> str:
    """Return the version of an installed package, or "missing"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def optional_version(module: str) -> str:
    """Return the version of an optional package or, if it is missing, what needs it and how to install it."""
    optional = next(o for o in OPTIONAL if o.module == module)
    return (
        version_of(optional.package)
        if is_installed(module)
        else f"{MISSING} for {optional.purpose}: {install_command(module)}"
    )


def devices() -> Facts:
    """Return the devices that torch can use, and the precisions in which they compute."""
    import torch

    cpu = torch.backends.cpu.get_cpu_capability()
    found: Facts = {
        "torch": f"{torch.__version__}, built for {torch.version.cuda or torch.version.hip or 'the CPU'}",
        "cpu": f"{cpu}, {torch.get_num_threads()} threads; float32 (bf16 works, fp16 becomes float32)",
    }
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        precisions = "float32, fp16" + (", bf16" if facts.major >= 8 else "; bf16 is slow here")
        found[f"cuda:{index}"] = f"{facts.name}, {facts.total_memory / GIB:.1f} GiB; {precisions}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU; float32, fp16"
    return found


def own_cache() -> Path:
    """Return the folder of Neonym's cache."""
    from neonym.io.memo import cache_folder

    return cache_folder()


def hub_cache() -> Path:
    """Return the folder of the Hugging Face hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def free_space(path: Path) -> str:
    """Return the free space in the nearest existing folder, and whether the folder can be written to, as a text."""
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    writable = "" if os.access(folder, os.W_OK) else ", cannot be written to"
    return f"{shutil.disk_usage(folder).free / GIB:.1f} GiB free ({short(path)}{writable})"


def folder_size(path: Path) -> str:
    """Return the size of a folder as a text. Links, which the hub's cache is full of, are not followed."""
    if not path.is_dir():
        return "empty"
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return f"{sum(file.stat().st_size for file in files) / GIB:.2f} GiB in {len(files)} files"


def report_text(found: Facts) -> str:
    """Return the facts as text for people to read."""
    lines = []
    for section, content in found.items():
        if isinstance(content, dict):
            lines += [f"{section}:", *(f"  {name}: {value}" for name, value in content.items())] if content else []
        elif isinstance(content, list):
            lines += [f"{section}: {', '.join(content) or 'no required packages'}"]
        else:
            lines.append(f"{section}: {content}")
    return "\n".join(lines)
