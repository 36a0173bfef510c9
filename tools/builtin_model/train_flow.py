"""Train the flow model's transformer and language model together, on cached latents. Checkpointed, seeded.

    python -m tools.builtin_model.train_flow --work work/emoji --subjects 300 --minutes 360

Flow matching with the conventions of Z-Image, 10 % empty captions, EMA. Running it again goes on from `flow.pt`;
`--start FOLDER` begins from the weights of a Diffusers folder.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from torch.utils.data import DataLoader
from transformers import Qwen3Model

from .batches import STYLES, Data, load_data
from .blur import Blur
from .chat import ChatCaptions, blur_of_qwen
from .flow import Flow, compile_blocks, make_transformer
from .flow_text import load_tokenizer, make_language_model
from .training import Training, train

SHIFTS = (3.0, 1.5)  # of the noise levels, at the start and at the end of training
FIRST_GRADIENTS = 20  # steps until every part must learn: blocks that begin as the identity pass nothing on at first


def load_vae(folder: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32).eval().requires_grad_(False)


def load_flow(folder: Path) -> tuple[Flow, int]:
    """The model of a Diffusers folder, and the steps that it has behind it."""
    transformer = ZImageTransformer2DModel.from_pretrained(folder, subfolder="transformer", dtype=torch.float32)
    text = Qwen3Model.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    transformer.x_pad_token.requires_grad_(False)
    for weight in (*text.layers[-1].parameters(), *text.norm.parameters()):
        weight.requires_grad_(False)
    return Flow(transformer, text), json.loads((folder / "neonym.json").read_text())["steps"]


def stratified_sigmas(size: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """One noise level from each of `size` strata, shuffled; shifted ones lie `shift` squared times as dense at 1 as at 0."""
    drawn = {"generator": generator, "device": generator.device}
    u = (torch.randperm(size, **drawn) + torch.rand(size, **drawn)) / size
    return shift * u / (1 + (shift - 1) * u)


def make_loss(
    training: Training, data: Data, blur: Blur, pad: int, alike: int, device: str, bf16: bool
) -> Callable[[float, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Of one step: the share that is behind, which pictures [B], their captions [B,32] -> loss.

    High noise comes first: there the text decides what is drawn. What is drawn follows from the step.
    """
    generator = torch.Generator(device)

    def loss_of(done: float, at: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        generator.manual_seed(training.step)
        x0, groups = data.latents.sample(at, generator), len(ids) // alike
        sigma = stratified_sigmas(groups, SHIFTS[0] + (SHIFTS[1] - SHIFTS[0]) * done, generator)
        sigma = sigma.repeat_interleave(alike)
        noise = torch.randn(groups, *x0.shape[1:], generator=generator, device=device).repeat_interleave(alike, 0)
        change = blur.draw(training.words, ids, alike, generator)
        real = (change.places @ (ids != pad).float()[..., None])[..., 0] > 0
        x = torch.lerp(x0, noise, sigma[:, None, None, None])
        with torch.autocast(device, torch.bfloat16, enabled=bf16 or device == "cuda"):
            guess = training.model(x, sigma, change(training.words(ids)), real)
        return (guess.float() - (noise - x0)).square().mean()

    return loss_of


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--vae", type=Path, default=Path("src/neonym/models/builtin/emoji"), help="folder of its VAE")
    parser.add_argument("--subjects", type=int, default=300)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=1e9, help="end early, the learning rate decayed by then")
    parser.add_argument("--batch", type=int, default=768, help="a multiple of the number of styles")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--start", type=Path, help="start from the weights of this Diffusers folder")
    parser.add_argument("--word_noise", type=float, default=0.2, help="largest scale of noise on the words")
    parser.add_argument("--word_mix", type=float, default=0.98, help="largest share of a generic word in a name")
    parser.add_argument("--near_noise", type=float, default=0.4, help="scale of noise on mixed names")
    parser.add_argument(
        "--bf16", action="store_true", help="autocast to bfloat16 (CPUs that compute in it; always on CUDA)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--workers", type=int, default=0, help="processes that word captions (12 for a fast GPU)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    checkpoint = args.work / "flow.pt"
    if args.start and checkpoint.exists():
        raise SystemExit(f"{checkpoint} is there: run without --start to go on from it, or remove it")
    vae, tokenizer = load_vae(args.vae), load_tokenizer(args.work / "flow-tokenizer")
    data = load_data(args.work, args.subjects, False, vae, vae.config.scaling_factor, device, args.workers)
    model, before = (
        load_flow(args.start) if args.start else (Flow(make_transformer(), make_language_model(tokenizer)), 0)
    )
    training = Training(model.to(device), model.text.get_input_embeddings(), args.lr)
    if checkpoint.exists():
        training.go_on(checkpoint, device)
    if args.compile:
        compile_blocks(model.transformer)
    names, categories = [s.name for s in data.subjects], sorted({s.category for s in data.subjects})
    blur = blur_of_qwen(tokenizer, names, categories, args.word_noise, args.word_mix, args.near_noise)
    loss_of = make_loss(training, data, blur, tokenizer.pad_token_id, STYLES, device, args.bf16)
    captions = ChatCaptions(data.subjects, tokenizer, args.batch, STYLES)
    batches = DataLoader(
        captions, batch_size=None, sampler=range(training.step, args.steps), num_workers=args.workers,
        pin_memory=device == "cuda",
    )  # fmt: skip
    facts = {"before": before, "subjects": args.subjects}
    train(
        training, batches, loss_of, device, args.steps, args.minutes, check_after=FIRST_GRADIENTS,
        save=lambda: training.save(checkpoint, **facts),
    )  # fmt: skip


if __name__ == "__main__":
    main()
