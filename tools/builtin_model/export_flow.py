"""Write the trained flow model as a Diffusers folder in half precision.

python -m tools.builtin_model.export_flow --work work/emoji --out src/neonym/models/builtin/emoji-flow
"""

import argparse
import json
import shutil
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler

from .check_flow import load_average
from .drawings import SIZE
from .export import DEFAULTS
from .flow_text import load_tokenizer
from .train_flow import load_vae

GUIDANCE = 3.0  # as usually counted; ZImagePipeline wants one less
RATE = 0.15  # its words are longer than those of the other built-in model
SHIFT = 2.0  # of the noise levels of generation
INDEX = {
    "_class_name": "ZImagePipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(work: Path, vae_of: Path, out: Path) -> None:
    """The averaged weights of `flow.pt`, the VAE of another folder and the tokenizer, as ZImagePipeline loads them."""
    model, state = load_average(work / "flow.pt", load_tokenizer(work / "flow-tokenizer"))
    vae = load_vae(vae_of)
    vae.register_to_config(shift_factor=0.0)
    if out.exists():
        shutil.rmtree(out)
    for name, module in (("transformer", model.transformer), ("text_encoder", model.text), ("vae", vae)):
        module.half().save_pretrained(out / name)
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(out / "scheduler")
    shutil.copytree(work / "flow-tokenizer", out / "tokenizer")
    facts = {
        "word_spread": round(float(model.text.get_input_embeddings().weight.float().std()), 5),
        "guidance": GUIDANCE,
        "native_size": SIZE,
        **DEFAULTS,
        "learning_rate": RATE,
        "taught_subjects": state["subjects"],
        "steps": state["before"] + state["step"],
    }
    (out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    (out / "neonym.json").write_text(json.dumps(facts, indent=2) + "\n")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.1f} MB, {facts}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--vae", type=Path, default=Path("src/neonym/models/builtin/emoji"), help="folder of its VAE")
    parser.add_argument("--out", type=Path, default=Path("src/neonym/models/builtin/emoji-flow"))
    args = parser.parse_args()
    export(args.work, args.vae, args.out)
