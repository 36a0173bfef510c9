"""Measure how often the verdict is wrong.

    python -m benchmarks.verdict --work work/verdict --json benchmarks/results/verdict.json --plot docs/verdict.png

Trains the words of `benchmarks/verdict_cases.py` on the built-in model (hours on a CPU; resumes where it was stopped),
judges each as a training run would, with 24 samples (batch 4) and with 8 (batch 1), and compares that with the truth:

    recovery = (L_init - L_word) / (L_init - L_true)    on other images; 1: as good as the true name

For subjects without a name, L_true is the lowest loss of all their words. The effect of a word on images is measured
with eight prompts, four pairs that differ in other words: how far its images are from those of its init word, and how
much the images of a pair differ, both relative to words that the model knows. Prints tables; `--plot` needs matplotlib.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.recovery import encode_examples, machine, write_json
from benchmarks.verdict_cases import (
    EXAMPLES,
    GROUPS,
    Case,
    Group,
    Shown,
    cases,
    learned_from,
    measured_on,
    start_of,
    true_name,
    write_case_data,
)
from neonym import train
from neonym.config.run import RunConfig
from neonym.formats import read_embedding
from neonym.generation.images import generate_images
from neonym.generation.judge import judge
from neonym.generation.worth import (
    CONTRASTS,
    LEARNED_WORD,
    START_WORD,
    CaptionedBatch,
    PairedPredictions,
    Rows,
    Worth,
    measure_worth,
    replace_word,
    temporary_words,
)  # fmt: skip
from neonym.models.model import Model, load_model
from neonym.runs.events import Event, Stepped
from neonym.types import Batch
from tools.builtin_model.score import nearest_colour

WORD = "wrdzz"  # the name of the word while it is judged
TOGETHER = 8  # words per run
SAMPLES = (24, 8)  # samples of a verdict, at batch 4 and at batch 1
TRUTH = 48  # samples that the recovery is measured on
PAIRS = CONTRASTS[:4]
KNOWN = ("taxi", "ring", "hamster", "pencil")
LOW, HIGH = 0.1, 0.8  # recovery of words that must not, and that must, be called learned
VERDICTS = ("NOT LEARNED", "WEAK", "LEARNED", "OVERPOWERS")  # the last: learned, but it overpowers the prompt
DROWNED = 0.5  # largest share of requested backgrounds with a word that drowns the rest of the prompt


def train_all(work: Path) -> None:
    """Train every case that is missing, several in one run, which does not change them (docs/design.md, law 2)."""
    for name, group in GROUPS.items():
        own = [(i, case) for i, case in enumerate(cases()) if case.group == name]
        for first in range(0, len(own), TOGETHER):
            out = work / f"{name}{first}"
            if not (out / "done").exists():
                train(run_of_cases(group, own[first : first + TOGETHER], out))
                (out / "done").touch()
                print(f"trained: {name} {first}", flush=True)


def run_of_cases(group: Group, part: Sequence[tuple[int, Case]], out: Path) -> RunConfig:
    """Return a training run of several words."""
    tables = [write_case_data(case, word_of(i), out / "data" / word_of(i)) for i, case in part]
    concepts, subsets = zip(*tables, strict=True)
    config = out / "set.toml"
    config.write_text("\n".join([*concepts, "[[datasets]]", f"batch_size = {group.batch}", *subsets]))
    schedule = {} if group is GROUPS["E"] else {"lr_scheduler": "constant"}
    return RunConfig.model_validate(
        {
            "dataset": {"dataset_config": str(config)},
            "optim": {"max_train_steps": group.steps, **schedule},
            "save": {"output_dir": str(out), "save_every_n_steps": group.every},
            "eval": {"eval_samples": 8},
            "compute": {"cpu": True},
        }
    )


def word_of(index: int) -> str:
    """Return the word of a case."""
    return f"wrd{index:03d}"


def saved_rows(work: Path, index: int, case: Case, step: int) -> Rows:
    """Return the rows of a word as they were saved after a step."""
    last = step == GROUPS[case.group].steps
    (file,) = work.glob(f"{case.group}*/{word_of(index)}{'' if last else f'-step{step:08d}'}.safetensors")
    return read_embedding(file).vectors


def rows_of(model: Model, text: str, count: int | None = None) -> Rows:
    """Return the embeddings of the tokens of `text`, `count` of them in turn."""
    found = {}
    for name, tokenizer in model.text.tokenizers.items():
        ids = tokenizer.token_ids(text)
        found[name] = model.text.vocabulary(name)[[ids[i % len(ids)] for i in range(count or len(ids))]].clone()
    return found


def samples_of(model: Model, shown: Sequence[Shown], count: int, seed: int) -> list[CaptionedBatch]:
    """Return samples with images and captions in turn, and noise levels spread evenly."""
    moments, made = encode_examples(model, [argparse.Namespace(image=image) for image, _ in shown]), []
    for first in range(0, count, 16):
        which = range(first, min(count, first + 16))
        captions = [shown[i % len(shown)][1](WORD) for i in which]
        batch = Batch(
            moments=moments[[i % len(shown) for i in which]],
            text=model.text.batch(captions),
            keys=[(seed, -2, i) for i in which],
            levels=[(i + 0.5) / count for i in which],
            concept=torch.zeros(len(which), dtype=torch.int64),
            weight=torch.ones(len(which)),
        )
        made.append(CaptionedBatch(batch, captions))
    return made


def loss(model: Model, samples: Sequence[CaptionedBatch], word: str) -> float:
    """Return the mean squared error with `word` in place of WORD."""
    errors = []
    for captioned in samples:
        compared = PairedPredictions(model, captioned.batch, lambda: None)
        captions = [replace_word(caption, WORD, word) for caption in captioned.captions]
        error = compared.noisy.target - compared.predicted(captions)
        errors.append(compared.inner(error, error))
    return float(torch.cat(errors).mean())


def generated(model: Model, word: str) -> list[np.ndarray]:
    """Return eight images, int16 [H,W,3], two of each pair of prompts; the images of a pair share a seed."""
    prompts = [prompt.format(word) for pair in PAIRS for prompt in pair]
    seeds = [i // 2 for i in range(len(prompts))]
    return [np.asarray(image, np.int16) for image in generate_images(model, prompts, seeds, steps=15)]


def distance(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Return the mean absolute difference of two lists of images."""
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(some, others, strict=True)]))


