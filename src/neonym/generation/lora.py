"""LoRA files (kohya's layout or diffusers') beside the frozen weights, through diffusers' loader and peft."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neonym.errors import ModelError, Problem, UserError
from neonym.extras import install, is_installed
from neonym.generation.samplers import make_pipeline
from neonym.models.loading.weight_files import ENDINGS, read_header, read_tensors

DOWN = re.compile(r"(?:lora_down|lora_A|[._]down)\.")  # one of the two matrices of a layer


class Networks:
    """The LoRAs of a model, each under its number. Raises ModelError for a file that is none, or that does not fit.

    `problems`: warnings of files that fit in part.
    """

    def __init__(self, model: Any, files: Sequence[str], multipliers: Sequence[float], merge: bool = False):
        self.names = [f"network{i}" for i in range(len(files))]
        self.multipliers = tuple(multipliers)
        self.pipeline: Any = make_pipeline(model) if files else None
        self.parts = [model.denoiser, *model.text.encoders.values()]
        self.merged, self.now, self.problems = merge, None, list[Problem]()
        for name, file in zip(self.names, files, strict=True):
            self.load(name, file)
        if files and merge:
            self.set(self.multipliers)
            self.pipeline.fuse_lora(components=["unet", *model.text.encoders], adapter_names=self.names)

    def load(self, name: str, file: str) -> None:
        tensors = read_tensors(Path(file), ("",))
        layers = sum(DOWN.search(key) is not None for key in tensors)
        if not layers:
            raise ModelError("holds no LoRA", file, "Other kinds of networks are not supported")
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ModelError("some of its numbers are not finite", file, "Get the file again")
        fix, log = "Was it made for this kind of model?", logging.getLogger("diffusers.loaders")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # peft wonders at a second network
                log.setLevel(logging.CRITICAL)  # every shape that does not fit: hundreds of lines
                self.pipeline.load_lora_weights(tensors, adapter_name=name)
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            line = str(error).strip().split("\n", 1)[0][:200]
            raise ModelError(f"does not fit the model ({line})", file, fix) from error
        finally:
            log.setLevel(logging.NOTSET)
        loaded = sum(name in getattr(layer, "lora_A", ()) for part in self.parts for layer in part.modules())
        if not loaded:
            raise ModelError("nothing of it fits the model", file, fix)
        if loaded < layers:
            what = f"{layers - loaded} of its {layers} layers are not in the model, and are passed over"
            self.problems.append(Problem("warning", what, file, fix))

    def set(self, multipliers: Sequence[float]) -> None:
        """How much each counts from now on; the last number given is also for those behind it."""
        if not self.names or (self.merged and self.now is not None):
            return
        known = [*multipliers] or [1.0]
        weights = (known + [known[-1]] * len(self.names))[: len(self.names)]
        if weights != self.now:
            self.pipeline.set_adapters(self.names, weights)
            self.now = weights


def network_facts(file: str) -> dict[str, str]:
    """The metadata of a LoRA file. Raises ModelError."""
    return dict(read_header(Path(file)).metadata)


def check_networks(files: Sequence[str]) -> None:
    """What can be known before the model is loaded. Raises UserError."""
    if files and not is_installed("peft"):
        raise UserError("a LoRA needs the package `peft`", "--network_weights", install("peft"))
    for file in files:
        if not Path(file).is_file():
            raise ModelError("there is no such file", f"--network_weights {file}")
        if Path(file).suffix.lower() not in ENDINGS:
            raise ModelError(f"is no LoRA file ({', '.join(ENDINGS)})", file)
        read_header(Path(file))
