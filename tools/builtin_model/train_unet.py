"""Train the built-in model's U-Net and text encoder together, on cached latents. Checkpointed, seeded.

    python -m tools.builtin_model.train_unet --work work/emoji --subjects 160 --steps 4500

Epsilon prediction with min-SNR weights (gamma 5), 10 % empty captions, EMA. Running it again goes on from
`unet.pt`; `--start FOLDER` begins from the weights of a Diffusers folder (the shipped one, say).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from torch.utils.data import DataLoader
from transformers import CLIPTextModel, CLIPTokenizer

from .batches import STYLES, Captions, Data, load_data
from .blur import Blur, encode
from .looks import Eye, teach_names
from .text import load_tokenizer, make_text_encoder
from .train_vae import make_vae
from .training import Training, train

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def make_unet() -> UNet2DConditionModel:
    """64-128-192 channels over 16 x 16 latents, cross-attention in the two lower levels."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 128, 192), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


@dataclass
class Parts:
    """What training begins from."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: CLIPTextModel
    scale: float | None = None  # of latents; None: it follows from the pictures
    before: int = 0  # steps that the weights have behind them


def first_parts(work: Path, start: Path | None, checkpoint: Path) -> Parts:
    """Of the folder `start`, or new ones round the VAE of the checkpoint, or of `vae.pt`."""
    if start:
        vae = AutoencoderKL.from_pretrained(start, subfolder="vae", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(start, subfolder="unet", dtype=torch.float32)
        text = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
        before = json.loads((start / "neonym.json").read_text())["steps"]
        return Parts(vae, unet, text, vae.config.scaling_factor, before)
    parts = Parts(make_vae(), make_unet(), make_text_encoder())
    saved = torch.load(
        checkpoint if checkpoint.exists() else work / "vae.pt", weights_only=True, map_location="cpu", mmap=True
    )
    parts.vae.load_state_dict(saved["vae"])
    parts.scale, parts.before = saved.get("scale"), saved.get("before", 0)
    return parts


class Learner(nn.Module):
    """U-Net and text encoder, and what looks at drawings, in one module, so that one EMA copy holds all."""

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel, eye: Eye | None = None):
        super().__init__()
        self.unet, self.text, self.eye = unet.to(memory_format=torch.channels_last), text, eye


def know_names(training: Training, drawings: torch.Tensor, tokenizer: CLIPTokenizer, names: list[str]) -> None:
    """Let the eye begin with the words of drawings that have a name."""
    table = training.words.weight.detach()
    words = [table[tokenizer(name, add_special_tokens=False).input_ids].mean(0) for name in names]
    teach_names(training.model.eye, drawings, torch.stack(words))
    training.ema.eye.load_state_dict(training.model.eye.state_dict())


def compiled(unet: UNet2DConditionModel, device: str) -> nn.Module:
    """torch.compile; on a CPU not the upsamplers: in bfloat16 their compiled gradients are zero there (torch 2.13)."""
    for block in unet.up_blocks if device == "cpu" else ():
        for upsampler in getattr(block, "upsamplers", None) or ():
            upsampler.forward = torch.compiler.disable(upsampler.forward)
    return torch.compile(unet, dynamic=False)


def stratified_timesteps(size: int, generator: torch.Generator, phase: str) -> torch.Tensor:
    """One timestep from each of `size` strata, shuffled. -> int64 [size]

    In the phase "text" twice as dense at 999 as at the middle: at high noise the text decides what is drawn, which is
    the slow part of learning. In the phase "details" evenly.
    """
    drawn = {"generator": generator, "device": generator.device}
    u = (torch.randperm(size, **drawn) + torch.rand(size, **drawn)) / size
    return ((u.sqrt() if phase == "text" else u) * 1000).long().clamp(max=999)


def weighted_loss(guess: torch.Tensor, noise: torch.Tensor, snr: torch.Tensor, phase: str) -> torch.Tensor:
    """Of epsilon prediction. "text": min-SNR weights (Hang et al. 2023, gamma 5) with a floor, clamp(SNR, 0.5, 5) / SNR.

    Without the floor the highest noise levels, the only ones at which the text decides what is drawn, hardly count;
    but low noise hardly counts either way, and pictures stay blotchy. "details": 1 + 0.25 / SNR, at most 11.
    """
    weight = snr.clamp(0.5, 5) / snr if phase == "text" else 1 + (0.25 / snr).clamp(max=10)
    return (weight * (guess - noise).square().mean((1, 2, 3))).mean()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--subjects", type=int, default=160)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--minutes", type=float, default=1e9, help="end early, the learning rate decayed by then")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--start", type=Path, help="start from the weights of this Diffusers folder")
    parser.add_argument("--phase", choices=("text", "details"), default="text", help="which noise levels count most")
    parser.add_argument("--word_noise", type=float, default=0.0, help="largest scale of noise on the words (0.2, say)")
    parser.add_argument("--word_mix", type=float, default=0.0, help="largest share of a generic word in a name (0.98)")
    parser.add_argument("--near_noise", type=float, default=0.0, help="scale of noise on mixed names (0.4, say)")
    parser.add_argument("--freeze_words", action="store_true", help="leave the table of words as it is")
    parser.add_argument("--by_look", action="store_true", help="half of each step shows drawings that no name calls")
    parser.add_argument(
        "--side_by_side", action="store_true", help="show a drawing in all styles at once, under the same noise"
    )
    parser.add_argument(
        "--bf16", action="store_true", help="autocast to bfloat16 (CPUs that compute in it; always on CUDA)"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile (needs a C++ compiler on a CPU)")
    parser.add_argument("--workers", type=int, default=0, help="processes that word captions (12 for a fast GPU)")
    return parser.parse_args()


def make_loss(
    args: argparse.Namespace, training: Training, data: Data, blur: Blur, alike: int, device: str
) -> Callable[[float, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Of one step: which pictures [B], their captions [B,77], the drawings that the last are called by [groups,2] -> loss.

    What is drawn follows from the step.
    """
    generator, scheduler = torch.Generator(device), DDPMScheduler(**BETAS)
    alphas = scheduler.alphas_cumprod.to(device)
    predict = compiled(training.model.unet, device) if args.compile else training.model.unet

    def looks_at(seen: torch.Tensor, size: int) -> torch.Tensor | None:
        if training.model.eye is None:
            return None
        looks = training.model.eye(data.thumbnails[seen[:, 0], seen[:, 1]]).repeat_interleave(alike, 0)
        return torch.cat([looks.new_zeros(size - len(looks), *looks.shape[1:]), looks])  # [B,3,W]

    def loss_of(_done: float, at: torch.Tensor, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        generator.manual_seed(training.step)
        x0, groups = data.latents.sample(at, generator), len(ids) // alike
        t = stratified_timesteps(groups, generator, args.phase).repeat_interleave(alike)
        noise = torch.randn(groups, *x0.shape[1:], generator=generator, device=device).repeat_interleave(alike, 0)
        x_t = scheduler.add_noise(x0, noise, t).contiguous(memory_format=torch.channels_last)
        change = blur.draw(training.words, ids, alike, generator, looks_at(seen, len(ids)))
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16 or device == "cuda"):
            guess = predict(x_t, t, encode(training.model.text, ids, change)).sample
        return weighted_loss(guess.float(), noise, alphas[t] / (1 - alphas[t]), args.phase)

    return loss_of