def response(images: Sequence[np.ndarray]) -> list[float]:
    """Return the mean absolute difference of the images of each pair."""
    return [float(np.abs(a - b).mean()) for a, b in zip(images[::2], images[1::2], strict=True)]


class ImageEffects:
    """The effects of words on images, in units of words that the model knows."""

    def __init__(self, model: Model):
        self.model = model
        known = [generated(model, word) for word in KNOWN]
        self.apart = float(np.mean([distance(a, b) for i, a in enumerate(known) for b in known[:i]]))
        self.response = np.mean([response(images) for images in known], axis=0)  # [4]
        self.starts: dict[str, list[np.ndarray]] = {}

    def of(self, rows: Rows, start: str) -> dict[str, Any]:
        """Return the effects of a word: distance from its init word, response to other words, share of backgrounds."""
        if start not in self.starts:
            self.starts[start] = generated(self.model, start)
        with temporary_words(self.model, {LEARNED_WORD: rows}):
            images = generated(self.model, LEARNED_WORD)
        colours = [nearest_colour(Image.fromarray(images[i].astype(np.uint8))) for i in (0, 1, 6, 7)]
        return {
            "apart": distance(images, self.starts[start]) / self.apart,
            "response": (np.array(response(images)) / self.response).tolist(),
            "response_start": (np.array(response(self.starts[start])) / self.response).tolist(),
            "backgrounds": float(
                np.mean([a == b for a, b in zip(colours, ("red", "blue", "black", "white"), strict=True)])
            ),
        }


