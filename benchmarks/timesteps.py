"""Compare stratified timesteps (`--timestep_draws=stratified`), which cover the noise levels evenly, with random ones.

    python -m benchmarks.timesteps --subjects 12 --seeds 0 1 2

Every subject of benchmarks/recovery.py is learned with both kinds of timesteps and everything else equal: images,
captions, order, noise. The recovery scores are compared in pairs, after a quarter, half, three quarters and all of the
steps. Pairs of one subject are similar whatever the seed, so the standard error is that of the subjects' means. Prints a
table, and writes the figures to `--json`.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.recovery import arguments, machine, measure, parsed, write_json

KINDS = ("uniform", "stratified")
QUARTERS = 4  # how often a run is measured
Scores = dict[str, dict[int, dict[int, list[float]]]]  # {kind: {step: {seed: score of each subject}}}


def compare_scores(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Return the means and the difference of two sets of scores, [seeds,subjects] each, compared in pairs."""
    differences = (second - first).mean(axis=0)  # [subjects]
    error = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
    return {
        KINDS[0]: float(first.mean()), KINDS[1]: float(second.mean()), "difference": float(differences.mean()),
        "standard_error": float(error), "better": float((second > first).mean()),
    }  # fmt: skip


def all_scores(args: argparse.Namespace) -> Scores:
    """Train every subject with every seed and both kinds of timesteps, and return the scores."""
    scores: Scores = {kind: {} for kind in KINDS}
    for seed in args.seeds:
        for kind in KINDS:
            print(f"seed {seed}, {kind}", flush=True)
            result = measure(argparse.Namespace(**{**vars(args), "seed": seed, "timestep_draws": kind}))
            for row in result["subjects"]:
                for step, score in row["score_by_step"].items():
                    scores[kind].setdefault(step, {}).setdefault(seed, []).append(score)
    return scores


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.set_defaults(curve=QUARTERS, obedience_colours=0, json=Path(__file__).parent / "results" / "timesteps.json")
    args = parsed(parser)
    scores = all_scores(args)
    by_step = {
        step: compare_scores(*(np.array([scores[kind][step][seed] for seed in args.seeds]) for kind in KINDS))
        for step in sorted(scores[KINDS[0]])
    }
    print("steps  uniform  stratified  difference  standard error  pairs that are better")
    for step, row in by_step.items():
        print(
            f"{step:5}  {row['uniform']:7.3f}  {row['stratified']:10.3f}  {row['difference']:+10.3f}  "
            f"{row['standard_error']:14.3f}  {row['better']:21.0%}"
        )
    settings = {k: v for k, v in vars(args).items() if k not in ("json", "seed", "timestep_draws")}
    write_json({"settings": settings, "machine": machine(), "by_step": by_step, "scores": scores}, args.json)


if __name__ == "__main__":
    main()
