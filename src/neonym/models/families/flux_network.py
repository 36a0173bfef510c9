"""The networks of FLUX.1: CLIP's pooled text modulates a transformer that attends to T5's states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neonym.models.encoders.clip import Keep, pooled_at_end
from neonym.models.families.flow_network import (
    guidance_of,
    image_positions,
    load_as,
    pack,
    predict_by_text_length,
    sigma_of,
    unpack,
)
from neonym.models.families.flux import CLIP, T5
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond


class FluxText(TextSide):
    """The text side of FLUX.1: T5's states, padding included, and CLIP's pooled text."""

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return T5's states [B,L,4096] and CLIP's state at the end of the first chunk, [B,768].

        As in ComfyUI, emphasis changes the states but not the pooled text. `keep` is ignored.
        """
        del keep
        states, read = self.unmasked_t5(T5.name, text)
        first = text.ids[CLIP.name][:, 0]  # [B,77]
        clip: Any = self.tokenizers[CLIP.name]
        pooled = pooled_at_end(self.encoders[CLIP.name](first).last_hidden_state, first, clip.clip.end)
        return TextCond(states, pooled, read)


class Flux(Model):
    """A frozen FLUX.1 model."""

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the transformer's velocity in float32, [B,C,h,w].

        A guidance-distilled model (dev) reads `conditions.guidance`, which is 1 if it is missing. Raises ValueError if
        there is no pooled text, which other families do without.
        """
        if text.pooled is None:
            raise ValueError("FLUX.1 reads the pooled text of CLIP, but the text has none")
        if text.mask is not None:
            return predict_by_text_length(self, x_t, t, text, conditions)
        dtype, device, (height, width) = self.dtype, x_t.device, x_t.shape[2:]
        tokens = self.denoiser(
            hidden_states=pack(x_t.to(dtype)),  # [B,N,4C]
            timestep=sigma_of(t, len(x_t)),
            guidance=guidance_of(self.source, conditions, len(x_t), device),
            pooled_projections=text.pooled.to(dtype),
            encoder_hidden_states=text.sequence.to(dtype),
            txt_ids=torch.zeros(text.sequence.shape[1], 3, device=device),
            img_ids=image_positions(height // 2, width // 2, device),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width).float()


def load(
    source: ModelSource, tokenizers: dict[str, WordTokenizer], device: torch.device, dtype: torch.dtype, clip_skip: int
) -> Flux:
    """Load a FLUX.1 model. `clip_skip` is ignored, since only CLIP's pooled text is read. Raises ModelError."""
    del clip_skip
    return load_as(Flux, source, FluxText, device, dtype, tokenizers=tokenizers)
