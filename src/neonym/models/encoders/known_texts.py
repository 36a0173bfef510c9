"""Remember the states of texts that a frozen encoder has read, so that each text goes through it only once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

LIMIT = 4e9  # bytes: T5-XXL's states of 950 captions of 512 ids in bf16


class KnownTexts:
    """The forward pass of an encoder whose states depend on nothing but ids, with those of the latest texts.

    The states are in the memory of the CPU. A batch with a learned row, whose states change, is encoded as it is.
    """

    def __init__(self, forward: Callable[..., Any], vocabulary: int, limit: float = LIMIT):
        self.forward, self.vocabulary, self.limit = forward, vocabulary, limit
        self.states: OrderedDict[bytes, Tensor] = OrderedDict()  # [L,D] each

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """Return the last states [B,L,D] of ids [B,L]; padding that a mask [B,...] leaves out is not read."""
        ids = input_ids.cpu()
        if int(ids.max()) >= self.vocabulary:
            return self.forward(input_ids, attention_mask=attention_mask)
        given = ids if attention_mask is None else torch.cat([ids, attention_mask.flatten(1).cpu()], dim=1)
        keys = [row.numpy().tobytes() for row in given]
        first = {key: i for i, key in reversed([*enumerate(keys)])}  # where each text stands for the first time
        missing = [i for key, i in first.items() if key not in self.states]
        found = {key: self.states[key] for key in first if key in self.states}
        for i in missing:  # one by one: on a GPU, the last bits of a text depend on the number of texts beside it
            mask = None if attention_mask is None else attention_mask[i : i + 1]
            with torch.inference_mode(False), torch.no_grad():
                states = self.forward(input_ids[i : i + 1], attention_mask=mask).last_hidden_state  # [1,L,D]
                found[keys[i]] = states[0].cpu().clone()
        self.keep(found)
        return BaseModelOutput(torch.stack([found[key] for key in keys]).to(input_ids.device))  # pyright: ignore

    def keep(self, found: dict[bytes, Tensor]) -> None:
        """Keep the states of texts as the latest ones, and forget the oldest above the limit."""
        for key, states in found.items():
            self.states[key] = states
            self.states.move_to_end(key)
        size = sum(states.nbytes for states in self.states.values())
        while size > self.limit and len(self.states) > 1:
            size -= self.states.popitem(last=False)[1].nbytes
