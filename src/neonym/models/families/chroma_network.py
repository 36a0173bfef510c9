"""The networks of Chroma: a transformer that attends to T5's states, without their padding but for one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neonym.io.transfer import picked
from neonym.models.encoders.clip import Keep
from neonym.models.encoders.sequence import counts_of, in_groups, interpolated, read_up_to, t5_states
from neonym.models.families.chroma import T5
from neonym.models.families.flow_network import by_text_length, image_positions, load_as, pack, sigma_of, unpack
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond

PADDING_READ = 1  # states of padding that the transformer was trained to read behind the end


class ChromaText(TextSide):
    """The text side of Chroma: T5's states up to the first one of padding."""

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return the states [B,S,4096], cut to the longest caption, and which of them are read, [B,S].

        As in ComfyUI, emphasis moves the states away from those of an empty text. `keep` is ignored.
        """
        del keep
        ids, mask = text.ids[T5.name][:, 0], text.masks[T5.name][:, 0]  # [B,L]
        own = text.lengths.get(T5.name, [ids.shape[1]] * len(ids))  # with their padding: none as in ComfyUI
        lengths = [min(count + PADDING_READ, whole) for count, whole in zip(counts_of(text, T5.name), own, strict=True)]
        encoder, emphasis = self.encoders[T5.name], (text.emphasis or {}).get(T5.name)

        def states_of(which: list[int], length: int) -> Tensor:
            states = t5_states(encoder, *(picked(own, which)[:, :length] for own in (ids, mask)))  # [b,l,4096]
            if emphasis is None:
                return states
            return interpolated(states, self.empty_states(length), picked(emphasis, which)[:, 0, :length])

        return TextCond(
            in_groups(lengths, ids.device, states_of), mask=read_up_to(lengths, ids.device), lengths=lengths
        )

    def empty_states(self, length: int) -> Tensor:
        """Return the states of an empty text with padding up to `length`, [1,l,4096]."""
        ids = self.empty_ids(T5.name, length)
        return t5_states(self.encoders[T5.name], ids, ids != self.tokenizers[T5.name].padding)


class Chroma(Model):
    """A frozen Chroma model."""

    def __init__(self, source: ModelSource, denoiser: nn.Module, *parts: Any):
        super().__init__(source, denoiser, *parts)
        make_zeros_on_device(denoiser.time_text_embed)

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the transformer's velocity in float32, [B,C,h,w]. It reads no `conditions`.

        Captions of unlike length go separately, without a mask: diffusers adds its mask to the attention as if it were
        a bias, and drops it in half of the blocks under gradient checkpointing. Raises ValueError if the text has no
        mask.
        """
        del conditions
        if text.mask is None:
            raise ValueError("Chroma reads the length of captions from the mask of the text, but it has none")
        dtype, device, (height, width) = self.dtype, x_t.device, x_t.shape[2:]
        sigma, positions = sigma_of(t, len(x_t)), image_positions(height // 2, width // 2, device)

        def velocity(which: list[int], length: int) -> Tensor:
            tokens = self.denoiser(
                hidden_states=pack(picked(x_t, which).to(dtype)),  # [b,N,4C]
                timestep=picked(sigma, which),
                encoder_hidden_states=picked(text.sequence, which)[:, :length].to(dtype),
                txt_ids=torch.zeros(length, 3, device=device),
                img_ids=positions,
                return_dict=False,
            )[0]
            return unpack(tokens, height, width).float()

        return by_text_length(text, velocity)


def make_zeros_on_device(embedding: Any) -> None:
    """Let the time embedding make its guidance scales, which are all 0, on its device: diffusers copies them there."""
    project = embedding.guidance_proj.forward
    embedding.guidance_proj.forward = lambda zeros: project(torch.zeros(len(zeros), device=embedding.mod_proj.device))


def load(
    source: ModelSource, tokenizers: dict[str, WordTokenizer], device: torch.device, dtype: torch.dtype, clip_skip: int
) -> Chroma:
    """Load a Chroma model. `clip_skip` is ignored, since there is no CLIP. Raises ModelError."""
    del clip_skip
    return load_as(Chroma, source, ChromaText, device, dtype, tokenizers=tokenizers)