def judge_case(work: Path, index: int, case: Case, model: Model, effects: ImageEffects) -> dict[str, Any]:
    """Judge every word of one case, and return the figures."""
    shown = learned_from(case)
    samples = {count: samples_of(model, shown, count, 7) for count in SAMPLES}
    other, start, steps = (
        samples_of(model, measured_on(case), TRUTH, 8),
        rows_of(model, start_of(case), case.vectors),
        GROUPS[case.group].judged,
    )
    with temporary_words(model, {START_WORD: start}):
        first = loss(model, other, START_WORD)
    name, words = true_name(case), []
    for step in steps:
        rows = saved_rows(work, index, case, step)
        with temporary_words(model, {LEARNED_WORD: rows}):
            after = loss(model, other, LEARNED_WORD)
        worths = {str(count): asdict(measure_worth(model, own, WORD, start, rows)) for count, own in samples.items()}
        images = effects.of(rows, start_of(case)) if step in steps[-1:] or case.group in "BO" else None
        norm = float(torch.cat(list(rows.values()), 1).norm(dim=1).mean())
        words.append({"step": step, "loss": after, "norm": norm, "worth": worths, "images": images})
    return {
        "index": index, **asdict(case), "loss_init": first, "words": words,
        "loss_true": loss(model, other, name) if name else None,
    }  # fmt: skip


def judge_all(work: Path) -> list[dict[str, Any]]:
    """Judge every case that is not in `judged.jsonl` yet, and return the figures of all."""
    file = work / "judged.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    have, model = {row["index"] for row in found}, load_model()
    with torch.no_grad():
        effects = ImageEffects(model)
        for index, case in enumerate(cases()):
            if index not in have:
                found.append(judge_case(work, index, case, model, effects))
                with file.open("a") as out:
                    out.write(json.dumps(found[-1]) + "\n")
                print(f"judged: {index} {case}", flush=True)
    return sorted(found, key=lambda row: row["index"])


def word_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each word, with its recovery and both verdicts."""
    best: dict[str, float] = {}
    for row in rows:
        if row["loss_true"] is None:
            lowest = min(word["loss"] for word in row["words"])
            best[row["target"]] = min(lowest, best.get(row["target"], lowest))
    words = []
    for row in rows:
        true = best[row["target"]] if row["loss_true"] is None else row["loss_true"]
        for word in row["words"]:
            gain = row["loss_init"] - word["loss"]
            found = {count: judge(Worth(**worth)) for count, worth in word["worth"].items()}
            words.append(
                {k: row[k] for k in ("group", "target", "rate", "vectors", "init", "odd")}
                | {"named": row["loss_true"] is not None, "recovery": gain / (row["loss_init"] - true)}
                | {"verdict": {count: "OVERPOWERS" if f.overpowers else f.word for count, f in found.items()}}
                | {k: word[k] for k in ("step", "norm", "worth", "images")}
            )
    return words


def table(words: Sequence[dict[str, Any]], count: int) -> dict[str, dict[str, int]]:
    """Return the number of words by recovery and verdict."""
    found = {}
    for label, low, high in (("below 0.1", -np.inf, LOW), ("0.1 to 0.8", LOW, HIGH), ("above 0.8", HIGH, np.inf)):
        own = [word["verdict"][str(count)] for word in words if low <= word["recovery"] < high]
        found[label] = {verdict: own.count(verdict) for verdict in VERDICTS}
    return found


def obedience_table(words: Sequence[dict[str, Any]], count: int) -> dict[str, dict[str, int]]:
    """Return the number of learned words by the backgrounds of their images and verdict."""
    found = {}
    for label, drowned in (("drowned", True), ("obeyed", False)):
        own = [
            w["verdict"][str(count)]
            for w in words
            if w["images"] and (w["images"]["backgrounds"] <= DROWNED) == drowned
        ]
        found[label] = {verdict: own.count(verdict) for verdict in VERDICTS[2:]}
    return found


def show(counts: dict[str, dict[str, int]]) -> None:
    """Print a table of counts."""
    print(" " * 12 + "".join(f"{verdict:>13}" for verdict in next(iter(counts.values()))))
    for label, row in counts.items():
        print(f"{label:12}" + "".join(f"{number:13}" for number in row.values()))


def plot(words: Sequence[dict[str, Any]], file: Path) -> None:
    """Plot share against recovery, and obedience against the effect of other words on images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from neonym.generation.judge import FAIR_SHARE, LEAST_SHARE, OBEDIENT

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for verdict, colour in zip(VERDICTS, ("#b3202c", "#c98a1b", "#0b6e3a", "#7a3ecb"), strict=True):
        own = [word for word in words if word["verdict"]["24"] == verdict]
        shares = [max(1e-4, word["worth"]["24"]["share"]) for word in own]
        left.scatter(shares, [max(-0.3, word["recovery"]) for word in own], s=14, c=colour, label=verdict, alpha=0.6)
    for limit in (LEAST_SHARE, FAIR_SHARE):
        left.axvline(limit, c="gray", lw=0.8)
    left.set(
        xscale="log",
        xlabel="share of what a known word changes",
        ylabel="recovery",
        title="What the verdict sees, and the truth",
    )
    left.legend(loc="upper left")
    seen = [w for w in words if w["images"] and w["verdict"]["24"] in VERDICTS[2:]]
    for label, drowned, colour in (
        ("backgrounds as requested", False, "#3b5bdb"),
        ("half of them or fewer", True, "#b3202c"),
    ):
        own = [w for w in seen if (w["images"]["backgrounds"] <= DROWNED) == drowned]
        values = [w["worth"]["24"]["obedience"] for w in own]
        right.scatter([obeyed(w) for w in own], values, s=14, c=colour, label=label, alpha=0.6)
    right.axhline(OBEDIENT, c="gray", lw=0.8)
    right.set(
        xlabel="images: change by other words, against known words",
        ylabel="obedience of predictions",
        title="Other words beside it",
    )
    right.legend(loc="upper left")
    figure.savefig(file, dpi=90)


