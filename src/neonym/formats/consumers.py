"""Describe which programs read an embedding file, and how. The rules were measured with each program's own loader.

A rule takes a file that the program opens and returns what the program does with it: "reads it ...", or why it does
not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neonym.errors import FormatError
from neonym.formats.content import FileContent, printable_name, tensors_in
from neonym.formats.keys import family_of, widths_of
from neonym.formats.tensors import BUNDLE, OUTPUT, as_name, bundles
from neonym.models.family import Family
from neonym.models.registry import families
from neonym.types import Embedding

IMAGES = ("png", "webp", "jxl", "avif")
WIDTH, SECOND_WIDTH, SD2_WIDTH = 768, 1280, 1024  # of the two encoders of SDXL (the first is that of 1.x), and of 2.x
HEAD = 64  # width of an attention head: every vector width is a multiple of it
XL = {WIDTH, SECOND_WIDTH}
READS = "reads it"
FIRST = "reads the first of its words only"
STAR = "reads the word * only"
NO_TABLE = "refuses it: no table of vectors"
# Entries that AUTOMATIC1111 allows in an archive
SAFE_ENTRY = re.compile(r"data\.pkl|version|data/\d+|byteorder|\.data/serialization_id")
INVOKEAI_NAME = re.compile(r"[A-Za-z0-9., _-]+")  # what prompts may have between < and >


@dataclass(frozen=True)
class File:
    """An embedding file and its name, with the properties that the rules need."""

    content: FileContent
    name: str  # the file name without extension, which is the word in most programs

    @property
    def top(self) -> dict[str, Tensor]:
        """The tensors at the top level of the file."""
        return {name: value for name, value in self.content.table.items() if isinstance(value, Tensor)}

    @property
    def params(self) -> dict[str, Tensor] | None:
        """The tensors under the web UI's key `string_to_param`, or None if there is none."""
        return None if self.content.inner is None else tensors_in(self.content.inner)

    @property
    def pair(self) -> bool:
        """Whether the file has a tensor for each of SDXL's encoders, named as sd-scripts names them."""
        return "clip_l" in self.top and "clip_g" in self.top

    @property
    def parameters(self) -> bool:
        """Whether a program needs torch's parameter classes to read the file."""
        inner = self.content.inner
        values = [*self.content.table.values(), *(inner.values() if isinstance(inner, Mapping) else ())]
        return self.parameter_dict or any(isinstance(v, torch.nn.Parameter) for v in values)

    @property
    def parameter_dict(self) -> bool:
        """Whether `string_to_param` is a ParameterDict."""
        return isinstance(self.content.inner, torch.nn.ParameterDict)

    @property
    def rows(self) -> list[Tensor]:
        """All tensors that may hold vectors."""
        return list((self.top if self.params is None else self.params).values())

    @property
    def widths(self) -> set[int]:
        """The widths of all tensors that may hold vectors."""
        return {rows.shape[-1] for rows in self.rows if rows.ndim}

    @property
    def unequal(self) -> bool:
        """Whether SDXL's encoders have different numbers of vectors."""
        return self.pair and self.top["clip_l"].shape[:1] != self.top["clip_g"].shape[:1]

    @property
    def second_alone(self) -> bool:
        """Whether the file has vectors only for SDXL's second encoder."""
        return self.widths == {SECOND_WIDTH}

    @property
    def bundled(self) -> list[str]:
        """The names of the tensors that are words in a LoRA file, in the notation that several programs read."""
        return [name for name in self.top if name.startswith(BUNDLE)]


@dataclass(frozen=True)
class Program:
    """A program that uses embedding files: which files it opens, and what it does with them."""

    rule: Callable[[File], str]
    endings: tuple[str, ...] = ()  # the extensions that it opens; empty: any
    by_content: bool = False  # it recognises files by their content
    bundles: bool = False  # it reads the words in a LoRA file together with the LoRA
    images: bool = False
    tops: tuple[str, ...] = ()  # the top levels that it reads besides a table


