"""Neonym teaches a frozen text-to-image diffusion model a new word (Textual Inversion).

The verbs are `train`, `generate`, `read_embedding`, `write_embedding` and `load_model`; the value is `Embedding`.
They are imported when first used, so that `import neonym` stays quick: every program begins with it, and can be interrupted.
"""

from __future__ import annotations

from neonym._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from neonym.formats import read_embedding as read_embedding
    from neonym.formats import write_embedding as write_embedding
    from neonym.generation.images import generate as generate
    from neonym.models.model import load_model as load_model
    from neonym.runs.start import train as train
    from neonym.types import Embedding as Embedding

_HOMES = {
    "train": "neonym.runs.start",
    "generate": "neonym.generation.images",
    "read_embedding": "neonym.formats",
    "write_embedding": "neonym.formats",
    "load_model": "neonym.models.model",
    "Embedding": "neonym.types",
}
__all__ = ["Embedding", "generate", "load_model", "read_embedding", "train", "write_embedding"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'neonym' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
