"""The networks of Z-Image: one stream of caption and image tokens, and a causal language model as text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from neonym.io.transfer import picked
from neonym.models.encoders.clip import Keep
from neonym.models.encoders.sequence import counts_of, groups, in_groups, layer_states
from neonym.models.families.flow_network import lengths_of, load_as, sigma_of
from neonym.models.families.z_image import QWEN
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond

MULTIPLE = 32  # the transformer pads each caption to a multiple of this many tokens


class ZImageText(TextSide):
    """The text side of Z-Image: the states of Qwen3 before its last block, without the padding."""

    def __init__(self, encoders: Any, tokenizers: dict[str, WordTokenizer], layer: int):
        super().__init__(encoders, tokenizers)
        self.layer = layer

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return the states [B,L,2560], cut to the longest caption, and which of them belong to the text, [B,L].

        Captions of unlike length are encoded separately on a CPU, so that no state depends on its neighbours. A chat
        template leaves no room for emphasis, so `keep` is ignored.
        """
        del keep
        ids, mask = text.ids[QWEN.name][:, 0], text.masks[QWEN.name][:, 0]  # [B,L]
        counts = counts_of(text, QWEN.name)
        lengths = padded_lengths(counts)
        missing = max(0, max(lengths) - ids.shape[1])  # where the batch is no longer than its longest text
        ids, mask = pad(ids, (0, missing), value=self.tokenizers[QWEN.name].padding), pad(mask, (0, missing))

        def states_of(which: list[int], length: int) -> Tensor:
            own_ids, own_mask = (picked(own, which)[:, :length] for own in (ids, mask))
            return layer_states(self.encoders[QWEN.name], own_ids, own_mask, (self.layer,))[:, :, 0]

        return TextCond(in_groups(lengths, ids.device, states_of), mask=mask[:, : max(lengths)], lengths=counts)


class ZImage(Model):
    """A frozen Z-Image model."""

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the transformer's velocity in float32, [B,C,h,w]. It reads no `conditions`.

        The transformer counts time from noise to image, and predicts the opposite direction. Raises ValueError if the
        text has no mask.
        """
        del conditions
        if text.mask is None:
            raise ValueError("Z-Image reads the length of captions from the mask of the text, but it has none")
        dtype, sigma, counts = self.dtype, sigma_of(t, len(x_t)), lengths_of(text)
        velocity: list[Tensor] = [x_t] * len(x_t)
        for _, which in groups(padded_lengths(counts), x_t.device):
            images = [x_t[i].to(dtype)[:, None] for i in which]  # [C,1,h,w] each
            captions = [text.sequence[i, : counts[i]].to(dtype) for i in which]
            times = torch.stack([1 - sigma[i] for i in which])  # [b]
            for i, found in zip(which, self.denoiser(images, times, captions, return_dict=False)[0], strict=True):
                velocity[i] = -found[:, 0].float()
        return torch.stack(velocity)


def padded_lengths(counts: Sequence[int]) -> list[int]:
    """Return the lengths of captions of `counts` tokens once the transformer has padded them."""
    return [-(-count // MULTIPLE) * MULTIPLE for count in counts]


def load(
    source: ModelSource, tokenizers: dict[str, WordTokenizer], device: torch.device, dtype: torch.dtype, clip_skip: int
) -> ZImage:
    """Load a Z-Image model. `clip_skip` is ignored, since the layer is fixed. Raises ModelError."""
    del clip_skip
    layer = int(source.configs[QWEN.name]["num_hidden_layers"]) - 1
    return load_as(ZImage, source, ZImageText, device, dtype, tokenizers=tokenizers, layer=layer)
