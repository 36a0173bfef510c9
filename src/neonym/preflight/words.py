"""Can the new words be used everywhere, and do they start from what the user meant? Names, init words, `--weights` files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.config.dataset import DEFAULT_INIT_WORD
from neonym.config.file_kinds import misplaced
from neonym.errors import FormatError, Problem
from neonym.io.json import is_text
from neonym.text.file_names import name_warnings
from neonym.text.vocabulary import vocabulary_warning
from neonym.text.words import clean

if TYPE_CHECKING:
    from torch import Tensor

    from neonym.config.dataset import ConceptSpec
    from neonym.models.tokenizers.word_tokenizer import WordTokenizer
    from neonym.preflight.prepare import Prepared

MOST_SHOWN = 8  # vectors


def word_problems(ready: Prepared) -> Iterator[Problem]:
    """Of every word, each said once although there may be two encoders."""
    assert ready.config is not None
    for spec, file in zip(ready.config.concepts, ready.file_names(), strict=True):
        yield from name_problems(spec, file, next(iter(ready.tokenizers.values())))
        yield from dict.fromkeys(p for t in ready.tokenizers.values() for p in init_problems(spec, t))
    yield from numbered_names(ready.config.concepts, ready.file_names())


def numbered_names(concepts: Sequence[ConceptSpec], files: Sequence[str]) -> Iterator[Problem]:
    """Programs call the vectors of NAME themselves NAME1 or NAME_1."""
    for spec, file in zip(concepts, files, strict=True):
        for other in files:
            rest = other.removeprefix(file).removeprefix("_")
            if other != file and other.startswith(file) and rest.isdecimal() and int(rest) < spec.vectors:
                what = f"sd-scripts and diffusers call a vector of `{file}` so, too"
                yield Problem("warning", what, f"the file name `{other}`", "Give one of them another name")


def name_problems(spec: ConceptSpec, file: str, tokenizer: WordTokenizer) -> Iterator[Problem]:
    """Most programs take the name of the file for the word."""
    for warning in name_warnings(file, spec.vectors):
        fix = "Small letters, digits, - and _ work everywhere: another --output_name, or another word"
        yield Problem("warning", warning, f"the file name `{file}`", fix)
    for name in filter(is_text, dict.fromkeys((spec.token_string, file))):  # what is no text was told before
        known = vocabulary_warning(name, spec.vectors, tokenizer.has_piece)
        if known:
            yield Problem("warning", known, f"`{name}`", "Choose a word that is not in the dictionary")


def init_problems(spec: ConceptSpec, tokenizer: WordTokenizer) -> Iterator[Problem]:
    """An init word with more or fewer tokens than the word has vectors."""
    word, count = spec.init_word or DEFAULT_INIT_WORD, spec.vectors
    pieces = [f"`{tokenizer.read(piece)}`" for piece in tokenizer.pieces(clean(word))]
    where = f"the init word of `{spec.token_string}` ({word!r})"
    if spec.weights is not None:
        if spec.init_word is not None:
            yield Problem("warning", "is not used: the vectors start from --weights", where, "Give one of them")
    elif len(pieces) > count:
        used, unused = listed(pieces[:count]), listed(pieces[count:])
        what = f"has {len(pieces)} tokens for {number_of(count)}: {used} used, {unused} not"
        fix = f"Give --num_vectors_per_token={len(pieces)} to start from all of them, or a shorter init word"
        yield Problem("warning", what, where, fix)
    elif len(pieces) < count:
        starts = ", ".join(pieces[i % len(pieces)] for i in range(min(count, MOST_SHOWN)))
        more = ", ..." if count > MOST_SHOWN else ""
        what = f"has {len(pieces)} token{'s' * (len(pieces) > 1)} for {count} vectors, which start from them in turn: {starts}{more}"
        yield Problem("note", what, where)


def listed(names: list[str]) -> str:
    """With the verb."""
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def read_weights(ready: Prepared) -> tuple[dict[str, dict[str, Tensor]], list[Problem]]:
    """The rows of every `--weights` file, by word, and what does not fit in them."""
    assert ready.config is not None
    found, problems = {}, []
    for spec in ready.config.concepts:
        missing = spec.weights == ready.run.concept.weights and not Path(spec.weights or "").is_file()
        if spec.weights is None or missing or misplaced(spec.weights, "weights"):
            continue  # what is not there, or of another kind, was told at the first look
        from neonym.formats import left_out, read_embedding

        try:
            embedding = read_embedding(spec.weights)
        except FormatError as error:
            problems.append(error.problem)
        else:
            found[spec.token_string] = embedding.vectors
            problems += weights_problems(spec, ready, embedding.vectors)
            if embedding.left_out:
                problems.append(Problem("warning", left_out(embedding), spec.weights))
    return found, problems


def weights_problems(spec: ConceptSpec, ready: Prepared, vectors: dict[str, Tensor]) -> Iterator[Problem]:
    """Vectors for another kind of model, or another number of them: the encoders of a file agree on it."""
    assert ready.source is not None
    assert spec.weights is not None
    fix = "It was made for another kind of model"
    if set(vectors) != set(ready.tokenizers):
        what = f"has vectors for {', '.join(vectors)}, but the model's words are those of {', '.join(ready.tokenizers)}"
        yield Problem("error", what, spec.weights, fix)
        return
    for encoder, width in ready.source.widths.items():
        if vectors[encoder].shape[1] != width:
            what = f"its vectors for {encoder} have {vectors[encoder].shape[1]} numbers, the model's words {width}"
            yield Problem("error", what, spec.weights, fix)
            return
    (count,), wanted = {len(rows) for rows in vectors.values()}, spec.num_vectors_per_token
    if wanted is not None and count != wanted:
        what = f"the file has {number_of(count)}, --num_vectors_per_token of `{spec.token_string}` is {wanted}"
        fix = f"Give --num_vectors_per_token={count}, or resize the file: neonym convert {spec.weights} NEW.safetensors --vectors={wanted}"
        yield Problem("error", what, spec.weights, fix)


def number_of(count: int) -> str:
    return f"{count} vector{'s' * (count > 1)}"
