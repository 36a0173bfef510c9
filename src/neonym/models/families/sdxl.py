"""Stable Diffusion XL: two CLIP text encoders, pooled text, size conditioning (Podell et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from neonym.models.encoders.rows import join_chunks
from neonym.models.families import latent_diffusion as shared
from neonym.models.model import Keep
from neonym.models.recognise import FIRST, SECOND
from neonym.models.source import ModelSource
from neonym.models.tokenizers.clip import load_tokenizers
from neonym.types import TextCond


class StableDiffusionXL(shared.LatentDiffusion):
    """A frozen SDXL with learned rows beside both token tables."""

    pipeline_class = "StableDiffusionXLPipeline"

    def encode_text(
        self, tokens: dict[str, Tensor], emphasis: dict[str, Tensor] | None = None, keep: Keep = "none"
    ) -> TextCond:
        """Both encoders' last states but one, side by side, and the second's pooled text, which carries no weights.

        {encoder: [B,K,77]} -> sequence [B,S,768+1280], pooled [B,1280]
        """
        parts, pooled = [], None
        for name in (FIRST, SECOND):
            ids = tokens[name]
            states = self.encoders[name](ids.flatten(0, 1), output_hidden_states=True)
            hidden = join_chunks(states.hidden_states[-2], ids.shape[1])  # [B,S,D]
            parts.append(shared.weigh(hidden, (emphasis or {}).get(name), keep))
            if name == SECOND:
                pooled = self.pooled(states.last_hidden_state.unflatten(0, ids.shape[:2])[:, 0], ids[:, 0])
        return TextCond(torch.cat(parts, dim=-1), pooled)

    def pooled(self, states: Tensor, ids: Tensor) -> Tensor:
        """The first chunk at its first end. A library that looks for the highest id would find a learned row.

        [B,77,D], [B,77] -> [B,P]
        """
        first_end = (ids == self.tokenizers[SECOND].clip.end).int().argmax(dim=1)
        rows = torch.arange(len(ids), device=ids.device)
        return self.encoders[SECOND].text_projection(states[rows, first_end.to(rows.device)])

    def denoise(self, x_t: Tensor, t: Tensor, text: TextCond, sizes: Tensor | None = None) -> Tensor:
        """The U-Net's prediction, in float32. `sizes` [B,6]: original height and width, crop from top and left, target. -> [B,C,h,w]"""
        assert text.pooled is not None
        assert sizes is not None
        dtype = self.dtype
        told = {"text_embeds": text.pooled.to(dtype), "time_ids": sizes.to(dtype)}
        return self.unet(x_t.to(dtype), t, text.sequence.to(dtype), added_cond_kwargs=told).sample.float()


def load(
    source: ModelSource, device: torch.device, dtype: torch.dtype, max_token_length: int, clip_skip: int
) -> StableDiffusionXL:
    """Read the weights. Raises ModelError."""
    return shared.load(StableDiffusionXL, source, load_tokenizers(source, max_token_length), device, dtype, clip_skip)
