"""What models read of CLIP text encoders: the states of chunks as one sequence, weighted."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

Keep = Literal["none", "original", "abs"]  # what emphasis in a text leaves as it was: nothing, the mean, the mean size


def join_chunks(hidden: Tensor, chunks: int) -> Tensor:
    """Return the hidden states of K chunks as one sequence: the first start, the inner states of each chunk, the last end.

    [B*K,77,D] -> [B,75*K+2,D]
    """
    if chunks == 1:
        return hidden
    parts = hidden.unflatten(0, (-1, chunks))  # [B,K,77,D]
    middle = parts[:, :, 1:-1].flatten(1, 2)  # [B,75*K,D]
    return torch.cat([parts[:, 0, :1], middle, parts[:, -1, -1:]], dim=1)


def clip_hidden(encoder: CLIPTextModel | CLIPTextModelWithProjection, ids: Tensor, clip_skip: int) -> Tensor:
    """Return the state that Stable Diffusion reads: the last layer's, or the `clip_skip`-th from the end, then the final norm.

    [B,77] -> [B,77,D]
    """
    if clip_skip == 1:
        return encoder(ids).last_hidden_state
    states = encoder(ids, output_hidden_states=True).hidden_states
    body: Any = getattr(encoder, "text_model", encoder)  # transformers 4 keeps the layers one level down
    return body.final_layer_norm(states[-clip_skip])


def emphasised(text: Tensor, weights: Tensor | None, keep: Keep = "none") -> Tensor:
    """Return each state times its weight, and all of them times one number, so that their mean, or mean size, stays.

    [B,S,D], [B,K,77] -> [B,S,D]
    """
    if weights is None:
        return text
    each = join_chunks(weights.flatten(0, 1)[..., None], weights.shape[1])  # [B,S,1]
    weighed = text * each.to(text.dtype)
    if keep == "none":
        return weighed
    size = Tensor.abs if keep == "abs" else Tensor.clone
    before, after = (size(t.float()).mean((1, 2), keepdim=True) for t in (text, weighed))  # [B,1,1]
    return weighed * (before / after).to(text.dtype)
