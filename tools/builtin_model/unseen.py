"""What new words draw of subjects that the built-in model has never seen: the 60 that are held out.

    python -m tools.builtin_model.unseen --work work/emoji

Each word is learned from 8 pictures, beginning at the subject's category, and drawn on four backgrounds. What is drawn is compared, as in
`score`, with the drawings taught and those held out, in the one style. Prints a table; `--json FILE` writes the figures.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.recovery import Subject, arguments, machine, run_of, saved_at, write_data, write_json
from neonym import train
from neonym.generation.embeddings import add_embedding
from neonym.generation.images import generate_images
from neonym.models.model import load_model

from .drawings import STYLES, load_subjects, taught
from .images import article, phrase
from .score import cut_out, reference_rows

GROUNDS = ("blue", "yellow", "green", "white")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.set_defaults(subjects=60, vectors=2)
    args = parser.parse_args()
    all_subjects, drawings = load_subjects(), np.load(args.work / "drawings.npz")["drawings"]
    model = load_model("builtin:emoji", args.device)
    held_out = [i for i, subject in enumerate(all_subjects) if subject.split == "held out"]
    rows = taught(all_subjects, len(all_subjects)) + held_out
    references = {ground: reference_rows(drawings, rows, ground)[:, 0] for ground in GROUNDS}
    asked = held_out[: args.subjects]
    words = [Subject(all_subjects[i].name, STYLES[0], drawings[i, 0], all_subjects[i].category) for i in asked]
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config, _ = write_data(words, args.vectors, args.batch_size, folder / "data")
        train(run_of(args, config, folder / "out", {"eval_samples": 8}, None))
        for row, subject in zip(asked, words, strict=True):
            add_embedding(model, saved_at(folder / "out", subject.word, args.steps), subject.word)
            prompts = [phrase(article(subject.word), subject.style, ground, 0) for ground in GROUNDS]
            drawn = generate_images(model, prompts, range(len(prompts)), steps=20)
            places = [place_of(row, rows, references[g], cut_out(p)) for g, p in zip(GROUNDS, drawn, strict=True)]
            figures.append({"subject": subject.name, "places": places})
            print(f"{subject.name:22} {places}", flush=True)
    places = np.array([figure["places"] for figure in figures])
    shares = {f"among_nearest_{n}": round(float((places < n).mean()), 4) for n in (1, 5, 20)}
    print(shares, f"of {len(rows)}")
    if args.json:
        write_json({**shares, "of": len(rows), "machine": machine(), "subjects": figures}, args.json)


def place_of(row: int, rows: list[int], references: np.ndarray, drawn: np.ndarray) -> int:
    """How many drawings are nearer to what is drawn than the one of `row`. `references` [rows,F], `drawn` [F]"""
    return [rows[i] for i in np.square(references - drawn).mean(-1).argsort()].index(row)


if __name__ == "__main__":
    main()
