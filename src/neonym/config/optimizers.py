"""Optimizers by sd-scripts' names, as data: which class a name stands for, and whether it is there. No torch is needed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neonym.errors import Problem, nearest
from neonym.extras import MODULES, install

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {  # sd-scripts' name -> class, and the settings that it gives it
    "AdamW": ("torch.optim.AdamW", {"weight_decay": 0.0}),
    "Lion": ("lion_pytorch.Lion", {}),
    "SGDNesterov": ("torch.optim.SGD", {"nesterov": True, "momentum": 0.9}),
    "DAdaptation": ("dadaptation.experimental.DAdaptAdamPreprint", {}),
    "DAdaptAdamPreprint": ("dadaptation.experimental.DAdaptAdamPreprint", {}),
    "DAdaptAdaGrad": ("dadaptation.DAdaptAdaGrad", {}),
    "DAdaptAdam": ("dadaptation.DAdaptAdam", {}),
    "DAdaptAdan": ("dadaptation.DAdaptAdan", {}),
    "DAdaptAdanIP": ("dadaptation.experimental.DAdaptAdanIP", {}),
    "DAdaptLion": ("dadaptation.DAdaptLion", {}),
    "DAdaptSGD": ("dadaptation.DAdaptSGD", {}),
    "Prodigy": ("prodigyopt.Prodigy", {}),
    "AdaFactor": ("transformers.Adafactor", {"relative_step": True}),
    "RAdamScheduleFree": ("schedulefree.RAdamScheduleFree", {}),
    "AdamWScheduleFree": ("schedulefree.AdamWScheduleFree", {"weight_decay": 0.0}),
    "SGDScheduleFree": ("schedulefree.SGDScheduleFree", {}),
}
SMALLER = {  # the same mathematics, its state in 8 bits or paged out of GPU memory: here it is kilobytes anyway
    "AdamW8bit": "AdamW", "PagedAdamW": "AdamW", "PagedAdamW8bit": "AdamW", "PagedAdamW32bit": "AdamW",
    "Lion8bit": "Lion", "PagedLion8bit": "Lion", "SGDNesterov8bit": "SGDNesterov",
}  # fmt: skip


def optimizer_name(name: str) -> str:
    """The name as listed, whatever its case; 8-bit and paged variants are their plain form; else as given."""
    known = {n.lower(): n for n in (*OPTIMIZERS, *SMALLER)}
    found = known.get((name or "AdamW").lower(), name)
    return SMALLER.get(found, found)


def class_path(name: str) -> tuple[str, dict[str, Any]]:
    """A listed name, one of torch.optim, or a dotted path. -> (dotted path, settings)"""
    return OPTIMIZERS.get(optimizer_name(name), (name if "." in name else f"torch.optim.{name}", {}))


def optimizer_problem(name: str) -> Problem | None:
    """A name that stands for nothing, or a package that is not there; what a class takes is found out by making it."""
    path, where = class_path(name)[0], "--optimizer_type"
    package = path.partition(".")[0]
    if path == f"torch.optim.{name}":
        return None if _in_torch(name) else Problem("error", f"`{name}` is not known", where, suggestion(name))
    if package and package.isidentifier() and find_spec(package) is not None:
        return None
    what = f"`{name}` needs a package that is not installed ({package or 'without a name'})"
    return Problem(
        "error", what, where, install(package) if package in MODULES else "Install it, or choose another optimizer"
    )


def suggestion(name: str) -> str:
    """For a name that is not known."""
    return nearest(name, (*OPTIMIZERS, *SMALLER)) or f"Known: {', '.join(OPTIMIZERS)}, or a dotted path"


def _in_torch(name: str) -> bool:
    """torch keeps each of its optimizers in a file of its own, named like it."""
    spec = find_spec("torch")
    places = spec.submodule_search_locations if spec else None
    files = (file for place in places or () for file in (Path(place) / "optim").glob("[!_]*.py"))
    return any(file.stem.replace("_", "") == name.lower() for file in files)
