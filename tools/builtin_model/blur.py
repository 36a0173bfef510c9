"""Words as neighbourhoods: what training does to the token embeddings of a caption before they are encoded."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from .drawings import TAUGHT_STYLES
from .images import COLOURS, GENERIC, phrase
from .looks import STAND_IN

MIXED = 0.7  # share of captions whose name is mixed
MIXED_LOOKS = 0.42  # share of captions with a look whose look is mixed
WHOLE = 0.5  # share of captions whose name stands in one place


def encode(text: CLIPTextModel, ids: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Text whose token embeddings [B,L,W] go through `change` first. -> [B,L,W]"""
    hook = text.get_input_embeddings().register_forward_hook(lambda *call: change(call[-1]))
    try:
        return text(ids).last_hidden_state
    finally:
        hook.remove()


@dataclass(frozen=True)
class Change:
    """What happens to the token embeddings [B,L,W] of a batch of captions."""

    places: torch.Tensor  # which of them make up each place [B,L,L]
    share: torch.Tensor  # of the generic word in each place [B,L,1]
    other: torch.Tensor  # that word [B,1]
    noise: torch.Tensor  # [B,L,W]
    table: nn.Embedding
    stands: torch.Tensor  # where a look stands [B,L]
    looks: torch.Tensor | None  # [B,3,W]

    def __call__(self, words: torch.Tensor) -> torch.Tensor:
        with torch.autocast(words.device.type, enabled=False):
            words = words if self.looks is None else seen(words, self.stands, self.looks)
            return torch.lerp(self.places @ words, self.table.weight[self.other], self.share) + self.noise


class Blur:
    """Words as neighbourhoods: training sees them with noise, and names mixed with a word that says less.

    A new word begins at some other word and has to find its meaning by gradients. Where only the exact embedding of a
    name means anything, the way there is flat: half-way from "picture" to "ring" the loss had not begun to fall.
    """

    def __init__(
        self,
        names: set[int],
        generic: set[int],
        fixed: set[int],
        noise: float,
        mix: float,
        near: float,
        stand_in: int = -1,
    ):
        """Ids of names, of generic words, and of what is always said and stays as it is."""
        self.names, self.generic, self.fixed = (torch.tensor(sorted(ids)) for ids in (names, generic, fixed))
        self.noise, self.mix, self.near, self.stand_in = noise, mix, near, stand_in

    @classmethod
    def of_clip(
        cls, tokenizer: CLIPTokenizer, names: list[str], categories: list[str], noise: float, mix: float, near: float
    ) -> "Blur":
        frame = pieces(tokenizer, [phrase("a", s, c, 0) for s in TAUGHT_STYLES for c in COLOURS] + ["an", ","])
        (stand_in,) = pieces(tokenizer, [STAND_IN])
        generic = pieces(tokenizer, [*GENERIC, *categories])
        named = pieces(tokenizer, names) - frame - pieces(tokenizer, categories)
        return cls(named, generic, {tokenizer.bos_token_id, tokenizer.eos_token_id}, noise, mix, near, stand_in)

    def draw(
        self,
        table: nn.Embedding,
        ids: torch.Tensor,
        alike: int,
        generator: torch.Generator,
        looks: torch.Tensor | None = None,
    ) -> Change:
        """What to do with the embeddings of `ids` [B,L]; each `alike` captions in a row get the same.

        Most names are mixed: a share between 0 and `mix`, more often a large one, is a generic word's. Of half of the names of several pieces
        the mean stands in one place, as a new word of one vector does. All words get Gaussian noise of a scale between 0 and
        `noise`; the fixed ids do not. On generic words and on mixed names it is of a scale between half of `near` and
        `near`, if that is given, whatever it is on the others: where no text tells how exact it is, what a generic word means
        turns into what names near it mean by a slope and not by a step. `looks` [B,3,W] (of `Eye`) stand where a caption has the stand-in
        for a name, once or twice, and are mixed less often. `generator` is of the device of `ids`.
        """
        groups, like = len(ids) // alike, {"generator": generator, "device": ids.device}
        noise = torch.randn(groups, ids.shape[1], table.embedding_dim, **like)
        scale = self.noise * torch.rand(groups, 1, 1, **like)
        near = self.near * (0.5 + 0.5 * torch.rand(groups, 1, 1, **like))
        share = self.mix * torch.rand(groups, **like).sqrt() * (torch.rand(groups, **like) < MIXED)
        stands = (ids == self.stand_in) & (looks is not None)  # [B,L]
        other = self.generic.to(ids.device)[torch.randint(len(self.generic), (groups,), **like)]
        whole = torch.rand(groups, **like) < (WHOLE if self.mix else 0.0)

        named = torch.isin(ids, self.names.to(ids.device))  # [B,L]
        places = joined(named & whole.repeat_interleave(alike)[:, None])  # [B,L,L]
        if looks is not None:
            seldom = torch.rand(groups, **like) < MIXED_LOOKS / MIXED
            share = share * (seldom | ~stands[::alike].any(1))
            named |= stands
        share = (places @ named.float()[..., None]) * share.repeat_interleave(alike)[:, None, None]  # [B,L,1]
        words = ~torch.isin(ids, self.fixed.to(ids.device))
        scale = scale.repeat_interleave(alike, 0) * (places @ words.float()[..., None] > 0)  # [B,L,1]
        if self.near:
            generic = torch.isin(ids, self.generic.to(ids.device)).float()[..., None]  # [B,L,1]
            scale = torch.where((share > 0) | (places @ generic > 0), near.repeat_interleave(alike, 0), scale)
        noise = noise.repeat_interleave(alike, 0) * scale  # [B,L,W]
        other = other.repeat_interleave(alike)[:, None]  # [B,1]

        return Change(places, share, other, noise, table, stands, looks)


def seen(words: torch.Tensor, stands: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
    """`words` [B,L,W] with `looks` [B,3,W] in the places `stands` [B,L]: the first in a single place, the others in two."""
    which = torch.where(stands.sum(1, keepdim=True) > 1, 1, 0) + stands.long().cumsum(1) - 1
    picked = looks.gather(1, which.clamp(0, 2)[..., None].expand(-1, -1, looks.shape[-1]))
    return torch.where(stands[..., None], picked, words)


def joined(named: torch.Tensor) -> torch.Tensor:
    """Which places of a text make up each place when every run of `named` ones becomes one. [B,L] -> [B,L,L]

    Each row is the weights of a mean; what becomes free at the end repeats the last place, which is padding.
    """
    follows = named.clone()
    follows[:, 0] = False
    follows[:, 1:] &= named[:, :-1]
    new = (~follows).cumsum(1) - 1  # [B,L]
    places = nn.functional.one_hot(new, named.shape[1]).transpose(1, 2).float()
    places[:, :, -1] += places.sum(2) == 0
    return places / places.sum(2, keepdim=True)


def pieces(tokenizer: CLIPTokenizer, texts: list[str]) -> set[int]:
    return {i for text in texts for i in tokenizer(text, add_special_tokens=False).input_ids}
