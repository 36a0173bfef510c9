"""The networks of FLUX.2: three layers of a causal language model, and a VAE whose latents are folded 2 x 2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from neonym.models.encoders.clip import Keep
from neonym.models.encoders.sequence import layer_states
from neonym.models.families.flow_network import guidance_of, image_positions, load_as, predict_by_text_length, sigma_of
from neonym.models.families.flux2 import layers_of
from neonym.models.family import EncoderSpec
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.models.vae import Vae
from neonym.types import NO_CONDITIONS, Conditions, Encoded, TextCond

ENCODER = "text_encoder"
FOLD = 2  # side, in latents of the VAE, of what becomes one latent


class Flux2Text(TextSide):
    """The text side of FLUX.2: the states of a language model after three of its blocks, side by side."""

    is_cut_to_length = False

    def __init__(self, encoders: Any, tokenizers: dict[str, WordTokenizer], spec: EncoderSpec):
        super().__init__(encoders, tokenizers)
        self.layers, self.zeros = layers_of(spec), spec.layout.comfyui_zeros

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        """Return the states [B,512,3W], those of padding included, which the transformer reads like text.

        Those of padding as ComfyUI makes it are zero for some models. A chat template leaves no room for emphasis, so
        `keep` is ignored.
        """
        del keep
        ids, mask = text.ids[ENCODER][:, 0], text.masks[ENCODER][:, 0]  # [B,L]
        states = layer_states(self.encoders[ENCODER], ids, mask, self.layers).flatten(2)
        if self.zeros is not None:
            states = states.masked_fill(((ids == self.zeros) & ~mask)[..., None], 0)
        return TextCond(states)


class Flux2Vae(Vae):
    """The VAE of FLUX.2: squares of 2 x 2 of its latents are folded into channels, and each channel is normalised.

    The normalisation is that of a batch norm, whose running mean and variance are part of the weights. The moments are
    folded too, so that everything else sees latents of 128 channels at a sixteenth of an image's side.
    """

    def __init__(self, module: Any, *normalisation: Any):
        super().__init__(module, *normalisation)
        norm = module.bn
        self.scale = (norm.running_var.float() + norm.eps).rsqrt()[:, None, None]  # [C,1,1]
        self.shift = norm.running_mean.float()[:, None, None]

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the moments (mean and log-variance) [B,2C,h,w] of the posterior, for pixels [B,3,H,W] from -1 to 1."""
        return torch.cat([folded(own) for own in super().encode(pixels).chunk(2, dim=1)], dim=1)

    def decoded(self, latents: Tensor) -> Tensor:
        """Return images [B,3,H,W] of latents [B,C,h,w] that are not normalised."""
        return super().decoded(unfolded(latents))


def folded(latents: Tensor) -> Tensor:
    """Return latents [B,C,h,w] as [B,4C,h/2,w/2], whose channels are in the order C, y, x."""
    return torch.nn.functional.pixel_unshuffle(latents, FOLD)


def unfolded(latents: Tensor) -> Tensor:
    """Return latents [B,4C,h/2,w/2] as [B,C,h,w], the inverse of `folded`."""
    return torch.nn.functional.pixel_shuffle(latents, FOLD)


class Flux2(Model):
    """A frozen FLUX.2 model."""

    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the transformer's velocity in float32, [B,C,h,w].

        A guidance-distilled model (dev) reads `conditions.guidance`, which is 1 if it is missing.
        """
        if text.mask is not None:
            return predict_by_text_length(self, x_t, t, text, conditions)
        dtype, device, (height, width) = self.dtype, x_t.device, x_t.shape[2:]
        places = torch.arange(text.sequence.shape[1], device=device)[:, None]  # [S,1]
        tokens = self.denoiser(
            hidden_states=x_t.to(dtype).flatten(2).transpose(1, 2),  # [B,N,C]
            timestep=sigma_of(t, len(x_t)),
            guidance=guidance_of(self.source, conditions, len(x_t), device),
            encoder_hidden_states=text.sequence.to(dtype),
            txt_ids=pad(places, (3, 0)),  # [S,4]: (0, 0, 0, place)
            img_ids=pad(image_positions(height, width, device), (0, 1)),  # [N,4]: (0, row, column, 0)
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).unflatten(2, (height, width)).float()


def load(
    source: ModelSource, tokenizers: dict[str, WordTokenizer], device: torch.device, dtype: torch.dtype, clip_skip: int
) -> Flux2:
    """Load a FLUX.2 model. `clip_skip` is ignored, since the layers are fixed. Raises ModelError."""
    del clip_skip
    (spec,) = source.encoder_specs
    return load_as(Flux2, source, Flux2Text, device, dtype, vae=Flux2Vae, tokenizers=tokenizers, spec=spec)
