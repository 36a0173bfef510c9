"""Make the ids that ComfyUI makes of a prompt with `embedding:name`. This module does not need torch.

ComfyUI cuts a prompt at these names after its template and its weights are applied. The text after a name is split at
spaces and joined again by single ones, with none before it, so that newlines are lost and, in a byte-level vocabulary,
the next word has another id. A name that is not found leaves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from neonym.models.tokenizers.word_tokenizer import Chunk, Layout, Piece, WordTokenizer, in_lower_case
from neonym.text.words import whole_word

Find = Callable[[str], Sequence[int] | None]  # the rows of an embedding file by its name
MARK = "embedding:"
NAMED = re.compile(rf"(?<=\s){MARK}")
EXTENSIONS = (".safetensors", ".pt", ".bin")
ROUND = 1.1  # what brackets without a number mean
WHOLE = 8  # groups of fewer ids are not split between two chunks
OPENED, CLOSED = "\0\2", "\0\1"  # stand for \( and \) while brackets are read
BRACKET = re.compile(r"(?<!\\)[()]")
WRITTEN = re.compile(rf"{MARK}\S*$")  # a name that is written already, up to a word in it
PRIVATE = "\ue000"  # begins the names that words have here
# What may follow a name at once, without and with weights: commas, and the end of a bracket
ENDS_NAME = {False: re.compile(r",*(?:\s|$)"), True: re.compile(r",*(?:\s|$)|[:)]")}


def weighted_pieces(text: str, weight: float = 1.0) -> Iterator[Piece]:
    """Yield the pieces of a text with their weight.

    Brackets multiply the weight by 1.1; `(text:1.3)` replaces it.
    """
    for piece in bracketed(text):
        if len(piece) < 2 or piece[0] != "(" or piece[-1] != ")":
            yield piece, weight
            continue
        inner, factor = piece[1:-1], weight * ROUND
        start, colon, number = inner.rpartition(":")
        if start and colon and (own := as_number(number)) is not None:
            inner, factor = start, own
        yield from weighted_pieces(inner, factor)


def bracketed(text: str) -> Iterator[str]:
    """Yield a text in parts: each bracket of the outermost level with what it contains, and the text between them.

    A bracket that closes nothing lowers the level, so that the next one that opens is not of the outermost level.
    """
    level, start = 0, 0
    for i, character in enumerate(text):
        if character == "(":
            if level == 0 and i > start:
                yield text[start:i]
                start = i
            level += 1
        elif character == ")":
            level -= 1
            if level == 0:
                yield text[start : i + 1]
                start = i + 1
    if text[start:]:
        yield text[start:]


def as_number(text: str) -> float | None:
    """Return the number in a text, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def parts(text: str, find: Find) -> Iterator[str | Sequence[int]]:
    """Yield a text cut at `embedding:name`, which becomes the rows of that name, or nothing if there is no such file."""
    first, *named = NAMED.split(text)
    named = [first.removeprefix(MARK), *named] if first.startswith(MARK) else named
    if not first.startswith(MARK) and first:
        yield first
    for own in named:
        rows, rest = found_name(own, find)
        if rows is not None:
            yield rows
        if rest:
            yield rest


def found_name(text: str, find: Find) -> tuple[Sequence[int] | None, str]:
    """Return the rows of the name at the start of a text, and the text after it, joined by single spaces."""
    name, *words = text.split() or [""]
    rest = " ".join(words)
    if cut := re.search(r"[<\[]", name):
        rest = " ".join(filter(None, (name[cut.start() :], rest)))
        name = name[: cut.start()]
    rows, bare = find(name), name.strip(",")
    if rows is None and bare != name:
        return find(bare), f"{name[len(bare) :]} {rest}"
    return rows, rest


def embedding_file(name: str, files: Iterable[str]) -> str | None:
    """Return the file of a name among files in ComfyUI's folders (paths without extension), or None.

    All sub-folders are searched, and the extension can be left out.
    """
    bare = next((name.removesuffix(extension) for extension in EXTENSIONS if name.endswith(extension)), name)
    return next((file for file in files for own in (name, bare) if own and f"/{file}".endswith(f"/{own}")), None)


