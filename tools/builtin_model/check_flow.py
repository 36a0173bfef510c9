"""What a checkpoint of the flow model has learned so far: its loss by noise level and by what is said, and a sheet.

python -m tools.builtin_model.check_flow --work work/emoji --out work/emoji/check
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import Qwen2Tokenizer

from .batches import Data, by_name, load_data
from .chat import turns
from .drawings import SIZE, TAUGHT_STYLES
from .flow import Flow, generate, make_transformer
from .flow_text import load_tokenizer, make_language_model
from .images import COLOURS, full_caption
from .train_flow import load_vae

BANDS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
SHOWN = 600  # pictures of each loss


def load_average(checkpoint: Path, tokenizer: Qwen2Tokenizer) -> tuple[Flow, dict]:
    """The averaged weights of a checkpoint, and the checkpoint."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    model = Flow(make_transformer(), make_language_model(tokenizer))
    model.load_state_dict(state["ema"])
    return model.eval().requires_grad_(False), state


@torch.no_grad()
def losses(model: Flow, data: Data, tokenizer: Qwen2Tokenizer, device: str) -> dict[str, list[float]]:
    """The loss in every band for the true caption, one with "picture", one with another name, and none."""
    rng, shown = np.random.default_rng(23), by_name(len(data.subjects))
    at = rng.integers(len(shown), size=SHOWN)
    plans = [(data.subjects[row], TAUGHT_STYLES[style], colour) for row, style, colour in (shown[i] for i in at)]
    names = rng.permutation([s.name for s in data.subjects])
    others = [names[i % len(names)] for i in range(SHOWN)]
    captions = {
        "true": [full_caption(s.name, style, colour) for s, style, colour in plans],
        "picture": [full_caption("picture", style, colour) for _, style, colour in plans],
        "another": [full_caption(o, style, colour) for o, (_, style, colour) in zip(others, plans, strict=True)],
        "none": [""] * SHOWN,
    }
    generator = torch.Generator(device).manual_seed(5)
    x0 = data.latents.sample(torch.from_numpy(at), generator)
    noise = torch.randn(x0.shape, generator=generator, device=device)
    found: dict[str, list[float]] = {}
    for kind, said in captions.items():
        ids = turns(tokenizer, said).to(device)
        words, real = model.text.get_input_embeddings()(ids), ids != tokenizer.pad_token_id
        guesses = [model(torch.lerp(x0, noise, s), x0.new_full((SHOWN,), s), words, real) for s in BANDS]
        found[kind] = [float((guess.float() - (noise - x0)).square().mean()) for guess in guesses]
    return found


@torch.no_grad()
def sheet(
    model: Flow, vae: AutoencoderKL, data: Data, tokenizer: Qwen2Tokenizer, device: str, shift: float
) -> Image.Image:
    """60 pictures: ten subjects in a row, every row with one style and colours in turn."""
    colours = list(COLOURS)
    rows = np.random.default_rng(3).permutation(len(data.subjects))[np.arange(60) % len(data.subjects)]
    said = [
        full_caption(data.subjects[row].name, TAUGHT_STYLES[i // 10 % 3], colours[i % 12]) for i, row in enumerate(rows)
    ]
    ids, empty = (turns(tokenizer, captions).to(device) for captions in (said, [""]))
    latents = generate(model, ids, empty, tokenizer.pad_token_id, 20, 3.0, shift, 0)
    pixels = vae.to(device).decode(latents / vae.config.scaling_factor).sample
    pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).cpu().numpy()
    picture = Image.new("RGB", (10 * SIZE, 6 * SIZE))
    for i, one in enumerate(pixels):
        picture.paste(Image.fromarray(one), (i % 10 * SIZE, i // 10 * SIZE))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--vae", type=Path, default=Path("src/neonym/models/builtin/emoji"), help="folder of its VAE")
    parser.add_argument("--out", type=Path, default=Path("work/emoji/check"))
    parser.add_argument("--shift", type=float, default=2.0)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae, tokenizer = load_vae(args.vae), load_tokenizer(args.work / "flow-tokenizer")
    model, state = load_average(args.work / "flow.pt", tokenizer)
    model.to(device)
    data = load_data(args.work, state["subjects"], False, vae, vae.config.scaling_factor, device, 0)
    print(f"{state['step']} steps, loss at sigma {BANDS}:")
    for kind, found in losses(model, data, tokenizer, device).items():
        print(f"{kind:>8}", "  ".join(f"{loss:.4f}" for loss in found), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    sheet(model, vae, data, tokenizer, device, args.shift).save(args.out / "sheet.png")


if __name__ == "__main__":
    main()
