"""How a learned word is written in each program: the card beside the file."""

from __future__ import annotations

from pathlib import Path

from neonym.formats.tensors import SECOND
from neonym.types import Embedding

FOLDERS = {
    "AUTOMATIC1111, Forge": "embeddings/",
    "ComfyUI": "models/embeddings/",
    "InvokeAI": "the model manager (Add model, this file)",
}
ONE_ENCODER = """\
pipe.load_textual_inversion("{file}", token="{token}")
image = pipe("{prompt}").images[0]"""
TWO_ENCODERS = """\
from safetensors.torch import load_file

rows = load_file("{file}")
pipe.load_textual_inversion(rows["clip_l"], token="{token}", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
pipe.load_textual_inversion(rows["clip_g"], token="{token}", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
image = pipe("{prompt}").images[0]"""


def usage_card(embedding: Embedding, file: Path) -> str:
    """Markdown. The name that counts in most programs is the file's."""
    name, token = file.stem, embedding.token
    prompts = {
        "AUTOMATIC1111, Forge": f"a photo of {name}",
        "ComfyUI": f"a photo of embedding:{name}",
        "InvokeAI": f"a photo of <{name}>",
    }
    code = TWO_ENCODERS if SECOND in embedding.vectors else ONE_ENCODER
    count = max(len(rows) for rows in embedding.vectors.values())
    lines = [
        f"# {token}", "",
        f"{count} vector{'s' if count > 1 else ''}, learned for {embedding.metadata.get('neonym.base_model', 'an unknown model')}. "
        "It works with that model and those made from it.", "",
        "| program | put the file into | write |", "|---|---|---|",
        *(f"| {program} | {FOLDERS[program]} | `{prompt}` |" for program, prompt in prompts.items()), "",
        "With diffusers:", "", "```python", code.format(file=file.name, token=token, prompt=f"a photo of {token}"), "```", "",
        "With Neonym:", "", "```", f'neonym generate --prompt "a photo of {token}" --textual_inversion_embeddings {file.name}', "```", "",
    ]  # fmt: skip
    return "\n".join(lines)
