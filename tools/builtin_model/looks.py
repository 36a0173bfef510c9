"""Drawings without a name: what a small network makes of a drawing's look stands where its name would.

A model that has seen only names draws nothing but what has a name, and between the names it draws nothing at all: a new word
finds no place for something new. Shown drawings by their look, all that looks like something has a place among the words.
The network itself is not shipped.
"""

import numpy as np
import torch
from torch import nn

THUMBNAIL = 32  # side
STAND_IN = "something"  # the word in whose place the look stands: one piece, in no name
WIDTHS = (48, 96, 192)
FIRST_STEPS = 4000


class Eye(nn.Module):
    """Thumbnails [G,4,32,32] -> words [G,3,W]: for a new word of one vector, and for both vectors of one of two."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.width, layers, before = width, [], 4
        for channels in WIDTHS:
            for inside, stride in ((before, 2), (channels, 1)):
                layers += [nn.Conv2d(inside, channels, 3, stride, 1), nn.GroupNorm(8, channels), nn.SiLU()]
            before = channels
        side = THUMBNAIL >> len(WIDTHS)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side * side, 3 * width))

    def forward(self, thumbnails: torch.Tensor) -> torch.Tensor:
        return self.body(thumbnails).float().view(-1, 3, self.width)


def teach_names(eye: Eye, thumbnails: torch.Tensor, words: torch.Tensor) -> None:
    """Begin with what is known already: drawings with a name [N,S,4,32,32] look like their names [N,W].

    From an untrained eye the U-Net learned next to nothing in 70,000 pictures (at timestep 700 a drawing's own look gave 0.0235,
    another's 0.0239); begun like this, 0.0223 and 0.0275 after 10,000.
    """
    generator = torch.Generator().manual_seed(5)
    optimizer = torch.optim.AdamW(eye.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIRST_STEPS)
    for _ in range(FIRST_STEPS):
        at = torch.randint(len(thumbnails), (32,), generator=generator)
        style = torch.randint(thumbnails.shape[1], (32,), generator=generator)
        shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
        seen = thumbnails[at, style].roll(shift, (2, 3))
        noise = 0.1 * torch.randn(seen.shape, generator=generator)
        guess = eye((seen + noise).to(words.device))
        (guess - words[at.to(words.device)][:, None]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def unnamed(drawings: np.ndarray, named: int) -> np.ndarray:
    """Drawings to be shown by their look: those that have no name, and all of them mirrored, in other colours, in both ways.

    `drawings`: uint8 [N,S,128,128,4], the first `named` with a name. -> [4N-named,S,128,128,4]
    """
    mirrored = drawings[:, :, :, ::-1]
    return np.concatenate(
        [drawings[named:], in_other_colours(mirrored, 1 / 3), in_other_colours(drawings, 2 / 3), mirrored]
    )


def in_other_colours(drawings: np.ndarray, turn: float) -> np.ndarray:
    """uint8 [...,4], colours turned round the axis of grey by a share of the circle."""
    cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn) / np.sqrt(3)
    axis = (1 - cos) / 3
    rotation = np.array(
        [
            [cos + axis, axis - sin, axis + sin],
            [axis + sin, cos + axis, axis - sin],
            [axis - sin, axis + sin, cos + axis],
        ]
    )
    turned = drawings.copy()
    turned[..., :3] = np.clip(drawings[..., :3].astype(np.float32) @ rotation.T, 0, 255)
    return turned


def thumbnails(drawings: np.ndarray) -> torch.Tensor:
    """uint8 [N,S,128,128,4] -> colours on grey and the mask, float32 [N,S,4,32,32] in -1 .. 1"""
    alpha = drawings[..., 3:].astype(np.float32) / 255
    both = np.concatenate([drawings[..., :3] / 255 * alpha + 0.5 * (1 - alpha), alpha], axis=-1, dtype=np.float32)
    step = drawings.shape[2] // THUMBNAIL
    small = both.reshape(*drawings.shape[:2], THUMBNAIL, step, THUMBNAIL, step, 4).mean((3, 5))
    return torch.from_numpy(small * 2 - 1).permute(0, 1, 4, 2, 3).contiguous()