def obeyed(word: dict[str, Any]) -> float:
    """Return how much other words still change the images, relative to words that the model knows."""
    return float(np.mean(word["images"]["response"]))


def columns(word: dict[str, Any]) -> dict[str, Any]:
    """Return a short row for a word, with its worth as measured with 24 samples."""
    short = {k: word[k] for k in ("group", "target", "odd", "init", "vectors", "rate", "step")}
    short |= {"recovery": round(word["recovery"], 3), **{f"verdict_{n}": v for n, v in word["verdict"].items()}}
    names = ("share", "reach", "standard_errors", "obedience")
    short |= {name: float(f"{word['worth']['24'][name]:.3g}") for name in names}
    images = word["images"] or {"backgrounds": "", "apart": ""}
    response = round(obeyed(word), 2) if word["images"] else ""
    return short | {
        "image_response": response,
        "backgrounds": images["backgrounds"],
        "apart": images["apart"] and round(images["apart"], 2),
    }


class Clock:
    """A listener that records the CPU time at the end of every step."""

    def __init__(self):
        self.steps: list[float] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self.steps.append(time.process_time())


def cost(batch: int) -> dict[str, float]:
    """Return the CPU seconds of a run's last 16 steps, and of everything after them: the verdict and the files."""
    with tempfile.TemporaryDirectory() as out:
        settings = {
            "dataset": {"train_data_dir": str(EXAMPLES / "nutkin"), "train_batch_size": batch},
            "concept": {"token_string": "nutkin", "init_word": "vegetable"},
            "optim": {"max_train_steps": 20},
            "save": {"output_dir": out},
            "compute": {"cpu": True},
        }
        clock = Clock()
        train(RunConfig.model_validate(settings), [clock])
        steps, verdict = clock.steps[-1] - clock.steps[-17], time.process_time() - clock.steps[-1]
    return {"16 steps": steps, "verdict": verdict, "ratio": verdict / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/verdict"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--cost", action="store_true", help="only compare the time of a verdict with that of 16 steps")
    args = parser.parse_args()
    if args.cost:
        for batch in (1, 4):
            print(f"batch {batch}: " + ", ".join(f"{name} {value:.2f}" for name, value in cost(batch).items()))
        return
    train_all(args.work)
    words = word_rows(judge_all(args.work))
    for count in SAMPLES:
        print(f"\n{len(words)} words, verdicts of {count} samples: recovery; backgrounds in images of learned words")
        show(table(words, count))
        show(obedience_table(words, count))
    if args.json:
        tables = {str(count): table(words, count) | obedience_table(words, count) for count in SAMPLES}
        lines = [",".join(map(str, columns(word).values())) for word in words]
        head = {"machine": machine(), "runs": len(words), "tables": tables, "columns": ",".join(columns(words[0]))}
        write_json({**head, "words": lines}, args.json)
    if args.plot:
        plot(words, args.plot)


if __name__ == "__main__":
    main()
