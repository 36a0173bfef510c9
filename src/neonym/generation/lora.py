"""Load LoRA files, in kohya's layout or diffusers', with diffusers' loader and peft."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neonym.errors import ModelError, Problem, UserError
from neonym.extras import install_command, is_installed
from neonym.generation.samplers import default_sampler, make_scheduler
from neonym.models.loading.weight_files import ENDINGS, read_header, read_tensors
from neonym.models.model import Model

DOWN = re.compile(r"(?:lora_down|lora_A|[._]down)\.")  # the down matrix, of which each layer has one
MISFIT = "Check that it was made for this kind of model"


class Networks:
    """The LoRAs of a model, loaded as numbered adapters.

    `problems` holds warnings about files of which only some layers fit. Raises ModelError for a file that is not a LoRA
    or does not fit the model.
    """

    def __init__(self, model: Model, files: Sequence[str], multipliers: Sequence[float], merge: bool = False):
        self.names = [f"network{i}" for i in range(len(files))]
        self.multipliers = tuple(multipliers)
        self.pipeline: Any = lora_loader(model) if files else None
        self.parts = {name: part for name, part in model.modules().items() if name != "vae"}
        self.is_merged, self.weights, self.problems = merge, None, list[Problem]()
        for name, file in zip(self.names, files, strict=True):
            self.load(name, file)
        if files and merge:
            self.set(self.multipliers)
            self.pipeline.fuse_lora(components=list(self.parts), adapter_names=self.names)

    def load(self, name: str, file: str) -> None:
        """Load a file as the adapter `name`. Raises ModelError if it is not a LoRA or does not fit the model."""
        tensors = lora_tensors(file)
        log = logging.getLogger("diffusers.loaders")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # peft warns about a second network
                log.setLevel(logging.CRITICAL)  # it lists every shape that does not fit, in hundreds of lines
                self.pipeline.load_lora_weights(tensors, adapter_name=name)
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            line = str(error).strip().split("\n", 1)[0][:200]
            raise ModelError(f"does not fit the model ({line})", file, MISFIT) from error
        finally:
            log.setLevel(logging.NOTSET)
        layers = sum(DOWN.search(key) is not None for key in tensors)
        modules = (module for part in self.parts.values() for module in part.modules())
        loaded = sum(name in getattr(module, "lora_A", ()) for module in modules)
        if not loaded:
            raise ModelError("none of its layers fits the model", file, MISFIT)
        if loaded < layers:
            what = f"{layers - loaded} of its {layers} layers are not in the model and are ignored"
            self.problems.append(Problem("warning", what, file, MISFIT))

    def set(self, multipliers: Sequence[float]) -> None:
        """Set the multiplier of each LoRA from now on; the last one given also applies to the LoRAs after it."""
        if not self.names or (self.is_merged and self.weights is not None):
            return
        known = [*multipliers] or [1.0]
        weights = (known + [known[-1]] * len(self.names))[: len(self.names)]
        if weights != self.weights:
            self.pipeline.set_adapters(self.names, weights)
            self.weights = weights


def lora_loader(model: Model) -> Any:
    """Return the family's diffusers pipeline around the loaded parts, of which only the LoRA loader is used."""
    import diffusers

    family = model.source.family
    kind = getattr(diffusers, family.pipeline)
    wanted = inspect.signature(kind.__init__).parameters.values()
    parts: dict[str, Any] = {own.name: None for own in wanted if own.name != "self" and own.default is own.empty}
    scheduler = make_scheduler(model, default_sampler(family.process))
    return kind(**parts | model.modules() | {"scheduler": scheduler})


def lora_tensors(file: str) -> dict[str, Any]:
    """Return the tensors of a LoRA file. Raises ModelError if it is not one or has numbers that are not finite."""
    tensors = read_tensors(Path(file), ("",))
    if not any(DOWN.search(key) for key in tensors):
        raise ModelError("the file holds no LoRA", file, "Other kinds of networks are not supported")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ModelError("some of its numbers are not finite", file, "Download the file again")
    return tensors


def network_metadata(file: str) -> dict[str, str]:
    """Return the metadata of a LoRA file. Raises ModelError if it cannot be read."""
    return dict(read_header(Path(file)).metadata)


def check_networks(files: Sequence[str]) -> None:
    """Raise UserError for LoRA files with a problem that can be seen before the model is loaded."""
    if files and not is_installed("peft"):
        raise UserError("a LoRA needs the package `peft`", "--network_weights", install_command("peft"))
    for file in files:
        if not Path(file).is_file():
            raise ModelError("there is no such file", f"--network_weights {file}")
        if Path(file).suffix.lower() not in ENDINGS:
            raise ModelError(f"is not a LoRA file ({', '.join(ENDINGS)})", file)
        read_header(Path(file))
