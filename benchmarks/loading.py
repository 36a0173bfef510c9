"""Measure the memory that a model takes while it is loaded, relative to the size of its files.

    python -m benchmarks.checkpoints --family sd1 --out work/sd1     # a random model of full size
    python -m benchmarks.loading work/sd1/model.safetensors --precision fp16

Peaks are of the whole process, PyTorch and the libraries included. `at_rest` is the memory afterwards:
`own` is that of the process, and `mapped` are pages of the files, which the system can reclaim. Linux only.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.training.checkpoint import PRECISIONS


def resident(kind: str) -> float:
    """Return RssAnon or RssFile of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def peak() -> float:
    """Return the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, a Diffusers folder or builtin:emoji")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp16")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    source = identify(args.model)
    files = {file for weights in source.weights.values() for file in weights.files}
    size, before, started = sum(file.stat().st_size for file in files) / 2**20, peak(), time.monotonic()
    model = load_model(source, args.device, PRECISIONS[args.precision])
    seconds, loaded = time.monotonic() - started, peak()
    for weight in (w for module in model.modules().values() for w in module.parameters()):
        weight.sum()  # as if it were used
    found = {
        "files_MiB": round(size), "seconds": round(seconds, 1), "before": round(before / size, 2),
        "peak_while_loading": round(loaded / size, 2), "peak_in_use": round(peak() / size, 2),
        "at_rest": {"own": round(resident("RssAnon") / size, 2), "mapped": round(resident("RssFile") / size, 2)},
        "precision": args.precision, "device": args.device, "torch": torch.__version__,
    }  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
