"""Which programs read a file, and what they make of it: each program's own rules, as they were measured with its loader.

A rule gets the file as it is stored and gives what the program does with it: "reads it ...", or why not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neonym.formats.content import Stored, tensors_of
from neonym.formats.tensors import SECOND_WIDTH, WIDTH, bundles

PICTURES = ("png", "webp", "jxl", "avif")
SD2_WIDTH = 1024
XL = {WIDTH, SECOND_WIDTH}
READS = "reads it"
SAFE_ENTRY = re.compile(r"data\.pkl|version|data/\d+|byteorder|\.data/serialization_id")  # AUTOMATIC1111's list


@dataclass(frozen=True)
class File:
    """What the rules ask for."""

    stored: Stored
    name: str  # of the file, without ending: the word in most programs

    @property
    def top(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.stored.table.items() if isinstance(value, Tensor)}

    @property
    def params(self) -> dict[str, Tensor] | None:
        """The web UI's `string_to_param`, if it is there."""
        return None if self.stored.inner is None else tensors_of(self.stored.inner)

    @property
    def pair(self) -> bool:
        return "clip_l" in self.stored.table and "clip_g" in self.stored.table

    @property
    def parameters(self) -> bool:
        """Whether a program would have to know torch's classes of parameters."""
        inner = self.stored.inner
        values = [*self.stored.table.values(), *(inner.values() if isinstance(inner, Mapping) else ())]
        return isinstance(inner, torch.nn.ParameterDict) or any(isinstance(v, torch.nn.Parameter) for v in values)

    @property
    def parameter_dict(self) -> bool:
        return isinstance(self.stored.inner, torch.nn.ParameterDict)

    @property
    def rows(self) -> list[Tensor]:
        """All tensors that may be vectors."""
        return list((self.top if self.params is None else self.params).values())

    @property
    def unequal(self) -> bool:
        return self.pair and self.top["clip_l"].shape[:1] != self.top["clip_g"].shape[:1]

    def ending_in(self, *endings: str) -> bool:
        return self.stored.ending in endings


def programs(stored: Stored, name: str) -> dict[str, str]:
    """Program -> what it does with this file."""
    file = File(stored, name)
    widths = {rows.shape[-1] for rows in file.rows if rows.ndim}
    known = widths & {WIDTH, SD2_WIDTH, SECOND_WIDTH} if not bundles(file.top) else widths
    if not known:
        said = f"has no model with words of {', '.join(map(str, sorted(widths))) or 'no'} numbers"
        return dict.fromkeys(RULES, said) | {"diffusers": RULES["diffusers"](file)}
    return {program: rule(file) for program, rule in RULES.items()}


def not_looked_at(file: File) -> str:
    return f"does not look at .{file.stored.ending} files"


def web_ui(file: File) -> str:
    """AUTOMATIC1111 and Forge: the layout."""
    if not file.ending_in("safetensors", "pt", "bin", *PICTURES):
        return not_looked_at(file)
    if file.params is not None:
        entries, rows = len(file.params), list(file.params.values())
        if entries != 1:
            return f"refuses it: string_to_param has {entries} entries"
    elif file.pair:
        rows = [file.top["clip_l"], file.top["clip_g"]]
    elif len(file.stored.table) == 1 and file.top:
        rows = list(file.top.values())
    else:
        return "refuses it: neither one tensor nor clip_l and clip_g"
    if any(r.ndim not in (1, 2) for r in rows):
        return "refuses it: no table of vectors"
    if sum(r.shape[-1] for r in rows) not in (WIDTH, SD2_WIDTH, WIDTH + SECOND_WIDTH):
        return "skips it: the vectors are of no width that it knows"
    return READS


def automatic1111(file: File) -> str:
    odd = sorted(entry for entry in file.stored.entries if not SAFE_ENTRY.fullmatch(entry))
    found = web_ui(file)
    return f"refuses it: unknown entries in the archive ({', '.join(odd)})" if odd and found == READS else found


def comfy(file: File) -> str:
    if not file.ending_in("safetensors", "pt", "bin"):
        return not_looked_at(file)
    if not file.rows:
        return "refuses it: there are no tensors"
    if len(file.top) == 2 and not file.pair and file.params is None and not bundles(file.top):
        return f"reads the first of its tensors only: embedding:{file.name}"
    if re.search(r"\s", file.name):
        return "reads it, but no prompt can say a name with blanks: rename the file"
    return f"{READS}: embedding:{file.name}"


