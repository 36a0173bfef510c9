"""Write random Stable Diffusion checkpoints, full size or tiny, as a Diffusers folder and as an original single file.

    python -m benchmarks.checkpoints --family sd1 --out work/sd1           # full size, 4 GB in half precision, twice
    python -m benchmarks.checkpoints --family sd2 --out work/sd2 --tiny

Their images are noise. They serve to test that models of these shapes are recognised, loaded and trained, and how much
memory they take.
"""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 768}
XL_LEVELS = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
LEVELS = [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"]
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip


def make_parts(family: str, tiny: bool, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    """Return a U-Net, a VAE and text encoders with random weights."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    if family == "sdxl":
        return make_xl_parts(tiny, dtype)
    second, width = family == "sd2", 64 if tiny else WIDTHS[family]
    widths = (32, 64, 64, 64) if tiny else (320, 640, 1280, 1280)
    unet = UNet2DConditionModel(
        block_out_channels=widths, down_block_types=tuple(LEVELS), sample_size=96 if second else 64,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(LEVELS)), cross_attention_dim=width,
        attention_head_dim=tuple(max(1, w // 64) for w in widths) if second else 8, use_linear_projection=second,
    )  # fmt: skip
    vae = make_vae(tiny, 0.18215)
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, projection_dim=width // 2 if second else width,
            num_hidden_layers=(3 if tiny else 23) if second else (3 if tiny else 12), num_attention_heads=width // 64,
            hidden_act="gelu" if second else "quick_gelu", bos_token_id=49406, eos_token_id=49407,
            pad_token_id=0 if second else 49407,
        )
    )  # fmt: skip
    return {"unet": unet.to(dtype), "vae": vae.to(dtype), "text_encoder": text.to(dtype)}


def make_vae(tiny: bool, scaling_factor: float) -> Any:
    """Return a VAE with random weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64) if tiny else (128, 256, 512, 512), layers_per_block=2, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=scaling_factor,
    )  # fmt: skip


