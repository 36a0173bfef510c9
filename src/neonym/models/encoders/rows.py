"""The text side of CLIP encoders: rows beside a frozen table, chunks of 77 states, the state that is read."""

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
    """[n,W] -> float64 [n,W]"""

    @staticmethod
    def forward(ctx: Any, rows: Rows) -> Tensor:
        ctx.rows = rows
        return rows.to(exact(rows.device))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        sums = ctx.rows.gradients
        ctx.rows.gradients = grads[0] if sums is None else sums + grads[0]


def exact(device: torch.device) -> torch.dtype:
    """The most exact numbers that it computes with."""
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
        """[B,L] -> [B,L,W] in the table's precision"""
        base = self.frozen(ids.clamp(max=self.vocab - 1))
        if not self.rows:
            return base
        rows = torch.cat([_Read.apply(r) if isinstance(r, Rows) else r for r in self.rows])  # pyright: ignore
        learned = F.embedding((ids - self.vocab).clamp(min=0), rows)  # indexing sums gradients in any order
        return torch.where((ids >= self.vocab)[..., None], learned.to(base.dtype), base)


def nearest_tokens(table: Tensor, rows: Tensor, count: int) -> Tensor:
    """Ids of the vocabulary's words that point most nearly the same way. [V,W], [n,W] -> int64 [n,count]

    A CLIP vocabulary's last two vectors are no words: they begin and end a text.
    """
    unit = nn.functional.normalize
    return (unit(rows.float()) @ unit(table[:-2].float()).T).topk(count, dim=1).indices


def join_chunks(hidden: Tensor, chunks: int) -> Tensor:
    """Hidden states of K chunks as one sequence: the first start, 75 states of each chunk, the last end.

    [B*K,77,D] -> [B,75*K+2,D]
    """
    if chunks == 1:
        return hidden
    parts = hidden.unflatten(0, (-1, chunks))  # [B,K,77,D]
    middle = parts[:, :, 1:-1].flatten(1, 2)  # [B,75*K,D]
    return torch.cat([parts[:, 0, :1], middle, parts[:, -1, -1:]], dim=1)


def clip_hidden(encoder: Any, ids: Tensor, clip_skip: int) -> Tensor:
    """The state that Stable Diffusion reads: the last layer's, or the `clip_skip`-th from the end, then the final norm.

    [B,77] -> [B,77,D]
    """
    if clip_skip == 1:
        return encoder(ids).last_hidden_state
    states = encoder(ids, output_hidden_states=True).hidden_states
    body = getattr(encoder, "text_model", encoder)  # transformers 4 keeps the layers one level down
    return body.final_layer_norm(states[-clip_skip])
