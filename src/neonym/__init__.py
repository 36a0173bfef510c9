"""Neonym teaches a frozen text-to-image diffusion model a new word (Textual Inversion).

The names below are the Python API; `docs/python.md` describes them. They are imported when first used, so that
`import neonym` stays quick: every command begins with it, and can be interrupted.
"""

from __future__ import annotations

from neonym._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from neonym.api.check import check as check
    from neonym.api.convert import convert as convert
    from neonym.api.embeddings import read_embedding as read_embedding
    from neonym.api.embeddings import write_embedding as write_embedding
    from neonym.api.generate import generate as generate
    from neonym.api.inspect import EncoderFacts as EncoderFacts
    from neonym.api.inspect import FileFacts as FileFacts
    from neonym.api.inspect import Neighbours as Neighbours
    from neonym.api.inspect import WordFacts as WordFacts
    from neonym.api.inspect import inspect as inspect
    from neonym.api.model import load_model as load_model
    from neonym.api.recognise import ModelFacts as ModelFacts
    from neonym.api.recognise import pieces as pieces
    from neonym.api.recognise import recognise as recognise
    from neonym.api.train import train as train
    from neonym.api.train import train_words as train_words
    from neonym.config.run import RunConfig as RunConfig
    from neonym.errors import ConfigError as ConfigError
    from neonym.errors import DataError as DataError
    from neonym.errors import FormatError as FormatError
    from neonym.errors import ModelError as ModelError
    from neonym.errors import NeonymError as NeonymError
    from neonym.errors import Problem as Problem
    from neonym.errors import RefuseRun as RefuseRun
    from neonym.errors import UserError as UserError
    from neonym.models.model import Model as Model
    from neonym.runs.events import Encoded as Encoded
    from neonym.runs.events import Evaluated as Evaluated
    from neonym.runs.events import Event as Event
    from neonym.runs.events import Failed as Failed
    from neonym.runs.events import Finished as Finished
    from neonym.runs.events import Judged as Judged
    from neonym.runs.events import Judging as Judging
    from neonym.runs.events import Level as Level
    from neonym.runs.events import Listener as Listener
    from neonym.runs.events import Noted as Noted
    from neonym.runs.events import Opened as Opened
    from neonym.runs.events import Sampled as Sampled
    from neonym.runs.events import Saved as Saved
    from neonym.runs.events import Started as Started
    from neonym.runs.events import Stepped as Stepped
    from neonym.runs.events import Stopped as Stopped
    from neonym.runs.stop import Stop as Stop
    from neonym.training.run import Result as Result
    from neonym.training.verdict import EncoderFigures as EncoderFigures
    from neonym.training.verdict import Verdict as Verdict
    from neonym.types import Embedding as Embedding
    from neonym.types import Size as Size

_HOMES = {
    "neonym.api.check": ("check",),
    "neonym.api.convert": ("convert",),
    "neonym.api.embeddings": ("read_embedding", "write_embedding"),
    "neonym.api.generate": ("generate",),
    "neonym.api.inspect": ("EncoderFacts", "FileFacts", "Neighbours", "WordFacts", "inspect"),
    "neonym.api.model": ("load_model",),
    "neonym.api.recognise": ("ModelFacts", "pieces", "recognise"),
    "neonym.api.train": ("train", "train_words"),
    "neonym.config.run": ("RunConfig",),
    "neonym.errors": (
        "ConfigError", "DataError", "FormatError", "ModelError", "NeonymError", "Problem", "RefuseRun", "UserError",
    ),
    "neonym.models.model": ("Model",),
    "neonym.runs.events": (
        "Encoded", "Evaluated", "Event", "Failed", "Finished", "Judged", "Judging", "Level", "Listener", "Noted",
        "Opened", "Sampled", "Saved", "Started", "Stepped", "Stopped",
    ),
    "neonym.runs.stop": ("Stop",),
    "neonym.training.run": ("Result",),
    "neonym.training.verdict": ("EncoderFigures", "Verdict"),
    "neonym.types": ("Embedding", "Size"),
}  # fmt: skip
__all__ = [
    "ConfigError",
    "DataError",
    "Embedding",
    "Encoded",
    "EncoderFacts",
    "EncoderFigures",
    "Evaluated",
    "Event",
    "Failed",
    "FileFacts",
    "Finished",
    "FormatError",
    "Judged",
    "Judging",
    "Level",
    "Listener",
    "Model",
    "ModelError",
    "ModelFacts",
    "Neighbours",
    "NeonymError",
    "Noted",
    "Opened",
    "Problem",
    "RefuseRun",
    "Result",
    "RunConfig",
    "Sampled",
    "Saved",
    "Size",
    "Started",
    "Stepped",
    "Stop",
    "Stopped",
    "UserError",
    "Verdict",
    "WordFacts",
    "check",
    "convert",
    "generate",
    "inspect",
    "load_model",
    "pieces",
    "read_embedding",
    "recognise",
    "train",
    "train_words",
    "write_embedding",
]


if not TYPE_CHECKING:  # with this function in view, a type checker would accept every attribute

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(home), name)
        raise AttributeError(f"module 'neonym' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