def main() -> None:
    args = parse()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    checkpoint, alike = args.work / "unet.pt", STYLES if args.side_by_side else 1
    if args.start and checkpoint.exists():
        raise SystemExit(f"{checkpoint} is there: run without --start to go on from it, or remove it")
    parts, tokenizer = first_parts(args.work, args.start, checkpoint), load_tokenizer(args.work)
    vae = parts.vae.eval().requires_grad_(False)
    data = load_data(args.work, args.subjects, args.by_look, vae, parts.scale, device, args.workers)
    names, categories = [s.name for s in data.subjects], sorted({s.category for s in data.subjects})
    eye = Eye() if args.by_look else None
    words = parts.text.get_input_embeddings().requires_grad_(not args.freeze_words)
    training = Training(Learner(parts.unet, parts.text, eye).to(device), words, args.lr)
    if checkpoint.exists():
        training.go_on(checkpoint, device)
    elif eye is not None:
        know_names(training, data.named, tokenizer, names)
    blur = Blur.of_clip(tokenizer, names, categories, args.word_noise, args.word_mix, args.near_noise)
    loss_of = make_loss(args, training, data, blur, alike, device)
    captions = Captions(data.subjects, tokenizer, args.batch, alike, len(data.thumbnails))
    batches = DataLoader(captions, batch_size=None, sampler=range(training.step, args.steps), num_workers=args.workers)
    facts = {"vae": vae.state_dict(), "before": parts.before, "scale": data.latents.scale, "subjects": args.subjects}
    train(
        training, batches, loss_of, device, args.steps, args.minutes, check_after=0,
        save=lambda: training.save(checkpoint, **facts),
    )  # fmt: skip


if __name__ == "__main__":
    main()
