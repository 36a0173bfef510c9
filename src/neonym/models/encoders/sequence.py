"""Read the hidden states of encoders of one sequence: T5 and causal language models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def t5_states(encoder: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return T5's last states [B,L,D], after its final norm, of ids [B,L]. Without a `mask` [B,L], padding is read."""
    return encoder(ids, attention_mask=None if mask is None else mask.long()).last_hidden_state


def layer_states(encoder: Any, ids: Tensor, mask: Tensor | None, layers: tuple[int, ...]) -> Tensor:
    """Return the states of a causal language model after each of `layers` blocks, without its final norm, [B,L,n,D].

    `ids` and `mask` are [B,L]. Since transformers 5, the last of `hidden_states` is normed, so at least one block more
    than is read must exist, or the norm must be an identity.
    """
    states = encoder(
        ids, attention_mask=None if mask is None else mask.long(), output_hidden_states=True, use_cache=False
    )
    return torch.stack([states.hidden_states[layer] for layer in layers], dim=2)


def interpolated(states: Tensor, empty: Tensor, emphasis: Tensor | None) -> Tensor:
    """Return states [B,L,D] moved away from those of an empty text [1,L,D] by their emphasis [B,L], as ComfyUI does.

    A state with emphasis w becomes empty + w (state - empty).
    """
    if emphasis is None:
        return states
    return empty + emphasis[..., None].to(states.dtype) * (states - empty)
