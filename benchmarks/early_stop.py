"""Measure where `--early_stop` would end a run, and what that would cost, for several thresholds.

    python -m benchmarks.early_stop --subjects 12 --steps 300 --seeds 0 1

The subjects of benchmarks/recovery.py are trained to the end with an evaluation every few steps; then the rule of
`--early_stop` is applied to the losses of each word. The lowest loss until the stop is compared with the lowest loss of
the whole run, and with the gain of the run: (first - kept) / (first - lowest), over all words. Prints a table, and writes
the figures to `--json`.
"""

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.recovery import arguments, load_subjects, machine, parsed, run_of, write_data, write_json
from neonym import train
from neonym.config.learning_settings import EvalSettings
from neonym.models.loading.identify import identify
from neonym.models.source import BUILTIN
from neonym.runs.events import Evaluated, Event
from neonym.training.early_stopping import EarlyStopping


@dataclass
class Curves:
    """A listener that collects the evaluation losses of a run."""

    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)  # of each word, at each of the steps

    def __call__(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            self.losses.setdefault(event.word, []).append(event.loss)
            self.steps += [event.step] if event.step not in self.steps else []


def train_subjects(args: argparse.Namespace, seed: int) -> Curves:
    """Train all subjects in one run, since words learn the same alone and together, and return the losses."""
    curves = Curves()
    with tempfile.TemporaryDirectory() as temporary:
        config, _ = write_data(load_subjects(args.subjects), args.vectors, args.batch_size, Path(temporary) / "data")
        evaluation = {"eval_every_n_steps": args.every, "eval_samples": args.eval_samples}
        one = argparse.Namespace(**{**vars(args), "seed": seed})
        train(run_of(one, config, Path(temporary) / "out", evaluation, None), [curves])
    return curves


def stop_index(losses: list[float], window: int, threshold: float) -> int:
    """Return the index of the evaluation after which a run of this word alone would end, by default the last.

    The first evaluation is that of the initial rows, before any step.
    """
    early_stopping = EarlyStopping(window, threshold)
    for index, loss in enumerate(losses[1:], 1):
        early_stopping.add(loss, {})
        if early_stopping.should_stop():
            return index
    return len(losses) - 1


def threshold_figures(steps: list[int], words: list[list[float]], window: int, threshold: float) -> dict[str, float]:
    """Return the figures of one threshold, over the loss curves of all `words`."""
    stops = [stop_index(losses, window, threshold) for losses in words]
    first = np.array([losses[0] for losses in words])
    lowest = np.array([min(losses) for losses in words])
    kept = np.array([min(losses[: stop + 1]) for losses, stop in zip(words, stops, strict=True)])
    ends = [steps[stop] for stop in stops]
    return {
        "threshold": threshold, "stopped": float(np.mean([end < steps[-1] for end in ends])), "mean_step": float(np.mean(ends)),
        "first_step": min(ends), "last_step": max(ends), "kept_of_gain": float((first - kept).sum() / (first - lowest).sum()),
        "loss_above_lowest": float((kept / lowest - 1).mean()), "worst_above_lowest": float((kept / lowest - 1).max()),
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    defaults = EvalSettings()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--every",
        type=int,
        default=identify(BUILTIN).defaults.eval_every_n_steps.value,
        help="steps between evaluations",
    )
    parser.add_argument("--eval_samples", type=int, default=defaults.eval_samples)
    parser.add_argument("--window", type=int, default=defaults.early_stop_window)
    thresholds = [0.002, 0.005, 0.01, defaults.early_stop_threshold, 0.05, 0.1, 0.2]
    parser.add_argument("--thresholds", type=float, nargs="+", default=thresholds)
    parser.set_defaults(steps=300, json=Path(__file__).parent / "results" / "early_stop.json")
    args = parsed(parser)
    runs = [train_subjects(args, seed) for seed in args.seeds]
    steps = runs[0].steps
    words = [losses for run in runs for losses in run.losses.values()]
    rows = [threshold_figures(steps, words, args.window, threshold) for threshold in args.thresholds]
    print("threshold  stopped  mean step  first..last  of the gain  loss above the lowest: mean, worst")
    for row in rows:
        print(
            f"{row['threshold']:9}  {row['stopped']:7.0%}  {row['mean_step']:9.0f}  {row['first_step']:5}..{row['last_step']:<4}  "
            f"{row['kept_of_gain']:11.1%}  {row['loss_above_lowest']:28.2%}, {row['worst_above_lowest']:.2%}"
        )
    settings = {k: v for k, v in vars(args).items() if k not in ("json", "seed")}
    result = {"settings": settings, "machine": machine(), "thresholds": rows, "steps": steps, "losses": words}
    write_json(result, args.json)


if __name__ == "__main__":
    main()
