"""Read the hidden states of CLIP text encoders: several chunks as one sequence, with emphasis."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

Keep = Literal["none", "original", "abs"]  # what emphasis preserves: nothing, the mean, the mean absolute value


def join_chunks(hidden: Tensor, chunks: int) -> Tensor:
    """Return the hidden states [B*K,77,D] of K chunks as one sequence [B,75*K+2,D].

    It consists of the first start token, the 75 inner states of each chunk, and the last end token.
    """
    if chunks == 1:
        return hidden
    parts = hidden.unflatten(0, (-1, chunks))  # [B,K,77,D]
    middle = parts[:, :, 1:-1].flatten(1, 2)  # [B,75*K,D]
    return torch.cat([parts[:, 0, :1], middle, parts[:, -1, -1:]], dim=1)


def clip_hidden(encoder: CLIPTextModel | CLIPTextModelWithProjection, ids: Tensor, clip_skip: int) -> Tensor:
    """Return the hidden states [B,77,D] of ids [B,77] that Stable Diffusion reads.

    They are those of the `clip_skip`-th layer from the end, after the final norm.
    """
    if clip_skip == 1:
        return encoder(ids).last_hidden_state
    states = encoder(ids, output_hidden_states=True).hidden_states
    body: Any = getattr(encoder, "text_model", encoder)  # transformers 4 keeps the layers one level down
    return body.final_layer_norm(states[-clip_skip])


def pooled_at_end(states: Tensor, ids: Tensor, end: int) -> Tensor:
    """Return the states [B,D] at the first end token of ids [B,77], from states [B,77,D].

    transformers may look for the highest id instead, which would find a learned row.
    """
    first_end = (ids == end).int().argmax(dim=1)
    return states[torch.arange(len(ids), device=states.device), first_end.to(states.device)]


def emphasised(text: Tensor, emphasis: Tensor | None, keep: Keep = "none") -> Tensor:
    """Return hidden states [B,S,D] multiplied by their emphasis [B,K,77].

    With `keep`, all states are then multiplied by one number that restores their mean or mean absolute value.
    """
    if emphasis is None:
        return text
    each = join_chunks(emphasis.flatten(0, 1)[..., None], emphasis.shape[1])  # [B,S,1]
    scaled = text * each.to(text.dtype)
    if keep == "none":
        return scaled
    size = Tensor.abs if keep == "abs" else Tensor.clone
    before, after = (size(t.float()).mean((1, 2), keepdim=True) for t in (text, scaled))  # [B,1,1]
    return scaled * (before / after).to(text.dtype)
