"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net with cross-attention, a VAE with factor 8."""

from __future__ import annotations

import torch
from torch import Tensor

from neonym.models.encoders.rows import clip_hidden, join_chunks
from neonym.models.families import latent_diffusion as shared
from neonym.models.model import Keep
from neonym.models.recognise import FIRST
from neonym.models.source import ModelSource
from neonym.models.tokenizers.clip import load_tokenizers
from neonym.types import TextCond


class StableDiffusion(shared.LatentDiffusion):
    """A frozen SD 1.x/2.x with learned rows beside its token table."""

    pipeline_class = "StableDiffusionPipeline"

    def encode_text(
        self, tokens: dict[str, Tensor], emphasis: dict[str, Tensor] | None = None, keep: Keep = "none"
    ) -> TextCond:
        """The only way from ids to the rows. {encoder: [B,K,77]} -> sequence [B,S,D]"""
        ids = tokens[FIRST]
        hidden = clip_hidden(self.encoders[FIRST], ids.flatten(0, 1), self.clip_skip)  # [B*K,77,D]
        return TextCond(shared.weigh(join_chunks(hidden, ids.shape[1]), (emphasis or {}).get(FIRST), keep))

    def denoise(self, x_t: Tensor, t: Tensor, text: TextCond, sizes: Tensor | None = None) -> Tensor:
        """The U-Net's prediction, in float32; sizes mean nothing to it. -> [B,C,h,w]"""
        del sizes
        return self.unet(x_t.to(self.dtype), t, text.sequence.to(self.dtype)).sample.float()


def load(
    source: ModelSource, device: torch.device, dtype: torch.dtype, max_token_length: int, clip_skip: int
) -> StableDiffusion:
    """Read the weights. Raises ModelError."""
    return shared.load(StableDiffusion, source, load_tokenizers(source, max_token_length), device, dtype, clip_skip)
