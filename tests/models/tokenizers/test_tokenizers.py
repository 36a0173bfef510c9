"""Tokenization agrees with sd-scripts' own results, finds the words of a caption, and looks each part up once."""

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
    """The same vocabulary, padded as each family pads: SD 1.x with the end, SD 2.x with "!", SDXL's second one with id 0."""
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
        tokenize.weighted = part == "with_weights"
        for case in golden_cases(part, kind, length):
            found = tokenize(case["inputs"]["caption"])
            assert found.ids == case["expected"]["input_ids"], case["inputs"]
            if tokenize.weighted:
                assert torch.allclose(torch.tensor(found.weights), torch.tensor(case["expected"]["weights"])), case[
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
def test_text_looked_up_part_by_part_is_the_text_looked_up_whole(kind, parts):
    text = clean("".join(parts))
    whole = clip_tokenizer(kind).backend.encode(text, add_special_tokens=False).ids
    assert family_tokenizer(kind, 75).pieces(text) == whole


def test_each_part_of_a_text_is_looked_up_once():
    tokenize = tokenizer()
    assert tokenize.pieces("a cat, a cat") == tokenize.pieces("a cat,") + tokenize.pieces("a cat")
    assert set(tokenize.known) == {"a", "cat,", "cat"}


def test_chunks_are_cut_out_of_one_padded_row():
    """ "!" pads SD 2.x: first in a chunk it becomes an end, and after it at the end of a chunk stands the row's last id."""
    two = family_tokenizer("sd2", 150)
    assert two("! cat").ids[0][:3] == [49406, 49407, 2368]
    for caption, last in (("cat " * 74 + "!", 0), ("cat " * 74 + "!" * 80, 49407), ("cat " * 75 + "!", 49407)):
        assert two(caption).ids[0][76] == last
    assert family_tokenizer("sd2", 75)("! cat").ids[0][:3] == [49406, 0, 2368]
    assert family_tokenizer("sdxl_tokenizer2", 150)("! cat").ids[0][:3] == [49406, 256, 2368]


def kind_of(caption: str, words: list[str]) -> str:
    """What sd-scripts' words for the vectors (`mytok mytok1 mytok2`) look like in a caption."""
    several, first = len(words) > 1, re.escape(words[0])
    rest = caption.replace(" ".join(words), "") if several else caption
    if re.search(rf"\w{first}|{first}\w", rest):
        return "added tokens: a word within a longer one"
    if several and any(word in rest for word in words):
        return "added tokens: some of the words of several vectors"
    other_case = words[0] not in rest and words[0].lower() in rest.lower()
    return "added tokens: in another case" if other_case else "added tokens: the word itself"


def test_golden_words():
    """One word here stands for all of sd-scripts' words together."""
    outcomes: dict[str, bool] = {}
    for case in golden("d_tokenization.json", "added_tokens"):
        inputs = case["inputs"]
        words, kind = inputs["token_strings"], kind_of(inputs["caption"], inputs["token_strings"])
        tokenize = family_tokenizer(inputs["tokenizer"], inputs["max_token_length"])
        tokenize.add_word(words[0], len(words))
        found = tokenize(inputs["caption"].replace(" ".join(words), words[0])).ids
        outcomes[kind] = outcomes.get(kind, True) and found == case["expected"]["input_ids"]
    assert outcomes["added tokens: the word itself"]
    judge("d", outcomes)


def test_the_seeds_own_example():
    """Eight vectors stand at positions 1 to 8, and the ids go on from 49408."""
    tokenize = tokenizer()
    tokenize.add_word("mychar4", 8)
    ids = tokenize("mychar4").ids[0]
    assert ids == [49406, *range(49408, 49416), *[49407] * 68]


def test_names_with_numbers_do_not_collide():
    """Upstream names the vectors foo, foo1, foo2: a word `foo1` would clash."""
    tokenize = tokenizer()
    tokenize.add_word("foo", 3)
    tokenize.add_word("foo1", 2)
    assert tokenize.flat("foo1 foo") == [49411, 49412, 49408, 49409, 49410]


def test_what_is_cut_off_is_counted():
    tokenize = tokenizer()
    tokenize.add_word("mychar4", 4)
    ids = tokenize("cat " * 73 + "mychar4")
    assert ids.lost_rows == 2
    assert len(ids.learned) == 2
    assert ids.ids[0][-1] == 49407
