"""The flow model in the layout of Z-Image, computed for whole batches of equal shapes at once."""

import itertools

import torch
from diffusers import ZImageTransformer2DModel
from torch import nn
from torch.nn import functional
from transformers import Qwen3Model

from .flow_text import PLACES, read

SIDE = 8  # patches of a latent of 16 x 16
PATCH = "2-1"


def make_transformer() -> ZImageTransformer2DModel:
    """Width 256, 10 blocks over 64 patches and 32 places of text, 2 more for either alone."""
    model = ZImageTransformer2DModel(
        in_channels=4, dim=256, n_layers=10, n_refiner_layers=2, n_heads=4, n_kv_heads=4, cap_feat_dim=256,
        axes_dims=[16, 24, 24], axes_lens=[512, 64, 64],
    )  # fmt: skip
    start(model)
    return model


def start(model: ZImageTransformer2DModel) -> None:
    """Every block begins as the identity and the whole with zeros, as diffusion transformers are begun."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in (model.t_embedder.mlp[0], model.t_embedder.mlp[2]):
        nn.init.normal_(layer.weight, std=0.02)
    final = model.all_final_layer[PATCH]
    modulations = [block.adaLN_modulation[-1] for block in (*model.noise_refiner, *model.layers, final)]
    for layer in (*modulations, final.linear):
        nn.init.zeros_(layer.weight)
    nn.init.normal_(model.cap_pad_token, std=0.02)
    model.x_pad_token.requires_grad_(False)  # never used: 64 patches are a multiple of 32


class Flow(nn.Module):
    """Transformer and language model in one module, so that one EMA copy holds both."""

    def __init__(self, transformer: ZImageTransformer2DModel, text: Qwen3Model):
        super().__init__()
        self.transformer, self.text = transformer, text

    def forward(
        self, latents: torch.Tensor, sigma: torch.Tensor, words: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        """The velocity at latents [B,4,16,16] and sigma [B], for token embeddings [B,32,W] of which some are `real` [B,32]."""
        return predict(self.transformer, latents, sigma, read(self.text, words), real)


def predict(
    model: ZImageTransformer2DModel, latents: torch.Tensor, sigma: torch.Tensor, text: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    """What the class computes from lists, for a batch of equal shapes. -> velocity [B,4,16,16]

    Under autocast the blocks add to float32, all of them: one kind of input, so that each is compiled once.
    """
    time = model.t_embedder((1 - sigma) * model.t_scale)
    image_turns, text_turns = turns(model, latents.device)
    image = model.all_x_embedder[PATCH](patches(latents)).float()
    for block in model.noise_refiner:
        image = block(image, None, image_turns, time)
    text = torch.where(real[..., None], model.cap_embedder(text).float(), model.cap_pad_token)
    for block in model.context_refiner:
        text = block(text, None, text_turns)
    both, both_turns = torch.cat([image, text], 1), torch.cat([image_turns, text_turns], 1)
    for block in model.layers:
        both = block(both, None, both_turns, time)
    return -whole(model.all_final_layer[PATCH](both[:, : SIDE * SIDE], c=time))


def turns(model: ZImageTransformer2DModel, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations of the places of the image [1,64,D/2] and of the text [1,32,D/2]: the image comes behind the text.

    Complex for the class's own attention, cosines and sines [...,2] for `RealRotations`.
    """
    grid = model.create_coordinate_grid((1, SIDE, SIDE), (PLACES + 1, 0, 0), device).flatten(0, 2)
    line = model.create_coordinate_grid((PLACES, 1, 1), (1, 0, 0), device).flatten(0, 2)
    both = model.rope_embedder(grid)[None], model.rope_embedder(line)[None]
    if isinstance(model.layers[0].attention.processor, RealRotations):
        return torch.view_as_real(both[0]), torch.view_as_real(both[1])
    return both


def patches(latents: torch.Tensor) -> torch.Tensor:
    """[B,4,16,16] -> [B,64,16], the channel last within a patch"""
    return latents.unflatten(3, (SIDE, 2)).unflatten(2, (SIDE, 2)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def whole(patches: torch.Tensor) -> torch.Tensor:
    """[B,64,16] -> [B,4,16,16]"""
    return patches.unflatten(2, (2, 2, 4)).unflatten(1, (SIDE, SIDE)).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class RealRotations:
    """The attention of the class in real numbers, which a compiler can fuse."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: None = None,  # noqa: ARG002
        attention_mask: None = None,  # noqa: ARG002
        freqs_cis: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`freqs_cis`: cosines and sines, float32 [1,L,D/2,2]"""
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (
            rotate(norm(x), freqs_cis).to(value.dtype) for norm, x in ((attn.norm_q, query), (attn.norm_k, key))
        )
        mixed = functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


def compile_blocks(model: ZImageTransformer2DModel) -> None:
    """Compile the blocks one by one, which takes less time than the whole; all blocks of a kind share what is compiled."""
    for block in (*model.noise_refiner, *model.context_refiner, *model.layers):
        block.attention.set_processor(RealRotations())
        block.compile(dynamic=False)


def rotate(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """[B,L,heads,D] by [1,L,D/2,2]"""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = turns[:, :, None].unbind(-1)
    return torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], -1).flatten(-2)


@torch.no_grad()
def generate(
    model: Flow, ids: torch.Tensor, empty: torch.Tensor, pad: int, steps: int, guidance: float, shift: float, seed: int
) -> torch.Tensor:
    """Latents [B,4,16,16] of captions [B,32], by Euler; `guidance` counts as usual (1: none). `empty`: [1,32]"""
    device, table = ids.device, model.text.get_input_embeddings()
    both = torch.cat([ids, empty.expand(len(ids), -1)])
    x = torch.randn(len(ids), 4, 16, 16, generator=torch.Generator().manual_seed(seed)).to(device)
    sigmas = torch.linspace(1, 0, steps + 1, device=device)
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    for sigma, after in itertools.pairwise(sigmas):
        named, unnamed = model(x.repeat(2, 1, 1, 1), sigma.expand(len(both)), table(both), both != pad).float().chunk(2)
        x = x + (after - sigma) * (unnamed + guidance * (named - unnamed))
    return x
