"""The networks of Stable Diffusion XL (Podell et al. 2023): two CLIP text encoders, pooled text, size conditioning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neonym.models.encoders.clip import Keep, emphasised, join_chunks, pooled_at_end
from neonym.models.families.unet import FIRST, SECOND
from neonym.models.families.unet_network import from_original_names as from_original_names
from neonym.models.families.unet_network import load_as
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond


class StableDiffusionXLText(TextSide):
    """The text side of SDXL: both encoders' second-to-last states, and the second encoder's pooled text."""

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return both encoders' states, concatenated [B,S,768+1280], and the pooled text without emphasis, [B,1280]."""
        parts, pooled = [], None
        for name in (FIRST.name, SECOND.name):
            ids = text.ids[name]  # [B,K,77]
            states: Any = self.encoders[name](ids.flatten(0, 1), output_hidden_states=True)
            hidden = join_chunks(states.hidden_states[-2], ids.shape[1])  # [B,S,D]
            parts.append(emphasised(hidden, (text.emphasis or {}).get(name), keep))
            if name == SECOND.name:
                pooled = self.pooled(states.last_hidden_state.unflatten(0, ids.shape[:2])[:, 0], ids[:, 0])
        return TextCond(torch.cat(parts, dim=-1), pooled)

    def pooled(self, states: Tensor, ids: Tensor) -> Tensor:
        """Return the projected states [B,77,D] at the first end token of ids [B,77], as pooled text [B,P]."""
        tokenizer: Any = self.tokenizers[SECOND.name]
        projection: Any = self.encoders[SECOND.name].text_projection
        return projection(pooled_at_end(states, ids, tokenizer.clip.end))


class StableDiffusionXL(Model):
    """A frozen SDXL model."""

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the U-Net's prediction in float32, [B,C,h,w].

        Raises ValueError if there are no `sizes` or no pooled text, which other families do without.
        """
        if conditions.sizes is None:
            raise ValueError("SDXL predicts for images of known sizes, but `sizes` are missing")
        if text.pooled is None:
            raise ValueError("SDXL reads the pooled text of its second encoder, but the text has none")
        dtype = self.dtype
        added = {"text_embeds": text.pooled.to(dtype), "time_ids": conditions.sizes.to(dtype)}
        return self.denoiser(x_t.to(dtype), t, text.sequence.to(dtype), added_cond_kwargs=added).sample.float()


def load(
    source: ModelSource, tokenizers: dict[str, WordTokenizer], device: torch.device, dtype: torch.dtype, clip_skip: int
) -> StableDiffusionXL:
    """Load an SDXL model.

    `clip_skip` is ignored, since SDXL always reads the second-to-last layer. Raises ModelError.
    """
    del clip_skip
    return load_as(StableDiffusionXL, source, StableDiffusionXLText, device, dtype, tokenizers=tokenizers)
