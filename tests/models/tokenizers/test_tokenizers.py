"""Verify that tokenization agrees with sd-scripts' results, finds words, and caches the ids of each word."""

import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neonym.models.loading.identify import identify
from neonym.models.tokenizers.clip import ClipWordTokenizer
from neonym.models.tokenizers.loading import CLIP, load_tokenizers, read_clip
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.text.words import clean
from support.golden import golden, judge

SOURCE = identify("builtin:emoji")


def tokenizer(length: int = 75):
    return load_tokenizers(SOURCE, length)["text_encoder"]


def family_tokenizer(kind: str, length: int | None) -> WordTokenizer:
    """Return a tokenizer padded like that of a family: with the end, with "!" (SD 2.x), or with id 0 (SDXL's second)."""
    return ClipWordTokenizer(49408, 75, (length or 75) // 75, 8, clip=clip_tokenizer(kind))


@cache
def clip_tokenizer(kind: str):
    return read_clip(CLIP, None if kind == "sd1" else "!", id_zero_pads=kind == "sdxl_tokenizer2")


def golden_cases(part, kind, length):
    cases = golden("d_tokenization.json", part)
    return [c for c in cases if (c["inputs"]["tokenizer"], c["inputs"]["max_token_length"]) == (kind, length)]


LENGTHS = [(kind, length) for kind in ("sd1", "sd2") for length in (None, 75, 150, 225)]
LENGTHS += [("sdxl_tokenizer2", length) for length in (None, 150, 225)]


@pytest.mark.parametrize(("kind", "length"), LENGTHS)
def test_golden_tokenization(kind, length):
    assert len(golden_cases("cases", kind, length)) >= 19
    assert golden_cases("with_weights", kind, length) or kind == "sdxl_tokenizer2" or length == 75
    tokenize = family_tokenizer(kind, length)
    for part in ("cases", "with_weights"):
        tokenize.reads_emphasis = part == "with_weights"
        for case in golden_cases(part, kind, length):
            found = tokenize(case["inputs"]["caption"])
            assert found.ids == case["expected"]["input_ids"], case["inputs"]
            if tokenize.reads_emphasis:
                assert torch.allclose(torch.tensor(found.emphasis), torch.tensor(case["expected"]["weights"])), case[
                    "inputs"
                ]


ODD = st.sampled_from(
    [
        "<|endoftext|>",
        "<|startoftext|>",
        "!",
        "...",
        "'s",
        " ",
        "\u00e9",
        "e\u0301",
        "\U0001f431",
        "\u65e5\u672c",
        "\u200b",
    ]
)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl_tokenizer2"])
@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.one_of(ODD, st.text(max_size=8)), max_size=12))
def test_ids_of_parts_are_those_of_the_whole_text(kind, parts):
    text = clean("".join(parts))
    whole = clip_tokenizer(kind).backend.encode(text, add_special_tokens=False).ids
    assert family_tokenizer(kind, 75).token_ids(text) == whole


def test_each_part_of_a_text_is_encoded_once():
    tokenize = tokenizer()
    assert tokenize.token_ids("a cat, a cat") == tokenize.token_ids("a cat,") + tokenize.token_ids("a cat")
    assert set(tokenize.cached_ids) == {"a", "cat,", "cat"}


def test_chunks_have_the_edges_of_sd_scripts():
    """The "!" of SD 2.x becomes an end at the start of a chunk; at its end, the last id of the padded row follows."""
    two = family_tokenizer("sd2", 150)
    assert two("! cat").ids[0][:3] == [49406, 49407, 2368]
    for caption, last in (("cat " * 74 + "!", 0), ("cat " * 74 + "!" * 80, 49407), ("cat " * 75 + "!", 49407)):
        assert two(caption).ids[0][76] == last
    assert family_tokenizer("sd2", 75)("! cat").ids[0][:3] == [49406, 0, 2368]
    assert family_tokenizer("sdxl_tokenizer2", 150)("! cat").ids[0][:3] == [49406, 256, 2368]


def class_of(caption: str, words: list[str]) -> str:
    """Return what sd-scripts' helper words (`mytok mytok1 mytok2`) look like in a caption."""
    several, first = len(words) > 1, re.escape(words[0])
    rest = caption.replace(" ".join(words), "") if several else caption
    if re.search(rf"\w{first}|{first}\w", rest):
        return "added tokens: a word within a longer one"
    if several and any(word in rest for word in words):
        return "added tokens: some of the words of several vectors"
    other_case = words[0] not in rest and words[0].lower() in rest.lower()
    return "added tokens: in another case" if other_case else "added tokens: the word itself"


def test_golden_words():
    """One word in Neonym stands for all of sd-scripts' helper words together."""
    outcomes: dict[str, bool] = {}
    for case in golden("d_tokenization.json", "added_tokens"):
        inputs = case["inputs"]
        words, kind = inputs["token_strings"], class_of(inputs["caption"], inputs["token_strings"])
        tokenize = family_tokenizer(inputs["tokenizer"], inputs["max_token_length"])
        tokenize.add_word(words[0], len(words))
        found = tokenize(inputs["caption"].replace(" ".join(words), words[0])).ids
        outcomes[kind] = outcomes.get(kind, True) and found == case["expected"]["input_ids"]
    assert outcomes["added tokens: the word itself"]
    judge("d", outcomes)


def test_a_word_of_eight_vectors():
    """Its vectors are at positions 1 to 8, with ids from 49408 on."""
    tokenize = tokenizer()
    tokenize.add_word("mychar4", 8)
    ids = tokenize("mychar4").ids[0]
    assert ids == [49406, *range(49408, 49416), *[49407] * 68]


def test_names_with_numbers_do_not_collide():
    """sd-scripts names the vectors foo, foo1, foo2, so a word `foo1` would collide there."""
    tokenize = tokenizer()
    tokenize.add_word("foo", 3)
    tokenize.add_word("foo1", 2)
    assert tokenize.flat("foo1 foo") == [49411, 49412, 49408, 49409, 49410]


def test_ids_that_do_not_fit_are_cut_off():
    tokenize = tokenizer()
    tokenize.add_word("mychar4", 4)
    text = "cat " * 73 + "mychar4"
    ids = tokenize(text)
    assert tokenize.cut_off(text) == [49410, 49411]
    assert len(ids.learned) == 2
    assert ids.ids[0][-1] == 49407
