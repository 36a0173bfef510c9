"""Train the built-in model's U-Net and text encoder together, on cached latents. Checkpointed, seeded.

    python -m tools.builtin_model.train_unet --work work/emoji --subjects 160 --steps 4500

Epsilon prediction with min-SNR weights (gamma 5), 10 % empty captions, EMA. Running it again goes on from
`unet.pt`; `--start FOLDER` begins from the weights of a Diffusers folder (the shipped one, say).
"""

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from .drawings import TAUGHT_STYLES, Subject, load_subjects, taught
from .pictures import COLOURS, GENERIC, caption, compose, phrase, place
from .text import load_tokenizer, make_text_encoder
from .train_vae import make_vae

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
VARIANTS = 2  # placements of each (subject, style, colour)


def make_unet() -> UNet2DConditionModel:
    """64-128-192 channels over 16 x 16 latents, cross-attention in the two lower levels."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 128, 192), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


class Latents:
    """Every (subject, style, colour, placement) encoded once; captions are drawn anew each time."""

    def __init__(
        self, work: Path, subjects: list[Subject], rows: list[int], vae: AutoencoderKL, device: str, scale: float | None
    ):
        self.subjects, self.rows = subjects, rows
        self.index = [
            (row, style, colour)
            for row in rows for colour in COLOURS for _ in range(VARIANTS) for style in range(len(TAUGHT_STYLES))
        ]  # the styles of one subject, colour and placement lie side by side  # fmt: skip
        digest = hashlib.sha256(repr((rows, "styles side by side")).encode())
        for name, weight in vae.state_dict().items():
            if name.startswith(("encoder.", "quant_conv.")):
                digest.update(weight.float().cpu().numpy().tobytes())
        cache = work / f"latents-{digest.hexdigest()[:12]}.pt"
        if not cache.exists():
            torch.save(self._encode(work, vae.to(device), device), cache)
        self.mean, self.std = torch.load(cache, weights_only=True)  # float16 [N,4,16,16] each
        self.scale = scale or float(1 / self.mean.float().std())

    @torch.no_grad()
    def _encode(self, work: Path, vae: AutoencoderKL, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        drawings, rng = np.load(work / "drawings.npz")["drawings"], np.random.default_rng(1)
        styles, means, stds = len(TAUGHT_STYLES), [], []
        places = [place(rng) for _ in range(len(self.index) // styles)]
        for first in range(0, len(self.index), 64):
            chunk = range(first, min(first + 64, len(self.index)))
            shown = [(*self.index[i], places[i // styles]) for i in chunk]
            pixels = np.stack([np.asarray(compose(drawings[r, s], c, at)) for r, s, c, at in shown])
            x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).to(device)
            posterior = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist
            means.append(posterior.mean.half().cpu())
            stds.append(posterior.std.half().cpu())
        return torch.cat(means), torch.cat(stds)

    def batch(self, size: int, alike: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[str]]:
        """-> scaled latents [size,4,16,16], captions (10 % empty).

        Each `alike` samples in a row (1, or the number of styles) differ in their style only, in picture and caption.
        """
        first = rng.integers(len(self.index) // alike, size=size // alike) * alike
        rows = (first[:, None] + np.arange(alike)).reshape(-1)
        mean, std = self.mean[rows].float(), self.std[rows].float()
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        captions, wordings = [], rng.integers(2**63, size=len(first))
        for row, wording in zip(rows, wordings.repeat(alike), strict=True):
            subject, style, colour = self.index[row]
            s, draws = self.subjects[subject], np.random.default_rng(wording)
            said = caption(s.name, s.category, TAUGHT_STYLES[style], colour, draws)
            captions.append("" if draws.random() < 0.10 else said)
        return (mean + std * noise) * self.scale, captions


class Learner(nn.Module):
    """U-Net and text encoder in one module, so that one EMA copy holds both."""

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel):
        super().__init__()
        self.unet, self.text = unet.to(memory_format=torch.channels_last), text


def check_gradients(model: nn.Module) -> None:
    """Every part learns, or the training ends: a compiler can lose the gradients of a part without a word."""
    idle = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    if idle:
        raise SystemExit(f"no gradients for {', '.join(idle[:5])} and {max(0, len(idle) - 5)} more")


def compiled(unet: UNet2DConditionModel) -> nn.Module:
    """torch.compile, but for the upsamplers: in bfloat16 on a CPU their compiled gradients are zero (torch 2.13)."""
    for block in unet.up_blocks:
        for upsampler in getattr(block, "upsamplers", None) or ():
            upsampler.forward = torch.compiler.disable(upsampler.forward)
    return torch.compile(unet, dynamic=False)


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """-> int64 [B,77]"""
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def encode(text: CLIPTextModel, ids: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Text whose token embeddings [B,77,W] go through `change` first. -> [B,77,W]"""
    hook = text.get_input_embeddings().register_forward_hook(lambda *call: change(call[-1]))
    try:
        return text(ids).last_hidden_state
    finally:
        hook.remove()


