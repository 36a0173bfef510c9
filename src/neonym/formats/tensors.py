"""Find the vectors of each text encoder among named tensors, whichever program named them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neonym.errors import FormatError
from neonym.formats.content import FileContent, check_tensors, likely_kind, printable_name, tensors_in
from neonym.formats.keys import encoder_keys, encoders_by_width, encoders_of, known_keys, stated_family
from neonym.io.json import is_text
from neonym.models.families.unsupported import ENCODERS
from neonym.models.family import Family
from neonym.types import Embedding

FIRST = "text_encoder"  # the first or only encoder of a model
PLAIN = {"emb_params", "emp_params", "emp_params_out", "*", "clip_h"}  # names that say nothing about the word
OUTPUT = re.compile(r"(emp_params|clip_[lgh]|t5|t5xxl|llama|gemma|qwen\w*|text_encoder_?\d?)_out")
OUTPUT_MEANS = "OneTrainer's output embeddings"
BUNDLE = "bundle_emb."  # prefix of embeddings in a LoRA file
LONGEST_NAME = 100
OWN = "neonym"  # the key of Neonym's metadata in an image card, as JSON
FACTS = {  # key of the web UI -> key in our metadata
    "step": "neonym.steps", "sd_checkpoint": "neonym.base_model_hash", "sd_checkpoint_name": "neonym.base_model",
}  # fmt: skip


def embeddings_of(content: FileContent, path: Path) -> list[Embedding]:
    """Return every word of a file (usually one) with float32 vectors [n,W]. Raises FormatError if there is none."""
    tensors, metadata = content.tensors, training_facts(content)
    check_tensors(tensors, path)
    bundled = bundles(tensors) or nested(content, path)
    if bundled:
        return [embedding_of(word, inner, path, family_facts(metadata)) for word, inner in sorted(bundled.items())]
    if not tensors:
        raise FormatError("has no tensors", str(path))
    own = as_name(metadata.get("token")) or as_name(content.table.get("name"))
    words = {} if content.listed else several(tensors)
    if words:
        named = [((own or path.stem) if name == "*" else as_name(name), {name: rows}) for name, rows in words.items()]
        return [embedding_of(word, rows, path) for word, rows in named]
    name = next(iter(tensors))
    known = content.listed or len(tensors) > 1 or name in PLAIN or name in known_keys()
    return [embedding_of(own or ("" if known else as_name(name)) or path.stem, tensors, path, metadata)]


def embedding_of(token: str, tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] = {}) -> Embedding:
    """Return the word in these tensors. Raises FormatError if it is unclear which of them are its vectors."""
    names, left_out = names_of(tensors, path, stated_family(metadata))
    vectors = {encoder: as_rows(tensors[name]) for encoder, name in names.items()}
    return Embedding(token, vectors, dict(metadata), left_out, names)


def family_facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the metadata of a LoRA file that holds for its words too: its family."""
    return {key: text for key, text in metadata.items() if key in ("neonym.family", "modelspec.architecture")}


