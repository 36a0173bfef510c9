"""Write the usage card beside an embedding file, which explains how to use the word in each program."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from neonym.formats import read_content, support_by_program
from neonym.formats.consumers.recorded import prompt_rules
from neonym.formats.keys import family_of
from neonym.models.family import EncoderSpec, Family
from neonym.text.file_names import name_warnings
from neonym.text.vocabulary import clip_has, vocabulary_warning
from neonym.types import Embedding

DESTINATIONS = {  # program -> where the file goes, an example prompt
    "AUTOMATIC1111": ("embeddings/", "a photo of {name}"),
    "Forge": ("embeddings/", "a photo of {name}"),
    "Forge Neo": ("embeddings/", "a photo of {name}"),
    "ComfyUI": ("models/embeddings/", "a photo of {name}"),
    "InvokeAI": ("the model manager, as a new model", "a photo of {name}"),
    "SD.Next": ("models/embeddings/", "a photo of {name}"),
    "stable-diffusion.cpp": ("the folder of --embd-dir", "a photo of {name}"),
    "sd-scripts": ("--textual_inversion_embeddings of gen_img.py, --weights of its trainers", "a photo of {name}"),
    "OneTrainer": ("its base embedding", ""),
}
# Matches what to write in a prompt, in the result of a rule, where it is not the file name
IN_PROMPT = re.compile(r"embedding:\S+|(?<=: )<[^<>]+>|(?<=as `)[^`]+(?=`)")
AS_SECOND = "reads it, the file {file}"  # of a file beside the main one
ONE_ENCODER = """\
{setup}pipe.load_textual_inversion({file}, token={token}{encoder})
image = pipe({prompt}).images[0]"""
EACH_ENCODER = """\
{how}

rows = {read}
{setup}{loads}
image = pipe({prompt}).images[0]"""
LOAD = 'pipe.load_textual_inversion(rows["{key}"], token={token}{encoder})'
AT_ENCODER = ", text_encoder=pipe.{encoder}, tokenizer=pipe.{tokenizer}"


def usage_card(embedding: Embedding, file: Path, flags: Mapping[str, str | tuple[str, ...]] | None = None) -> str:
    """Return the usage card as Markdown. In most programs the word is the name of the file.

    `flags` are the flags that `neonym generate` needs for the model.
    """
    base = embedding.metadata.get("neonym.base_model", "")
    count = max(len(rows) for rows in embedding.vectors.values())
    family, support = family_of(embedding), support_by_program(read_content(file), file.stem)
    lines = [
        f"# {embedding.token}", "",
        f"{count} vector{'s' if count > 1 else ''}, learned for {base or 'an unknown model'}. "
        "It works with that model and with models derived from it.", "",
    ]  # fmt: skip
    if base.startswith("builtin:") or all(what.startswith("has no model") for what in support.values()):
        lines += ["Only Neonym can use it: no other program has this model.", ""]
    else:
        lines += ["| program | put the file into | write |", "|---|---|---|"]
        beside = dict(files_beside(family, file))
        for program in (program for program in DESTINATIONS if program in support):
            alone = beside.get(program)
            lines.append(row(program, support[program], file) if alone is None else row(program, AS_SECOND, alone))
        notes = [*warnings_of(file.stem, count), *prompt_rules(family, file.stem)]
        lines += ["", *(f"Note: {note}." for note in notes)]
        lines += with_diffusers(embedding, file, support["diffusers"])
    return "\n".join([*lines, "With Neonym:", "", "```", command(file, base, flags or {}), "```", ""])


def files_beside(family: Family | None, file: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files beside an embedding file with the vectors of one encoder alone, each with the program it is for."""
    for own in family.one_encoder_files if family else ():
        key = next(spec.file_key for spec in family.encoders if spec.name == own.encoder) if family else ""
        alone = file.with_name(f"{file.stem}-{key}.safetensors")
        if alone.is_file():
            yield own.program, alone


