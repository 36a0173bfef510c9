"""Stable Diffusion XL: two CLIP text encoders, pooled text, size conditioning (Podell et al. 2023)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neonym.models import latent_diffusion as shared
from neonym.models.family import Keep, ModelSource, prediction_from
from neonym.models.text import WordTokenizer, join_chunks
from neonym.types import TextCond

FIRST, SECOND = "text_encoder", "text_encoder_2"  # CLIP ViT-L, OpenCLIP ViT-bigG
GUIDANCE = 7.0
WORD_SPREAD = 0.0133  # of the first encoder's vocabulary


def recognise(name: str, folder: Path, configs: dict[str, dict[str, Any]]) -> ModelSource | None:
    """Two text encoders of CLIP's kind and a four-channel U-Net that is told text and sizes; else None."""
    unet, scheduler = configs.get("unet", {}), configs.get("scheduler", {})
    both = all(encoder in configs for encoder in (FIRST, SECOND))
    if unet.get("_class_name") != "UNet2DConditionModel" or not both or unet.get("addition_embed_type") != "text_time":
        return None
    prediction_type = scheduler.get("prediction_type", "epsilon")
    if unet.get("in_channels", 4) != 4 or prediction_type not in ("epsilon", "v_prediction"):
        return None
    return ModelSource(
        name=name,
        folder=folder,
        module=__name__,
        family="sdxl",
        configs=configs,
        native_size=8 * int(unet.get("sample_size") or 128),
        prediction_type=prediction_type,
        prediction_from=prediction_from(configs),
        text_layers=int(configs[FIRST].get("num_hidden_layers", 12)),
        guidance=GUIDANCE,
        word_spread=WORD_SPREAD,
        text_kinds={FIRST: "CLIPTextModel", SECOND: "CLIPTextModelWithProjection"},
    )


def load_tokenizers(source: ModelSource, max_token_length: int) -> dict[str, WordTokenizer]:
    """The first pads with the end, the second with id 0."""
    found = shared.load_tokenizers(source, {FIRST: "tokenizer", SECOND: "tokenizer_2"}, max_token_length)
    found[SECOND].tokenizer = padded_with_zero(found[SECOND].tokenizer)
    return found


def padded_with_zero(tokenizer: Any) -> Any:
    """The same tokenizer with padding of id 0. Folders call that id "!" and then read the "!" of captions as padding: not so here."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    table = json.loads(tokenizer.backend_tokenizer.to_str())
    table["added_tokens"] = [token for token in table["added_tokens"] if token["id"] != 0]
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(table)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
    )
    plain.pad_token_id = 0
    return plain


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
        first_end = (ids == self.tokenizers[SECOND].tokenizer.eos_token_id).int().argmax(dim=1)
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