def check_usable_by_programs(embedding: Embedding, path: Path) -> None:
    """Raise FormatError if the vectors would break the programs that read them."""
    for name, rows in embedding.vectors.items():
        if not bool(rows.any(dim=1).all()):
            what = f"{name}: a vector is zero, so the word would silently have no effect in several programs"
            raise FormatError(what, str(path))
    widths, family = widths_of(embedding), family_of(embedding)
    if family is None:
        what = (
            f"a file must hold the vectors of all text encoders of a model, not of {' and '.join(sorted(widths))} alone"
        )
        raise FormatError(what, str(path))
    small = all(width % HEAD == 0 and width < WIDTH for width in widths.values())  # test models
    if not (small or family.fits(widths)):
        what = f"no other program has a text encoder for vectors of {' and '.join(map(str, widths.values()))} numbers"
        raise FormatError(what, str(path), f"{'; '.join(map(widths_in_words, families()))}")


def widths_in_words(family: Family) -> str:
    """Return the widths of a family's vectors for a message."""
    return f"{' and '.join(str(spec.width) for spec in family.encoders)} for {family.label}"


def support_by_program(content: FileContent, name: str) -> dict[str, str]:
    """Return what each program does with a file: "reads it ...", or why it does not."""
    file = File(content, name)
    return {program: support_in(rules, file) for program, rules in PROGRAMS.items()}


def support_in(program: Program, file: File) -> str:
    """Return what one program does with a file: why it does not open it, or else the result of the program's rule."""
    content, ending = file.content, file.content.ending
    image, pickled = content.container == "picture", content.container in ("zip", "old pickle")
    named = "picture" if ending in IMAGES else "safetensors" if ending == "safetensors" else "pickle"
    if image and not program.images:
        return "does not read images"
    if program.endings and ending not in program.endings:
        return f"ignores {f'.{ending} files' if ending else 'files without an extension'}"
    if not program.by_content and named != ("pickle" if pickled else content.container):
        kind = "a pickle" if pickled else "an image" if image else "a .safetensors file"
        return f"refuses it: its extension does not match its content, which is {kind}"
    if (file.bundled or content.unread) and not (program.rule is comfy and file.bundled):
        more = ", reads it as a LoRA with its words" if program.bundles and file.bundled else ""
        return f"refuses it as an embedding{more}"
    if content.top != "table" and content.top not in program.tops:
        return f"refuses it: it is a {content.top}"
    if program.rule is not diffusers and not file.widths & {WIDTH, SD2_WIDTH, SECOND_WIDTH}:
        return f"has no model for vectors of {', '.join(map(str, sorted(file.widths))) or 'no'} numbers"
    return program.rule(file)


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
    ending = file.content.ending
    whole = file.name if ending in ("safetensors", "pt", "bin") else f"{file.name}.{ending}" if ending else file.name
    if not file.rows:
        return "refuses it: there are no tensors"
    if file.bundled:
        known = any(name.endswith((".string_to_param.*", ".clip_l", ".clip_g", ".clip_h")) for name in file.bundled)
        all_words = "reads all of its words as one" if len(bundles(file.top)) > 1 else READS
        return f"{all_words}: embedding:{whole}" if known else "takes the first tensor of the LoRA as the word"
    if file.second_alone:
        return f"reads it for SDXL's second encoder only: embedding:{whole}"
    if len(file.rows) > 1 and not file.pair and not file.content.listed:
        return f"{FIRST}: embedding:{whole}"
    if re.search(r"\s", file.name):
        return "reads it, but prompts cannot contain a name with spaces: rename the file"
    return f"{READS}{' by its whole name' if whole != file.name else ''}: embedding:{whole}"


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
    "ComfyUI": Program(comfy, tops=("list of tables",)),
    "InvokeAI": Program(invoke, ("safetensors", "pt", "bin", "ckpt")),
    "SD.Next": Program(sdnext, ("safetensors", "pt"), bundles=True),
    "diffusers": Program(diffusers, by_content=True, tops=("tensor",)),
    "stable-diffusion.cpp": Program(sd_cpp, ("safetensors", "pt", "ckpt"), by_content=True),
    "sd-scripts": Program(sd_scripts),
    "OneTrainer": Program(onetrainer, by_content=True),
}
