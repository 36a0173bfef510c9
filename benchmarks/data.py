"""Measure how long 20,000 images take to scan, check and plan, and whether the loader keeps up with the model.

    python -m benchmarks.data --images 20000

The images (half JPEG, half PNG, 768 x 512 and other shapes, with captions of 12 to 27 tags) are written to a
temporary folder: 200 different ones, and copies of them. Times are of the whole command `neonym check`, imports included; memory is the
process's peak.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = ((768, 512), (512, 768), (640, 640), (512, 512), (900, 450))
DISTINCT = 200
WORDS = ["long", "hair", "open", "mouth", "blue", "eyes", "grass", "window", "sky", "mountain"]


def make_images(folder: Path, count: int) -> None:
    """Write smooth random images; all but the first 200 are copies with names and captions of their own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    originals = []
    for i in range(min(DISTINCT, count)):
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        path = folder / f"{i:06}.{'jpg' if i % 2 else 'png'}"
        small.resize(SHAPES[i % len(SHAPES)], Image.Resampling.BICUBIC).save(path)
        originals.append(path)
    for i in range(len(originals), count):
        source = originals[i % len(originals)]
        shutil.copyfile(source, folder / f"{i:06}{source.suffix}")
    for i in range(count):
        tags = [" ".join(rng.choice(WORDS, rng.integers(1, 3))) for _ in range(rng.integers(12, 28))]
        (folder / f"{i:06}.txt").write_text(f"a photo of mychar4, number {i}, {', '.join(tags)}")


def check(folder: Path, cache: Path) -> dict[str, float]:
    """Run `neonym check` on the folder, and return the seconds and the peak memory in MiB."""
    flags = ["--train_data_dir", str(folder), "--token_string", "mychar4", "--enable_bucket", "--resolution", "512"]
    code = (
        "import resource, sys; from neonym.cli.check import main; code = main(sys.argv[1:], 'check');"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--shuffle_caption"], capture_output=True, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return {"seconds": round(seconds, 2), "peak_MiB": round(float(done.stdout.splitlines()[-1]), 1)}


def loading(steps: int) -> dict[str, float]:
    """Return the milliseconds of the loader and of the step itself, for the built-in model with everything cached."""
    import torch
    from accelerate import Accelerator

    from neonym.config.run import RunConfig as Run
    from neonym.config.schema import fields_of
    from neonym.data.loader import collate
    from neonym.models.model import load_model
    from neonym.preflight.preflight import preflight
    from neonym.runs.dispatcher import Dispatcher
    from neonym.runs.stop import Stop
    from neonym.training.concepts import add_concept
    from neonym.training.load import encode_images, make_loader
    from neonym.training.objective import Objective
    from neonym.training.step import train_step

    flags = {"train_data_dir": "examples/nutkin", "token_string": "nutkin", "shuffle_caption": True, "flip_aug": True}
    tree: dict[str, dict] = {}
    for section, name, _ in fields_of(Run):
        if name in flags:
            tree.setdefault(section, {})[name] = flags[name]
    plan = preflight(Run.model_validate(tree)).complete_plan()
    accelerator = Accelerator(cpu=True)
    model = load_model()
    latents = encode_images(plan, model, Dispatcher(), Stop())
    concept = add_concept(model, plan)
    loader = make_loader(plan, latents, model, accelerator)
    waits, works = [], []
    for step in range(steps):
        begun = time.perf_counter()
        work = loader.work(step)
        loaded = time.perf_counter()
        batch = collate(work.samples, [0] * len(work.samples), model.text.stacked, accelerator.device)
        train_step(model, [concept], [work], [batch], Objective(), accelerator)
        waits.append(loaded - begun)
        works.append(time.perf_counter() - loaded)
    half = steps // 2  # the first epochs also tokenise the captions
    return {
        "loader_ms": round(1000 * float(np.median(waits[half:])), 3),
        "step_ms": round(1000 * float(np.median(works[half:])), 1),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        folder, cache = Path(home) / "images", Path(home) / "cache"
        make_images(folder, args.images)
        os.utime(folder)
        time.sleep(3)  # the index does not trust files that were just written
        results = {"pictures": args.images, "first": check(folder, cache), "second": check(folder, cache)}
    results["loading"] = loading(args.steps)
    results["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
