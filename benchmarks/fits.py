"""Estimate what models with a U-Net need to learn a word, and train them on a GPU that is made as small as others are.

    python -m benchmarks.fits                                   # the tables of docs/training.md, computed
    python -m benchmarks.fits --measure --gigabytes 4 6 8 12 --json benchmarks/results/fits.json

With --measure, models of full size with random weights are trained for a few steps with --fit=auto. Each run is a process
of its own, in which torch's allocator gets what a card of that size has beside the context of the device. A row says what
was chosen, and the most that was allocated and reserved, or that memory did not suffice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.checkpoints import make_parts
from benchmarks.recovery import write_json
from benchmarks.step import model_folder
from neonym.models.loading.identify import identify
from neonym.models.loading.sizes import needs_of
from neonym.models.memory import (
    GB,
    Choice,
    Needs,
    Step,
    choices,
    estimate,
    fitting_choice,
    smaller_batches,
)
from neonym.models.registry import families
from neonym.models.source import ModelSource
from neonym.models.storage import Storage
from neonym.models.tokenizers.loading import load_tokenizers

CASES = {"sd1": 512, "sd2": 768, "sdxl": 1024}  # model -> pixels of a side
SAMPLES = 4  # of a step, as by default
CARDS = (4, 6, 8, 12, 16, 24)  # gigabytes that GPUs are sold with
USABLE = 0.97 * 2**30  # bytes for each of them that a driver leaves to programs, about
CONTEXT = 0.4 * GB  # of the device, which torch's allocator does not count
STEPS = 5  # with CUDA graphs, which are recorded in the third


@cache
def source_of(name: str) -> ModelSource:
    """Return a model of full size that exists only as configs."""
    with torch.device("meta"):
        parts = make_parts(name, tiny=False)
    configs = {
        part: own.config.to_dict() if hasattr(own.config, "to_dict") else dict(own.config)
        for part, own in parts.items()
    }
    builtin = identify("builtin:emoji")
    family = next(family for family in families() if family.name == name)
    return replace(builtin, name=family.label, family=family, configs={**builtin.configs, **configs})


@cache
def needs_for(name: str) -> Needs:
    """Return what a step of a model needs memory for. Raises ValueError."""
    source = source_of(name)
    clip = load_tokenizers(identify("builtin:emoji"))["text_encoder"]
    needs = needs_of(source, dict.fromkeys(source.encoders, clip), Step((CASES[name], CASES[name]), SAMPLES))
    if needs is None:
        raise ValueError(f"there is no estimate for {name}")
    return needs


def needs_line(name: str) -> str:
    """Return what a model needs in some ways, as a line of a table."""
    needs = needs_for(name)
    less = ((False, None), (False, 1), (True, 1))
    ways = [Choice(Storage(scheme), *way) for scheme in (None, "fp8") for way in less] + [
        Choice(Storage("nf4"), True, 1)
    ]
    gigabytes = [f"{estimate(needs, way).total / GB:.1f}" for way in ways]
    return f"| {' | '.join([source_of(name).name, str(CASES[name]), *gigabytes])} |"


def chosen_line(name: str) -> str:
    """Return what `--fit` chooses for a model on cards of several sizes, as a line of a table."""
    needs = needs_for(name)
    ways = [replace(way, samples=n) for way in choices(0) for n in smaller_batches(needs.step.samples)]
    found = [fitting_choice(needs, USABLE * card, ways) for card in CARDS]
    texts = [
        (str(way) or "as it is") if need.total <= USABLE * card else "-"
        for card, (way, need) in zip(CARDS, found, strict=True)
    ]
    return f"| {' | '.join([source_of(name).name, str(CASES[name]), *texts])} |"


def train_on_small(name: str, card: int, folder: Path) -> dict[str, Any]:
    """Train in this process as on a card of so many gigabytes, and return what was chosen and what was used."""
    import neonym
    from neonym.training.memory import Memory

    limit, notes = USABLE * card, list[str]()
    torch.cuda.set_per_process_memory_fraction((limit - CONTEXT) / torch.cuda.get_device_properties(0).total_memory)

    def listen(event: Any) -> None:
        if text := getattr(event, "text", ""):
            notes.append(text)

    with tempfile.TemporaryDirectory() as out:
        run = neonym.RunConfig.parse(
            pretrained_model_name_or_path=str(folder), train_data_dir="examples/nutkin", token_string="nutkin", init_word="toy",
            resolution=str(CASES[name]), train_batch_size=SAMPLES, max_train_steps=STEPS, output_dir=out, learning_rate=5e-3,
        )  # fmt: skip
        with patch("neonym.training.memory.memory_of", lambda *_: Memory.whole(limit)):
            neonym.train(run, [listen])
    return {
        "fit": [note for note in notes if "--fit" in note],
        "allocated_gb": round(torch.cuda.max_memory_allocated() / GB, 2),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / GB, 2),
    }


def measured(name: str, card: int, folder: Path) -> dict[str, Any]:
    """Return the result of `train_on_small` in a process of its own, or its error."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.fits",
        "--case",
        name,
        "--gigabytes",
        str(card),
        "--folder",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    needs = needs_for(name)
    ways = [replace(way, samples=n) for way in choices(0) for n in smaller_batches(needs.step.samples)]
    way, need = fitting_choice(needs, USABLE * card, ways)
    row = {"model": name, "card_gb": card, "way": str(way), "estimated_gb": round(need.total / GB, 2)}
    if done.returncode:
        return {**row, "error": (done.stderr.strip().splitlines() or [str(done.returncode)])[-1][:300]}
    return {**row, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="train on a GPU whose memory is limited")
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--gigabytes", type=int, nargs="+", default=list(CARDS))
    parser.add_argument("--models_dir", type=Path, help="where random models are kept (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    for name, kind in (("case", str), ("folder", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(train_on_small(args.case, args.gigabytes[0], args.folder)))
        return
    for line in (needs_line, chosen_line) if not args.measure else ():
        print("\n".join(map(line, args.models)))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        home = args.models_dir or Path(temporary)
        for name in args.models if args.measure else ():
            folder = model_folder(name, home, SimpleNamespace(device="cuda"))
            for card in args.gigabytes:
                rows.append(measured(name, card, folder))
                print(json.dumps(rows[-1]), flush=True)
    if args.json:
        write_json({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
