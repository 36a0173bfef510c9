"""How a learned word is written in each program: the card beside the file."""

from __future__ import annotations

import json
from pathlib import Path

from neonym.file_names import name_warnings
from neonym.formats.tensors import SECOND
from neonym.types import Embedding

PICTURE = "AUTOMATIC1111, Forge"  # the programs that read cards
PLACES = {  # program -> the endings that it looks at, where the file goes, what is written
    PICTURE: (("safetensors", "pt", "bin", "png"), "embeddings/", "a photo of {name}"),
    "ComfyUI": (("safetensors", "pt", "bin"), "models/embeddings/", "a photo of embedding:{name}"),
    "InvokeAI": (("safetensors", "pt"), "the model manager (Add model, this file)", "a photo of <{name}>"),
}
ONE_ENCODER = """\
pipe.load_textual_inversion({file}, token={token})
image = pipe({prompt}).images[0]"""
TWO_ENCODERS = """\
{how}

rows = {read}
pipe.load_textual_inversion(rows["clip_l"], token={token}, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
pipe.load_textual_inversion(rows["clip_g"], token={token}, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
image = pipe({prompt}).images[0]"""


def usage_card(embedding: Embedding, file: Path) -> str:
    """Markdown. The name that counts in most programs is the file's."""
    ending = file.suffix.removeprefix(".").lower()
    count = max(len(rows) for rows in embedding.vectors.values())
    lines = [
        f"# {embedding.token}", "",
        f"{count} vector{'s' if count > 1 else ''}, learned for {embedding.metadata.get('neonym.base_model', 'an unknown model')}. "
        "It works with that model and those made from it.", "",
        "| program | put the file into | write |", "|---|---|---|",
    ]  # fmt: skip
    for program, (endings, place, prompt) in PLACES.items():
        how = (place, f"`{prompt.format(name=file.stem)}`") if ending in endings else (f"does not read .{ending}", "")
        lines.append(f"| {program} | {how[0]} | {how[1]} |")
    lines += ["", *(f"Mind: {warning}." for warning in name_warnings(file.stem, count))]
    lines += with_diffusers(embedding, file, ending)
    prompt = json.dumps(f"a photo of {file.stem}", ensure_ascii=False)
    command = (
        f"neonym generate --prompt {prompt} --textual_inversion_embeddings {json.dumps(file.name, ensure_ascii=False)}"
    )
    return "\n".join([*lines, "With Neonym:", "", "```", command, "```", ""])


def with_diffusers(embedding: Embedding, file: Path, ending: str) -> list[str]:
    """The lines of Python. It loses vectors of a name with capitals, so that the token is in small letters."""
    if ending == "png":
        return ["", f"For diffusers: `neonym convert {file.name} {file.stem}.safetensors`.", ""]
    token = file.stem.lower()
    code = TWO_ENCODERS if SECOND in embedding.vectors else ONE_ENCODER
    name = json.dumps(file.name, ensure_ascii=False)
    filled = code.format(
        how="from safetensors.torch import load_file" if ending == "safetensors" else "import torch",
        read=f"load_file({name})" if ending == "safetensors" else f"torch.load({name}, weights_only=True)",
        file=name,
        token=json.dumps(token, ensure_ascii=False),
        prompt=json.dumps(f"a photo of {token}", ensure_ascii=False),
    )
    return ["", "With diffusers:", "", "```python", filled, "```", ""]
