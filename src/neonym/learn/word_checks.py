"""Are the new words' starts what the user meant? Known before a weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from neonym.errors import Problem
from neonym.learn.rows import DEFAULT_INIT_WORD
from neonym.words import clean

if TYPE_CHECKING:
    from neonym.config.dataset import ConceptSpec
    from neonym.learn.prepare import Prepared
    from neonym.models.text import WordTokenizer

MOST_SHOWN = 8  # vectors


def word_problems(ready: Prepared) -> Iterator[Problem]:
    """Of every word, each said once although there may be two encoders."""
    assert ready.config is not None
    for spec in ready.config.concepts:
        yield from dict.fromkeys(p for t in ready.tokenizers.values() for p in init_problems(spec, t))


def init_problems(spec: ConceptSpec, tokenizer: WordTokenizer) -> Iterator[Problem]:
    """An init word with more or fewer tokens than the word has vectors."""
    word, count = spec.init_word or DEFAULT_INIT_WORD, spec.num_vectors_per_token
    pieces = [f"`{tokenizer.tokenizer.decode([piece]).strip()}`" for piece in tokenizer.pieces(clean(word))]
    where = f"the init word of `{spec.token_string}` ({word!r})"
    if spec.weights is not None:
        if spec.init_word is not None:
            yield Problem("warning", "is not used: the vectors start from --weights", where, "Give one of them")
    elif len(pieces) > count:
        used, unused = listed(pieces[:count]), listed(pieces[count:])
        what = f"has {len(pieces)} tokens for {count} vector{'s' * (count > 1)}: {used} used, {unused} not"
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
