"""Measure how much of a subject that the built-in model knows a new word recovers.

    python -m benchmarks.recovery [--model builtin:emoji-flow] [--steps 100] [--learning_rate 5e-3] ...

For each subject a new word is learned from 8 rendered images, starting from "picture", and compared with the
subject's true name on 8 other images at fixed noise and timesteps:

    score = (L_init - L_learned) / (L_init - L_true)        0: nothing learned; 1: as good as the true name

It also measures the steps until the mean score is 0.9, and how often generated images have the requested background,
with the word and with the true name; with `--ceiling N`, what the first N subjects reach in 4,000 steps of 16 images
(hours on a CPU). Prints a table; `--json FILE` writes the figures.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neonym import train
from neonym.config.data_settings import ModelSettings
from neonym.config.learning_settings import ObjectiveSettings, OptimSettings
from neonym.config.run import RunConfig
from neonym.formats import read_embedding
from neonym.generation.embeddings import add_embedding
from neonym.generation.images import generate_images
from neonym.io.json import as_json
from neonym.models.loading.identify import identify
from neonym.models.model import Model, load_model
from neonym.models.source import BUILTIN
from neonym.training.objective import Objective
from neonym.training.step import sample_losses
from neonym.types import Batch, Embedding
from tools.builtin_model.images import COLOURS, article, compose, phrase, place
from tools.builtin_model.score import nearest_colour

KNOWN = Path(__file__).with_name("known")
INIT = "picture"
EVALUATION_SAMPLES = 64
CEILING = {"steps": 4000, "batch_size": 16, "curve": 1, "obedience_colours": 0}


@dataclass(frozen=True)
class Subject:
    """A subject that the built-in model knows by a name."""

    name: str
    style: str
    drawing: np.ndarray  # uint8 [128,128,4]
    start: str = INIT  # the init word of its new word

    @property
    def word(self) -> str:
        """The new word that is taught for the subject."""
        return "neo" + self.name.replace(" ", "")


@dataclass(frozen=True)
class Example:
    """An image of a subject, and the colour of its background."""

    image: Image.Image
    colour: str


def load_subjects(count: int) -> list[Subject]:
    """Return the first `count` subjects."""
    rows = json.loads((KNOWN / "known.json").read_text())[:count]
    return [Subject(r["name"], r["style"], np.asarray(Image.open(KNOWN / r["file"]).convert("RGBA"))) for r in rows]


def render(subject: Subject, seed: int) -> tuple[list[Example], list[Example]]:
    """Return 8 images to learn from and 8 others to measure on, with every background at most once in each."""
    rng = np.random.default_rng(seed)
    sets = []
    for _ in range(2):
        colours = rng.permutation(list(COLOURS))[:8]
        sets.append([Example(compose(subject.drawing, c, place(rng)), str(c)) for c in colours])
    return sets[0], sets[1]


def write_data(
    subjects: list[Subject], vectors: int, batch_size: int, folder: Path
) -> tuple[Path, list[list[Example]]]:
    """Write the training set as a user would, and return its dataset file and the images to measure on."""
    lines, measured = [], []
    for i, subject in enumerate(subjects):
        learned, others = render(subject, 100 + i)
        measured.append(others)
        home = folder / subject.word
        home.mkdir(parents=True)
        for k, image in enumerate(learned):
            image.image.save(home / f"{k}.png")
            caption = phrase(article(subject.word), subject.style, image.colour, k)
            (home / f"{k}.txt").write_text(caption)
        lines += ["[[concepts]]", f'token_string = "{subject.word}"', f'init_word = "{subject.start}"']
        lines += [f"num_vectors_per_token = {vectors}"]
    lines += ["[[datasets]]", f"batch_size = {batch_size}"]
    for subject in subjects:
        lines += ["[[datasets.subsets]]", f'concept = "{subject.word}"', f'image_dir = "{folder / subject.word}"']
    file = folder / "set.toml"
    file.write_text("\n".join(lines))
    return file, measured


@torch.no_grad()
def encode_examples(model: Model, images: list[Example]) -> torch.Tensor:
    """Return the moments of the images, [N,2C,h,w]."""
    pixels = np.stack([np.asarray(p.image, np.float32).transpose(2, 0, 1) / 127.5 - 1 for p in images])
    return model.vae.encode(torch.from_numpy(pixels)).to(model.device)


@torch.no_grad()
def loss_of(model: Model, subject: Subject, name: str, images: list[Example], moments: torch.Tensor) -> float:
    """Return the mean loss of fixed samples of `images` (with their `moments`) whose captions call the subject `name`."""
    losses = []
    for first in range(0, EVALUATION_SAMPLES, 16):
        rows = range(first, first + 16)
        which = [i % len(images) for i in rows]
        chosen = [images[k] for k in which]
        captions = [phrase(article(name), subject.style, p.colour, i) for i, p in zip(rows, chosen, strict=True)]
        batch = Batch(
            moments=moments[which],
            text=model.text.batch(captions),
            keys=[(7, -2, i) for i in rows],
            levels=[(i + 0.5) / EVALUATION_SAMPLES for i in rows],
            concept=torch.zeros(16, dtype=torch.int64, device=model.device),
            weight=torch.ones(16, device=model.device),
        )
        losses.append(sample_losses(model, batch, Objective()))
    return float(torch.cat(losses).mean())


def score_in_comfyui(model: Model, subject: Subject, word: str, shown: list[Example], moments: torch.Tensor) -> float:
    """Return the score of a learned word in prompts as ComfyUI reads them, beside the true name as diffusers reads it."""
    first, best = (loss_of(model, subject, name, shown, moments) for name in (INIT, subject.name))
    model.text.comfyui = True
    try:
        return (first - loss_of(model, subject, word, shown, moments)) / (first - best)
    finally:
        model.text.comfyui = False


def obedience(model: Model, subject: Subject, name: str, colours: list[str], steps: int) -> float:
    """Return the share of generated images that have the requested background."""
    prompts = [phrase(article(name), subject.style, c, 0) for c in colours]
    images = generate_images(model, prompts, list(range(len(prompts))), steps=steps)
    return float(np.mean([nearest_colour(p) == c for p, c in zip(images, colours, strict=True)]))


def saved_at(folder: Path, word: str, step: int) -> Embedding:
    """Return the word as it was saved after a step."""
    step_file = folder / f"{word}-step{step:08d}.safetensors"
    return read_embedding(step_file if step_file.exists() else folder / f"{word}.safetensors")


def run_of(args: argparse.Namespace, config: Path, out: Path, evaluation: dict, save_every: int | None) -> RunConfig:
    """Return the run that the flags describe."""
    return RunConfig.model_validate(
        {
            "model": {"pretrained_model_name_or_path": args.model, "tokenize_as": args.tokenize_as},
            "dataset": {"dataset_config": str(config)},
            "optim": {
                "learning_rate": args.learning_rate, "lr_scheduler": args.lr_scheduler, "seed": args.seed,
                "lr_warmup_steps": args.lr_warmup_steps, "max_train_steps": args.steps,
                "max_grad_norm": args.max_grad_norm,
            },
            "objective": {"timestep_draws": args.timestep_draws},
            "save": {"output_dir": str(out), "save_every_n_steps": save_every},
            "eval": evaluation,
            "compute": {
                "cpu": args.device == "cpu", "mixed_precision": args.mixed_precision, "torch_compile": args.torch_compile,
            },
        }
    )  # fmt: skip


def measure(args: argparse.Namespace) -> dict:
    """Train all words in one run, measure them, and return the figures."""
    subjects = load_subjects(args.subjects)
    model = load_model(args.model, args.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config, images = write_data(subjects, args.vectors, args.batch_size, folder / "data")
        every = max(1, args.steps // max(1, args.curve))
        started = time.monotonic()
        train(run_of(args, config, folder / "out", {"eval_samples": 8}, every))
        seconds = time.monotonic() - started
        rows, curve = [], {}
        for subject, shown in zip(subjects, images, strict=True):
            moments = encode_examples(model, shown)
            first, best = (loss_of(model, subject, name, shown, moments) for name in (INIT, subject.name))
            scores = {}
            for step in sorted({*range(every, args.steps, every), args.steps}):
                word = f"{subject.word}x{step}"
                add_embedding(model, saved_at(folder / "out", subject.word, step), word)
                scores[step] = (first - loss_of(model, subject, word, shown, moments)) / (first - best)
                curve.setdefault(step, []).append(scores[step])
            row = {"subject": subject.name, "loss_init": first, "loss_true": best, "score": scores[args.steps]}
            if any(tokenizer.differs_in_comfyui for tokenizer in model.text.tokenizers.values()):
                row["score_in_comfyui"] = score_in_comfyui(
                    model, subject, f"{subject.word}x{args.steps}", shown, moments
                )
            if args.obedience_colours:
                colours = list(COLOURS)[:: 12 // args.obedience_colours]
                row["background_word"] = obedience(model, subject, f"{subject.word}x{args.steps}", colours, 20)
                row["background_true"] = obedience(model, subject, subject.name, colours, 20)
            rows.append(row | {"score_by_step": scores})
            print("  ".join(f"{v:.4f}" if isinstance(v, float) else f"{v:18}" for v in row.values()), flush=True)
    means = {step: float(np.mean(values)) for step, values in curve.items()}
    result = {
        "settings": {k: v for k, v in vars(args).items() if k != "json"},
        "machine": machine(),
        "mean_score": means[args.steps],
        "lowest_score": min(r["score"] for r in rows),
        "mean_score_by_step": means,
        "steps_to_0.9": next((step for step, mean in means.items() if mean >= 0.9), None),
        "training_seconds": round(seconds, 1),
        "subjects": rows,
    }
    if "score_in_comfyui" in rows[0]:
        result["mean_score_in_comfyui"] = float(np.mean([row["score_in_comfyui"] for row in rows]))
    if args.obedience_colours:
        result |= {k: float(np.mean([r[k] for r in rows])) for k in ("background_word", "background_true")}
    return result


def machine() -> str:
    """Return the processor type, the number of threads and the version of torch."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def write_json(result: dict, file: Path) -> None:
    """Write the figures as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_json(result, 1) + "\n")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags of a benchmark on known subjects."""
    defaults = OptimSettings()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--model", default=BUILTIN, help="a built-in model (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="default: the model's own, as for batch size and vectors")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--vectors", type=int)
    parser.add_argument("--learning_rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--lr_scheduler", default=defaults.lr_scheduler)
    parser.add_argument("--timestep_draws", default=ObjectiveSettings().timestep_draws)
    parser.add_argument("--lr_warmup_steps", default=defaults.lr_warmup_steps)
    parser.add_argument("--max_grad_norm", type=float, default=defaults.max_grad_norm)
    parser.add_argument("--tokenize_as", default=ModelSettings().tokenize_as, help="how captions are read in training")
    parser.add_argument("--mixed_precision", default="no", choices=["no", "fp16", "bf16"])
    parser.add_argument("--torch_compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--obedience_colours", type=int, default=4, help="backgrounds to request; 0: do not generate")
    parser.add_argument("--curve", type=int, default=10, help="how often the score is measured; 1: at the end only")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the flags, with the defaults of the model for those that are not given."""
    args = parser.parse_args()
    suits = identify(args.model).defaults
    usual = {
        "steps": suits.max_train_steps, "batch_size": suits.train_batch_size, "vectors": suits.num_vectors_per_token,
    }  # fmt: skip
    for name, default in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, default.value)
    return args


def ceiling(args: argparse.Namespace, subjects: int) -> dict[str, float]:
    """Return the scores {subject: score} that the first subjects reach with far more training."""
    rows = measure(argparse.Namespace(**{**vars(args), **CEILING, "subjects": subjects}))["subjects"]
    return {row["subject"]: row["score"] for row in rows}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--ceiling", type=int, default=0, help="subjects to learn for 4,000 steps of 16 images")
    args = parsed(parser)
    result = measure(args)
    if args.ceiling:
        result["ceiling"] = ceiling(args, args.ceiling)
    summary = {k: v for k, v in result.items() if k not in ("subjects", "settings")}
    print(json.dumps(summary, indent=1))
    if args.json:
        write_json(result, args.json)


if __name__ == "__main__":
    main()
