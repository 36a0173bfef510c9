"""Problems of the new words: names that some programs misread, unsuitable init words and `--weights` files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.config.dataset import DEFAULT_INIT_WORD, ConceptSpec
from neonym.config.file_kinds import misplaced
from neonym.config.run import RunConfig
from neonym.errors import FormatError, Problem, counted
from neonym.io.json import is_text
from neonym.models.source import ModelSource
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.preflight.possible_captions import Tokenizers
from neonym.text.file_names import name_warnings
from neonym.text.vocabulary import vocabulary_warning

if TYPE_CHECKING:
    from torch import Tensor

    from neonym.types import Embedding

MOST_SHOWN = 8  # vectors that a message lists
StartingRows = dict[str, "Tensor"]  # {encoder: [n,W]}


def word_problems(concepts: Sequence[ConceptSpec], files: Sequence[str], tokenizers: Tokenizers) -> Iterator[Problem]:
    """Yield the problems of the words, each once even with two encoders. `files` names their embedding files."""
    for spec, file in zip(concepts, files, strict=True):
        yield from compatibility_warnings(spec, file, next(iter(tokenizers.values())))
        yield from dict.fromkeys(p for t in tokenizers.values() for p in init_problems(spec, t))
    yield from numbered_names(concepts, files)


def numbered_names(concepts: Sequence[ConceptSpec], files: Sequence[str]) -> Iterator[Problem]:
    """Yield a warning for a file name, such as NAME1 or NAME_1, that other programs give to a vector of NAME."""
    for spec, file in zip(concepts, files, strict=True):
        for other in files:
            rest = other.removeprefix(file).removeprefix("_")
            if other != file and other.startswith(file) and rest.isdecimal() and int(rest) < spec.vectors:
                what = f"sd-scripts and diffusers give a vector of `{file}` the same name"
                yield Problem("warning", what, f"the file name `{other}`", "Rename one of them")


def compatibility_warnings(spec: ConceptSpec, file: str, tokenizer: WordTokenizer) -> Iterator[Problem]:
    """Yield a warning for a word or file name that some programs cannot use; in most, the file name is the word."""
    for warning in name_warnings(file, spec.vectors):
        fix = "Choose another --output_name, or another word: lower-case letters, digits, - and _ work everywhere"
        yield Problem("warning", warning, f"the file name `{file}`", fix)
    # a name that is not UTF-8 text is reported elsewhere
    for name in filter(is_text, dict.fromkeys((spec.token_string, file))):
        known = vocabulary_warning(name, spec.vectors, tokenizer.has_token)
        if known:
            yield Problem("warning", known, f"`{name}`", "Choose a word that is not in the dictionary")


def init_problems(spec: ConceptSpec, tokenizer: WordTokenizer) -> Iterator[Problem]:
    """Yield a problem for an init word without tokens, or one that is not used, or whose tokens are not one per vector.

    The init word needs a token even beside `--weights`: the verdict compares what was learned with it.
    """
    word, count = spec.init_word or DEFAULT_INIT_WORD, spec.vectors
    spelled = [f"`{tokenizer.read(token)}`" for token in tokenizer.ids_of(word)]
    where = f"the init word of `{spec.token_string}` ({word!r})"
    if not spelled:
        yield Problem("error", "has no token that the model knows", where, "Give an ordinary word, or leave it out")
    elif spec.weights is not None:
        if spec.init_word is not None:
            yield Problem(
                "warning", "is not used, because the vectors start from --weights", where, "Use only one of them"
            )
    elif len(spelled) > count:
        used, unused = with_verb(spelled[:count]), with_verb(spelled[count:])
        what = f"has {len(spelled)} tokens for {counted(count, 'vector')}: {used} used, {unused} not"
        fix = f"Use --num_vectors_per_token={len(spelled)} to start from all of them, or a shorter init word"
        yield Problem("warning", what, where, fix)
    elif len(spelled) < count:
        starts = ", ".join(spelled[i % len(spelled)] for i in range(min(count, MOST_SHOWN)))
        more = ", ..." if count > MOST_SHOWN else ""
        tokens = counted(len(spelled), "token")
        what = f"has {tokens} for {count} vectors, which start from them in turn: {starts}{more}"
        yield Problem("note", what, where)


def with_verb(names: list[str]) -> str:
    """Return names followed by their verb, such as `a is` or `a, b are`."""
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def encoders_with_rows(run: RunConfig, source: ModelSource, start: StartingRows | None) -> tuple[str, ...]:
    """Return the text encoders that have rows of a word, of which `start` come from its `--weights` file.

    They are all encoders, unless words of the family may leave some out: then, those that are not trained have none.
    """
    trained = source.encoders_named(run.concept.train_encoders)
    if not source.family.partial_words:
        return source.encoders
    return tuple(name for name in source.encoders if name in trained or name in (start or ()))


def read_starting_rows(
    concepts: Sequence[ConceptSpec], flag: str | None, source: ModelSource
) -> tuple[dict[str, StartingRows], list[Problem]]:
    """Return the rows of each `--weights` file by word, and the problems of files that do not suit the model.

    `flag` is the file of the `--weights` flag itself.
    """
    found, problems = {}, list[Problem]()
    for spec in concepts:
        file = spec.weights
        if file is None or (file == flag and not Path(file).is_file()) or misplaced(file, "weights"):
            continue  # missing files and files of another kind are reported with the settings
        from neonym.formats import left_out_note, read_embedding
        from neonym.formats.fitting import fitted

        try:
            embedding = fitted(read_embedding(file), source.family, source.widths)
        except FormatError as error:
            problems.append(error.problem)
            continue
        found[spec.token_string] = embedding.vectors
        problems += starting_row_problems(spec, file, embedding, source)
        if embedding.left_out:
            problems.append(Problem("warning", left_out_note(embedding), file))
    return found, problems


def starting_row_problems(spec: ConceptSpec, file: str, embedding: Embedding, source: ModelSource) -> Iterator[Problem]:
    """Yield an error for vectors of another kind of model, or if their number differs from the word's."""
    from neonym.formats.fitting import OTHER_MODEL, doubts, misfit

    if what := misfit(embedding.token, embedding, source.family, source.widths, source.name):
        yield Problem("error", what, file, OTHER_MODEL)
        return
    of_family = doubts(embedding.token, file, embedding, source.family)
    yield from (problem for problem in of_family if problem.severity == "warning")
    counts, wanted = sorted({len(rows) for rows in embedding.vectors.values()}), spec.num_vectors_per_token
    resize = f"neonym convert {file} NEW.safetensors --vectors={wanted or counts[-1]}"
    if len(counts) > 1:
        what = "has different numbers of vectors for its encoders, but training needs one number"
        yield Problem("error", what, file, f"Resize the file: {resize}")
    elif wanted is not None and counts != [wanted]:
        what = f"has {counted(counts[0], 'vector')}, but --num_vectors_per_token of `{spec.token_string}` is {wanted}"
        yield Problem("error", what, file, f"Use --num_vectors_per_token={counts[0]}, or resize the file: {resize}")
