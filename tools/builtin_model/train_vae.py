"""Train the built-in model's AutoencoderKL on random 64-pixel crops, then on whole pictures. Checkpointed.

    python -m tools.builtin_model.train_vae --work work/emoji --minutes 15

Loss: L1 + L1 of the finite differences (edges) + 1e-6 KL. Stopping and starting again goes on from `vae.pt`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F

from .drawings import TAUGHT_STYLES, load_subjects, taught
from .images import COLOURS, compose, place

CHANNELS, GROUPS = (16, 32, 48, 64), 1
CARRIED = 6  # channels that carry the picture straight through at the start


def make_vae() -> AutoencoderKL:
    """Factor 8, 4 latent channels: the parts of Stable Diffusion 1.x, narrow."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS, layers_per_block=1, latent_channels=4, norm_num_groups=GROUPS, sample_size=128,
    )  # fmt: skip
    start_almost_linear(vae)
    return vae.to(memory_format=torch.channels_last)


@torch.no_grad()
def start_almost_linear(vae: AutoencoderKL) -> None:
    """Begin as a blurry but faithful copy: means of 8 x 8 pixels in, smooth enlargement out.

    The first `CARRIED` channels go through every layer unchanged, two of them as constants that keep the group norms
    from dividing the picture's contrast away; residual branches start small, attention and the posterior's spread
    near zero. From here 150 steps reach the loss that 1,100 steps from the usual start do.
    """
    n = range(CARRIED)
    smooth = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for module in vae.modules():
        if hasattr(module, "conv2"):  # the last layer of a residual block
            module.conv2.weight.mul_(0.1)
            module.conv2.bias.zero_()
        if getattr(module, "conv_shortcut", None) is not None:
            carry(module.conv_shortcut, 0.3)[n, n, 0, 0] = 1.0
        if hasattr(module, "to_out"):
            module.to_out[0].weight.zero_()
            module.to_out[0].bias.zero_()
        if isinstance(module, Downsample2D):
            carry(module.conv, 1.0)[n, n, :2, :2] = 0.25
        if isinstance(module, Upsample2D):
            carry(module.conv, 1.0)[n, n] = smooth
    for half, channels in ((vae.encoder, range(3)), (vae.decoder, range(4))):
        carry(half.conv_in, 1.0)[channels, channels, 1, 1] = 1.0
        half.conv_in.bias[CARRIED - 2 : CARRIED] = torch.tensor([3.0, -3.0])
        half.conv_norm_out.bias.fill_(2.0)  # where SiLU is nearly a straight line, 1.76 high
        carry(half.conv_out, 0.3, rows=3)[range(3), range(3), 1, 1] = 1.0
        half.conv_out.bias[:3] = -1.76
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.zero_()
        conv.bias.zero_()
        conv.weight[range(4), range(4)] = 1.0
    vae.quant_conv.bias[4:] = -8.0  # log-variance


def carry(conv: nn.Module, rest: float, rows: int = CARRIED) -> torch.Tensor:
    """Scale a convolution's weights by `rest`, clear its bias and its first `rows` outputs. -> the weight"""
    conv.bias.zero_()
    conv.weight.mul_(rest)
    conv.weight[:rows] = 0
    return conv.weight


def pictures(drawings: np.ndarray, count: int, rng: np.random.Generator, subjects: int) -> torch.Tensor:
    """Random taught pictures. -> uint8 [count,128,128,3]"""
    rows = taught(load_subjects(), subjects)
    colours = list(COLOURS)
    made = []
    for _ in range(count):
        drawing = drawings[rows[rng.integers(len(rows))], rng.integers(len(TAUGHT_STYLES))]
        made.append(np.asarray(compose(drawing, colours[rng.integers(len(colours))], place(rng))))
    return torch.from_numpy(np.stack(made))


def crops(pool: torch.Tensor, batch: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """-> float [batch,3,side,side] in -1..1, channels last."""
    rows = torch.randint(len(pool), (batch,), generator=generator)
    corner = torch.randint(0, 128 - side + 1, (batch, 2), generator=generator)
    cut = torch.stack([pool[r, y : y + side, x : x + side] for r, (y, x) in zip(rows, corner.tolist(), strict=True)])
    return (cut.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def loss_of(vae: AutoencoderKL, x: torch.Tensor, decoder_only: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruction + edges + KL, and the reconstruction alone. x: [B,3,H,W]"""
    with torch.set_grad_enabled(not decoder_only):
        posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    flat = F.l1_loss(y, x)
    edges = F.l1_loss(y.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))
    return flat + edges + 1e-6 * posterior.kl().mean(), flat.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--minutes", type=float, default=15, help="wall-clock length of this run")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--whole", type=float, default=0.15, help="share of the run, at its end, on whole pictures")
    parser.add_argument("--start", type=Path, help="start from the VAE of this Diffusers folder")
    parser.add_argument("--subjects", type=int, default=10_000, help="pictures of the first so many taught subjects")
    parser.add_argument(
        "--decoder_only", action="store_true", help="latents stay what they are, so the U-Net still fits"
    )
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    vae = (
        AutoencoderKL.from_pretrained(args.start, subfolder="vae", dtype=torch.float32) if args.start else make_vae()
    ).to(device)
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    learning = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    checkpoint, seen = args.work / "vae.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        seen = state["seen"]
    drawings = np.load(args.work / "drawings.npz")["drawings"]
    rng, generator = np.random.default_rng(seen), torch.Generator().manual_seed(seen)
    pool = pictures(drawings, 3000, rng, args.subjects)
    started, step, shown = time.monotonic(), 0, 0.0
    while (share := (time.monotonic() - started) / (60 * args.minutes)) < 1:
        whole = share > 1 - args.whole
        lr = args.lr * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, (1 - share) / 0.5))
        for group in optimizer.param_groups:
            group["lr"] = lr
        x = crops(pool, args.batch // 2 if whole else args.batch, 128 if whole else 64, generator).to(device)
        loss, flat = loss_of(vae, x, args.decoder_only)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, seen = step + 1, seen + len(x)
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            torch.save({"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "seen": seen}, checkpoint)
            print(f"{100 * share:5.1f} %  {seen} seen  L1 {flat.item():.4f}  lr {lr:.1e}", flush=True)
    torch.save({"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "seen": seen}, checkpoint)


if __name__ == "__main__":
    main()