class Blur:
    """Words as neighbourhoods: training sees them with noise, and names mixed with a word that says less.

    A new word begins at some other word and has to find its meaning by gradients. Where only the exact embedding of a
    name means anything, the way there is flat: half-way from "picture" to "ring" the loss had not begun to fall.
    """

    def __init__(self, tokenizer: CLIPTokenizer, names: list[str], categories: list[str], noise: float, mix: float):
        frame = pieces(tokenizer, [phrase("a", s, c, 0) for s in TAUGHT_STYLES for c in COLOURS] + ["an", ","])
        self.names = torch.tensor(sorted(pieces(tokenizer, names) - frame - pieces(tokenizer, categories)))
        self.generic = torch.tensor(sorted(pieces(tokenizer, [*GENERIC, *categories])))
        self.start = tokenizer.bos_token_id
        self.noise, self.mix = noise, mix

    def draw(
        self, table: nn.Embedding, ids: torch.Tensor, alike: int, rng: np.random.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """What to do with the embeddings of `ids` [B,77]; each `alike` captions in a row get the same.

        Most names are mixed: a share between 0 and `mix`, more often a large one, is a generic word's. Of half of the names of several pieces
        the mean stands in one place, as a new word of one vector does. All words get Gaussian noise of a scale between 0 and
        `noise`; the start and the end of the text do not.
        """
        groups, width = len(ids) // alike, table.embedding_dim
        scale = self.noise * rng.random((groups, 1, 1), dtype=np.float32)
        noise = torch.from_numpy(scale * rng.standard_normal((groups, 77, width), dtype=np.float32))
        share = self.mix * np.sqrt(rng.random(groups, dtype=np.float32)) * (rng.random(groups) < 0.7)
        other = self.generic[torch.from_numpy(rng.integers(len(self.generic), size=groups))]
        whole = torch.from_numpy(rng.random(groups) < (0.5 if self.mix else 0.0))

        def spread(x: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(alike, 0).to(ids.device)

        named = torch.isin(ids, self.names.to(ids.device))  # [B,77]
        places = joined(named & spread(whole)[:, None])  # [B,77,77]
        noise = (places @ (ids < self.start).float()[..., None] > 0) * spread(noise)  # [B,77,W]
        share = (places @ named.float()[..., None]) * spread(torch.from_numpy(share.astype(np.float32)))[:, None, None]
        other = spread(other)[:, None]  # [B,1]

        def change(words: torch.Tensor) -> torch.Tensor:
            with torch.autocast(ids.device.type, enabled=False):
                return torch.lerp(places @ words, nn.functional.embedding(other, table.weight), share) + noise

        return change


def joined(named: torch.Tensor) -> torch.Tensor:
    """Which places of a text make up each place when every run of `named` ones becomes one. [B,77] -> [B,77,77]

    Each row is the weights of a mean; what becomes free at the end repeats the last place, which is padding.
    """
    follows = named.clone()
    follows[:, 0] = False
    follows[:, 1:] &= named[:, :-1]
    new = (~follows).cumsum(1) - 1  # [B,77]
    places = nn.functional.one_hot(new, named.shape[1]).transpose(1, 2).float()
    places[:, :, -1] += places.sum(2) == 0
    return places / places.sum(2, keepdim=True)


def pieces(tokenizer: CLIPTokenizer, texts: list[str]) -> set[int]:
    return {i for text in texts for i in tokenizer(text, add_special_tokens=False).input_ids}


def stratified_timesteps(size: int, rng: np.random.Generator, phase: str) -> torch.Tensor:
    """One timestep from each of `size` strata, shuffled. -> int64 [size]

    In the phase "text" twice as dense at 999 as at the middle: at high noise the text decides what is drawn, which is
    the slow part of learning. In the phase "details" evenly.
    """
    u = (rng.permutation(size) + rng.random(size)) / size
    return torch.from_numpy(((np.sqrt(u) if phase == "text" else u) * 1000).astype(np.int64).clip(max=999))


def weighted_loss(guess: torch.Tensor, noise: torch.Tensor, snr: torch.Tensor, phase: str) -> torch.Tensor:
    """Of epsilon prediction. "text": min-SNR weights (Hang et al. 2023, gamma 5) with a floor, clamp(SNR, 0.5, 5) / SNR.

    Without the floor the highest noise levels, the only ones at which the text decides what is drawn, hardly count;
    but low noise hardly counts either way, and pictures stay blotchy. "details": 1 + 0.25 / SNR, at most 11.
    """
    weight = snr.clamp(0.5, 5) / snr if phase == "text" else 1 + (0.25 / snr).clamp(max=10)
    return (weight * (guess - noise).square().mean((1, 2, 3))).mean()


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float = 0.995) -> None:
    rate = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), rate)


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
    parser.add_argument(
        "--side_by_side", action="store_true", help="show a drawing in all styles at once, under the same noise"
    )
    parser.add_argument(
        "--bf16", action="store_true", help="autocast to bfloat16 (CPUs that compute in it; always on CUDA)"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile (needs a C++ compiler on a CPU)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    checkpoint, first, before, scale = args.work / "unet.pt", 0, 0, None
    if args.start and checkpoint.exists():
        raise SystemExit(f"{checkpoint} is there: run without --start to go on from it, or remove it")
    if args.start:
        vae = AutoencoderKL.from_pretrained(args.start, subfolder="vae", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(args.start, subfolder="unet", dtype=torch.float32)
        text = CLIPTextModel.from_pretrained(args.start / "text_encoder", dtype=torch.float32)
        scale = vae.config.scaling_factor
        before = json.loads((args.start / "neonym.json").read_text())["steps"]
    else:
        vae, unet, text = make_vae(), make_unet(), make_text_encoder()
        if checkpoint.exists():
            saved = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
            scale, before = saved["scale"], saved["before"]
        else:
            saved = torch.load(args.work / "vae.pt", weights_only=True, map_location="cpu")
        vae.load_state_dict(saved["vae"])
    subjects = load_subjects()
    data = Latents(args.work, subjects, taught(subjects, args.subjects), vae.eval(), device, scale)
    tokenizer = load_tokenizer(args.work)
    model = Learner(unet, text).to(device).train()
    ema = copy.deepcopy(model).requires_grad_(False)
    table = list(model.text.get_input_embeddings().parameters())
    rest = [p for p in model.parameters() if all(p is not q for q in table)]
    rates = [{"params": rest, "rate": 1.0}, {"params": table, "rate": 3.0}]
    optimizer = torch.optim.AdamW(rates, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    predict = compiled(model.unet) if args.compile else model.unet

    def save(step: int) -> None:
        torch.save(
            {
                "model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(),
                "vae": vae.state_dict(), "step": step, "before": before, "scale": data.scale, "subjects": args.subjects,
            },
            checkpoint.with_suffix(".tmp"),
        )  # fmt: skip
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    shown = [subjects[row] for row in data.rows]
    blur = Blur(tokenizer, [s.name for s in shown], sorted({s.category for s in shown}), args.word_noise, args.word_mix)
    alike = len(TAUGHT_STYLES) if args.side_by_side else 1
    scheduler = DDPMScheduler(**BETAS)
    alphas = scheduler.alphas_cumprod.to(device)
    begun = first
    started, saved, told, running = time.monotonic(), time.monotonic(), time.monotonic(), 0.0
    for step in range(first, args.steps):
        share = max(step / args.steps, (time.monotonic() - started) / (60 * args.minutes))
        if share >= 1:
            break
        warm, decay = min(1.0, (step + 1) / 300), min(1.0, (1 - share) / 0.6)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * group["rate"] * warm * max(0.01, decay)
        rng = np.random.default_rng((7, step))
        x0, captions = data.batch(args.batch, alike, rng)
        groups = len(x0) // alike
        t = stratified_timesteps(groups, rng, args.phase).repeat_interleave(alike).to(device)
        noise = torch.from_numpy(rng.standard_normal((groups, *x0.shape[1:]), dtype=np.float32))
        noise = noise.repeat_interleave(alike, 0).to(device)
        x_t = scheduler.add_noise(x0.to(device), noise, t).contiguous(memory_format=torch.channels_last)
        ids = tokenise(tokenizer, captions).to(device)
        change = blur.draw(model.text.get_input_embeddings(), ids, alike, rng)
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16 or device == "cuda"):
            text = encode(model.text, ids, change)
            guess = predict(x_t, t, text).sample
        snr = alphas[t] / (1 - alphas[t])
        loss = weighted_loss(guess.float(), noise, snr, args.phase)
        loss.backward()
        if step == begun:
            check_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(ema, model, step)
        running += loss.detach()
        if (step + 1) % 50 == 0:
            speed = 50 * args.batch / (time.monotonic() - told)
            told = time.monotonic()
            print(f"{step + 1}  loss {running / 50:.4f}  {speed:.0f} pictures/s  {100 * share:.0f} %", flush=True)
            running = 0.0
        first = step + 1
        if time.monotonic() - saved > 240:
            saved = time.monotonic()
            save(first)
    save(first)


if __name__ == "__main__":
    main()
