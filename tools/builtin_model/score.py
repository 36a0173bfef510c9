"""How well the built-in model draws what it was taught: subject, style, background.

    python -m tools.builtin_model.score --work work/emoji --model src/neonym/models/builtin/emoji --out work/emoji/score

For each caption one picture (DDIM, or Euler for the flow model). The drawing is cut out from its background, scaled to the same box and compared
with every drawing taught, in every style; the nearest neighbour decides subject and style. The background is right
if the median border pixel is nearest to the named colour. Writes `score.json` and `sheet.png`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ZImagePipeline
from PIL import Image

from .drawings import SIZE, TAUGHT_STYLES, fill_square, load_subjects, taught
from .images import COLOURS, full_caption

BOX = 32  # side of the compared pictures


def plans(rows: list[int], count: int, seed: int = 11) -> list[tuple[int, int, str]]:
    """`count` (subject, style, colour) triples; every subject before any comes twice."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < count:
        order += list(rng.permutation(rows))
    colours = list(COLOURS)
    return [(int(r), int(rng.integers(len(TAUGHT_STYLES))), colours[rng.integers(len(colours))]) for r in order[:count]]


def load_pipeline(model: Path) -> DiffusionPipeline:
    """Of the class that the folder names; Stable Diffusion with DDIM."""
    pipe = DiffusionPipeline.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    if not isinstance(pipe, ZImagePipeline):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def draw(pipe: DiffusionPipeline, captions: list[str], steps: int, guidance: float) -> list[Image.Image]:
    """`guidance` as usually counted (1: none)."""
    pictures = []
    how = {"num_inference_steps": steps, "height": SIZE, "width": SIZE}
    how["guidance_scale"] = guidance - isinstance(pipe, ZImagePipeline)
    for first in range(0, len(captions), 25):
        part = captions[first : first + 25]
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(part))]
        pictures += pipe(part, generator=generators, **how).images
        print(f"{first + len(part)} of {len(captions)} drawn", flush=True)
    return pictures


def border_colour(pixels: np.ndarray) -> np.ndarray:
    """Median of the outermost pixels. [H,W,3] -> [3]"""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.median(edge, axis=0)


def cut_out(picture: Image.Image) -> np.ndarray:
    """What differs from the border colour, scaled to the same box, on mid-grey. -> float [BOX*BOX*4] (RGB and mask)"""
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    distance = np.abs(pixels - border_colour(pixels)).max(axis=-1)
    alpha = np.clip((distance - 20) * 6, 0, 255).astype(np.uint8)
    if (alpha > 16).sum() < 20:
        alpha[:] = 255
    return signature(fill_square(Image.fromarray(np.dstack([pixels.astype(np.uint8), alpha]), "RGBA")))


def signature(drawing: np.ndarray) -> np.ndarray:
    """RGBA uint8 [128,128,4] -> float [BOX*BOX*4]: colours on grey, and the mask."""
    k = SIZE // BOX
    alpha = drawing[..., 3:].astype(np.float32) / 255
    rgb = drawing[..., :3] / 255 * alpha + 0.5 * (1 - alpha)
    both = np.concatenate([rgb, 0.5 * alpha], axis=-1)
    return both.reshape(BOX, k, BOX, k, 4).mean((1, 3)).reshape(-1)


def nearest_colour(picture: Image.Image) -> str:
    found = border_colour(np.asarray(picture.convert("RGB"), np.float32))
    return min(COLOURS, key=lambda name: float(np.square(found - np.array(COLOURS[name])).sum()))


def reference_rows(drawings: np.ndarray, rows: list[int], colour: str) -> np.ndarray:
    """Every taught drawing as it would be cut out from a background of `colour`. -> [subjects,styles,BOX*BOX*4]"""
    from .images import Placement, compose

    at = Placement(112, 8, 8)
    cut = [[cut_out(compose(drawings[r, s], colour, at)) for s in range(len(TAUGHT_STYLES))] for r in rows]
    return np.array(cut)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--model", type=Path, default=Path("src/neonym/models/builtin/emoji"))
    parser.add_argument("--out", type=Path, default=Path("work/emoji/score"))
    parser.add_argument("--captions", type=int, default=300)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=3.0)
    args = parser.parse_args()
    subjects, drawings = load_subjects(), np.load(args.work / "drawings.npz")["drawings"]
    rows = taught(subjects, json.loads((args.model / "neonym.json").read_text())["taught_subjects"])
    pipe = load_pipeline(args.model)
    chosen = plans(rows, args.captions)
    captions = [full_caption(subjects[r].name, TAUGHT_STYLES[s], c) for r, s, c in chosen]
    pictures = draw(pipe, captions, args.steps, args.guidance)
    references = {colour: reference_rows(drawings, rows, colour) for colour in COLOURS}
    hits = {"subject_top1": 0, "subject_top5": 0, "style": 0, "background": 0}
    for (row, style, colour), picture in zip(chosen, pictures, strict=True):
        distance = np.square(references[colour] - cut_out(picture)).mean(-1)  # [subjects,styles]
        order = [rows[i] for i in distance.min(1).argsort()]
        hits["subject_top1"] += order[0] == row
        hits["subject_top5"] += row in order[:5]
        hits["style"] += int(distance.min(0).argmin()) == style
        hits["background"] += nearest_colour(picture) == colour
    scores = {name: round(count / len(chosen), 4) for name, count in hits.items()}
    scores |= {"captions": len(chosen), "subjects": len(rows), "steps": args.steps, "guidance": args.guidance}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "score.json").write_text(json.dumps(scores, indent=2) + "\n")
    sheet = Image.new("RGB", (12 * SIZE, 6 * SIZE))
    for i, picture in enumerate(pictures[:72]):
        sheet.paste(picture, (i % 12 * SIZE, i // 12 * SIZE))
    sheet.save(args.out / "sheet.png")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
