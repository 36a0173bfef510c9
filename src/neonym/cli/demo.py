"""Run `neonym demo`, which learns a subject and a style with the built-in model and shows the results."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from neonym.config.data_settings import DatasetSettings
from neonym.config.flags import parse_flags
from neonym.config.learning_settings import EvalSettings, OptimSettings
from neonym.config.output_settings import SaveSettings
from neonym.config.resolve import read_table
from neonym.config.run import RunConfig
from neonym.errors import EXIT_NOT_LEARNED, UserError
from neonym.io.atomic import atomic_write, save_png

if TYPE_CHECKING:
    from neonym.cli.report import WordResult
    from neonym.models.model import Model
    from neonym.preflight.plan import TrainingPlan

EXAMPLES = Path(__file__).parent.parent / "examples"
DESCRIPTION = "Learn a subject and a style from the example images with the built-in model; write images and a report."
BACKGROUNDS = ("blue", "yellow", "green", "white", "red", "purple")
THINGS = ("a taxi", "a maple leaf", "a top hat", "an umbrella", "a light bulb", "a red apple")
EVALUATIONS = 5  # during training, for the curve of the loss


@dataclass(frozen=True)
class Theme:
    """The prompts with which a word is shown."""

    prompts: Sequence[str]  # {} stands for the word
    label: str  # all prompts in one line

    def filled(self, text: str, word: str) -> str:
        """Return `text` with `word` in the place of {}, after the right article."""
        return text.replace("a {}", f"an {word}" if word[0] in "aeiou" else f"a {word}").replace("{}", word)


THEMES = {
    "nutkin": Theme(
        [f"a 3d render of a {{}} on a {ground} background" for ground in BACKGROUNDS],
        f"a 3d render of a {{}} on a {' / '.join(BACKGROUNDS)} background",
    ),
    "notoish": Theme(
        [f"{thing}, {{}}, {ground} background" for thing, ground in zip(THINGS, BACKGROUNDS, strict=True)],
        f"{' / '.join(THINGS)}, {{}}",
    ),
}


class DemoFlags(BaseModel):
    """The flags of the demo."""

    output_dir: str = Field("outputs/demo", description="Folder for everything that the demo writes.")
    max_train_steps: int | None = Field(None, ge=1, description="Training steps (default: the model's own, 100).")
    steps: int = Field(30, ge=2, description="Sampler steps for each image.")
    restart: bool = Field(False, description="Start over even if an unfinished demo could be resumed.")


def main(argv: list[str], prog: str) -> int:
    """Run the command. Return its exit code: 128 + a signal that stopped it, 3 if a word was not learned."""
    flags = parse_flags(DemoFlags, argv, prog, DESCRIPTION)
    started = time.monotonic()
    from neonym.models.loading.identify import identify
    from neonym.models.source import BUILTIN
    from neonym.runs.outputs import STATE

    steps = flags.max_train_steps or identify(BUILTIN).defaults.max_train_steps.value
    unfinished = any((Path(flags.output_dir) / f"{word}-run" / STATE).is_file() for word in THEMES)
    run = RunConfig(
        dataset=DatasetSettings(dataset_config=str(write_dataset(Path(flags.output_dir)))),
        optim=OptimSettings(max_train_steps=steps),
        eval=EvalSettings(eval_every_n_steps=max(1, steps // EVALUATIONS)),
        save=SaveSettings(output_dir=flags.output_dir, restart=flags.restart or not unfinished),
    )
    from neonym.cli.report import write_report
    from neonym.cli.signals import stopping
    from neonym.generation.embeddings import add_files
    from neonym.generation.judge import NOT_LEARNED
    from neonym.generation.sheets import contact_sheet
    from neonym.models.model import load_model
    from neonym.preflight.preflight import preflight
    from neonym.runs.console import Terminal
    from neonym.runs.start import train
    from neonym.runs.stop import Stop

    terminal, stop = Terminal(), Stop()
    with stopping(stop):
        result = train(run, [terminal], stop)
    if result.signal:
        return 128 + result.signal
    model, out = load_model(), Path(flags.output_dir)
    shown, sheets = [], []
    add_files(model, result.files)
    for plan in preflight(run).complete_plans():
        word, theme = plan.token, THEMES[plan.token]
        own = [record.path for record in plan.concept.records]
        one = before_and_after(model, plan, own, flags.steps)
        rows = [(f"learned from {len(own)} images such as these", one.examples)]
        rows.append((f"before: {theme.filled(theme.label, one.start)}", one.before))
        rows.append((f"after: {theme.filled(theme.label, word)}", one.after))
        path = out / f"{word}-before-after.png"
        save_png(contact_sheet(rows), path)
        sheets.append(path)
        shown.append(one)
        terminal.print(f"written: {path}")
    page = write_report(out, result, shown, model.source.name)
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at:")
    for path in [page, *sheets, *result.files]:
        print(f"  {path}")
    return EXIT_NOT_LEARNED if any(v.word == NOT_LEARNED for v in result.verdicts) else 0


def write_dataset(folder: Path) -> Path:
    """Write the demo's dataset file, which refers to the images in the package. Raises UserError if that fails."""
    file = folder / "demo.json"
    table = read_table(EXAMPLES / "demo.toml", "The package is incomplete: install it again")
    for subset in (subset for dataset in table["datasets"] for subset in dataset["subsets"]):
        subset["image_dir"] = str(EXAMPLES / Path(subset["image_dir"]).name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(json.dumps(table, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(file), "Choose another --output_dir") from error
    return file


def before_and_after(model: Model, plan: TrainingPlan, paths: Sequence[Path], steps: int) -> WordResult:
    """Return what the report shows for a word: training examples, and the same prompts and seeds before and after."""
    from PIL import Image

    from neonym.cli.report import WordResult
    from neonym.generation.images import generate_images
    from neonym.runs.outputs import EVENTS

    word, start = plan.token, plan.concept.init_word
    theme = THEMES[word]
    seeds = range(len(theme.prompts))
    before, after = ([theme.filled(prompt, name) for prompt in theme.prompts] for name in (start, word))
    examples = [Image.open(path) for path in paths[: len(BACKGROUNDS)]]
    old, new = (generate_images(model, prompts, seeds, steps=steps) for prompts in (before, after))
    return WordResult(word, start, len(paths), examples, after, old, new, plan.run_folder / EVENTS)
