"""The models found on this machine: files and Diffusers folders, without reading a weight."""

from __future__ import annotations

from pathlib import Path

from neonym.web.home import Home

ENDINGS = (".safetensors", ".ckpt", ".gguf")
LEAST = 100 * 2**20  # bytes: smaller files are words, LoRAs or parts
BUILT_IN = {
    "builtin:emoji": "small built-in model, for trying things out",
    "builtin:emoji-flow": "small built-in flow model, for trying things out",
}


def models_in(home: Home) -> dict[str, str]:
    """Return the names of models with what to show of each: built-in ones, then files and folders."""
    found = {name: f"{name}: {what}" for name, what in BUILT_IN.items()}
    for folder in home.named("models"):
        for path in candidates(folder):
            found[str(path)] = str(path.relative_to(folder))
    return found


def candidates(folder: Path) -> list[Path]:
    """Return the checkpoints and Diffusers folders in a folder, and those one level below it."""
    if (folder / "model_index.json").is_file():
        return [folder]
    paths = sorted([*folder.glob("*"), *folder.glob("*/*")])
    return [path for path in paths if is_model(path)]


def is_model(path: Path) -> bool:
    """Return whether a path can be a model: a Diffusers folder, or a large file that is in none."""
    try:
        if path.is_dir():
            return (path / "model_index.json").is_file()
        parents = (path.parent, path.parent.parent)
        in_folder = any((parent / "model_index.json").is_file() for parent in parents)
        return path.suffix.lower() in ENDINGS and path.stat().st_size >= LEAST and not in_folder
    except OSError:
        return False
