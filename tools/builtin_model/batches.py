"""What training shows: pictures encoded once, captions worded anew for every step. Loaders do both in other processes."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer

from .drawings import TAUGHT_STYLES, Subject
from .pictures import COLOURS, caption, compose, place

VARIANTS = 2  # placements of each (subject, style, colour)
STYLES = len(TAUGHT_STYLES)
EMPTY = 0.10  # share of empty captions, for guidance


def shown(rows: list[int]) -> list[tuple[int, int, str]]:
    """(subject, style, colour) of every picture; the styles of one subject, colour and placement lie side by side."""
    return [(row, s, c) for row in rows for c in COLOURS for _ in range(VARIANTS) for s in range(STYLES)]


class Pictures(Dataset):
    """The pictures of `shown(rows)`, float32 [3,128,128] in -1 .. 1."""

    def __init__(self, drawings: np.ndarray, rows: list[int]):
        rng = np.random.default_rng(1)
        self.drawings = {row: drawings[row] for row in rows}
        self.shown = shown(rows)
        self.places = [place(rng) for _ in range(len(self.shown) // STYLES)]

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, i: int) -> torch.Tensor:
        row, style, colour = self.shown[i]
        pixels = np.array(compose(self.drawings[row][style], colour, self.places[i // STYLES]))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


class Captions(Dataset):
    """Step -> which pictures a step shows, int64 [size], and its captions as ids, int64 [size,77] (10 % empty).

    Each `alike` samples in a row (1, or the number of styles) differ in their style only, in picture and caption.
    """

    def __init__(self, subjects: list[Subject], rows: list[int], tokenizer: CLIPTokenizer, size: int, alike: int):
        self.subjects, self.shown, self.tokenizer = subjects, shown(rows), tokenizer
        self.size, self.alike = size, alike

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((7, step))
        first = rng.integers(len(self.shown) // self.alike, size=self.size // self.alike) * self.alike
        at = (first[:, None] + np.arange(self.alike)).reshape(-1)
        wordings = rng.integers(2**63, size=len(first)).repeat(self.alike)
        captions = [self.say(*self.shown[i], wording) for i, wording in zip(at, wordings, strict=True)]
        return torch.from_numpy(at), tokenise(self.tokenizer, captions)

    def say(self, row: int, style: int, colour: str, wording: int) -> str:
        subject, rng = self.subjects[row], np.random.default_rng(wording)
        said = caption(subject.name, subject.category, TAUGHT_STYLES[style], colour, rng)
        return "" if rng.random() < EMPTY else said


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """-> int64 [B,77]"""
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


class Latents:
    """Mean and standard deviation of every picture's latents, on `device`; encoded once and kept in the work folder."""

    def __init__(self, work: Path, rows: list[int], vae: AutoencoderKL, device: str, scale: float | None, workers: int):
        digest = hashlib.sha256(repr((rows, "styles side by side")).encode())
        for name, weight in vae.state_dict().items():
            if name.startswith(("encoder.", "quant_conv.")):
                digest.update(weight.float().cpu().numpy().tobytes())
        cache = work / f"latents-{digest.hexdigest()[:12]}.pt"
        if not cache.exists():
            pictures = Pictures(np.load(work / "drawings.npz")["drawings"], rows)
            torch.save(encode_pictures(pictures, vae.to(device), device, workers), cache)
        self.mean, self.std = (x.to(device) for x in torch.load(cache, weights_only=True))  # float16 [N,4,16,16] each
        self.scale = scale or float(1 / self.mean.float().std())

    def sample(self, at: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """-> scaled latents of the pictures `at`, [B,4,16,16]"""
        mean, std = self.mean[at].float(), self.std[at].float()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return (mean + std * noise) * self.scale


@torch.no_grad()
def encode_pictures(
    pictures: Pictures, vae: AutoencoderKL, device: str, workers: int
) -> tuple[torch.Tensor, torch.Tensor]:
    means, stds = [], []
    for x in DataLoader(pictures, batch_size=64, num_workers=workers):
        posterior = vae.encode(x.to(device, memory_format=torch.channels_last)).latent_dist
        means.append(posterior.mean.half().cpu())
        stds.append(posterior.std.half().cpu())
    return torch.cat(means), torch.cat(stds)
