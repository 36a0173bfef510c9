"""Speed of generation against diffusers' own pipeline, on the same model, prompts, seeds and steps.

    python -m benchmarks.generate --pictures 8 --steps 20

Both draw with the same loaded weights, in turn and several times; the best time of each counts. Guidance and decoding are
included. Writes a JSON file to `benchmarks/results/`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.recovery import machine, write_json
from neonym.generation.jobs import Job
from neonym.generation.painter import Painter, PaintRules
from neonym.generation.samplers import make_pipeline
from neonym.models.family import load_model

PROMPT = "a sticker of a cat on a blue background"


def best(draw: Callable[[], list], times: int) -> tuple[float, list]:
    """-> seconds of the fastest of several runs, and what the last one drew"""
    found, seconds = [], []
    for _ in range(times):
        started = time.perf_counter()
        found = draw()
        seconds.append(time.perf_counter() - started)
    return min(seconds), found


def compare(model, pictures: int, batch: int, steps: int, sampler: str, times: int) -> dict:
    """Seconds of both for the same pictures, and how much the pictures differ (levels of 0..255)."""
    pipeline, painter, at_once = make_pipeline(model, sampler), Painter(model), Painter(model, PaintRules(at_once=True))
    side, scale = model.source.native_size, model.source.guidance
    jobs = [Job(PROMPT, seed, side, side, "blurry", steps, scale, sampler=sampler) for seed in range(pictures)]
    groups = [jobs[i : i + batch] for i in range(0, pictures, batch)]

    def ours() -> list:
        return [picture for group in groups for picture in painter.paint(group)]

    def ours_at_once() -> list:
        return [picture for group in groups for picture in at_once.paint(group)]

    def theirs() -> list:
        found = []
        for group in groups:
            found += pipeline(
                [PROMPT] * len(group), negative_prompt=["blurry"] * len(group), num_inference_steps=steps,
                guidance_scale=scale, width=side, height=side,
                generator=[torch.Generator().manual_seed(job.seed) for job in group],
            ).images  # fmt: skip
        return found

    ours(), ours_at_once(), theirs()  # warm
    (our_time, mine), (faster, _), (their_time, other) = (best(draw, times) for draw in (ours, ours_at_once, theirs))
    differences = [np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in zip(mine, other, strict=True)]
    return {
        "batch": batch, "sampler": sampler, "ours_s": round(our_time, 3), "at_once_s": round(faster, 3), "diffusers_s": round(their_time, 3),
        "ratio": round(their_time / our_time, 3), "ratio_at_once": round(their_time / faster, 3),
        "largest_difference": int(max(differences)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--samplers", nargs="+", default=["ddim", "euler_a"])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--model", default="builtin:emoji")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/generate.json"))
    args = parser.parse_args()
    model = load_model(args.model, "cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for sampler in args.samplers:
        for batch in args.batch_sizes:
            rows.append(compare(model, args.pictures, batch, args.steps, sampler, args.times))
            heads = list(rows[0])
            if len(rows) == 1:
                print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
            print(f"| {' | '.join(str(rows[-1][head]) for head in heads)} |", flush=True)
    write_json({"machine": machine(), "pictures": args.pictures, "steps": args.steps, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
