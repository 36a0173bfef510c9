"""A word is found in a text whole, in any case, and never by letters that only look like its own."""

import pytest
import torch

from neonym.models.encoders.rows import nearest_tokens
from neonym.models.loading.identify import identify
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.text.words import clean, whole_word

SOURCE = identify("builtin:emoji")


def tokenizer(length: int = 75):
    return load_tokenizers(SOURCE, length)["text_encoder"]


@pytest.mark.parametrize(
    ("token", "text", "count"),
    [
        ("ann", "planned by ann, Ann and ANN's", 3),
        ("mychar4", "a (mychar4:1.3) mychar41 xmychar4", 1),
        ("<cat-toy>", "a <cat-toy> and x<Cat-Toy>y", 2),
        ("my char", "my  char, my\nchar", 2),
        ("a.b", "a.b axb", 1),
    ],
)
def test_a_word_is_matched_whole_and_in_any_case(token, text, count):
    tokenize = tokenizer()
    tokenize.add_word(token, 2)
    assert len(tokenize(text).learned) == 2 * count
    assert len(whole_word((clean(token),)).findall(clean(text))) == count


def test_letters_that_only_look_alike_are_no_match():
    """Upper- and lower-casing without case takes Turkish dotless i for i: `k\u0131z` is another word than `kiz`."""
    tokenize = tokenizer()
    tokenize.add_word("kiz", 1)
    assert tokenize("a k\u0131z").learned == ()
    assert len(tokenize("a KIZ").learned) == 1


def test_what_begins_and_ends_a_text_is_no_word():
    table = torch.eye(6)
    nearest = nearest_tokens(table, table, 1)
    assert nearest[:4, 0].tolist() == [0, 1, 2, 3]
    assert nearest.max() == 3
