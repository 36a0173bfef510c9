"""Fit a word to the family of a model: which encoder reads which of its vectors, and what speaks against it.

A file names its vectors by keys, and several families have encoders with the same keys and widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from neonym.errors import Problem
from neonym.formats.content import printable_name
from neonym.formats.keys import encoders_of, is_partial, stated_family, widths_of
from neonym.models.family import Family
from neonym.types import Embedding

INIT_WORD = "neonym.init_word"  # the key of the init word in the metadata of a file
OTHER_MODEL = "Use a model of the family that it was learned with"


def fitted(embedding: Embedding, family: Family, widths: Mapping[str, int]) -> Embedding:
    """Return a word with the vectors of its file at the encoders of a family whose model has these `widths`.

    Those for an encoder that the model does without are left out. Those that no encoder of the family reads are named
    after their key, for `misfit` to report.
    """
    if not embedding.names:
        return embedding
    places = places_in(embedding, family, widths)
    lacking = {name for name, place in places.items() if place not in widths}  # a part that the model does without
    vectors = {name: rows for name, rows in embedding.vectors.items() if name not in lacking}
    now = {name: places.get(name, f"file:{key}") for name, key in embedding.names.items()}
    vectors = {now.get(name, name): rows for name, rows in vectors.items()}
    names = {now[name]: key for name, key in embedding.names.items() if name not in lacking}
    return replace(embedding, vectors=vectors, names=names)


def places_in(embedding: Embedding, family: Family, widths: Mapping[str, int]) -> dict[str, str]:
    """Return the encoder of the family for each of the word's encoders: by its key, or else by its width."""
    found: dict[str, str] = {}
    for name, key in embedding.names.items():
        named = [spec.name for spec in family.encoders if key in spec.keys]
        wide = [spec.name for spec in family.encoders if widths.get(spec.name) == embedding.vectors[name].shape[1]]
        possible = named or ([] if is_for_others(embedding, name) else wide)
        if name in possible:
            found[name] = name
        elif free := [encoder for encoder in possible if encoder not in found.values()]:
            found[name] = free[0]
    return found


def is_for_others(embedding: Embedding, name: str) -> bool:
    """Return whether the key of a word's vectors tells which encoder they are for."""
    key, width = embedding.names[name], embedding.vectors[name].shape[1]
    return any(key in spec.keys for _, spec in encoders_of(key, width))


def fits_family(embedding: Embedding, family: Family) -> bool:
    """Return whether a word fits the published models of a family, and its file names no other family."""
    own = stated_family(embedding.metadata)
    usual = {spec.name: spec.width or 0 for spec in family.encoders}
    return own in (None, family) and family.fits(widths_of(fitted(embedding, family, usual)))


def misfit(word: str, embedding: Embedding, family: Family, widths: Mapping[str, int], model: str) -> str | None:
    """Return why a word that is `fitted` does not suit a model of a family, or None if it does.

    `widths` are those of the model's encoders.
    """
    if (own := stated_family(embedding.metadata)) is not None and own.name != family.name:
        return f"`{word}` was learned for {own.label}, but {model} is {family.label}"
    for name in embedding.vectors.keys() - widths.keys():
        return without_encoder(word, name, embedding, f"{model} ({family.label})")
    missing = [name for name in widths if name not in embedding.vectors]
    if missing and (not family.partial_words or not embedding.vectors):
        return f"`{word}` has no vectors for {' and '.join(missing)}, which {model} has"
    for name, rows in embedding.vectors.items():
        if rows.shape[1] != widths[name]:
            has = f"the words of {model} have {widths[name]}"
            return f"the vectors of `{word}` for {name} have {rows.shape[1]} numbers, but {has}"
    return None


def without_encoder(word: str, name: str, embedding: Embedding, model: str) -> str:
    """Return a message about vectors of a word that no encoder of a model reads."""
    key, width = embedding.names.get(name), embedding.vectors[name].shape[1]
    if key is None:
        return f"`{word}` was learned for {name}, which {model} does not have"
    others = dict.fromkeys(family.label for family, spec in encoders_of(key, width) if spec.width == width)
    made_for = f", only {' or '.join(others)} has" if others else ""
    what = f"`{word}` has vectors of {width} numbers called {printable_name(key)}"
    return f"{what}: {model} has no text encoder for them{made_for}"


def doubts(word: str, file: Path | str, embedding: Embedding, family: Family) -> Iterator[Problem]:
    """Yield a warning if a word may have been learned for another family, and notes about what its file leaves out."""
    others = other_families(embedding, family)
    if others:
        what = f"the file does not say for which model `{word}` was learned: it may be {' or '.join(others)}"
        fix = f"It is used as a word for {family.label}. If that is wrong, use a model of the other family"
        yield Problem("warning", what, str(file), fix)
    missing = [spec.name for spec in family.encoders if spec.name not in embedding.vectors]
    if missing and family.partial_words:
        init = embedding.metadata.get(INIT_WORD)
        reads = f"`{init}`, the word that it was learned from" if init else "nothing"
        yield Problem(
            "note", f"has no vectors for {' and '.join(missing)}, which reads {reads} for `{word}`", str(file)
        )


def other_families(embedding: Embedding, family: Family) -> list[str]:
    """Return the labels of other families whose words look the same, if nothing in the file names the family.

    A family that has more encoders than the word does not count beside one that has no more.
    """
    if stated_family(embedding.metadata) is not None or not embedding.names:
        return []
    found = [other for other in families_like(embedding) if other.name != family.name]
    return [
        other.label for other in found if is_partial(family, widths_of(embedding)) or not _partial(other, embedding)
    ]


def doubtful_families(embedding: Embedding) -> list[str]:
    """Return the labels of all families that a word is equally likely for, or none if its file names the family."""
    if stated_family(embedding.metadata) is not None:
        return []
    found = families_like(embedding)
    return [family.label for family in found if _partial(family, embedding) == _partial(found[0], embedding)]


def families_like(embedding: Embedding) -> list[Family]:
    """Return the families that a word can be for, by the keys and the widths in its file; complete ones first."""
    allowed = [of for of in families_of_encoders(embedding) if of.partial_words or not _partial(of, embedding)]
    return sorted(allowed, key=lambda family: _partial(family, embedding))


def families_of_encoders(embedding: Embedding) -> list[Family]:
    """Return the families with an encoder for each of a word's vectors, by the keys and the widths in its file."""
    found: list[Family] | None = None
    for name, key in embedding.names.items():
        width = embedding.vectors[name].shape[1]
        own = [family for family, spec in encoders_of(key, width) if spec.width == width]
        found = own if found is None else [family for family in found if family in own]
    return found or []


def _partial(family: Family, embedding: Embedding) -> bool:
    """Return whether a word lacks vectors for an encoder of the family."""
    return is_partial(family, embedding.vectors)
