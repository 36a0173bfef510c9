"""Read the hidden states of encoders of one sequence: T5 and causal language models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from neonym.types import Encoded

Length = TypeVar("Length", int, tuple[int, int])  # of a sequence, or of two that go together


def mask_for(is_causal: bool, mask: Tensor) -> Tensor:
    """Return a mask of padding [B,L] as transformers' encoders read it, which are causal language models or not.

    They look whether it leaves anything out, for which the host would wait for a GPU. There, they get what they would
    make of it: which id attends to which, bool [B,1,L,L].
    """
    if mask.device.type == "cpu":
        return mask.long()
    attended = mask.bool()[:, None, None].expand(-1, -1, mask.shape[1], -1)
    return attended.tril() if is_causal else attended


def t5_states(encoder: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return T5's last states [B,L,D], after its final norm, of ids [B,L]. Without a `mask` [B,L], padding is read."""
    return encoder(ids, attention_mask=None if mask is None else mask_for(False, mask)).last_hidden_state


def layer_states(encoder: Any, ids: Tensor, mask: Tensor | None, layers: tuple[int, ...]) -> Tensor:
    """Return the states of a causal language model after each of `layers` blocks, without its final norm, [B,L,n,D].

    `ids` and `mask` are [B,L]. Since transformers 5, the last of `hidden_states` is normed, so at least one block more
    than is read must exist, or the norm must be an identity.
    """
    states = encoder(
        ids, attention_mask=None if mask is None else mask_for(True, mask), output_hidden_states=True, use_cache=False
    )
    return torch.stack([states.hidden_states[layer] for layer in layers], dim=2)


def counts_of(text: Encoded, encoder: str) -> list[int]:
    """Return how many ids of each caption are no padding, B numbers. Waits for the device if the host does not know."""
    return text.counts.get(encoder) or text.masks[encoder][:, 0].sum(1).tolist()


def by_length(lengths: Sequence[Length]) -> list[tuple[Length, list[int]]]:
    """Return each of `lengths` once, in ascending order, with the samples that have it."""
    return [(length, [i for i, own in enumerate(lengths) if own == length]) for length in sorted(set(lengths))]


def groups(lengths: Sequence[Length], device: torch.device) -> list[tuple[Length, list[int]]]:
    """Return the samples that go through a network together, with the greatest of their lengths.

    On a CPU these are samples of the same length: rounding differs between lengths, and a sample must not depend on its
    neighbours. Elsewhere, all go together.
    """
    return by_length(lengths) if device.type == "cpu" else [(max(lengths), list(range(len(lengths))))]


def in_groups(
    lengths: Sequence[int], device: torch.device, states_of: Callable[[list[int], int], Tensor], masked: bool = True
) -> Tensor:
    """Return states [B,S,D] of samples of these lengths, where S is the greatest of them.

    `states_of` returns the states [b,l,D] of the samples with the given indices, which go together, up to a length. An
    encoder that is not `masked` would read what follows a shorter sample, so lengths go separately on every device.
    """
    found: list[Tensor] = [torch.empty(0)] * len(lengths)
    for length, which in groups(lengths, device) if masked else by_length(lengths):
        for i, states in zip(which, states_of(which, length), strict=True):
            found[i] = pad(states, (0, 0, 0, max(lengths) - len(states)))
    return torch.stack(found)


def read_up_to(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return which states of samples of these lengths are read, bool [B,S], where S is the greatest of them."""
    positions = torch.arange(max(lengths), device=device)
    return torch.stack([positions < length for length in lengths])


def interpolated(states: Tensor, empty: Tensor, emphasis: Tensor | None) -> Tensor:
    """Return states [B,L,D] moved away from those of an empty text [1,L,D] by their emphasis [B,L], as ComfyUI does.

    A state with emphasis w becomes empty + w (state - empty).
    """
    if emphasis is None:
        return states
    return empty + emphasis[..., None].to(states.dtype) * (states - empty)
