"""What training shows: pictures encoded once, captions worded anew for every step. Loaders do both in other processes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTokenizer

from .drawings import TAUGHT_STYLES, Subject, load_subjects, taught
from .images import COLOURS, caption, compose, place
from .looks import STAND_IN, thumbnails, unnamed

VARIANTS = 2  # placements of each (subject, style, colour)
PER_LOOK = 4  # colours behind a drawing that is shown by its look
STYLES = len(TAUGHT_STYLES)
EMPTY = 0.10  # share of empty captions, for guidance
TWO = 0.4  # share of looks that stand in two places

# (drawing, style, colour) of pictures; the styles of one drawing, colour and placement lie side by side
Shown = list[tuple[int, int, str]]


def by_name(count: int) -> Shown:
    """Every one of `count` drawings on every colour."""
    return [(i, s, c) for i in range(count) for c in COLOURS for _ in range(VARIANTS) for s in range(STYLES)]


def by_look(count: int) -> Shown:
    """Every one of `count` drawings on some of the colours."""
    rng = np.random.default_rng(3)
    return [
        (i, s, str(c)) for i in range(count) for c in rng.permutation(list(COLOURS))[:PER_LOOK] for s in range(STYLES)
    ]


class Pictures(Dataset):
    """The pictures `shown` of `drawings`, float32 [3,128,128] in -1 .. 1."""

    def __init__(self, drawings: np.ndarray, shown: Shown):
        rng = np.random.default_rng(1)
        self.drawings, self.shown = drawings, shown
        self.places = [place(rng) for _ in range(len(self.shown) // STYLES)]

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, i: int) -> torch.Tensor:
        drawing, style, colour = self.shown[i]
        pixels = np.array(compose(self.drawings[drawing][style], colour, self.places[i // STYLES]))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


class Captions(Dataset):
    """Step -> which pictures a step shows, int64 [size], its captions as ids, int64 [size,77], and which drawings are seen.

    Each `alike` samples in a row (1, or the number of styles) differ in their style only, in picture and caption. The last samples, as many as
    `by_look` shows (half of them, or none), call their subject by its look; the drawing seen, int64 [groups,2], is theirs, in any style.
    """

    def __init__(self, subjects: list[Subject], tokenizer: CLIPTokenizer, size: int, alike: int, looks: int = 0):
        self.subjects, self.tokenizer, self.alike = subjects, tokenizer, alike
        self.named, self.looks = by_name(len(subjects)), by_look(looks)
        groups = size // alike
        self.groups = (groups - groups // 2, groups // 2) if looks else (groups, 0)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((7, step))
        named, looks = (
            rng.integers(len(shown) // self.alike, size=count) * self.alike if count else np.zeros(0, np.int64)
            for shown, count in zip((self.named, self.looks), self.groups, strict=True)
        )
        wordings = rng.integers(2**63, size=sum(self.groups)).repeat(self.alike)
        at = [(first[:, None] + np.arange(self.alike)).reshape(-1) for first in (named, looks)]
        chosen = [self.named[i] for i in at[0]] + [self.looks[i] for i in at[1]]
        calls = [self.call_by_name] * len(at[0]) + [call_by_look] * len(at[1])
        captions = [
            call(*picture, np.random.default_rng(w)) for call, picture, w in zip(calls, chosen, wordings, strict=True)
        ]
        seen = [[self.looks[i][0], rng.integers(STYLES)] for i in looks]
        both = np.concatenate([at[0], at[1] + len(self.named)])
        return (
            torch.from_numpy(both),
            tokenise(self.tokenizer, captions),
            torch.tensor(seen, dtype=torch.int64).view(-1, 2),
        )

    def call_by_name(self, row: int, style: int, colour: str, rng: np.random.Generator) -> str:
        subject = self.subjects[row]
        said = caption(subject.name, subject.category, TAUGHT_STYLES[style], colour, rng)
        return "" if rng.random() < EMPTY else said


def call_by_look(_drawing: int, style: int, colour: str, rng: np.random.Generator) -> str:
    name = f"{STAND_IN} {STAND_IN}" if rng.random() < TWO else STAND_IN
    return caption(name, name, TAUGHT_STYLES[style], colour, rng, generic=(name,))


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """-> int64 [B,77]"""
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


class Latents:
    """Mean and standard deviation of the latents of all pictures of some sets, encoded once and kept in the work folder."""

    def __init__(
        self, work: Path, sets: list[Pictures], vae: AutoencoderKL, device: str, scale: float | None, workers: int
    ):
        parts = []
        for pictures in sets:
            cache = work / f"latents-{digest(pictures, vae)}.pt"
            if not cache.exists():
                torch.save(encode_pictures(pictures, vae.to(device), device, workers), cache)
            parts.append(torch.load(cache, weights_only=True))
        self.mean, self.std = (torch.cat(x).to(device) for x in zip(*parts, strict=True))  # float16 [N,4,16,16] each
        self.scale = scale or float(1 / self.mean.float().std())

    def sample(self, at: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """-> scaled latents of the pictures `at`, [B,4,16,16]"""
        mean, std = self.mean[at].float(), self.std[at].float()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return (mean + std * noise) * self.scale


def digest(pictures: Pictures, vae: AutoencoderKL) -> str:
    """Of all that decides the latents."""
    found = hashlib.sha256(repr(pictures.shown).encode())
    found.update(np.ascontiguousarray(pictures.drawings).data)
    for name, weight in vae.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")):
            found.update(weight.float().cpu().numpy().tobytes())
    return found.hexdigest()[:12]


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


@dataclass
class Data:
    """What training shows."""

    subjects: list[Subject]  # called by name
    latents: Latents
    named: torch.Tensor  # thumbnails of theirs [subjects,S,4,32,32]
    thumbnails: torch.Tensor  # of the drawings called by their look [N,S,4,32,32]


def load_data(
    work: Path, named: int, looks: bool, vae: AutoencoderKL, scale: float | None, device: str, workers: int
) -> Data:
    """Pictures of the first subjects, which are taught by name, and with `looks` of all that may be taught."""
    subjects, drawn = load_subjects(), np.load(work / "drawings.npz")["drawings"]
    rows = taught(subjects, len(subjects) if looks else named)
    drawings = drawn[rows][:, :STYLES]
    first, others = drawings[:named], unnamed(drawings, named) if looks else drawings[:0]
    sets = [Pictures(first, by_name(len(first)))] + [Pictures(others, by_look(len(others)))] * looks
    latents = Latents(work, sets, vae, device, scale, workers)
    return Data([subjects[row] for row in rows[:named]], latents, *(thumbnails(d).to(device) for d in (first, others)))
