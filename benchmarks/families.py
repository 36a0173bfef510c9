"""Measure the memory and the time of a training step of large models with random weights.

    python -m benchmarks.families --minutes 8 --json benchmarks/results/families.json
    python -m benchmarks.families --tiny

Weights are created on the device one by one, as they are loaded from files, so nothing is read or downloaded. A step is
that of training at batch 1: text encoders, denoiser, loss and the backward pass to the rows of a word. A case that does
not fit is reported and left out; no case begins when the minutes are up. `--tiny` runs the same code on small networks.
`python -m benchmarks.counted` compares what is measured with what is counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.full_size import CONFIGS, tiny
from neonym.models.encoders.rows import Rows
from neonym.models.family import Family
from neonym.models.loading.assemble import empty_part, place_weights
from neonym.models.loading.identify import identify
from neonym.models.loading.sizes import sizes_of
from neonym.models.memory import GB, Step, weights_on
from neonym.models.model import Model
from neonym.models.registry import families
from neonym.models.source import ModelSource
from neonym.models.storage import Scheme, Storage
from neonym.training.objective import Objective
from neonym.training.step import sample_losses
from neonym.types import Batch, Conditions, Encoded

USUAL = [name for name in CONFIGS if name != "flux2_dev"]  # those that one GPU holds in bf16
VECTORS = 4  # rows of the word in each text encoder
END = 49407  # CLIP's end token
TOKENIZERS = SimpleNamespace(clip=SimpleNamespace(end=END))  # all that a text side reads of CLIP's tokenizer


class Kept(NamedTuple):
    """How weights are kept: the scheme, and whether half of the blocks are swapped."""

    scheme: Scheme | None
    swapped: bool = False

    def __str__(self) -> str:
        return f"{self.scheme or 'bf16'}{' + swap' * self.swapped}"


# in this order, so that the first minutes measure what is used most
KEPT = (Kept("fp8"), Kept(None), Kept("nf4"), Kept("int8"), Kept("fp8", True))


def random_weights(module: nn.Module, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yield random weights for a network without weights, each on the device before the next is made.

    They depend on their names only. Norms and variances are 1, and biases 0, so that activations stay finite.
    """
    for name, empty in module.state_dict().items():
        if empty.ndim < 2 or not empty.is_floating_point():
            is_one = name.endswith(("weight", "scale", "running_var"))
            yield name, torch.full(empty.shape, float(is_one), dtype=dtype, device=device)
        else:
            generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
            yield name, torch.randn(empty.shape, generator=generator, dtype=dtype, device=device) * 0.02


