"""Learned rows beside a frozen token table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Rows(nn.Parameter):
    """Learned rows, float32 [n,W]. Their gradients are added up beside them, in float64 [n,W]: so exactly that neither
    the order of samples nor how many of them go through together makes a difference (laws 3 and 4).
    """

    gradients: Tensor | None = None


class _Read(torch.autograd.Function):
    """Reads rows [n,W] as float64 [n,W], and adds their gradients up beside them."""

    @staticmethod
    def forward(ctx: Any, rows: Rows) -> Tensor:
        ctx.rows = rows
        return rows.to(exact(rows.device))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        sums = ctx.rows.gradients
        ctx.rows.gradients = grads[0] if sums is None else sums + grads[0]


def exact(device: torch.device) -> torch.dtype:
    """Return the most exact kind of numbers that a device computes with."""
    return torch.float32 if device.type == "mps" else torch.float64


class EmbeddingWithRows(nn.Module):
    """A frozen token table followed by learned rows: an id >= V reads a learned row.

    The rows are a plain list that their concepts own: the module has no trainable parameter, and the table's
    weights and its checkpoint stay what they were.
    """

    def __init__(self, frozen: nn.Embedding):
        super().__init__()
        self.frozen, self.vocab = frozen, frozen.num_embeddings
        self.rows: list[Tensor] = []  # [n,W] each: Rows if they are learned

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of ids [B,L], [B,L,W] in the table's precision."""
        base = self.frozen(ids.clamp(max=self.vocab - 1))
        if not self.rows:
            return base
        rows = torch.cat([_Read.apply(r) if isinstance(r, Rows) else r for r in self.rows])  # pyright: ignore
        learned = F.embedding((ids - self.vocab).clamp(min=0), rows)  # indexing sums gradients in any order
        return torch.where((ids >= self.vocab)[..., None], learned.to(base.dtype), base)


def nearest_tokens(table: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return the ids of the vocabulary's words that point most nearly the same way: [V,W], [n,W] -> int64 [n,count].

    The last two vectors of a CLIP vocabulary are no words: they begin and end a text.
    """
    unit = nn.functional.normalize
    return (unit(rows.float()) @ unit(table[:-2].float()).T).topk(count, dim=1).indices
