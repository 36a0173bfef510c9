"""Inspection of embedding files: their words, vectors and metadata, and which programs read them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from neonym.api.wording import python_wording, text_in_python
from neonym.errors import FormatError
from neonym.formats import left_out_note, read_content, support_by_program, words_of
from neonym.formats.consumers.recorded import prompt_rules, recorded_family
from neonym.formats.content import FileContent, check_tensors
from neonym.formats.fitting import OTHER_MODEL, doubtful_families, fits_family, fitted, misfit
from neonym.formats.keys import stated_family
from neonym.formats.usage import warnings_of
from neonym.models.registry import families, made_for
from neonym.types import Embedding

BUILT_IN_WIDTH = 128  # width of the vectors of the model that ships with the package


@dataclass(frozen=True)
class EncoderFacts:
    """The vectors of a word for one text encoder."""

    vectors: int
    width: int  # numbers per vector
    made_for: str  # the label of a family, "the built-in model" or "unknown"
    norms: tuple[float, ...]  # the length of each vector


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of a word's vectors for one text encoder in a model's vocabulary."""

    norm_of_words: float  # the median length over the model's vocabulary
    nearest: tuple[tuple[str, ...], ...]  # for each vector, the model's three nearest words


@dataclass(frozen=True)
class WordFacts:
    """One word of an embedding file."""

    token: str
    encoders: dict[str, EncoderFacts]
    metadata: dict[str, str]
    neighbours: dict[str, Neighbours] = field(default_factory=dict)  # by text encoder; empty unless a model is named
    fits: tuple[str, ...] = ()  # the names of the families whose models it fits

    @property
    def widths(self) -> dict[str, int]:
        """The width of the vectors for each text encoder, which decides the models that the word fits."""
        return {name: facts.width for name, facts in self.encoders.items()}


@dataclass(frozen=True)
class FileFacts:
    """The contents of an embedding file."""

    path: Path
    container: str  # "safetensors", "pickle", ...
    names: tuple[str, ...]  # its top-level keys
    tensors: dict[str, str]  # {name: dtype and shape}
    programs: dict[str, str]  # {program: whether it reads the file, and the name of the word there}
    warnings: tuple[str, ...]  # limits in some programs, and contents that were not read
    words: tuple[WordFacts, ...]
    unreadable: FormatError | None = None  # why it is not an embedding, although it holds tensors


def inspect(
    path: str | Path, model: str | None = None, offline: bool = False, model_version: str | None = None
) -> FileFacts:  # fmt: skip
    """Return the contents of an embedding file of any program.

    With a `model` (a file, a folder, a hub ID or `builtin:emoji`), each word also has the model's words nearest to its
    vectors; `model_version` says which of several models of the same shapes it is. Raises FormatError if the file is not an embedding or does not fit the model, and ModelError for the model.
    """
    with python_wording():
        facts = file_facts(Path(path), model, offline, model_version)
        if facts.unreadable is not None:
            raise facts.unreadable
        return replace(facts, warnings=tuple(map(text_in_python, facts.warnings)))


def file_facts(
    path: Path, model: str | None = None, offline: bool = False, version: str | None = None
) -> FileFacts:  # fmt: skip
    """Return the contents of a file of tensors, even if it is not an embedding. Raises FormatError and ModelError."""
    content, unreadable = read_content(path), None
    try:
        words = words_of(content, path)
    except FormatError as error:
        if not holds_tensors(content, path):
            raise
        words, unreadable = [], error
    return FileFacts(
        path=path,
        container=content.container,
        names=tuple(content.table),
        tensors={name: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in content.tensors.items()},
        programs=support_by_program(content, path.stem),
        warnings=(*file_warnings(path, words), *family_notes(path, words, content)),
        words=tuple(word_facts(word, model, offline, version) for word in words),
        unreadable=unreadable,
    )


def holds_tensors(content: FileContent, path: Path) -> bool:
    """Return whether a file holds plain tensors, although not a word."""
    try:
        check_tensors(content.tensors, path)
    except FormatError:
        return False
    return bool(content.tensors)


def file_warnings(path: Path, words: list[Embedding]) -> list[str]:
    """Return the warnings about a file that hold for all of its words."""
    most = max((len(rows) for word in words for rows in word.vectors.values()), default=1)
    beside = [left_out_note(word) for word in words if word.left_out]
    several = f"holds {len(words)} words: extract all of them with neonym convert; --word selects one"
    return [*([several] if len(words) > 1 else []), *beside, *warnings_of(path.stem, most)]


def family_notes(path: Path, words: list[Embedding], content: FileContent) -> list[str]:
    """Return notes about the family of a file's words: other possible ones, and how its prompts are written."""
    family = recorded_family(content)
    several = next((found for word in words if len(found := doubtful_families(word)) > 1), [])
    doubt = f"it does not say for which model it was learned: it may be {' or '.join(several)}"
    return [*([doubt] if several else []), *(prompt_rules(family, path.stem) if family else [])]


def word_facts(word: Embedding, model: str | None, offline: bool, version: str | None) -> WordFacts:
    """Return the facts about one word of a file."""
    return WordFacts(
        token=word.token,
        encoders={name: encoder_facts(name, word) for name in word.vectors},
        metadata=word.metadata,
        neighbours={} if model is None else neighbours(word, model, offline, version),
        fits=tuple(family.name for family in families() if fits_family(word, family)),
    )


def encoder_facts(name: str, embedding: Embedding) -> EncoderFacts:
    """Return the facts about a word's vectors for one encoder."""
    rows = embedding.vectors[name]  # [n,W]
    widths = {encoder: own.shape[1] for encoder, own in embedding.vectors.items()}
    built_in = "the built-in model" if widths[name] == BUILT_IN_WIDTH else "unknown"
    return EncoderFacts(
        vectors=rows.shape[0],
        width=rows.shape[1],
        made_for=made_for(name, widths, stated_family(embedding.metadata)) or built_in,
        norms=tuple(round(float(n), 4) for n in rows.norm(dim=1)),
    )


def neighbours(
    embedding: Embedding, name: str, offline: bool, version: str | None
) -> dict[str, Neighbours]:  # fmt: skip
    """Return, per encoder, the model's words nearest to each vector. Raises ModelError, FormatError."""
    from neonym.models.encoders.rows import nearest_tokens
    from neonym.models.loading.assemble import token_table
    from neonym.models.loading.identify import identify, with_weights
    from neonym.models.tokenizers.loading import load_tokenizers

    source, found = with_weights(identify(name, offline=offline, version=version)), {}
    embedding = fitted(embedding, source.family, source.widths)
    if what := misfit(embedding.token, embedding, source.family, source.widths, source.name):
        raise FormatError(what, name, OTHER_MODEL)
    tokenizers = load_tokenizers(source)
    for encoder, rows in embedding.vectors.items():
        table = token_table(source.weights[encoder])
        tokenizer = tokenizers[encoder]
        spelled = tokenizer.spelled(nearest_tokens(table, rows, 3, tokenizer.special_ids).tolist())
        norm = round(float(table.norm(dim=1).median()), 4)
        found[encoder] = Neighbours(norm, tuple(map(tuple, spelled)))
    return found