def sdnext(file: File) -> str:
    if not file.ending_in("safetensors", "pt"):
        return not_looked_at(file)
    if file.stored.container != "safetensors":
        inner = file.stored.inner
        return READS if isinstance(inner, dict) and "*" in inner else "refuses it: no string_to_param"
    widths = [r.shape[-1] for r in file.rows if r.ndim in (1, 2)]
    if sorted(widths) not in ([WIDTH], [SD2_WIDTH], [WIDTH, SECOND_WIDTH]) or len(widths) < len(file.rows):
        return "refuses it: the tensors do not fit the encoders one by one"
    if any(r.ndim == 1 for r in file.rows):
        return "misreads a single vector that is no table"
    return "misreads unequal numbers of vectors" if file.unequal else READS


def invoke(file: File) -> str:
    if not file.ending_in("safetensors", "pt", "bin", "ckpt"):
        return not_looked_at(file)
    if file.parameter_dict:
        return "refuses it: its safe loader does not know ParameterDict"
    if "string_to_token" in file.stored.table and file.params:
        width = next(iter(file.params.values())).shape[-1]
    elif "emb_params" in file.top:
        rows = file.top["emb_params"]
        width = rows.shape[-1] if rows.ndim == 2 else 0
    elif "clip_g" in file.top:
        width = file.top["clip_g"].shape[-1] if "clip_l" in file.top else 0
    else:
        first = next(iter(file.top.values()), None)
        width = first.shape[0] if first is not None and first.ndim else 0  # it asks for the first side
    if width not in (WIDTH, SD2_WIDTH, SECOND_WIDTH):
        return "refuses it: it does not recognise what it is for"
    if not re.fullmatch(r"[A-Za-z0-9., _-]+", file.name):
        return "reads it, but its name needs letters, digits and . , _ - only: rename it there"
    return f"{READS}: <{file.name}>"


def diffusers(file: File) -> str:
    if file.stored.container == "picture":
        return "does not read pictures"
    if file.parameter_dict:
        return "refuses it: its safe loader does not know ParameterDict"
    if file.params is not None:
        if "*" not in file.params:
            return "refuses it: string_to_param without *"
        return READS if "name" in file.stored.table else "refuses it: string_to_param without a name"
    if file.pair:
        return "one call for each encoder, with clip_l and clip_g"
    if len(file.stored.table) != 1 or not file.rows:
        return "refuses it: more than one tensor"
    if file.rows[0].ndim > 2:
        return "refuses it: no table of vectors"
    return f"{READS}, with token=..." if next(iter(file.top)) in ("emb_params", "emp_params") else READS


def sd_cpp(file: File) -> str:
    if not file.ending_in("safetensors", "pt", "ckpt"):
        return not_looked_at(file)
    if file.parameters:
        return "refuses it: it knows plain tensors only"
    if any(r.dtype not in (torch.float32, torch.float64) for r in file.rows):
        return "refuses it: it reads float32 only"
    if file.pair or {r.shape[-1] for r in file.rows if r.ndim} == XL:
        return "reads clip_g, but takes it for clip_l too (its mistake)"
    return READS if file.rows and not bundles(file.top) else "refuses it: there are no vectors"


def sd_scripts(file: File) -> str:
    if file.stored.container == "picture":
        return "does not read pictures"
    if file.parameter_dict:
        return "refuses it: its safe loader does not know ParameterDict"
    if file.pair:
        return "misreads unequal numbers of vectors" if file.unequal else READS
    rows, widths = file.rows[:1], {r.shape[-1] for r in file.rows if r.ndim}
    if not rows or widths == XL or rows[0].shape[-1:] not in ((WIDTH,), (SD2_WIDTH,)) or bundles(file.top):
        return "refuses it: neither one tensor nor clip_l and clip_g"
    if rows[0].ndim == 1:
        return "reads it for training (--weights); its generator misreads a single vector that is no table"
    if rows[0].ndim != 2:
        return "refuses it: no table of vectors"
    return "reads it in its generator; --weights takes plain tensors only" if file.parameters else READS


def onetrainer(file: File) -> str:
    if file.stored.container == "picture":
        return "does not read pictures"
    known = not file.parameters and ("emp_params" in file.top or "emp_params_out" in file.top or file.pair)
    return f"{READS}, to go on training" if known else "refuses it: it knows emp_params, or clip_l and clip_g"


RULES: dict[str, Callable[[File], str]] = {
    "AUTOMATIC1111": automatic1111,
    "Forge": web_ui,
    "ComfyUI": comfy,
    "InvokeAI": invoke,
    "SD.Next": sdnext,
    "diffusers": diffusers,
    "stable-diffusion.cpp": sd_cpp,
    "sd-scripts": sd_scripts,
    "OneTrainer": onetrainer,
}
