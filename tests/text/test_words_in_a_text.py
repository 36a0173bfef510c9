"""Verify that a word is found as a whole word, in any case, and only by its own letters."""

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


def test_similar_letters_do_not_match():
    """Python's upper and lower case map the Turkish dotless i to i, but `k\u0131z` is not the word `kiz`."""
    tokenize = tokenizer()
    tokenize.add_word("kiz", 1)
    assert tokenize("a k\u0131z").learned == ()
    assert len(tokenize("a KIZ").learned) == 1


def test_start_and_end_tokens_are_not_words():
    table = torch.eye(6)
    nearest = nearest_tokens(table, table, 1, {0, 4})
    assert nearest[[1, 2, 3, 5], 0].tolist() == [1, 2, 3, 5]
    assert not {0, 4} & set(nearest[:, 0].tolist())
    assert tokenizer().special_ids == {49406, 49407}
