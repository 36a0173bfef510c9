"""Describe what programs do with words for the families whose records say which programs read them.

The rules follow from the programs' source code. ComfyUI looks for the key of each text encoder; the other programs know
one set of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from neonym.errors import FormatError
from neonym.formats.consumers.file import READS, File, Program
from neonym.formats.consumers.unet import PROGRAMS, comfy_name
from neonym.formats.content import FileContent
from neonym.formats.fitting import families_like, families_of_encoders
from neonym.formats.keys import stated_family, widths_of
from neonym.formats.tensors import OUTPUT, bundles, embedding_of, training_facts
from neonym.models.family import EncoderSpec, Family

Rule = Callable[[File, Family], str]


def recorded_family(content: FileContent) -> Family | None:
    """Return the family of a file's word if its record says which programs read it; None for any other file."""
    metadata, tensors = training_facts(content), content.tensors
    inner = next(iter(bundles(tensors).values()), tensors)
    if content.listed or any(rows.ndim not in (1, 2) for rows in inner.values()):
        return None
    try:
        word = embedding_of("", inner, Path(), metadata)
    except (FormatError, RuntimeError):
        return None
    family = stated_family(metadata)
    if family is None and all(of.programs is not None for of in families_of_encoders(word)):
        family = next(iter(families_like(word)), None)
    return family if family and family.programs is not None and family.fits(widths_of(word)) else None


def recorded_rules(family: Family) -> dict[str, Program]:
    """Return the rule of each program for words of a family whose record names the programs that read them."""
    readers = family.programs or ()
    found = {}
    for name in (*PROGRAMS, *(name for name in readers if name not in PROGRAMS)):
        program = PROGRAMS.get(name, PROGRAMS["Forge"])  # Forge Neo opens the files that Forge opens
        unread = without_words(None if name == "diffusers" else program.rule)
        rule = RULES[name] if name in readers else unread
        found[name] = replace(program, rule=of_family(rule, family), any_width=True)
    return found


def of_family(rule: Rule, family: Family) -> Callable[[File], str]:
    """Return a rule for words of one family."""
    return lambda file: rule(file, family)


def without_words(rule: Callable[[File], str] | None) -> Rule:
    """Return the rule of a program that does not read words of a family.

    `rule` is its rule for other words; None for diffusers, whose pipelines are each for one family.
    """

    def found(file: File, family: Family) -> str:
        if rule is None:
            return f"has no loader of words in {family.pipeline}"
        mistaken = rule(file).startswith(READS)
        return f"does not read words for {family.label}{': it takes this one for that of another model' * mistaken}"

    return found


def comfy(file: File, family: Family) -> str:
    """Return what ComfyUI does with a file."""
    read = [spec.file_key for spec in family.encoders if is_read_by_comfy(file, spec)]
    if not read:
        return f"reads nothing: {family.label} needs vectors called {' and '.join(spec.file_key for spec in family.encoders)}"
    only = f" for {' and '.join(read)} only" if len(read) < len(family.encoders) else ""
    several = "reads all of its words as one" if len(bundles(file.top)) > 1 else READS
    return comfy_name(file, f"{several}{only}")


def is_read_by_comfy(file: File, spec: EncoderSpec) -> bool:
    """Return whether ComfyUI finds vectors for an encoder. It drops those of another width."""
    rows = comfy_rows(file, spec.file_key)
    return rows is not None and rows.shape[-1:] == (spec.width,)


def comfy_rows(file: File, key: str) -> Tensor | None:
    """Return the tensor that ComfyUI takes for the encoder with a key."""
    if file.params is not None:
        return next(iter(file.params.values()), None)
    if key in file.top:
        return file.top[key]
    for ending in (".string_to_param.*", f".{key}"):
        for name in file.bundled:
            if name.endswith(ending):
                return file.top[name]
    return next(iter(file.top.values()), None)


def diffusers(file: File, family: Family) -> str:
    """Return what diffusers does with a file: its loader takes one tensor, and the user says for which encoder."""
    keys = keys_in(file, [(spec, spec.keys) for spec in family.encoders])
    but = f"; {family.diffusers_setup.why}" if family.diffusers_setup else ""
    if len(file.content.table) == 1:
        spec = next((spec for spec in family.encoders if file.widths == {spec.width}), family.encoders[0])
        if spec is family.encoders[0]:
            return f"{READS}, with token=...{but}"
        return f"one call with text_encoder=pipe.{spec.name}, tokenizer=pipe.{spec.tokenizer}{but}"
    if not keys:
        return "refuses it: more than one tensor"
    return f"one call for each encoder, with {' and '.join(keys)}{but}"


def forge(file: File, family: Family) -> str:
    """Return what Forge does with a file: it reads one tensor, for an encoder of CLIP."""
    alone = [spec for spec in family.encoders for own in family.one_encoder_files if own.encoder == spec.name]
    if len(file.content.table) == 1 and any(file.widths == {spec.width} for spec in alone):
        return READS
    keys = " or ".join(spec.file_key for spec in alone)
    return f"skips it: it reads a file with {keys} alone (neonym convert --encoders {alone[0].file_key})"


def forge_neo(file: File, family: Family) -> str:
    """Return what Forge Neo does with a file: it knows the key of CLIP-L only."""
    key = family.encoders[0].file_key
    return f"{READS}, {key} only" if key in file.top else f"skips it: there is no {key}"


def onetrainer(file: File, family: Family) -> str:
    """Return what OneTrainer does with a file. Where a key has a twin, it knows only the twin."""
    if any(OUTPUT.fullmatch(name) for name in file.top):
        return "reads it, to continue training an output embedding"
    wanted = [(spec, spec.twin_keys or (spec.file_key,)) for spec in family.encoders]
    known, there = keys_in(file, wanted), keys_in(file, [(spec, spec.keys) for spec in family.encoders])
    if not known:
        return f"refuses it: it reads {' and '.join(keys[0] for _, keys in wanted)}"
    if len(known) < len(there):
        return f"reads {' and '.join(known)} of it, but not {' and '.join(key for key in there if key not in known)}"
    return f"{READS}, to continue training"


def keys_in(file: File, wanted: Sequence[tuple[EncoderSpec, Sequence[str]]]) -> list[str]:
    """Return the first key of each encoder that a file has at its top."""
    found = ([key for key in keys if key in file.top] for _, keys in wanted)
    return [keys[0] for keys in found if keys]


def prompt_rules(family: Family | None, name: str) -> list[str]:
    """Return how to write the word `name` in a prompt of ComfyUI."""
    common = f"ComfyUI: put a space before and after `embedding:{name}`, or a comma and a space after it"
    rules = [f"{common}; directly before `.`, `!` or `'s`, it is not found"]
    if family is not None and any(spec.layout.brackets == "text" for spec in family.encoders):
        rules.append(f"ComfyUI: brackets are plain text for {family.label}, and directly after one, the word is too")
    own = family.prompt_notes if family is not None else ()
    return [*rules, *(f"ComfyUI: {note.format(name=name)}" for note in own)]


RULES: dict[str, Rule] = {
    "ComfyUI": comfy,
    "diffusers": diffusers,
    "Forge": forge,
    "Forge Neo": forge_neo,
    "OneTrainer": onetrainer,
}