def groups(tokenizer: WordTokenizer, prompt: str, find: Find, weighted: bool) -> Iterator[Chunk]:
    """Yield the ids of a prompt with their weights: those of each name or text between names together."""
    layout = tokenizer.layout
    before, after = layout.template
    text = f"{before}{prompt}{after}".replace("\\)", CLOSED).replace("\\(", OPENED)
    for piece, weight in weighted_pieces(text) if weighted else [(text, 1.0)]:
        weight = weight if layout.brackets == "weigh" else 1.0
        for part in parts(piece.replace(CLOSED, ")").replace(OPENED, "("), find):
            ids = tokenizer.plain_ids(part) if isinstance(part, str) else part
            yield [(token, weight) for token in ids]


def in_chunks(found: Iterable[Chunk], room: int) -> list[Chunk]:
    """Return groups of ids in chunks of up to `room`, without start and end.

    A short group that does not fit into the rest of a chunk moves to the next one; a long one is split.
    """
    chunks: list[Chunk] = [[]]
    for group in found:
        while len(chunks[-1]) + len(group) > room:
            free = room - len(chunks[-1]) if len(group) >= WHOLE else 0
            chunks[-1] += group[:free]
            group = group[free:]
            chunks.append([])
        chunks[-1] += group
    return chunks


def read(tokenizer: WordTokenizer, prompt: str, find: Find) -> Layout:
    """Return what an encoder reads of a prompt in ComfyUI, with its padding; `find` returns the rows of a file."""
    found = groups(tokenizer, prompt, find, tokenizer.knows_emphasis)
    return tokenizer.laid_out_as_comfyui(tokenizer.comfyui_chunks(found))


def typed_groups(tokenizer: WordTokenizer, text: str, weighted: bool, escape: bool) -> Iterator[Chunk]:
    """Yield the ids of a text in groups, as if its user had typed the names of files for the tokenizer's words."""
    prompt, words = typed(text, tokenizer.words, weighted, escape, tokenizer.layout.template[0])
    private = {f"{PRIVATE}{i}": tokenizer.words[word] for i, word in enumerate(words)}

    def find(name: str) -> Sequence[int] | None:
        if name in private:
            return private[name]
        file = embedding_file(name.lower().rpartition("/")[2], tokenizer.words)  # wherever the file is there
        return None if file is None else tokenizer.words[file]

    yield from groups(tokenizer, prompt, find, weighted)


def typed(
    text: str, words: Iterable[str], weighted: bool, escape: bool, template: str = ""
) -> tuple[str, list[str]]:  # fmt: skip
    """Return a text as its user types it in ComfyUI, and its words in the order of the private names that they have.

    A word becomes `embedding:name` with the spaces that it needs, also after a `template` that ends in none; one that is
    written so already stays. With `escape`, brackets are escaped, since they are no emphasis.
    """
    known, found, result, last = tuple(words), list[str](), "", 0
    for match in whole_word(known).finditer(in_lower_case(text)) if known else ():
        before, after = text[last : match.start()], text[match.end() :]
        if not WRITTEN.search(before):
            follows = bool(result) or (bool(template) and not template[-1].isspace())
            result += spaced_before(escaped(before) if escape else before, follows, weighted)
            result += f"{MARK}{PRIVATE}{len(found)}" + ("" if ENDS_NAME[weighted].match(after) else " ")
            found.append(match.group())
            last = match.end()
    return result + (escaped(text[last:]) if escape else text[last:]), found


def escaped(text: str) -> str:
    """Return text with a backslash before every bracket that has none."""
    return BRACKET.sub(lambda match: f"\\{match.group()}", text)


def spaced_before(text: str, follows: bool, weighted: bool) -> str:
    """Return the text before a name with the space that the name needs. `follows`: more text stands before it."""
    if (not text and not follows) or text[-1:].isspace() or (weighted and text.endswith("(")):
        return text
    return f"{text} "
