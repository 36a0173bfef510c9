"""Measure the memory that a model takes while it is loaded, relative to the size of its files.

    python -m benchmarks.checkpoints --family sd1 --out work/sd1     # a random model of full size
    python -m benchmarks.loading work/sd1/model.safetensors --precision fp16

Peaks are of the whole process, PyTorch and the libraries included. `own` is the memory of the process without pages
of the files (`mapped`), which the system can reclaim; `at_rest` is the memory afterwards. Linux only.
"""

import argparse
import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.storage import SCHEMES, Storage
from neonym.training.checkpoint import PRECISIONS


def resident(kind: str) -> float:
    """Return RssAnon or RssFile of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


@contextmanager
def own_peak() -> Iterator[list[float]]:
    """Measure the largest RssAnon of the block, in MiB, which is the last one in the list."""
    found, done = [resident("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            found.append(max(found[-1], resident("RssAnon")))

    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    done.set()
    thread.join()


def peak() -> float:
    """Return the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, a Diffusers folder or builtin:emoji")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--base_precision", choices=SCHEMES)
    args = parser.parse_args()
    source = replace(identify(args.model), storage=Storage(args.base_precision, args.base_precision))
    files = {file for weights in source.weights.values() for file in weights.files}
    size, before, started = sum(file.stat().st_size for file in files) / 2**20, peak(), time.monotonic()
    with own_peak() as own:
        model = load_model(source, args.device, PRECISIONS[args.precision])
    seconds, loaded = time.monotonic() - started, peak()
    for weight in (w for module in model.modules().values() for w in module.parameters()):
        weight.sum()  # as if it were used
    found = {
        "files_MiB": round(size), "seconds": round(seconds, 1), "before": round(before / size, 2),
        "peak_while_loading": round(loaded / size, 2), "own_peak": round((own[-1] - own[0]) / size, 2),
        "peak_in_use": round(peak() / size, 2),
        "at_rest": {"own": round(resident("RssAnon") / size, 2), "mapped": round(resident("RssFile") / size, 2)},
        "precision": args.precision, "base_precision": args.base_precision, "device": args.device, "torch": torch.__version__,
    }  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
