"""The networks of Stable Diffusion 3: a transformer that attends to the states of two CLIP encoders and T5."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from neonym.models.encoders.clip import Keep, emphasised, pooled_at_end
from neonym.models.encoders.sequence import interpolated, t5_states
from neonym.models.families.flow_network import load_as
from neonym.models.families.sd3 import CLIP_G, CLIP_L, T5, TRANSFORMER
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond


class StableDiffusion3Text(TextSide):
    """The text side of Stable Diffusion 3: CLIP's states side by side, then T5's, and both CLIP encoders' pooled text."""

    def __init__(self, encoders: Any, tokenizers: dict[str, WordTokenizer], width: int):
        super().__init__(encoders, tokenizers)
        self.width = width  # W of the states that the transformer reads

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return the states of CLIP and T5, [B,77+256,4096], and the pooled text without emphasis, [B,768+1280]."""
        states, pooled = zip(*(self.clip(name, text, keep) for name in (CLIP_L.name, CLIP_G.name)), strict=True)
        both = torch.cat(states, dim=-1)  # [B,77,768+1280]
        both = pad(both, (0, self.width - both.shape[-1]))
        return TextCond(torch.cat([both, self.t5(text, both)], dim=1), torch.cat(pooled, dim=-1))

    def clip(self, name: str, text: Encoded, keep: Keep) -> tuple[Tensor, Tensor]:
        """Return a CLIP encoder's second-to-last states [B,K*77,D] and its projected state at the end, [B,P]."""
        ids, emphasis = text.ids[name], (text.emphasis or {}).get(name)  # [B,K,77]
        encoder, tokenizer = self.encoders[name], self.tokenizers[name]
        states: Any = encoder(ids.flatten(0, 1), output_hidden_states=True)
        hidden = states.hidden_states[-2].unflatten(0, ids.shape[:2]).flatten(1, 2)  # chunks behind one another
        hidden = emphasised(hidden, None if emphasis is None else emphasis.flatten(1)[:, None], keep)
        first = states.last_hidden_state.unflatten(0, ids.shape[:2])[:, 0]
        return hidden, encoder.text_projection(pooled_at_end(first, ids[:, 0], tokenizer.clip.end))

    def t5(self, text: Encoded, like: Tensor) -> Tensor:
        """Return T5's states [B,256,4096], padding included; zeros like the tensor `like` if the model has no T5.

        As in ComfyUI, emphasis moves the states away from those of an empty text.
        """
        if T5.name not in self.encoders:
            return like.new_zeros(len(like), T5.max_length, self.width)
        ids, emphasis = text.ids[T5.name][:, 0], (text.emphasis or {}).get(T5.name)  # [B,L]
        states = t5_states(self.encoders[T5.name], ids)
        if emphasis is None:
            return states
        empty = t5_states(self.encoders[T5.name], self.empty_ids(T5.name, ids.shape[1]))
        return interpolated(states, empty, emphasis[:, 0])


class StableDiffusion3(Model):
    """A frozen Stable Diffusion 3 model."""

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the transformer's velocity in float32, [B,C,h,w]. It reads no `conditions`.

        Raises ValueError if there is no pooled text, which other families do without.
        """
        del conditions
        if text.pooled is None:
            raise ValueError("Stable Diffusion 3 reads the pooled text of CLIP, but the text has none")
        dtype = self.dtype
        velocity = self.denoiser(
            hidden_states=x_t.to(dtype),
            timestep=t.expand(len(x_t)),
            encoder_hidden_states=text.sequence.to(dtype),
            pooled_projections=text.pooled.to(dtype),
            return_dict=False,
        )[0]
        return velocity.float()


def load(
    source: ModelSource, tokenizers: dict[str, WordTokenizer], device: torch.device, dtype: torch.dtype, clip_skip: int
) -> StableDiffusion3:
    """Load a Stable Diffusion 3 model. `clip_skip` is ignored, since the layer is fixed. Raises ModelError."""
    del clip_skip
    width = int(source.configs[TRANSFORMER.part].get("joint_attention_dim", 4096))
    return load_as(StableDiffusion3, source, StableDiffusion3Text, device, dtype, tokenizers=tokenizers, width=width)
