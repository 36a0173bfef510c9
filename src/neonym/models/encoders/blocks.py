"""Leave out the blocks of a text encoder that nothing reads, and recompute the others in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(encoder: Any) -> nn.ModuleList:
    """Return the blocks of T5 or of a causal language model."""
    return encoder.encoder.block if hasattr(encoder, "encoder") else body_of(encoder).layers


def body_of(encoder: Any) -> Any:
    """Return the part of a causal language model below its output layer."""
    return getattr(encoder, "model", encoder)


def keep_blocks(encoder: Any, count: int) -> None:
    """Keep only the first `count` blocks of a causal language model, counted from the end if negative, in place.

    The final norm and the output layer are left out too, so that the last of the `hidden_states` is what the last block
    returns: transformers 5 returns it normed.
    """
    body, config = body_of(encoder), encoder.config
    body.layers = body.layers[:count]
    body.norm = nn.Identity()
    config.num_hidden_layers = len(body.layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: len(body.layers)]
    if hasattr(encoder, "lm_head"):
        encoder.lm_head = nn.Identity()
        encoder._tied_weights_keys = None


def checkpointed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """Return what `forward` returns. Its activations are recomputed in the backward pass, if there is one."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)


def checkpoint_blocks(encoder: Any, function: Callable[..., Any] = checkpointed) -> None:
    """Let an encoder keep only the inputs of its blocks for the backward pass, and recompute the rest there.

    transformers does this in training mode only, in which T5 also drops states at random. `function` is `checkpointed`,
    or does the same.
    """
    for block in blocks_of(encoder):
        block.forward = partial(function, block.forward)
