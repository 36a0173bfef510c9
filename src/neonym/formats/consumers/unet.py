"""Describe what programs do with words for Stable Diffusion 1.x, 2.x and XL, as their loaders did with sample files."""

from __future__ import annotations

import re

import torch

from neonym.formats.consumers.file import IMAGES, NO_TABLE, READS, SECOND_WIDTH, File, Program
from neonym.formats.content import printable_name
from neonym.formats.tensors import OUTPUT, as_name, bundles

WIDTH, SD2_WIDTH = 768, 1024  # of 1.x, which is also that of SDXL's first encoder, and of 2.x
XL = {WIDTH, SECOND_WIDTH}
FIRST = "reads the first of its words only"
STAR = "reads the word * only"
# Entries that AUTOMATIC1111 allows in an archive
SAFE_ENTRY = re.compile(r"data\.pkl|version|data/\d+|byteorder|\.data/serialization_id")
INVOKEAI_NAME = re.compile(r"[A-Za-z0-9., _-]+")  # what prompts may have between < and >


def web_ui(file: File) -> str:
    """Return what AUTOMATIC1111 and Forge do with a file, except for AUTOMATIC1111's check of archives."""
    if file.params is not None:
        entries, rows = len(file.params), list(file.params.values())
        if entries != 1:
            return f"refuses it: string_to_param has {entries} entries"
    elif file.pair:
        texts = sorted(set(file.content.table) - set(file.top))
        if texts:
            return f"refuses it: some values other than clip_l and clip_g are not tensors ({', '.join(map(printable_name, texts))})"
        rows = [file.top["clip_l"], file.top["clip_g"]]
    elif len(file.content.table) == 1 and file.top:
        rows = list(file.top.values())
    else:
        return "refuses it: neither one tensor nor clip_l and clip_g"
    if any(r.ndim not in (1, 2) for r in rows):
        return NO_TABLE
    if sum(r.shape[-1] for r in rows) not in (WIDTH, SD2_WIDTH, WIDTH + SECOND_WIDTH):
        return "skips it: it does not know the width of the vectors"
    named = file.content.container == "picture" and as_name(file.content.table.get("name"))
    return f"{READS}, as `{named}`: the name in the card" if named and named != file.name else READS


def automatic1111(file: File) -> str:
    """Return what AUTOMATIC1111 does with a file."""
    odd = sorted(entry for entry in file.content.entries if not SAFE_ENTRY.fullmatch(entry))
    found = web_ui(file)
    return (
        f"refuses it: unknown entries in the archive ({', '.join(map(printable_name, odd))})"
        if odd and found.startswith(READS)
        else found
    )


def comfy(file: File) -> str:
    """Return what ComfyUI does with a file.

    ComfyUI tries a name with the extensions .safetensors, .pt and .bin, so other files are found only by their full
    names.
    """
    if not file.rows:
        return "refuses it: there are no tensors"
    if file.bundled:
        known = any(name.endswith((".string_to_param.*", ".clip_l", ".clip_g", ".clip_h")) for name in file.bundled)
        all_words = "reads all of its words as one" if len(bundles(file.top)) > 1 else READS
        return comfy_name(file, all_words) if known else "takes the first tensor of the LoRA as the word"
    if file.second_alone:
        return comfy_name(file, "reads it for SDXL's second encoder only")
    if len(file.rows) > 1 and not file.pair and not file.content.listed:
        return comfy_name(file, FIRST)
    return comfy_name(file, READS)


def comfy_name(file: File, reads: str) -> str:
    """Return what ComfyUI reads of a file, followed by how prompts name it."""
    ending = file.content.ending
    whole = file.name if ending in ("safetensors", "pt", "bin") else f"{file.name}.{ending}" if ending else file.name
    if re.search(r"\s", file.name):
        return f"{reads}, but prompts cannot contain a name with spaces: rename the file"
    return f"{reads}{' by its whole name' if whole != file.name and reads == READS else ''}: embedding:{whole}"


def sdnext(file: File) -> str:
    """Return what SD.Next does with a file."""
    if file.content.container != "safetensors":
        inner = file.content.inner
        if not isinstance(inner, dict) or "*" not in inner:
            return "refuses it: no string_to_param with *"
        return STAR if len(inner) > 1 else READS
    widths = [r.shape[-1] for r in file.rows if r.ndim in (1, 2)]
    if sorted(widths) not in ([WIDTH], [SD2_WIDTH], [WIDTH, SECOND_WIDTH]) or len(widths) < len(file.rows):
        return "refuses it: there is not exactly one tensor for each encoder"
    if any(r.ndim == 1 for r in file.rows):
        return "misreads a single vector that is not a table"
    return "misreads unequal numbers of vectors" if file.unequal else READS


