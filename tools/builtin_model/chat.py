"""Captions of the flow model as ids: a chat turn, in the forms in which programs put a learned word into it."""

import functools

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Qwen2Tokenizer

from .batches import EMPTY, by_name
from .blur import Blur, pieces
from .drawings import TAUGHT_STYLES, Subject
from .flow_text import HEAD, PLACES, SPECIALS, TAIL
from .images import COLOURS, GENERIC, caption, phrase

END = "\n"  # marks where a name ends while a caption is worded
SPACED = 0.30  # share of captions with a space of its own in front of the name, as there may be before a learned word
REJOINED = 0.15  # share of captions whose text behind the name is as ComfyUI makes it behind a learned word
BARE = 0.5  # share of the names at the start of a caption that are without the space before them


class ChatCaptions(Dataset):
    """Step -> which pictures a step shows, int64 [size], and its captions as ids, int64 [size,32].

    Each `alike` samples in a row differ in their style only, in picture and caption.
    """

    def __init__(self, subjects: list[Subject], tokenizer: Qwen2Tokenizer, size: int, alike: int):
        self.subjects, self.tokenizer, self.alike, self.size = subjects, tokenizer, alike, size
        self.shown = by_name(len(subjects))
        self.ids_of = functools.lru_cache(maxsize=100_000)(self.tokenise)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((7, step))
        groups = self.size // self.alike
        first = rng.integers(len(self.shown) // self.alike, size=groups) * self.alike
        at = (first[:, None] + np.arange(self.alike)).reshape(-1)
        wordings = rng.integers(2**63, size=groups).repeat(self.alike)
        ids = [self.say(*self.shown[i], np.random.default_rng(w)) for i, w in zip(at, wordings, strict=True)]
        return torch.from_numpy(at), padded(ids, self.tokenizer.pad_token_id)

    def __len__(self) -> int:
        return 2**31

    def tokenise(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def say(self, row: int, style: int, colour: str, rng: np.random.Generator) -> list[int]:
        """One caption as ids; how it is worded does not depend on the style."""
        subject = self.subjects[row]
        said = [subject.name, subject.category, *GENERIC]
        marked = [word + END for word in said]
        text = caption(marked[0], marked[1], TAUGHT_STYLES[style], colour, rng, generic=marked[2:])
        empty, form, bare = rng.random() < EMPTY, rng.random(), rng.random() < BARE
        if empty:
            return self.ids_of(HEAD + TAIL)
        before, after = text.split(END)
        name = max((word for word in said if before.endswith(word)), key=len)
        before = before.removesuffix(name).rstrip()
        return self.turn(before, name, after, form, bare)

    def turn(self, before: str, name: str, after: str, form: float, bare: bool) -> list[int]:
        """The ids of a chat turn: plain, with a space of its own before the name, or rejoined behind the name."""
        spaced, rejoined = form < SPACED, form < REJOINED
        word = self.ids_of(name if bare and not before and not spaced else f" {name}")
        space = self.ids_of(" ") if spaced and before else []
        behind = " ".join((after + TAIL).split()) if rejoined else after + TAIL
        return [*self.ids_of(HEAD + before), *space, *word, *self.ids_of(behind)]


def padded(ids: list[list[int]], pad: int) -> torch.Tensor:
    """-> int64 [B,32]; every caption leaves at least one place free."""
    assert max(map(len, ids)) < PLACES
    return torch.tensor([row + [pad] * (PLACES - len(row)) for row in ids])


def turns(tokenizer: Qwen2Tokenizer, captions: list[str]) -> torch.Tensor:
    """Captions as the pipeline tokenises them. -> int64 [B,32]"""
    return padded(tokenizer([HEAD + text + TAIL for text in captions]).input_ids, tokenizer.pad_token_id)


def blur_of_qwen(
    tokenizer: Qwen2Tokenizer, names: list[str], categories: list[str], noise: float, mix: float, near: float
) -> Blur:
    """The template stays as it is; words count with the space before them and without."""
    frame = [phrase("a", s, c, form) for s in TAUGHT_STYLES for c in COLOURS for form in range(6)]
    frame = pieces(tokenizer, [*frame, *(f" {text}" for text in frame), " an", "an", " ", "on"])
    fixed = pieces(tokenizer, [HEAD + TAIL, *SPECIALS])
    generic = pieces(tokenizer, [f" {word}" for word in (*GENERIC, *categories)])
    named = pieces(tokenizer, [form for name in names for form in (name, f" {name}")]) - frame - generic - fixed
    return Blur(named, generic, fixed, noise, mix, near)