def row(program: str, support: str, file: Path) -> str:
    """Return the table row of one program: where the file goes and what to write in prompts, or why it is not read."""
    destination, prompt = DESTINATIONS[program]
    if not support.startswith("reads") or ", but " in support:
        return f"| {program} | {support} | |"
    in_prompt = IN_PROMPT.search(support)
    name = in_prompt.group() if in_prompt else file.stem.lower() if program == "stable-diffusion.cpp" else file.stem
    only = re.sub(r"^reads it|: embedding:\S+|: <[^<>]+>|, as `.*", "", support.format(file=file.name)).strip(" ,")
    return f"| {program} | {destination}{f' ({only})' if only else ''} | {f'`{prompt.format(name=name)}`' if prompt else ''} |"


def warnings_of(name: str, vectors: int) -> list[str]:
    """Return warnings about programs that cannot use a file with this name, because they take the name as the word."""
    known = vocabulary_warning(name, vectors, clip_has)
    return [*name_warnings(name, vectors), *([f"the name {known}"] if known else [])]


def with_diffusers(embedding: Embedding, file: Path, support: str) -> list[str]:
    """Return the card's lines about diffusers, with Python code if diffusers reads the file.

    diffusers loses vectors of names with capital letters and refuses names that its tokenizer already has.
    """
    ending, family = file.suffix.removeprefix(".").lower(), family_of(embedding)
    setup = family.diffusers_setup if family else None
    if family is not None and family.programs is not None and "diffusers" not in family.programs:
        return ["", f"diffusers {support}.", ""]
    if not support.startswith(("reads", "one call")):
        return ["", f"For diffusers: `neonym convert {shell(file.name)} {shell(f'{file.stem}.safetensors')}`.", ""]
    token = f"<{file.stem.lower()}>" if clip_has(file.stem.lower()) else file.stem.lower()
    names, name = read_content(file).tensors, json.dumps(file.name, ensure_ascii=False)
    word = json.dumps(token, ensure_ascii=False)
    specs = [spec for spec in (family.encoders if family else ()) if spec.name in embedding.vectors]
    each = len(names) > 1 and all(spec.file_key in names for spec in specs)
    loads = [LOAD.format(key=spec.file_key, token=word, encoder=at_encoder(spec)) for spec in specs]
    filled = (EACH_ENCODER if each else ONE_ENCODER).format(
        how="from safetensors.torch import load_file" if ending == "safetensors" else "import torch",
        read=f"load_file({name})" if ending == "safetensors" else f"torch.load({name}, weights_only=True)",
        file=name,
        token=word,
        encoder="" if not (family and specs) or specs[0] is family.encoders[0] else at_encoder(specs[0]),
        setup=f"# {setup.why}\n{setup.code}\n" if setup else "",
        loads="\n".join(loads),
        prompt=json.dumps(f"a photo of {token}", ensure_ascii=False),
    )
    return ["", "With diffusers:", "", "```python", filled, "```", ""]


def at_encoder(spec: EncoderSpec) -> str:
    """Return the arguments that tell diffusers which text encoder a word is for."""
    return AT_ENCODER.format(encoder=spec.name, tokenizer=spec.tokenizer)


def command(file: Path, base: str, flags: Mapping[str, str | tuple[str, ...]]) -> str:
    """Return the `neonym generate` command for this file, with the placeholder MODEL if the model is unknown."""
    given = {"ckpt": base or "MODEL", **flags}
    values = {name: (value,) if isinstance(value, str) else value for name, value in given.items()}
    model = " ".join(" ".join((f"--{name}", *(shell(text) for text in own if text))) for name, own in values.items())
    word = shell(f"a photo of {file.stem}", always=True)
    return f"neonym generate {model} --prompt {word} --textual_inversion_embeddings {shell(str(file))}"


def shell(text: str, always: bool = False) -> str:
    """Return a text as a shell argument, quoted only where necessary unless `always` is set.

    Double quotes are preferred, because every shell knows them.
    """
    if shlex.quote(text) == text and not always:
        return text
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'