def invoke(file: File) -> str:
    """Return what InvokeAI does with a file."""
    if file.parameter_dict:
        return "refuses it: its safe loader does not know ParameterDict"
    if "string_to_token" in file.content.table and file.params:
        width = next(iter(file.params.values())).shape[-1]
    elif "emb_params" in file.top:
        rows = file.top["emb_params"]
        width = rows.shape[-1] if rows.ndim == 2 else 0
    elif "clip_g" in file.top:
        width = file.top["clip_g"].shape[-1] if "clip_l" in file.top else 0
    else:
        first = next(iter(file.top.values())) if len(file.top) == 1 else None
        width = first.shape[0] if first is not None and first.ndim else 0  # InvokeAI reads the first dimension
    if width not in (WIDTH, SD2_WIDTH, SECOND_WIDTH):
        return "refuses it: it does not recognise the model that it is for"
    if width == SECOND_WIDTH and not file.pair:
        return "refuses it: SDXL needs clip_l and clip_g"
    if len(file.params or ()) > 1:
        return FIRST
    if not INVOKEAI_NAME.fullmatch(file.name) or "," in file.name:
        return "reads it, but prompts cannot contain its name: rename it there to letters, digits and _ -"
    return f"{READS}: <{file.name}>{', outside of ( ) only' if '.' in file.name else ''}"


def diffusers(file: File) -> str:
    """Return what diffusers does with a file."""
    if file.parameter_dict:
        return "refuses it: its safe loader does not know ParameterDict"
    if file.params is not None:
        if "*" not in file.params:
            return "refuses it: string_to_param without *"
        if "name" not in file.content.table:
            return "refuses it: string_to_param without a name"
        return STAR if len(file.params) > 1 else READS
    if file.pair:
        return "one call for each encoder, with clip_l and clip_g"
    if len(file.content.table) != 1 or not file.rows:
        return "refuses it: more than one tensor"
    if file.rows[0].ndim > 2:
        return NO_TABLE
    if file.second_alone:
        return (
            "one call with text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2: "
            "there are no vectors for the first encoder"
        )
    return f"{READS}, with token=..." if next(iter(file.top)) in ("emb_params", "emp_params", "*") else READS


def sd_cpp(file: File) -> str:
    """Return what stable-diffusion.cpp does with a file."""
    if file.parameters:
        return "refuses it: it reads plain tensors only"
    if not file.rows or file.second_alone or any(not r.is_floating_point() for r in file.rows):
        return "refuses it: there are no vectors for its encoders"
    if any(r.dtype not in (torch.float32, torch.float64) for r in file.rows):
        return "misreads it: it takes all numbers as 32 bits (neonym convert writes 32 bits)"
    if file.pair or file.widths == XL:
        return "reads clip_g, but also takes it as clip_l (a bug in it)"
    return "reads one of its words only" if len(file.rows) > 1 else READS


def sd_scripts(file: File) -> str:
    """Return what sd-scripts does with a file."""
    if file.parameter_dict:
        return "refuses it: its safe loader does not know ParameterDict"
    if file.pair:
        return "misreads unequal numbers of vectors" if file.unequal else READS
    rows = file.rows[:1]
    if not rows or file.widths == XL or rows[0].shape[-1:] not in ((WIDTH,), (SD2_WIDTH,)):
        return "refuses it: neither one tensor nor clip_l and clip_g"
    if rows[0].ndim == 1:
        return "reads it for training (--weights); its generator misreads a single vector that is not a table"
    if rows[0].ndim != 2:
        return NO_TABLE
    if len(file.rows) > 1:
        return FIRST
    return "reads it in its generator; --weights reads plain tensors only" if file.parameters else READS


def onetrainer(file: File) -> str:
    """Return what OneTrainer does with a file."""
    outputs = [name for name in file.top if OUTPUT.fullmatch(name)]
    if outputs and (file.pair or outputs == ["emp_params_out"]):
        return "reads it, to continue training an output embedding"
    rows = file.top.get("emp_params")
    known = file.pair or (rows is not None and rows.shape[-1:] in ((WIDTH,), (SD2_WIDTH,)))
    if known and not file.parameters:
        return f"{READS}, to continue training"
    if "emb_params" in file.top:
        return "refuses it: it reads emp_params, not emb_params (neonym convert to .pt writes emp_params)"
    return "refuses it: it reads emp_params, or clip_l and clip_g"


WEB_UI = ("safetensors", "pt", "bin", *IMAGES)
PROGRAMS = {
    "AUTOMATIC1111": Program(automatic1111, WEB_UI, images=True, bundles=True),
    "Forge": Program(web_ui, WEB_UI, images=True),
    "ComfyUI": Program(comfy, tops=("list of tables",), bundles_as_words=True),
    "InvokeAI": Program(invoke, ("safetensors", "pt", "bin", "ckpt")),
    "SD.Next": Program(sdnext, ("safetensors", "pt"), bundles=True),
    "diffusers": Program(diffusers, by_content=True, tops=("tensor",), any_width=True),
    "stable-diffusion.cpp": Program(sd_cpp, ("safetensors", "pt", "ckpt"), by_content=True),
    "sd-scripts": Program(sd_scripts),
    "OneTrainer": Program(onetrainer, by_content=True),
}
