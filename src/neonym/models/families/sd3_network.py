"""The networks of Stable Diffusion 3: a transformer that attends to the states of two CLIP encoders and T5."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from neonym.models.encoders.clip import Keep, emphasised, pooled_at_end
from neonym.models.families.flow_network import load_as, predict_by_text_length
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
        """Return the states of CLIP and T5, [B,77+256,4096], and the pooled text without emphasis, [B,768+1280].

        Read as by ComfyUI, a long text has K chunks of CLIP, as many as both encoders have, and T5's part is as long as
        the text, but at least 77.
        """
        states, pooled = zip(*(self.clip(name, text, keep) for name in (CLIP_L.name, CLIP_G.name)), strict=True)
        shortest = min(
            own.shape[1] for own in states
        )  # a word may have more vectors for one of them, and so more chunks
        both = torch.cat([own[:, :shortest] for own in states], dim=-1)  # [B,77*K,768+1280]
        both = pad(both, (0, self.width - both.shape[-1]))
        t5, read = self.t5(text, both)
        read = read if read is None else pad(read, (both.shape[1], 0), value=True)
        return TextCond(torch.cat([both, t5], dim=1), torch.cat(pooled, dim=-1), read)

    def clip(self, name: str, text: Encoded, keep: Keep) -> tuple[Tensor, Tensor]:
        """Return a CLIP encoder's second-to-last states [B,K*77,D] and its projected state at the end, [B,P]."""
        ids, emphasis = text.ids[name], (text.emphasis or {}).get(name)  # [B,K,77]
        encoder: Any = self.encoders[name]
        tokenizer: Any = self.tokenizers[name]
        states = encoder(ids.flatten(0, 1), output_hidden_states=True)
        hidden = states.hidden_states[-2].unflatten(0, ids.shape[:2]).flatten(1, 2)  # chunks behind one another
        hidden = emphasised(hidden, None if emphasis is None else emphasis.flatten(1)[:, None], keep)
        first = states.last_hidden_state.unflatten(0, ids.shape[:2])[:, 0]
        return hidden, encoder.text_projection(pooled_at_end(first, ids[:, 0], tokenizer.clip.end))

    def t5(self, text: Encoded, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return T5's states [B,256,4096], padding included, and which of them there are (see `unmasked_t5`).

        The states are zeros like the tensor `like` if the model has no T5.
        """
        if T5.name not in self.encoders:
            return like.new_zeros(len(like), T5.max_length, self.width), None
        return self.unmasked_t5(T5.name, text)


class StableDiffusion3(Model):
    """A frozen Stable Diffusion 3 model."""

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the transformer's velocity in float32, [B,C,h,w]. Of `conditions`, it reads the blocks to skip.

        Raises ValueError if there is no pooled text, which other families do without.
        """
        if text.pooled is None:
            raise ValueError("Stable Diffusion 3 reads the pooled text of CLIP, but the text has none")
        if text.mask is not None:
            return predict_by_text_length(self, x_t, t, text, conditions)
        dtype = self.dtype
        velocity = self.denoiser(
            hidden_states=x_t.to(dtype),
            timestep=t.expand(len(x_t)),
            encoder_hidden_states=text.sequence.to(dtype),
            pooled_projections=text.pooled.to(dtype),
            skip_layers=list(conditions.skipped_blocks) or None,
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
