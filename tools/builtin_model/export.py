"""Write the trained weights as a Diffusers folder in half precision.

python -m tools.builtin_model.export --work work/emoji --out src/neonym/models/builtin/emoji
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import DDIMScheduler

from .text import make_text_encoder
from .train_unet import BETAS, Learner, make_unet
from .train_vae import make_vae

GUIDANCE = 3.0  # chosen once, by the score
DEFAULTS = {  # of a training with it
    "learning_rate": 0.02,  # its words are longer than CLIP's
    "max_train_steps": 100,
    "train_batch_size": 4,
    "num_vectors_per_token": 1,
    "lr_warmup_steps": "30",
    "save_every_n_steps": 0,
    "eval_every_n_steps": 5,
    "mixed_precision": "no",
    "gpu_memory": 0,
    "source": "measured: benchmarks/recovery.py",
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(work: Path, out: Path) -> None:
    """The EMA weights and the VAE of `unet.pt`, with the tokenizer, as StableDiffusionPipeline loads them."""
    state = torch.load(work / "unet.pt", weights_only=True, map_location="cpu")
    model = Learner(make_unet(), make_text_encoder())
    model.load_state_dict({name: weight for name, weight in state["ema"].items() if not name.startswith("eye.")})
    vae = make_vae()
    vae.load_state_dict(better_decoder(work / "vae.pt", state["vae"]))
    vae.register_to_config(scaling_factor=round(state["scale"], 5))
    if out.exists():
        shutil.rmtree(out)
    for name, module in (("unet", model.unet), ("text_encoder", model.text), ("vae", vae)):
        module.to(memory_format=torch.contiguous_format).half().save_pretrained(out / name)
    DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(out / "scheduler")
    shutil.copytree(work / "tokenizer", out / "tokenizer")
    spread = float(model.text.get_input_embeddings().weight.float().std())
    facts = {
        "word_spread": round(spread, 5),
        "guidance": GUIDANCE,
        **DEFAULTS,
        "taught_subjects": state["subjects"],
        "steps": state["before"] + state["step"],
    }
    (out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    (out / "neonym.json").write_text(json.dumps(facts, indent=2) + "\n")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.1f} MB, {facts}")


def better_decoder(file: Path, vae: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The VAE of `file` if its latents are those that the U-Net was trained on, else `vae`."""
    if not file.exists():
        return vae
    newer = torch.load(file, weights_only=True, map_location="cpu")["vae"]
    fixed = [name for name in vae if name.startswith(("encoder.", "quant_conv."))]
    return newer if all(torch.equal(newer[name], vae[name]) for name in fixed) else vae


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--out", type=Path, default=Path("src/neonym/models/builtin/emoji"))
    args = parser.parse_args()
    export(args.work, args.out)
