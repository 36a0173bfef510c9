"""The networks of Anima: an adapter between T5's ids and Qwen3's states, and a transformer made for videos."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from neonym.io.transfer import picked
from neonym.models.encoders.clip import Keep
from neonym.models.encoders.sequence import counts_of, groups, mask_for
from neonym.models.families.anima import ADAPTER, QWEN, T5
from neonym.models.families.flow_network import load_as, sigma_of
from neonym.models.model import Model
from neonym.models.qwen_image_vae import QwenImageVae
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond


class AnimaText(TextSide):
    """The text side of Anima: an adapter reads T5's ids, and attends to the states of Qwen3."""

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return what the adapter makes of the caption, [B,512,1024]: states of T5's ids, then zeros.

        Captions of unlike length are encoded separately on a CPU, so that no state depends on its neighbours. As in
        ComfyUI, emphasis multiplies the states of T5's ids. `keep` is ignored.
        """
        del keep
        emphasis = (text.emphasis or {}).get(T5.name)
        lengths = list(zip(*(counts_of(text, part.name) for part in (QWEN, T5)), strict=True))
        rows: list[Tensor] = [torch.empty(0)] * len(lengths)
        for _, which in groups(lengths, self.device):
            states = self.adapted(text, which)
            if emphasis is not None:
                own = picked(emphasis, which)[:, 0]  # [b,M]
                states = states * pad(own, (0, states.shape[1] - own.shape[1]), value=1.0)[..., None].to(states.dtype)
            for i, row in zip(which, states, strict=True):
                rows[i] = row
        return TextCond(torch.stack(rows))

    def adapted(self, text: Encoded, which: list[int]) -> Tensor:
        """Return the states of the samples `which`, [b,512,1024], without emphasis."""
        (ids, mask), (t5_ids, t5_mask) = (cut(text, part.name, which) for part in (QWEN, T5))
        states = self.encoders[QWEN.name](ids, attention_mask=mask_for(True, mask), use_cache=False).last_hidden_state
        return self.adapters[ADAPTER](
            source_hidden_states=states * mask[..., None],
            target_input_ids=t5_ids,
            target_attention_mask=t5_mask,
            source_attention_mask=mask,
        )


def cut(text: Encoded, part: str, which: list[int]) -> tuple[Tensor, Tensor]:
    """Return the ids and the mask, each [b,L], of the samples `which`, without padding that all of them have.

    At least one id remains: diffusers reads an empty caption as one id that is masked.
    """
    ids, mask = (picked(own, which)[:, 0] for own in (text.ids[part], text.masks[part]))
    longest = max(1, *(counts_of(text, part)[i] for i in which))
    return ids[:, :longest], mask[:, :longest]


class Anima(Model):
    """A frozen Anima model."""

    def __init__(self, source: ModelSource, denoiser: nn.Module, *parts: Any):
        super().__init__(source, denoiser, *parts)
        self.has_padding_mask = self.mask_padding_here(denoiser)

    @staticmethod
    def mask_padding_here(denoiser: Any) -> bool:
        """Return whether a transformer reads which latents are padding, and let `predict` tell it.

        diffusers would resize a mask of pixels with torchvision, though no latent of an image is padding.
        """
        wanted = bool(denoiser.config.concat_padding_mask)
        denoiser.register_to_config(concat_padding_mask=False)
        return wanted

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the transformer's velocity in float32, [B,C,h,w]. It reads no `conditions`."""
        del conditions
        video = x_t.to(self.dtype)[:, :, None]  # [B,C,1,h,w]: one frame
        velocity = self.denoiser(
            hidden_states=video,
            timestep=sigma_of(t, len(x_t)),
            encoder_hidden_states=text.sequence.to(self.dtype),
            condition_mask=torch.zeros_like(video[:, :1]) if self.has_padding_mask else None,
            return_dict=False,
        )[0]
        return velocity[:, :, 0].float()


def load(
    source: ModelSource, tokenizers: dict[str, WordTokenizer], device: torch.device, dtype: torch.dtype, clip_skip: int
) -> Anima:
    """Load an Anima model. `clip_skip` is ignored, since the layer is fixed. Raises ModelError."""
    del clip_skip
    return load_as(Anima, source, AnimaText, device, dtype, vae=QwenImageVae, tokenizers=tokenizers)
