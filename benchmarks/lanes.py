"""How many words an hour: several lanes in one process, one word after another, and a process for each word.

    python -m benchmarks.lanes [--model builtin:emoji] [--words 16] [--steps 100] [--lanes 1 4 16] [--batch_size 1]

Every word learns from the same images under a token of its own. One lane is one word after another with a model that is
loaded once. Separate processes are measured with `--processes` words. The table is for docs/fleet.md; `--json FILE`
keeps the numbers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.recovery import machine, write_json
from neonym import Result, RunConfig, Started, Stepped, train_words
from neonym.runs.events import Event

IMAGES = Path(__file__).parent.parent / "examples" / "nutkin"


def write_images(folder: Path, words: int) -> list[Path]:
    """Write a folder of images for each word, with captions that contain it, and return the folders."""
    folders = []
    for index in range(words):
        own = folder / word_of(index)
        own.mkdir(parents=True)
        for image in sorted(IMAGES.glob("*.png")):
            (own / image.name).symlink_to(image)
            caption = image.with_suffix(".txt").read_text().replace("nutkin", word_of(index))
            (own / image.name).with_suffix(".txt").write_text(caption)
        folders.append(own)
    return folders


def word_of(index: int) -> str:
    """Return the token of a word."""
    return f"wrd{index:03d}"


def settings_of(args: argparse.Namespace, folder: Path, out: Path) -> dict[str, object]:
    """Return the settings of a word by name."""
    given = {
        "pretrained_model_name_or_path": args.model, "train_data_dir": str(folder), "token_string": folder.name,
        "init_word": "animal", "output_dir": str(out), "max_train_steps": args.steps, "train_batch_size": args.batch_size,
    }  # fmt: skip
    return given if args.device == "cuda" else {**given, "cpu": True}


class Clock:
    """A listener that measures the time of all steps, from the first word's start to the last step of any."""

    def __init__(self) -> None:
        self.first, self.last, self.steps = 0.0, 0.0, 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.first = self.first or time.perf_counter()
        elif isinstance(event, Stepped):
            self.last, self.steps = time.perf_counter(), self.steps + 1


def in_lanes(args: argparse.Namespace, folders: Sequence[Path], lanes: int, out: Path) -> dict[str, float]:
    """Return the figures of all words in one process, `lanes` at a time."""
    clock, begun = Clock(), time.perf_counter()
    runs = [RunConfig.parse(**settings_of(args, folder, out)) for folder in folders]
    results = train_words(runs, lanes=lanes, listeners=lambda _: [clock])
    seconds = time.perf_counter() - begun
    failed = [outcome for outcome in results if not isinstance(outcome, Result)]
    if failed:
        raise failed[0]
    return {
        "lanes": lanes,
        "words_per_hour": 3600 * len(folders) / seconds,
        "seconds": seconds,
        "samples_per_second": args.batch_size * clock.steps / (clock.last - clock.first),
    }


def in_processes(args: argparse.Namespace, folders: Sequence[Path], out: Path) -> dict[str, float]:
    """Return the figures of a process for each word, one after another."""
    begun = time.perf_counter()
    for folder in folders:
        flags = [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in settings_of(args, folder, out).items()
        ]
        subprocess.run([sys.executable, "-m", "neonym", "train", *flags], check=False, capture_output=True)
    seconds = time.perf_counter() - begun
    return {"words_per_hour": 3600 * len(folders) / seconds, "seconds_per_word": seconds / len(folders)}


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:emoji")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--words", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--processes", type=int, default=2, help="words that are trained in processes of their own")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = write_images(Path(temporary) / "images", args.words)
        apart = in_processes(args, folders[: args.processes], Path(temporary) / "apart") if args.processes else None
        rows = [in_lanes(args, folders, lanes, Path(temporary) / f"lanes{lanes}") for lanes in args.lanes]
    first = rows[0]
    print("| | words an hour | samples a second | as many as one after another |\n|---|---|---|---|")
    if apart:
        print(
            f"| a process for each | {apart['words_per_hour']:.0f} | | {apart['words_per_hour'] / first['words_per_hour']:.2f} |"
        )
    for row in rows:
        share = row["words_per_hour"] / first["words_per_hour"]
        print(
            f"| {row['lanes']:.0f} lanes | {row['words_per_hour']:.0f} | {row['samples_per_second']:.1f} | {share:.2f} |"
        )
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        write_json({"settings": settings, "machine": machine(), "apart": apart, "lanes": rows}, args.json)


if __name__ == "__main__":
    main()
