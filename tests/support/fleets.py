"""Small fleets: words of six images each, and what each of them is when it is learned alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import neonym
from support import ROOT
from support.data_sets import make_images

FAST = {
    "max_train_steps": 6, "eval_samples": 8, "cpu": True, "learning_rate": 0.005, "state_every_n_steps": 5,
    "train_batch_size": 1, "resolution": [64, 64],
}  # fmt: skip
LONG = {**FAST, "max_train_steps": 40}
NAMES = ("alpha", "beta", "gamma")


def make_words(folder: Path, *names: str) -> Path:
    """Make a folder of images for each word, below a folder, and return that."""
    for i, name in enumerate(names):
        make_images(folder / name, count=3 + i % 2, caption=f"a sticker of a {name}")
    return folder


def write_plan(
    file: Path, words_dir: Path, settings: dict[str, Any] = FAST, rows: Sequence[dict[str, Any]] = ()
) -> Path:
    """Write a plan with a word for each folder below `words_dir`."""
    lines = [f"words_dir = '{words_dir}'", "[settings]", *map(toml_line, settings.items())]
    for row in rows:
        lines += ["[[words]]", *map(toml_line, row.items())]
    file.write_text("\n".join(lines) + "\n")
    return file


def toml_line(item: tuple[str, Any]) -> str:
    """Return a key and its value as TOML."""
    return f"{item[0]} = {json.dumps(item[1])}"


def command(*words: object) -> list[str]:
    """Return a command line of `neonym`."""
    return [sys.executable, "-m", "neonym", *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a command: no GPU, one thread, nothing that leaves the machine."""
    fixed = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return {**os.environ, **fixed, **more}


def start_fleet(plan: Path, out: object, *flags: str, **more: str) -> subprocess.Popen[str]:
    """Start `neonym fleet` as a process."""
    return subprocess.Popen(
        command("fleet", plan, f"--output_dir={out}", *flags), cwd=ROOT, env=environment(**more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run_fleet(plan: Path, out: object, *flags: str, seconds: float = 120, **more: str) -> tuple[int, str]:
    """Run `neonym fleet` to its end, and return its exit code and what it printed."""
    process = start_fleet(plan, out, *flags, **more)
    try:
        printed = process.communicate(timeout=seconds)[0]
    finally:
        process.kill()
    return process.returncode, printed


def log_of(out: Path) -> list[dict[str, Any]]:
    """Return the lines of `fleet.jsonl`."""
    file = out / "fleet.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 90) -> Any:
    """Wait until something is true while a process runs, and return it."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := what():
            return found
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"it did not happen: {process.communicate()[0]}")


def steps_of(out: Path, name: str) -> int:
    """Return how far the run of a word is, by its event file."""
    return max((event.get("step", 0) for event in events_of(out, name) if event["event"] == "step"), default=0)


def events_of(out: Path, name: str) -> list[dict[str, Any]]:
    """Return the events of a word's run."""
    file = out / name / f"{name}-run" / "events.jsonl"
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def ends_of(out: Path, name: str, event: str = "judged") -> int:
    """Return how often the run of a word was trained to its end, or emitted another event."""
    return sum(found["event"] == event for found in events_of(out, name))


def learned_alone(folder: Path, words_dir: Path, name: str, settings: dict[str, Any] = FAST) -> bytes:
    """Return the embedding file of a word that is learned by `neonym.train`, not in a fleet."""
    run = neonym.RunConfig.parse(
        **settings, token_string=name, train_data_dir=str(words_dir / name), output_dir=str(folder / name)
    )
    return neonym.train(run).files[0].read_bytes()


def check_words(out: Path, alone: dict[str, bytes]) -> None:
    """Check that every word is as it is alone, and was trained to its end once."""
    for name, expected in alone.items():
        assert (out / name / f"{name}.safetensors").read_bytes() == expected, name
        assert ends_of(out, name) == 1, name
