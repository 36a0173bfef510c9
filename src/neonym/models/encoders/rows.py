"""Learned rows beside a frozen token table."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Rows(nn.Parameter):
    """The learned rows of a word, float32 [n,W], with their gradients summed in float64 [n,W].

    The sum is so exact that neither the order of samples nor the size of micro-batches makes a difference (see the laws
    in docs/design.md).
    """

    gradients: Tensor | None = None


class _Read(torch.autograd.Function):
    """The function that reads rows as float64 [n,W] and sums their gradients in `Rows.gradients`."""

    @staticmethod
    def forward(ctx: Any, rows: Rows) -> Tensor:
        ctx.rows = rows
        return rows.to(exact(rows.device))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        sums = ctx.rows.gradients
        ctx.rows.gradients = grads[0] if sums is None else sums + grads[0]


def exact(device: torch.device) -> torch.dtype:
    """Return the most precise floating-point dtype that a device supports."""
    return torch.float32 if device.type == "mps" else torch.float64


class EmbeddingWithRows(nn.Module):
    """A frozen token table followed by learned rows: an id of V or more reads a learned row.

    The rows are a plain list that belongs to their concepts, so the module has no trainable parameters, and the weights
    and the checkpoint of the table stay unchanged.
    """

    def __init__(self, frozen: nn.Embedding):
        super().__init__()
        self.frozen, self.vocab = frozen, frozen.num_embeddings
        self.rows: list[Tensor] = []  # [n,W] each: Rows if they are learned

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors [B,L,W] of ids [B,L], in the precision of the table."""
        base, rows = self.frozen(ids.clamp(max=self.vocab - 1)), self.joined_rows()
        if rows is None:
            return base
        # Unlike indexing, `embedding` sums gradients in a fixed order
        learned = F.embedding((ids - self.vocab).clamp(min=0), rows)
        return torch.where((ids >= self.vocab)[..., None], learned.to(base.dtype), base)

    def joined_rows(self) -> Tensor | None:
        """Return all rows, one after another, [n,W]; None if there are none."""
        if not self.rows:
            return None
        return torch.cat([_Read.apply(r) if isinstance(r, Rows) else r for r in self.rows])  # pyright: ignore


def nearest_tokens(table: Tensor, rows: Tensor, count: int, special: Collection[int]) -> Tensor:
    """Return the ids, int64 [n,count], of the tokens whose vectors are most similar to `rows` [n,W].

    The similarity to the vectors in `table` [V,W] is that of the cosine. The `special` ids, which are not words, are
    left out.
    """
    unit = nn.functional.normalize
    words = torch.tensor([i for i in range(len(table)) if i not in special], device=table.device)
    nearest = (unit(rows.float()) @ unit(table[words].float()).T).topk(count, dim=1).indices
    return words[nearest]
