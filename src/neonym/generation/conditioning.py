"""Encode prompts for the denoiser: emphasis, BREAK, prompts of more than 75 tokens, all spellings of a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from neonym.generation.guidance import concatenate_texts
from neonym.models.encoders.clip import Keep
from neonym.models.lexicon import as_tensors
from neonym.models.model import Model
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.comfyui import typed_groups
from neonym.models.tokenizers.word_tokenizer import Chunk, WordTokenizer
from neonym.text.emphasis import parse_emphasis
from neonym.text.words import whole_word
from neonym.types import Encoded, TextCond

BREAK = re.compile(r"\s*\bBREAK\b\s*")
COMFYUI = r"(?<![\w:])embedding:(?P<word>{words})(?:\.(?:safetensors|pt|ckpt|bin|png))?(?![\w-]|\.\w)"
INVOKEAI = re.compile(r"<(?P<word>[^<>]+)>")
BRACKETED = r"(?<!\\)\((?:[^()]|{})*\)"
GROUP = BRACKETED.format(BRACKETED.format(BRACKETED.format(r"\([^()]*\)"))) + r"|\"[^\"]*\""  # what InvokeAI emphasises
INVOKEAI_EMPHASIS = re.compile(
    rf"(?P<group>{GROUP})(?P<number>\d+\.\d*|\.\d+|\d+)|(?P<signed>{GROUP}|<[^<>]+>)(?P<signs>\++|-+)(?![\w.<])"
)
MORE, LESS = 1.1, 0.9  # what + and - mean in InvokeAI
BRACKETS = re.compile(r"[()\[\]]")


@dataclass(frozen=True)
class TextRules:
    """The rules by which prompts are read."""

    most_chunks: int | None = None  # None: as many as a prompt needs, up to what the tokenizer allows
    keep: Keep = "original"  # which mean of the encoding emphasis leaves unchanged
    comfyui: bool = False  # prompts have the ids that ComfyUI makes of them


def plain_spelling(prompt: str, words: Iterable[str], escape: bool = True) -> str:
    """Return a prompt with ComfyUI's `embedding:word` and InvokeAI's `<word>` replaced by the word, for known `words`.

    With `escape`, brackets that belong to a word's name are escaped, so that they are not read as emphasis.
    """
    known = {word.lower() for word in words}
    longest_first = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))

    def invokeai(match: re.Match[str]) -> str:
        return match["word"] if match["word"].lower() in known and match.group().lower() not in known else match.group()

    if known:
        prompt = re.sub(COMFYUI.format(words=longest_first), lambda match: match["word"], prompt, flags=re.IGNORECASE)
    prompt = INVOKEAI.sub(invokeai, translate_invokeai_emphasis(prompt, known))
    bracketed = tuple(word for word in known if BRACKETS.search(word))
    if not bracketed or not escape:
        return prompt
    found = re.compile(whole_word(bracketed).pattern, re.IGNORECASE)
    return found.sub(lambda match: BRACKETS.sub(r"\\\g<0>", match.group()), prompt)


def translate_invokeai_emphasis(prompt: str, words: set[str]) -> str:
    """Return a prompt with InvokeAI's `(a <word>)1.2` and `<word>++` written as `(a <word>:1.2)` and `(<word>:1.21)`.

    Only a group that contains a known `<word>` is certain to be InvokeAI's syntax. Elsewhere, a number after a bracket
    is plain text.
    """

    def emphasised(match: re.Match[str]) -> str:
        inner, signs = match["group"] or match["signed"], match["signs"] or ""
        inside = {found for word in INVOKEAI.finditer(inner.lower()) for found in (word["word"], word.group())}
        if not inside & words:
            return match.group()
        weight = float(match["number"]) if match["number"] else (MORE if signs[0] == "+" else LESS) ** len(signs)
        body = inner if inner[0] == "<" else translate_invokeai_emphasis(inner[1:-1], words)
        return f"({body}:{weight:.4f}".rstrip("0").rstrip(".") + ")"

    return INVOKEAI_EMPHASIS.sub(emphasised, prompt) if "<" in prompt else prompt


def chunks_of(tokenizer: WordTokenizer, prompt: str, rules: TextRules = TextRules()) -> list[Chunk]:
    """Return a prompt in chunks of the tokenizer's size, of which BREAK ends one early.

    Raises ValueError for emphasis whose weight is not a number.
    """
    if rules.comfyui:
        return tokenizer.comfyui_chunks(typed_groups(tokenizer, prompt, tokenizer.knows_emphasis, escape=False))
    if not tokenizer.knows_emphasis:
        return tokenizer.in_chunks([((plain_spelling(prompt, tokenizer.words, escape=False),), 1.0)])
    pieces = parse_emphasis(plain_spelling(prompt, tokenizer.words))
    return tokenizer.in_chunks((BREAK.split(text), weight) for text, weight in pieces)


def chunks_allowed(tokenizer: WordTokenizer, rules: TextRules) -> int:
    """Return the largest number of chunks that a prompt may have."""
    most = tokenizer.chunks_read(rules.comfyui)
    return min(most, rules.most_chunks or most)


def keeps_chunks(tokenizer: WordTokenizer, rules: TextRules) -> bool:
    """Return whether a prompt has as many chunks as it needs, whatever is beside it: empty ones would be read."""
    return rules.comfyui and tokenizer.layout.chunks_in_comfyui


def chunks_needed(model: Model, prompts: Iterable[str], rules: TextRules = TextRules()) -> int:
    """Return how many chunks the longest of `prompts` is split into."""
    tokenizers = model.text.tokenizers.values()
    return max(
        min(len(chunks_of(t, prompt, rules)), chunks_allowed(t, rules)) for t in tokenizers for prompt in prompts
    )


def words_and_tokens_cut(tokenizer: WordTokenizer, prompt: str, rules: TextRules = TextRules()) -> tuple[set[str], int]:
    """Return the learned words in a prompt, and how many tokens are cut off because it has too many chunks."""
    chunks = chunks_of(tokenizer, prompt, rules)
    learned = {token for chunk in chunks for token, _ in chunk if token >= tokenizer.vocab}
    used = {word for word, ids in tokenizer.words.items() if learned & set(ids)}
    return used, sum(map(len, chunks[chunks_allowed(tokenizer, rules) :]))


@torch.no_grad()
def conditioning(
    model: Model, prompts: Sequence[str], chunks: int | None = None, rules: TextRules = TextRules()
) -> TextCond:
    """Return the encoded prompts, each padded to a number of `chunks` (default: what the longest one needs).

    A model whose prompts keep their own numbers of chunks reads each alone.
    """
    if len(prompts) > 1 and any(keeps_chunks(tokenizer, rules) for tokenizer in model.text.tokenizers.values()):
        return concatenate_texts([conditioning(model, [prompt], chunks, rules) for prompt in prompts])
    chunks = chunks_needed(model, prompts, rules) if chunks is None else chunks
    texts = model.text.stacked([read_prompt(model.text, prompt, chunks, rules) for prompt in prompts], model.device)
    has_emphasis = any(bool((weights != 1).any()) for weights in (texts.emphasis or {}).values())
    return model.text.encode(texts if has_emphasis else replace(texts, emphasis=None), rules.keep)


def read_prompt(text: TextSide, prompt: str, chunks: int, rules: TextRules) -> Encoded:
    """Return the ids, emphasis and masks of a prompt, each [K,L] per encoder."""
    found = {}
    for name, tokenizer in text.tokenizers.items():
        own = chunks_allowed(tokenizer, rules) if keeps_chunks(tokenizer, rules) else min(chunks, tokenizer.most_chunks)
        read = chunks_of(tokenizer, prompt, rules)[:own]
        missing = 0 if keeps_chunks(tokenizer, rules) else own - len(read)
        lay_out = tokenizer.laid_out_as_comfyui if rules.comfyui else tokenizer.laid_out
        found[name] = lay_out([*read, *[[]] * missing])
    return as_tensors(found, frozenset(), list(found))
