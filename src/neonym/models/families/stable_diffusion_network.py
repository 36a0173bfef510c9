"""The networks of Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neonym.models.encoders.clip import Keep, clip_hidden, emphasised, join_chunks
from neonym.models.families.unet import FIRST
from neonym.models.families.unet_network import from_original_names as from_original_names
from neonym.models.families.unet_network import load_as
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond


class StableDiffusionText(TextSide):
    """The text side of Stable Diffusion: one state of one CLIP encoder."""

    def __init__(self, encoders: Any, tokenizers: dict[str, WordTokenizer], clip_skip: int):
        super().__init__(encoders, tokenizers)
        self.clip_skip = clip_skip

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return the states [B,S,D] of a batch of encoded captions."""
        ids, encoder = text.ids[FIRST.name], self.encoders[FIRST.name]  # [B,K,77]
        hidden = clip_hidden(encoder, ids.flatten(0, 1), self.clip_skip)  # [B*K,77,D]  # pyright: ignore
        emphasis = (text.emphasis or {}).get(FIRST.name)
        return TextCond(emphasised(join_chunks(hidden, ids.shape[1]), emphasis, keep))


class StableDiffusion(Model):
    """A frozen Stable Diffusion 1.x or 2.x model."""

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the U-Net's prediction in float32, [B,C,h,w]. It reads no `conditions`."""
        del conditions
        return self.denoiser(x_t.to(self.dtype), t, text.sequence.to(self.dtype)).sample.float()


def load(
    source: ModelSource, tokenizers: dict[str, WordTokenizer], device: torch.device, dtype: torch.dtype, clip_skip: int
) -> StableDiffusion:
    """Load a Stable Diffusion 1.x or 2.x model. Raises ModelError if its weights cannot be read."""
    text = StableDiffusionText
    return load_as(StableDiffusion, source, text, device, dtype, tokenizers=tokenizers, clip_skip=clip_skip)