def random_part(source: ModelSource, part: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return a part with random weights, in the place of `load_part`."""
    module = empty_part(source, part)
    place_weights(source, part, module, random_weights(module, dtype, device), dtype, device)
    return module


def random_source(family: Family, configs: dict[str, Any], kept: Kept) -> ModelSource:
    """Return a model of a family that exists only as configs."""
    builtin = identify("builtin:emoji")
    facts = family.recognise(configs, family.label)
    if facts is None:
        raise ValueError(f"the configs are not those of {family.label}")
    source = replace(builtin, name=family.label, family=family, configs={**configs, "scheduler": {}}, facts=facts)
    sizes = sizes_of(source)
    blocks = len(sizes.denoiser.blocks) // 2 if kept.swapped and sizes else 0
    return replace(source, storage=Storage(kept.scheme, kept.scheme, blocks))


def random_model(source: ModelSource, device: torch.device, dtype: torch.dtype) -> Model:
    """Return a model with random weights and a word of random rows."""
    tokenizers = dict.fromkeys(source.encoders, TOKENIZERS)
    with patch("neonym.models.loading.parts.load_part", random_part):
        model: Model = import_module(source.family.module).load(source, tokenizers, device, dtype, 1)
    model.vae.to("cpu")
    torch.manual_seed(0)
    for table in model.text.tables.values():
        table.rows.append(Rows(0.02 * torch.randn(VECTORS, table.frozen.embedding_dim, device=device)))
    return model


def random_batch(model: Model, side: int, device: torch.device) -> Batch:
    """Return one sample of random moments, whose caption has the word and is as long as a caption can be."""
    latents = model.source.latents
    at = side // latents.pixels
    ids, masks = {}, {}
    for encoder in model.source.family.encoders:
        vocabulary = model.text.tables[encoder.name].vocab
        own = torch.arange(2, 2 + encoder.max_length, device=device) % vocabulary
        own[1 : 1 + VECTORS] = torch.arange(vocabulary, vocabulary + VECTORS, device=device)
        own[-1] = min(END, vocabulary - 1)
        ids[encoder.name] = own[None, None]  # [1,1,L]
        masks[encoder.name] = torch.ones_like(ids[encoder.name], dtype=torch.bool)
    generator = torch.Generator(device).manual_seed(1)
    moments = torch.randn(1, 2 * latents.channels, at, at, generator=generator, device=device)
    usual = model.source.facts.embedded_guidance
    conditions = Conditions(guidance=None if usual is None else torch.ones(1, device=device))
    return Batch(
        moments, Encoded(ids, masks=masks), [(0, 0, 0)], [0.5], torch.zeros(1, dtype=torch.int64, device=device),
        torch.ones(1, device=device), conditions=conditions,
    )  # fmt: skip


def measured_step(model: Model, side: int, device: torch.device, steps: int) -> dict[str, Any]:
    """Return the peak memory, the seconds of a step (after the first), the loss, and the size of the gradients."""
    batch, tables = random_batch(model, side, device), model.text.tables
    rows: dict[str, Any] = {name: table.rows[0] for name, table in tables.items()}
    reset_peak(device)
    seconds, losses = [], torch.zeros(1)
    for _ in range(1 + steps):
        for own in rows.values():
            own.gradients = None
        begun = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            losses = sample_losses(model, batch, Objective())
        losses.sum().backward()
        synchronise(device)
        seconds.append(time.monotonic() - begun)
    return {
        "peak_gb": peak(device),
        "seconds": sum(seconds[1:]) / steps,
        "first_seconds": seconds[0],
        "loss": float(losses.detach().sum()),
        "gradients": {name: float(own.gradients.norm()) for name, own in rows.items()},
    }


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak memory of a GPU again."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float | None:
    """Return the peak memory of a GPU in gigabytes; None on a CPU."""
    return round(torch.cuda.max_memory_allocated(device) / GB, 2) if device.type == "cuda" else None


def held(device: torch.device) -> float | None:
    """Return the memory that tensors hold on a GPU in gigabytes; None on a CPU."""
    return round(torch.cuda.memory_allocated(device) / GB, 2) if device.type == "cuda" else None


def synchronise(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Bench:
    """The cases and their results, written after each case so that nothing measured is lost."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.ends = args, time.monotonic() + 60 * args.minutes
        self.device = torch.device(args.device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.rows: list[dict[str, Any]] = []

    def run(self) -> None:
        """Measure all cases, and print and write the results."""
        print(HEAD)
        for name in self.args.families:
            family = next((family for family in families() if family.name == name), None)
            if family is None or not family.denoiser.blocks:
                print(f"{name}: not in this version")
                continue
            for kept in KEPT:
                self.measure_model(family, kept)

    def measure_model(self, family: Family, kept: Kept) -> None:
        """Make a model, and measure it at all sizes."""
        configs = tiny(family.name) if self.args.tiny else CONFIGS[family.name]
        source, sides = random_source(family, configs, kept), self.args.sides
        if self.is_over():
            return self.report(source, kept, sides[-1], True, {"error": "no time left"})
        try:
            begun = time.monotonic()
            model = random_model(source, self.device, self.dtype)
            synchronise(self.device)
            made = {"weights_gb": held(self.device), "making_seconds": round(time.monotonic() - begun, 1)}
        except torch.OutOfMemoryError as error:
            return self.report(source, kept, sides[-1], True, {"error": first_line(error)})
        if not kept.swapped:
            self.measure(model, kept, sides[0], False, made)
            if kept.scheme in (None, "fp8"):
                self.measure(model, kept, sides[-1], False, made)
        model.enable_gradient_checkpointing()
        for side in sides:
            self.measure(model, kept, side, True, made)
        del model
        return reset_peak(self.device)

    def is_over(self) -> bool:
        """Return whether the minutes are up."""
        return time.monotonic() > self.ends

    def measure(self, model: Model, kept: Kept, side: int, checkpointing: bool, made: dict[str, Any]) -> None:
        """Measure one case."""
        if self.is_over():
            return self.report(model.source, kept, side, checkpointing, {**made, "error": "no time left"})
        try:
            found = measured_step(model, side, self.device, self.args.steps)
        except torch.OutOfMemoryError as error:
            found = {"error": first_line(error)}
            reset_peak(self.device)
        return self.report(model.source, kept, side, checkpointing, {**made, **found})

    def report(
        self, source: ModelSource, kept: Kept, side: int, checkpointing: bool, found: dict[str, Any]
    ) -> None:  # fmt: skip
        """Print the result of a case, with the estimated weights, and write all results so far."""
        sizes = sizes_of(source)
        if sizes is None:
            raise ValueError(f"there is no estimate for {source.name}")
        weights = weights_on(sizes, Step((side, side), 1, self.dtype.itemsize), source.storage)
        row = {
            "family": source.family.name, "side": side, "kept": str(kept), "checkpointing": checkpointing,
            "blocks_to_swap": source.storage.blocks_to_swap, **found,
            "estimated_weights_gb": round(weights / GB, 2),
        }  # fmt: skip
        self.rows.append(row)
        print(line_of(row), flush=True)
        if self.args.json:
            self.args.json.parent.mkdir(parents=True, exist_ok=True)
            self.args.json.write_text(json.dumps({**machine(self.device), "rows": self.rows}, indent=1) + "\n")


COLUMNS = {
    "family": 16, "side": 6, "kept": 12, "checkpointing": 15, "weights_gb": 12, "estimated_weights_gb": 22,
    "peak_gb": 9, "seconds": 10, "loss": 9,
}  # fmt: skip
HEAD = "".join(f"{name:>{width}}" for name, width in COLUMNS.items())


def line_of(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    values = {name: row.get(name) for name in COLUMNS}
    texts = {name: f"{value:.2f}" if isinstance(value, float) else str(value) for name, value in values.items()}
    line = "".join(f"{text if text != 'None' else '-':>{COLUMNS[name]}}" for name, text in texts.items())
    return f"{line}  {row.get('error', '')}".rstrip()


def first_line(error: BaseException) -> str:
    """Return the first line of an error, at most 100 characters of it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def machine(device: torch.device) -> dict[str, str]:
    """Return the device and the versions of libraries."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    return {"device": name, **{library: version(library) for library in ("torch", "diffusers", "transformers")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=USUAL, choices=list(CONFIGS))
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 768, 1024])
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed, after the first")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case begins after this time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small networks, for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    Bench(parser.parse_args()).run()


if __name__ == "__main__":
    main()
