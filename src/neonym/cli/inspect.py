"""`neonym inspect FILE`: what an embedding file holds, where it comes from, who can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import BaseModel, Field

from neonym.config.flags import parse_flags

if TYPE_CHECKING:
    from neonym.formats.content import Stored
    from neonym.types import Embedding

DESCRIPTION = "Say what an embedding file holds: the word, its vectors, where it comes from, which programs read it."
WIDTHS = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "SDXL (its second encoder)",
    128: "the built-in model",
}
FAMILIES = {
    "sd1": {"text_encoder": 768},
    "sd2": {"text_encoder": 1024},
    "sdxl": {"text_encoder": 768, "text_encoder_2": 1280},
}


class InspectFlags(BaseModel):
    """The flags of inspection."""

    file: tyro.conf.Positional[Path] = Field(description="The embedding file, of any program.")
    family: Annotated[Literal["sd1", "sd2", "sdxl"] | None, tyro.conf.arg(name="for")] = Field(
        None, description="Say whether it fits this family; exit code 2 if not."
    )
    model: str | None = Field(None, description="Compare its vectors with this model's words.")
    offline: bool = Field(False, description="Never use the network, not even for a hub ID.")
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(False, description="Print one JSON object.")


def main(argv: list[str], prog: str) -> int:
    flags = parse_flags(InspectFlags, argv, prog, DESCRIPTION)
    from neonym.errors import FormatError
    from neonym.formats import read_stored, words_of

    stored = read_stored(flags.file)
    try:
        words, wrong = words_of(stored, flags.file), None
    except FormatError as error:
        words, wrong = [], error
    if wrong is not None and not describable(stored, flags.file):
        raise wrong
    shared = file_facts(words, stored, flags)
    found = [shared | word_facts(word, flags) for word in words]
    if flags.as_json:
        print(json.dumps(found[0] if len(found) == 1 else found or shared, indent=1))
    else:
        print("\n\n".join([*(word_text(facts, flags.family) for facts in found), file_text(shared)]))
    if wrong is not None:
        raise wrong
    return 0 if all(facts.get("fits", True) for facts in found) else 2


def describable(stored: Stored, file: Path) -> bool:
    """Whether it holds plain tensors, although no word."""
    from neonym.errors import FormatError
    from neonym.formats.content import check_tensors

    try:
        check_tensors(stored.tensors, file)
    except FormatError:
        return False
    return bool(stored.tensors)


def file_facts(words: list[Embedding], stored: Stored, flags: InspectFlags) -> dict[str, Any]:
    """What is so of the file, whichever of its words is meant."""
    from neonym.formats import left_out, programs
    from neonym.formats.usage import warnings_of

    most = max((len(rows) for word in words for rows in word.vectors.values()), default=1)
    beside = [left_out(word) for word in words if word.left_out]
    several = [f"holds {len(words)} words: neonym convert takes them apart, or one out with --word"] * (len(words) > 1)
    return {
        "layout": {"container": stored.container, "names": list(stored.table)},
        "tensors": {
            name: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in stored.tensors.items()
        },
        "programs": programs(stored, flags.file.stem),
        "warnings": [*several, *beside, *warnings_of(flags.file.stem, most)],
    }


def word_facts(word: Embedding, flags: InspectFlags) -> dict[str, Any]:
    """Of one word of the file."""
    facts: dict[str, Any] = {
        "token": word.token,
        "encoders": {name: encoder_facts(name, word) for name in word.vectors},
        "metadata": word.metadata,
    }
    if flags.family is not None:
        facts["fits"] = {name: rows.shape[1] for name, rows in word.vectors.items()} == FAMILIES[flags.family]
    if flags.model is not None:
        facts["model"] = beside_words(word, flags.model, flags.offline)
    return facts


def encoder_facts(name: str, embedding: Embedding) -> dict[str, Any]:
    rows = embedding.vectors[name]
    pair = name == "text_encoder" and len(embedding.vectors) > 1
    return {
        "vectors": rows.shape[0],
        "width": rows.shape[1],
        "made_for": "SDXL (its first encoder)" if pair else WIDTHS.get(rows.shape[1], "unknown"),
        "norms": [round(float(n), 4) for n in rows.norm(dim=1)],
    }


def beside_words(embedding: Embedding, name: str, offline: bool) -> dict[str, Any]:
    """Norm of a typical word of the model, and the words nearest to each vector. Raises ModelError, FormatError."""
    import torch

    from neonym.errors import FormatError
    from neonym.models.encoders.rows import nearest_tokens
    from neonym.models.loading.assemble import token_table
    from neonym.models.loading.identify import fetched, identify
    from neonym.models.tokenizers.loading import load_tokenizers

    source, found = fetched(identify(name, offline=offline)), {}
    tokenizers = load_tokenizers(source)
    for encoder, rows in embedding.vectors.items():
        table = token_table(source.weights[encoder]) if encoder in tokenizers else torch.zeros(1, 0)
        if table.shape[1] != rows.shape[1]:
            what = (
                f"its vectors for {encoder} have {rows.shape[1]} numbers, the model's words {table.shape[1] or 'none'}"
            )
            raise FormatError(what, name, "It was made for another kind of model")
        found[encoder] = {
            "norm_of_words": round(float(table.norm(dim=1).median()), 4),
            "nearest": tokenizers[encoder].spelled(nearest_tokens(table, rows, 3).tolist()),
        }
    return found


def word_text(facts: dict[str, Any], family: str | None) -> str:
    from neonym.cli.names import shown

    lines = [f"word: {shown(facts['token'])}"]
    for name, found in facts["encoders"].items():
        count, norms = found["vectors"], ", ".join(map(str, found["norms"]))
        lines.append(
            f"{name}: {count} vector{'s' * (count > 1)} of {found['width']} ({found['made_for']}), norms {norms}"
        )
        beside = facts.get("model", {}).get(name)
        if beside:
            lines.append(f"  norm of the model's words: {beside['norm_of_words']}")
        for i, words in enumerate(beside["nearest"] if beside else ()):
            lines.append(f"  vector {i}: nearest words {', '.join(words)}")
    if family is not None:
        lines.append(f"{'fits' if facts['fits'] else 'DOES NOT FIT'} {family}")
    lines += [f"  {shown(key)}: {shown(value)}" for key, value in sorted(facts["metadata"].items())]
    return "\n".join(lines)


def file_text(facts: dict[str, Any]) -> str:
    from neonym.cli.names import shown

    lines = [f"layout: {facts['layout']['container']}, {', '.join(map(shown, facts['layout']['names'][:12]))}"]
    lines += [f"  {shown(name)}: {what}" for name, what in list(facts["tensors"].items())[:12]]
    lines += [f"{program}: {shown(what)}" for program, what in facts["programs"].items()]
    lines += [f"note: {shown(warning)}" for warning in facts["warnings"]]
    return "\n".join(lines)
