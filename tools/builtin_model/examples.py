"""Make `examples/` from subjects and a style that the model never sees, and `benchmarks/known/` from ones it knows.

python -m tools.builtin_model.examples --work work/emoji
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from .drawings import STYLES, load_subjects, taught
from .images import COLOURS, article, compose, phrase, place

SUBJECTS = {  # new word: (held-out subject, style, how many pictures have a caption)
    "nutkin": ("chestnut", 0, 8),
    "waddlo": ("penguin", 2, 4),
    "spinehog": ("hedgehog", 1, 0),
}
STYLE_WORD, STYLE_PICTURES, SUBJECT_PICTURES = "notoish", 20, 8
KNOWN = 24  # subjects of benchmarks/known


def make_subject(word: str, name: str, style: int, captions: int, drawings: np.ndarray, out: Path) -> None:
    """Eight pictures on eight backgrounds; captions beside the first `captions`."""
    row = next(i for i, s in enumerate(load_subjects()) if s.name == name)
    rng = np.random.default_rng(row)
    out.mkdir(parents=True, exist_ok=True)
    for i, colour in enumerate(rng.permutation(list(COLOURS))[:SUBJECT_PICTURES]):
        compose(drawings[row, style], colour, place(rng)).save(out / f"{i + 1}.png", optimize=True)
        if i < captions:
            text = phrase(article(word), STYLES[style], colour, int(rng.integers(6)))
            (out / f"{i + 1}.txt").write_text(text + "\n")


def make_style(drawings: np.ndarray, out: Path) -> None:
    """Twenty subjects that the model knows, in the style that it does not."""
    subjects, rng = load_subjects(), np.random.default_rng(4)
    out.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rng.permutation(taught(subjects, 160))[:STYLE_PICTURES]):
        colour = list(COLOURS)[i % len(COLOURS)]
        compose(drawings[row, 3], colour, place(rng)).save(out / f"{i + 1}.png", optimize=True)
        text = phrase(article(subjects[row].name), STYLE_WORD, colour, int(rng.integers(6)))
        (out / f"{i + 1}.txt").write_text(text + "\n")


def make_known(drawings: np.ndarray, out: Path) -> None:
    """Drawings of the first subjects taught, one style each: what `benchmarks/recovery.py` composes pictures from."""
    subjects, rows = load_subjects(), []
    out.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(taught(subjects, KNOWN)):
        style, file = i % 3, f"{subjects[row].name.replace(' ', '-')}.webp"
        Image.fromarray(drawings[row, style]).save(out / file, lossless=True)
        rows.append({"name": subjects[row].name, "style": STYLES[style], "file": file})
    (out / "known.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    args = parser.parse_args()
    drawn = np.load(args.work / "drawings.npz")["drawings"]
    for word, (name, style, captions) in SUBJECTS.items():
        make_subject(word, name, style, captions, drawn, Path("examples") / word)
    make_style(drawn, Path("examples") / STYLE_WORD)
    make_known(drawn, Path("benchmarks/known"))
