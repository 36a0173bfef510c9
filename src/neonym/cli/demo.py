"""`neonym demo`: learn one subject and one style with the built-in model, and show what came of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags
from neonym.config.run import DatasetSettings, OptimSettings, RunConfig, SaveSettings
from neonym.errors import EXIT_NOT_LEARNED, UserError
from neonym.files import save_png

if TYPE_CHECKING:
    from PIL import Image

    from neonym.models.family import Model

DESCRIPTION = "Learn a subject and a style from examples/ with the built-in model; write pictures and a report."
GROUNDS = ("blue", "yellow", "green", "white", "red", "purple")
PROMPTS = {  # word -> what is drawn before (with the starting word) and after
    "hootle": [f"a 3d render of a {{}} on a {ground} background" for ground in GROUNDS],
    "notoish": [
        f"a {thing}, {{}}, {ground} background"
        for thing, ground in zip(
            ("taxi", "maple leaf", "top hat", "umbrella", "light bulb", "red apple"), GROUNDS, strict=True
        )
    ],
}


class DemoFlags(BaseModel):
    """The flags of the demo."""

    output_dir: str = Field("outputs/demo", description="Where everything goes.")
    max_train_steps: int = Field(OptimSettings().max_train_steps, ge=1, description="Length of the training.")


def main(argv: list[str], prog: str) -> int:
    flags = parse_flags(DemoFlags, argv, prog, DESCRIPTION)
    config = Path("examples/demo.toml")
    if not config.is_file():
        fix = "Run it in the folder of the repository"
        raise UserError("the example pictures are not there", str(config), fix)
    started = time.monotonic()
    run = RunConfig(
        dataset=DatasetSettings(dataset_config=str(config)),
        optim=OptimSettings(max_train_steps=flags.max_train_steps),
        save=SaveSettings(output_dir=flags.output_dir, output_name="demo", restart=True),
    )
    from neonym.cli.report import write_report
    from neonym.cli.train import stopping
    from neonym.generation.embeddings import add_files
    from neonym.generation.sheets import sheet
    from neonym.learn.events import Terminal
    from neonym.learn.loop import train
    from neonym.learn.prepare import prepare
    from neonym.learn.verdict import NOT_LEARNED
    from neonym.models.family import load_model

    report = Terminal()
    with stopping(report):
        result = train(run, report)
    if result.signal:
        return 128 + result.signal
    model, out = load_model(), Path(flags.output_dir)
    ready, sheets = prepare(run), []
    starts = {c.token_string: c.init_word or "picture" for c in ready.config.concepts} if ready.config else {}
    add_files(model, result.files)
    for index, word in enumerate(ready.tokens):
        own = [r for r in ready.records if r.concept == index]
        rows = [(f"learned from ({len(own)} pictures)", pictures_of([r.path for r in own[: len(GROUNDS)]]))]
        rows.append((f'before: "{PROMPTS[word][0].format(starts[word])}", ...', drawn(model, word, starts[word])))
        rows.append((f'after: "{PROMPTS[word][0].format(word)}", ...', drawn(model, word, word)))
        path = out / f"{word}-before-after.png"
        save_png(sheet(rows), path)
        sheets.append(path)
        report.note(f"drawn: {path}")
    page = write_report(out, "Neonym demo", result, sheets, ready.run_folder() / "events.jsonl")
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at:")
    for path in [page, *sheets, *result.files]:
        print(f"  {path}")
    return EXIT_NOT_LEARNED if any(v.word == NOT_LEARNED for v in result.verdicts) else 0


def pictures_of(paths: list[Path]) -> list[Image.Image]:
    from PIL import Image

    return [Image.open(path) for path in paths]


def drawn(model: Model, word: str, said: str) -> list[Image.Image]:
    """The prompts of `word` with `said` in its place, always from the same seeds."""
    from neonym.generation.images import draw

    prompts = [prompt.format(said) for prompt in PROMPTS[word]]
    return draw(model, prompts, list(range(len(prompts))))
