"""Measure the seconds from a command to a word: Neonym beside a plain loop with the settings of diffusers' example.

    python -m benchmarks.time_to_word [--subjects 4] [--json FILE]

For each subject that the built-in model knows, a new word is learned from 8 images (benchmarks/recovery.py). A word
counts once its score is 0.9: 0 is nothing learned, 1 is as good as the true name. The time is that from the command to
the step that reaches it, without the time of measuring. For Neonym, it is that of the last step of `neonym train` with
the fewest steps that reach it; the time to the end of the command, with the verdict and the file, is noted beside it. It has one vector and a constant
rate: `default` is what the example does by itself (batches of 16 at 1e-4), and `documented` what the commands in its
documentation ask for (batches of 4 at 4 times 5e-4).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.recovery import Subject, encode_examples, load_subjects, loss_of, machine, render, write_json
from benchmarks.step_loops import START, WORD, PlainLoop
from neonym.formats import read_embedding
from neonym.models.loading.identify import identify
from neonym.models.model import Model, load_model
from neonym.models.source import BUILTIN
from tools.builtin_model.images import article, phrase

STARTED = psutil.Process().create_time()
ENOUGH = 0.9
PLAIN = {"default": (16, 1e-4), "documented": (4, 4 * 5e-4)}  # batch and rate of the plain loop
LENGTHS = (10, 15, 25, 50, 100)  # steps of Neonym that are tried
EVERY, MOST = 5, 2000  # steps of the plain loop between two measurements, and until it is given up


def write_images(subject: Subject, seed: int, folder: Path) -> None:
    """Write 8 images of a subject with their captions."""
    folder.mkdir(parents=True)
    for k, example in enumerate(render(subject, seed)[0]):
        example.image.save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(phrase(article(WORD), subject.style, example.colour, k))


def score(model: Model, subject: Subject, seed: int, rows: torch.Tensor) -> float:
    """Return the score of learned rows [n,W] on 8 other images of the subject."""
    shown = render(subject, seed)[1]
    moments = encode_examples(model, shown)
    model.text.add_word(WORD, {"text_encoder": rows})
    try:
        first, best, own = (loss_of(model, subject, name, shown, moments) for name in (START, subject.name, WORD))
    finally:
        model.text.remove_word(WORD)
    return (first - own) / (first - best)


def with_neonym(images: Path, steps: int, out: Path) -> tuple[torch.Tensor, float, float]:
    """Return the rows that `neonym train` learns in some steps, and the seconds to its last step and to its end."""
    command = [sys.executable, "-m", "neonym", "train", f"--train_data_dir={images}", f"--token_string={WORD}"]
    command += [f"--init_word={START}", f"--output_dir={out}", f"--max_train_steps={steps}", "--cpu"]
    begun = time.time()
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = time.time() - begun
    events = [json.loads(line) for line in (out / f"{WORD}-run" / "events.jsonl").read_text().splitlines()]
    last = max(event["time"] for event in events if event["event"] == "step") - begun
    return read_embedding(out / f"{WORD}.safetensors").vectors["text_encoder"], last, ended


def with_plain_loop(images: Path, settings: str) -> Iterator[tuple[torch.Tensor, int, float]]:
    """Yield the rows of the plain loop, the steps and the seconds until then, after each interval; it waits meanwhile."""
    command = [sys.executable, "-m", "benchmarks.time_to_word", "--plain", settings, "--images", str(images)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    found = json.loads(line)
                    yield torch.tensor(found["rows"]), found["step"], found["seconds"]
                    process.stdin.write("\n")
                    process.stdin.flush()
        finally:
            process.terminate()


def train_plainly(images: Path, batch: int, rate: float) -> None:
    """Train with the plain loop, and print the rows after each interval; a line on the input lets it go on."""
    from PIL import Image

    files = sorted(images.glob("*.png"))
    pixels = [np.asarray(Image.open(file).convert("RGB"), np.float32).transpose(2, 0, 1) / 127.5 - 1 for file in files]
    captions = [file.with_suffix(".txt").read_text() for file in files]
    args = argparse.Namespace(folder=identify(BUILTIN).folder, precision="no", batch=batch, device="cpu")
    loop = PlainLoop(args, torch.from_numpy(np.stack(pixels)), captions, False, vectors=1, learning_rate=rate)
    waited = 0.0
    for step in range(1, MOST + 1):
        loop.step(step)
        if step % EVERY == 0:
            now = time.time()
            rows = loop.texts[0].rows().tolist()
            print(json.dumps({"step": step, "seconds": now - STARTED - waited, "rows": rows}), flush=True)
            sys.stdin.readline()
            waited += time.time() - now


def measure(model: Model, subject: Subject, seed: int, folder: Path) -> dict[str, list[dict]]:
    """Return the scores, steps and seconds of each way until the word is good enough."""
    images = folder / "images"
    write_images(subject, seed, images)

    ends: list[float] = []

    def neonym() -> Iterator[tuple[torch.Tensor, int, float]]:
        for steps in LENGTHS:
            rows, seconds, end = with_neonym(images, steps, folder / f"out-{steps}")
            ends.append(end)
            yield rows, steps, seconds

    curves: dict[str, list[dict]] = {}
    ways = {"neonym": neonym(), **{name: with_plain_loop(images, name) for name in PLAIN}}
    for way, moments in ways.items():
        curves[way] = []
        for rows, steps, seconds in moments:
            curves[way].append({"steps": steps, "seconds": seconds, "score": score(model, subject, seed, rows)})
            if curves[way][-1]["score"] >= ENOUGH:
                break
    for point, end in zip(curves["neonym"], ends, strict=True):
        point["seconds_with_verdict"] = end
    return curves


def main() -> None:
    """Measure, print the times and their ratios, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", choices=list(PLAIN), help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        train_plainly(args.images, *PLAIN[args.plain])
        return
    model, found = load_model(BUILTIN), dict[str, dict[str, list[dict]]]()
    for index, subject in enumerate(load_subjects(args.subjects)):
        with tempfile.TemporaryDirectory() as temporary:
            found[subject.name] = curves = measure(model, subject, 100 + index, Path(temporary))
        for way, curve in curves.items():
            end = curve[-1]
            line = f"{subject.name}, {way}: score {end['score']:.2f} after {end['steps']} steps, {end['seconds']:.1f} s"
            print(line, flush=True)
    ways = ("neonym", *PLAIN)
    means = {way: sum(curves[way][-1]["seconds"] for curves in found.values()) / len(found) for way in ways}
    for way, mean in means.items():
        print(f"mean of {way}: {mean:.1f} s, {mean / means['neonym']:.1f} times as long as neonym")
    if args.json:
        ends = {name: {way: curve[-1] for way, curve in curves.items()} for name, curves in found.items()}
        write_json({"machine": machine(), "seconds": means, "subjects": ends}, args.json)


if __name__ == "__main__":
    main()