def nested(content: FileContent, path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each word for a file with one table per word, or an empty table for any other file.

    Raises FormatError if a tensor is not a plain table.
    """
    if content.inner is not None or content.tensors:
        return {}
    found = {str(name): tensors_in(value) for name, value in content.table.items()}
    for tensors in found.values():
        check_tensors(tensors, path)
    return {as_name(name) or path.stem: tensors for name, tensors in found.items() if tensors}


def several(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the vectors of each word for a file with one tensor per word, all of the same width.

    Return an empty table for any other file.
    """
    words = {name: rows for name, rows in tensors.items() if rows.is_floating_point() and rows.ndim in (1, 2)}
    widths = {rows.shape[-1] for rows in words.values()}
    named = all((as_name(name) and name not in PLAIN and name not in known_keys()) or name == "*" for name in words)
    outputs = any(OUTPUT.fullmatch(name) for name in words)
    return (
        words
        if len(widths) == 1 and named and not outputs and not likely_kind(words) and len(distinct(words)) > 1
        else {}
    )


def as_name(value: object) -> str:
    """Return the name that a file gives its word, or an empty string if the value cannot be a name."""
    name = value.strip() if isinstance(value, str) else ""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ""


def names_of(
    tensors: Mapping[str, Tensor], path: Path, family: Family | None = None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the name of each encoder's vectors, and the names of the tensors that are not part of the word.

    `family` is the model family that the file names. Raises FormatError if it is unclear which tensors are the vectors.
    """
    for name in tensors.keys() & ENCODERS.keys() - known_keys():
        raise FormatError(ENCODERS[name], str(path))
    outputs = [name for name in tensors if OUTPUT.fullmatch(name)]
    inputs = {name: rows for name, rows in tensors.items() if name not in outputs}
    if outputs and all(map(is_zero, inputs.values())):
        what = (
            f"has only {OUTPUT_MEANS} ({', '.join(outputs)}): they apply after the text encoder, so they are not a word"
        )
        raise FormatError(what, str(path), "Train it again without output embeddings")
    chosen = chosen_of(inputs, path, family)
    for name in chosen.values():
        if not is_numbers(inputs[name]):
            raise FormatError(f"{printable_name(name)}: vectors cannot be of the type {tensors[name].dtype}", str(path))
        if inputs[name].numel() and is_zero(inputs[name]):
            raise FormatError(f"{printable_name(name)}: all its numbers are zero, so it is not a word", str(path))
    read = [inputs[name] for name in chosen.values()]
    others = [name for name, rows in inputs.items() if not any(equal(rows, other) for other in read)]
    return chosen, (*outputs, *others)


def chosen_of(tensors: Mapping[str, Tensor], path: Path, family: Family | None) -> dict[str, str]:
    """Return the name of each encoder's tensor. Raises FormatError if it is unclear which tensors they are."""
    keys = encoder_keys(tensors.keys(), family)
    if len(keys) > 1:
        return keys
    widths = {name: rows.shape[-1] if rows.ndim else 0 for name, rows in tensors.items()}
    # SD.Next distinguishes the encoders by width
    if len(tensors) > 1 and (by_width := encoders_by_width(widths)):
        return by_width
    name = only_one(tensors, path)
    possible = encoders_of(name, widths[name])
    own = [spec.name for of, spec in possible if of is family]
    return {next(iter([*own, *(spec.name for _, spec in possible)]), FIRST): name}


def only_one(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Return the name of the only tensor that can hold vectors; of several names for the same numbers, the first.

    Raises FormatError if there are several different ones, or none.
    """
    found = distinct({name: rows for name, rows in tensors.items() if is_numbers(rows) and rows.ndim}) or list(tensors)
    if len(found) != 1:
        some = ", ".join(printable_name(name[:40]) for name in list(tensors)[:4])
        kind = likely_kind(tensors) or " (it would have one tensor, or clip_l and clip_g)"
        what = f"has {len(found)} tensors ({some}): it is not an embedding{kind}"
        raise FormatError(what, str(path))
    return found[0]


def distinct(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that differ; of several names for the same numbers, the first."""
    found: list[str] = []
    for name, rows in tensors.items():
        if not any(equal(rows, tensors[other]) for other in found):
            found.append(name)
    return found


def equal(rows: Tensor, other: Tensor) -> bool:
    """Return whether two tensors, whatever their dtypes, have the same shape and numbers."""
    if rows.shape != other.shape or rows.is_complex() != other.is_complex():
        return False
    return rows is other or bool((rows == other if rows.is_complex() else rows.double() == other.double()).all())


def is_zero(rows: Tensor) -> bool:
    """Return whether all numbers of a tensor, whatever its dtype, are zero."""
    return not bool((rows if rows.is_complex() else rows.double()).any())


def is_numbers(rows: Tensor) -> bool:
    """Return whether a tensor can hold vectors: floating-point numbers that convert to float32."""
    return rows.is_floating_point() and rows.dtype != torch.float8_e8m0fnu


def as_rows(rows: Tensor) -> Tensor:
    """Return vectors as a contiguous float32 table [n,W]. A single vector [W] becomes a table with one row."""
    return (rows[None] if rows.ndim == 1 else rows).detach().float().contiguous()


def bundles(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each word in a LoRA file that carries embeddings.

    A word may contain dots, but the names of its tensors do not.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, rows in tensors.items():
        if name.startswith(BUNDLE):
            word, _, key = name.removeprefix(BUNDLE).rpartition(".")
            word = word.removesuffix(".string_to_param")
            found.setdefault(as_name(word) or "word", {})[key] = rows
    return found


def training_facts(content: FileContent) -> dict[str, str]:
    """Return what a file records about its training, in its metadata, in our image card, or in the web UI's keys."""
    facts = {FACTS[key]: content.table.get(key) for key in FACTS if content.inner is not None}
    plain = {key: str(value) for key, value in facts.items() if isinstance(value, int | str) and is_text(str(value))}
    return {**plain, **content.metadata, **parse_own_metadata(content.table.get(OWN))}


def parse_own_metadata(text: object) -> dict[str, str]:
    """Return the metadata that `own_metadata` wrote, or an empty table for any other value."""
    try:
        table = json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return {}
    pairs = table.items() if isinstance(table, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, str) and is_text(key) and is_text(value)}


def web_ui_table(embedding: Embedding, rows: Any) -> dict[str, Any]:
    """Return the web UI's table for a word of one encoder, with `rows` in the form that the file needs."""
    step = embedding.metadata.get("neonym.steps", "0")
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": embedding.token,
        "step": int(step) if step.isascii() and step.isdecimal() else 0,
        "sd_checkpoint": embedding.metadata.get("neonym.base_model_hash"),
        "sd_checkpoint_name": embedding.metadata.get("neonym.base_model"),
    }


def own_metadata(embedding: Embedding) -> str:
    """Return the metadata of a word as a JSON string, for layouts that have no metadata of their own."""
    return json.dumps({**embedding.metadata, "token": embedding.token}, sort_keys=True)
