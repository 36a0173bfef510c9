"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net with cross-attention, a VAE with factor 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neonym.models import latent_diffusion as shared
from neonym.models.family import Keep, ModelSource, prediction_from
from neonym.models.text import WordTokenizer, clip_hidden, join_chunks
from neonym.types import TextCond

ENCODER = "text_encoder"
GUIDANCE = 7.5
WORD_SPREAD = 0.0133  # of CLIP ViT-L's vocabulary; a model folder may say its own in neonym.json


def recognise(name: str, folder: Path, configs: dict[str, dict[str, Any]]) -> ModelSource | None:
    """One text encoder of CLIP's kind and a four-channel U-Net with text cross-attention; else None."""
    unet, text = configs.get("unet", {}), configs.get(ENCODER, {})
    told_more = any(
        unet.get(name) is not None for name in ("addition_embed_type", "class_embed_type", "num_class_embeds")
    )
    single = "text_encoder_2" not in configs and not told_more  # unCLIP is told a picture
    prediction_type = configs.get("scheduler", {}).get("prediction_type", "epsilon")
    if unet.get("_class_name") != "UNet2DConditionModel" or not single or text.get("model_type") != "clip_text_model":
        return None
    if unet.get("in_channels", 4) != 4 or prediction_type not in ("epsilon", "v_prediction"):
        return None
    return ModelSource(
        name=name,
        folder=folder,
        module=__name__,
        family="sd2" if text.get("hidden_size") == 1024 or text.get("hidden_act") == "gelu" else "sd1",  # OpenCLIP's
        configs=configs,
        native_size=8 * int(unet.get("sample_size") or 64),
        prediction_type=prediction_type,
        prediction_from=prediction_from(configs),
        text_kinds={ENCODER: "CLIPTextModel"},
        text_layers=int(text.get("num_hidden_layers", 12)),
        guidance=float(configs.get("neonym", {}).get("guidance", GUIDANCE)),
        learning_rate=configs.get("neonym", {}).get("learning_rate"),
        word_spread=float(configs.get("neonym", {}).get("word_spread", WORD_SPREAD)),
    )


def load_tokenizers(source: ModelSource, max_token_length: int) -> dict[str, WordTokenizer]:
    """The one tokenizer, under the encoder's name."""
    return shared.load_tokenizers(source, {ENCODER: "tokenizer"}, max_token_length)


class StableDiffusion(shared.LatentDiffusion):
    """A frozen SD 1.x/2.x with learned rows beside its token table."""

    pipeline_class = "StableDiffusionPipeline"

    def encode_text(
        self, tokens: dict[str, Tensor], emphasis: dict[str, Tensor] | None = None, keep: Keep = "none"
    ) -> TextCond:
        """The only way from ids to the rows. {encoder: [B,K,77]} -> sequence [B,S,D]"""
        ids = tokens[ENCODER]
        hidden = clip_hidden(self.encoders[ENCODER], ids.flatten(0, 1), self.clip_skip)  # [B*K,77,D]
        return TextCond(shared.weigh(join_chunks(hidden, ids.shape[1]), (emphasis or {}).get(ENCODER), keep))

    def denoise(self, x_t: Tensor, t: Tensor, text: TextCond, sizes: Tensor | None = None) -> Tensor:
        """The U-Net's prediction, in float32; sizes mean nothing to it. -> [B,C,h,w]"""
        del sizes
        return self.unet(x_t.to(self.dtype), t, text.sequence.to(self.dtype)).sample.float()


def load(
    source: ModelSource, device: torch.device, dtype: torch.dtype, max_token_length: int, clip_skip: int
) -> StableDiffusion:
    """Read the weights. Raises ModelError."""
    return shared.load(StableDiffusion, source, load_tokenizers(source, max_token_length), device, dtype, clip_skip)