def make_xl_parts(tiny: bool, dtype: torch.dtype) -> dict[str, Any]:
    """Return the parts of SDXL: a U-Net of three levels, a VAE and two text encoders."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    first, second = (64, 128) if tiny else (768, 1280)
    widths = (32, 64, 64) if tiny else (320, 640, 1280)
    unet = UNet2DConditionModel(
        block_out_channels=widths, down_block_types=tuple(XL_LEVELS), sample_size=128, use_linear_projection=True,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(XL_LEVELS)), cross_attention_dim=first + second,
        attention_head_dim=tuple(max(1, w // 64) for w in widths), transformer_layers_per_block=(1, 2, 2 if tiny else 10),
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=6 * 256 + second,
    )  # fmt: skip
    one = CLIPTextConfig(
        hidden_size=first, intermediate_size=4 * first, projection_dim=first, num_hidden_layers=3 if tiny else 12,
        num_attention_heads=first // 64, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    two = CLIPTextConfig(
        hidden_size=second, intermediate_size=4 * second, projection_dim=second, num_hidden_layers=3 if tiny else 32,
        num_attention_heads=second // 64, hidden_act="gelu", bos_token_id=49406, eos_token_id=49407, pad_token_id=0,
    )  # fmt: skip
    parts = {"unet": unet, "vae": make_vae(tiny, 0.13025), "text_encoder": CLIPTextModel(one),
             "text_encoder_2": CLIPTextModelWithProjection(two)}  # fmt: skip
    return {name: part.to(dtype) for name, part in parts.items()}


def save_folder(
    parts: dict[str, Any], family: str, folder: Path, prediction_type: str, variant: str | None = None
) -> None:
    """Write the parts as a Diffusers folder."""
    from diffusers import DDIMScheduler
    from transformers import CLIPTokenizer

    from neonym.models.loading.identify import identify

    for name, part in parts.items():
        part.save_pretrained(folder / name, variant=variant)
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction_type,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    pads = {"tokenizer": {"pad_token": "!"} if family == "sd2" else {}}
    if family == "sdxl":
        pads["tokenizer_2"] = {"pad_token": "!"}
    for name, more in pads.items():
        CLIPTokenizer.from_pretrained(identify("builtin:emoji").folder / "tokenizer", **more).save_pretrained(
            folder / name
        )
    index = {"_class_name": "StableDiffusionPipeline", "feature_extractor": [None, None], "safety_checker": [None, None],
             "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"], "requires_safety_checker": False, "image_encoder": [None, None]}  # fmt: skip
    if family == "sdxl":
        del index["safety_checker"], index["requires_safety_checker"]
        index |= {"_class_name": "StableDiffusionXLPipeline", "tokenizer_2": ["transformers", "CLIPTokenizer"],
                  "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                  "force_zeros_for_empty_prompt": False}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))


def unet_name(name: str, plain_first_up: bool = True) -> str:
    """Return the original name of a U-Net weight from its name in diffusers."""
    for mine, theirs in OUTER.items():
        if name.startswith(f"{mine}."):
            return (
                renamed_resnet(theirs + name.removeprefix(mine))
                if "resnets" in mine
                else theirs + name.removeprefix(mine)
            )
    side, block, kind, index, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name).groups()  # pyright: ignore
    i, j = int(block), int(index)
    if kind == "downsamplers":
        return f"input_blocks.{3 * (i + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * i + 2}.{1 if i == 0 and plain_first_up else 2}.{rest}"
    place = f"input_blocks.{3 * i + j + 1}" if side == "down" else f"output_blocks.{3 * i + j}"
    return renamed_resnet(f"{place}.0.{rest}") if kind == "resnets" else f"{place}.1.{rest}"


def renamed_resnet(name: str) -> str:
    """Return the original name of a weight of a residual block."""
    start, _, rest = re.fullmatch(
        r"((?:\w+\.)+?)()((?:norm1|conv1|norm2|conv2|time_emb_proj|conv_shortcut)\..+)", name
    ).groups()  # pyright: ignore
    part, _, kind = rest.partition(".")
    return f"{start}{RESNET[part]}.{kind}"


def vae_name(name: str) -> str:
    """Return the original name of a VAE weight from its name in diffusers."""
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{3 - int(m[1])}", name)
    for mine, theirs in (
        (r"down_blocks\.(\d)", r"down.\1"), (r"\.resnets\.(\d)\.(?=.*)", r".block.\1."), (r"mid_block\.block\.0", "mid.block_1"),
        (r"mid_block\.block\.1", "mid.block_2"), (r"mid_block\.attentions\.0", "mid.attn_1"), ("conv_shortcut", "nin_shortcut"),
        (r"downsamplers\.0", "downsample"), (r"upsamplers\.0", "upsample"), ("conv_norm_out", "norm_out"),
        ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), (r"to_out\.0", "proj_out"),
    ):  # fmt: skip
        name = re.sub(mine, theirs, name)
    return name


def clip_tensors(state: dict[str, Tensor], start: str = "cond_stage_model.transformer.") -> dict[str, Tensor]:
    """Return the weights of a CLIP text encoder under their original names."""
    return {f"{start}text_model.{n.removeprefix('text_model.')}": t for n, t in state.items()}


def open_clip_tensors(
    state: dict[str, Tensor], start: str = "cond_stage_model.model.", unused: int = 1
) -> dict[str, Tensor]:
    """Return the weights of a text encoder under OpenCLIP's names, with `unused` extra last layers.

    Checkpoints of Stable Diffusion 2.x hold one layer that is not used.
    """
    found: dict[str, Tensor] = {}
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    count = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    for name, tensor in list(state.items()):
        if unused and name.startswith(f"encoder.layers.{count - 1}."):
            state[name.replace(f"layers.{count - 1}.", f"layers.{count}.")] = torch.randn_like(tensor)
    for i in range(count + unused):
        inner, block = f"encoder.layers.{i}.", f"{start}transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            parts = [state[f"{inner}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            found[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
            for mine, theirs in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                                 ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):  # fmt: skip
                found[f"{block}{theirs}.{kind}"] = state[f"{inner}{mine}.{kind}"]
    width = state["embeddings.token_embedding.weight"].shape[1]
    projection = state["text_projection.weight"].T if "text_projection.weight" in state else torch.zeros(width, width)
    return found | {
        f"{start}token_embedding.weight": state["embeddings.token_embedding.weight"],
        f"{start}positional_embedding": state["embeddings.position_embedding.weight"],
        f"{start}ln_final.weight": state["final_layer_norm.weight"], f"{start}ln_final.bias": state["final_layer_norm.bias"],
        f"{start}text_projection": projection, f"{start}logit_scale": torch.tensor(1.0),
    }  # fmt: skip


def single_file_tensors(parts: dict[str, Any], family: str) -> dict[str, Tensor]:
    """Return all weights under their original names."""
    tensors = {
        f"model.diffusion_model.{unet_name(n, family != 'sdxl')}": t for n, t in parts["unet"].state_dict().items()
    }
    for name, tensor in parts["vae"].state_dict().items():
        flat = ".attentions." in name and "group_norm" not in name and tensor.ndim == 2
        tensors[f"first_stage_model.{vae_name(name)}"] = tensor[..., None, None] if flat else tensor
    text = {n: t for n, t in parts["text_encoder"].state_dict().items() if "position_ids" not in n}
    if family == "sdxl":
        second = {n: t for n, t in parts["text_encoder_2"].state_dict().items() if "position_ids" not in n}
        tensors |= clip_tensors(text, "conditioner.embedders.0.transformer.")
        tensors |= open_clip_tensors(second, "conditioner.embedders.1.model.", unused=0)
    else:
        tensors |= open_clip_tensors(text) if family == "sd2" else clip_tensors(text)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=tuple(WIDTHS), default="sd1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--v_parameterization", action="store_true")
    args = parser.parse_args()
    parts = make_parts(args.family, args.tiny)
    prediction = "v_prediction" if args.v_parameterization else "epsilon"
    shutil.rmtree(args.out, ignore_errors=True)
    save_folder(parts, args.family, args.out / "folder", prediction)
    save_file(
        single_file_tensors(parts, args.family),
        args.out / "model.safetensors",
        {"modelspec.prediction_type": prediction[:7]},
    )
    print(f"{args.out / 'folder'} and {args.out / 'model.safetensors'}")


if __name__ == "__main__":
    main()
