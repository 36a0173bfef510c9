"""Store diffusers' weights under the names of the programs that models come from: the inverse of our conversion."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.checkpoints import vae_name

State = Mapping[str, Tensor]
QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer", "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer", "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1", "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin", "single_stream_modulation.linear": "single_stream_modulation.lin",
}  # fmt: skip
DOUBLE = {
    "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin", "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm", "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2", "ff.linear_in": "img_mlp.0", "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2",
}  # fmt: skip
SINGLE = {
    "norm.linear": "modulation.lin", "proj_out": "linear2", "attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm",
    "attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2",
}  # fmt: skip


def swapped(tensor: Tensor) -> Tensor:
    """Return a modulation with its halves, scale and shift, exchanged."""
    scale, shift = tensor.chunk(2)
    return torch.cat([shift, scale])


def stacked(state: dict[str, Tensor], start: str, names: tuple[str, ...], leaf: str) -> Tensor:
    """Return the rows of several layers as those of one, and remove them from `state`."""
    return torch.cat([state.pop(f"{start}{name}.{leaf}") for name in names])


def flux(weights: State) -> dict[str, Tensor]:
    """Return the weights of FLUX.1, Chroma or FLUX.2 under their original names."""
    state, found = dict(weights), {}
    for name in list(state):
        if name not in state:
            continue
        layer, _, leaf = name.rpartition(".")
        if match := re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", layer):
            single, index, inner = match.groups()
            start = f"{single or ''}transformer_blocks.{index}."
            new = f"{'single' if single else 'double'}_blocks.{index}."
            if inner == "proj_mlp":
                continue  # with the queries
            if inner == "attn.to_q":
                more = ("proj_mlp",) if single else ()
                names = (*(f"attn.{part}" for part in QKV), *more)
                found[f"{new}{'linear1' if single else 'img_attn.qkv'}.{leaf}"] = stacked(state, start, names, leaf)
            elif inner == "attn.add_q_proj":
                found[f"{new}txt_attn.qkv.{leaf}"] = stacked(
                    state, start, tuple(f"attn.{part}" for part in ADDED), leaf
                )
            elif inner not in (*(f"attn.{part}" for part in QKV), *(f"attn.{part}" for part in ADDED)):
                norm = "norm_" in inner
                found[f"{new}{(SINGLE if single else DOUBLE)[inner]}.{'scale' if norm else leaf}"] = state[name]
        elif layer.startswith("distilled_guidance_layer"):
            new = layer.replace("linear_1", "in_layer").replace("linear_2", "out_layer")
            found[f"{new}.{'scale' if '.norms.' in new else leaf}"] = state[name]
        else:
            found[f"{FLUX[layer]}.{leaf}"] = swapped(state[name]) if layer == "norm_out.linear" else state[name]
    return found


def z_image(weights: State) -> dict[str, Tensor]:
    """Return the weights of Z-Image under their original names."""
    state, found = dict(weights), {}
    for name in list(state):
        if name not in state:
            continue
        if name.endswith("attention.to_q.weight"):
            start = name.removesuffix("to_q.weight")
            found[f"{start}qkv.weight"] = stacked(state, start, QKV, "weight")
        elif not name.endswith(("to_k.weight", "to_v.weight")):
            new = name.replace("all_x_embedder.2-1", "x_embedder").replace("all_final_layer.2-1", "final_layer")
            new = new.replace("to_out.0", "out").replace("norm_q", "q_norm").replace("norm_k", "k_norm")
            found[new] = state[name]
    return found


SD3_TOP = {
    "pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0", "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1", "proj_out": "final_layer.linear",
}  # fmt: skip
SD3_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k", "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k", "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k", "attn2.to_out.0": "x_block.attn2.proj",
    "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2", "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}  # fmt: skip
FUSED = {"attn.to_q": ("x_block.attn.qkv", "attn.", QKV), "attn.add_q_proj": ("context_block.attn.qkv", "attn.", ADDED),
         "attn2.to_q": ("x_block.attn2.qkv", "attn2.", QKV)}  # fmt: skip


def sd3(weights: State) -> dict[str, Tensor]:
    """Return the weights of Stable Diffusion 3 under their original names."""
    state, found = dict(weights), {}
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    for name in list(state):
        if name not in state:
            continue
        layer, _, leaf = name.rpartition(".")
        if match := re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", layer):
            index, inner = match.groups()
            new = f"joint_blocks.{index}."
            if inner in FUSED:
                fused, start, parts = FUSED[inner]
                found[f"{new}{fused}.{leaf}"] = stacked(state, f"transformer_blocks.{index}.{start}", parts, leaf)
            elif inner in SD3_BLOCK:
                final = inner == "norm1_context.linear" and int(index) == last
                found[f"{new}{SD3_BLOCK[inner]}.{leaf}"] = swapped(state[name]) if final else state[name]
        elif name == "pos_embed.pos_embed":
            found["pos_embed"] = state[name]
        else:
            found[f"{SD3_TOP[layer]}.{leaf}"] = swapped(state[name]) if layer == "norm_out.linear" else state[name]
    return found


ANIMA = {
    "time_embed.t_embedder": "t_embedder.1", "time_embed.norm": "t_embedding_norm", "patch_embed.proj": "x_embedder.proj.1",
    "norm_out.linear_1": "final_layer.adaln_modulation.1", "norm_out.linear_2": "final_layer.adaln_modulation.2",
    "proj_out": "final_layer.linear", "transformer_blocks": "blocks", "norm1.linear_1": "adaln_modulation_self_attn.1",
    "norm1.linear_2": "adaln_modulation_self_attn.2", "norm2.linear_1": "adaln_modulation_cross_attn.1",
    "norm2.linear_2": "adaln_modulation_cross_attn.2", "norm3.linear_1": "adaln_modulation_mlp.1",
    "norm3.linear_2": "adaln_modulation_mlp.2", "attn1": "self_attn", "attn2": "cross_attn", "to_q": "q_proj", "to_k": "k_proj",
    "to_v": "v_proj", "to_out.0": "output_proj", "norm_q": "q_norm", "norm_k": "k_norm", "ff.net.0.proj": "mlp.layer1", "ff.net.2": "mlp.layer2",
}  # fmt: skip


def anima(weights: State, conditioner: State) -> dict[str, Tensor]:
    """Return the weights of Anima's transformer and conditioner under their original names."""
    found = {}
    for name, tensor in weights.items():
        for new, old in ANIMA.items():
            name = re.sub(rf"(?<![\w.]){re.escape(new)}(?!\w)|(?<=\.){re.escape(new)}(?!\w)", old, name)
        found[name] = tensor
    return found | {f"llm_adapter.{name}": tensor for name, tensor in conditioner.items()}


def vae(weights: State) -> dict[str, Tensor]:
    """Return the weights of AutoencoderKL under their original names."""
    return {
        vae_name(name): tensor[..., None, None]
        if ".attentions." in name and "group_norm" not in name and tensor.ndim == 2
        else tensor
        for name, tensor in weights.items()
    }


ORIGINAL = {
    "flux1": flux, "chroma": flux, "flux2": flux, "flux2_klein_4b": flux, "flux2_dev": flux, "zimage": z_image, "sd3": sd3
}  # fmt: skip
