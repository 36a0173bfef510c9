"""Verify the words and vectors of a family whose tokenizer keeps upper case: found, started from, named."""

from __future__ import annotations

import pytest
import torch

from neonym.errors import UserError
from neonym.models import registry
from neonym.models.encoders.rows import nearest_tokens
from neonym.models.model import load_model
from neonym.preflight.preflight import preflight
from neonym.training.concept import initial_rows
from support.toy_family import (
    INVISIBLE,
    SPEC,
    WIDTH,
)


def test_the_nearest_words_are_words(folder):
    """The table has marks, such as padding and the end, and rows that the tokenizer never uses."""
    text = load_model(str(folder)).text
    tokenizer, table = text.tokenizers[SPEC.name], text.vocabulary(SPEC.name)
    used = tokenizer.backend.get_vocab_size()
    assert used < len(table)
    assert tokenizer.special_ids == {0, 1, 2, *range(used, len(table))}
    nearest = nearest_tokens(table, table, 1, tokenizer.special_ids)[:, 0].tolist()
    assert nearest[3:used] == list(range(3, used))
    assert not tokenizer.special_ids & set(nearest)


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a photo of mychar4", {"mychar4"}),
        ("A Photo of MyChar4, MYCHAR4", {"mychar4"}),
        ("\u0130 MyChar4 Other", {"mychar4", "other"}),  # a letter that becomes two in lower case
        ("a Dog, mychar44", set()),
        ("a " * 40 + "other", {"other"}),  # it is a word of the caption, although it does not fit
    ],
)
def test_words_are_found_in_any_case_and_once(folder, caption, found, monkeypatch):
    """The words that are reported are those whose rows are read, in text that keeps its case."""
    text = load_model(str(folder)).text
    tokenizer = text.tokenizers[SPEC.name]
    for word in ("MyChar4", "other"):
        text.add_word(word, {SPEC.name: torch.zeros(2, WIDTH)})
    assert tokenizer.words_in(caption) == found
    rows = [i for i in tokenizer.flat(caption) if i >= tokenizer.vocab]
    assert set(rows) == {i for word in found for i in tokenizer.words[word]}
    monkeypatch.setattr(tokenizer, "words_in", None)  # so that there is no second search
    assert text.tokenize(caption).words == found


def test_an_init_word_is_read_as_the_tokenizer_reads_it(folder):
    """T5's tokenizer keeps upper case, so "Dog" and "dog" start from different rows."""
    model = load_model(str(folder))
    tokenizer, table = model.text.tokenizers[SPEC.name], model.text.vocabulary(SPEC.name)
    for word in ("Dog", "dog", " Dog "):
        (piece,) = tokenizer.ids_of(word)
        assert tokenizer.read(piece) == word.strip()
        assert torch.equal(initial_rows(model, word, 1)[SPEC.name], table[[piece]].float())


def test_an_init_word_without_a_token_is_refused_before_training(run_for, folder):
    run = run_for("none", INVISIBLE, max_train_steps=1)
    (error,) = [problem for problem in preflight(run).problems if problem.severity == "error"]
    assert "the init word of `mychar4`" in error.where
    assert "has no token that the model knows" in error.what
    with pytest.raises(UserError, match="has no token for text_encoder"):
        initial_rows(load_model(str(folder)), INVISIBLE, 1)


@pytest.mark.parametrize(
    ("encoder", "widths", "family"),
    [
        ("text_encoder", {"text_encoder": 768, "text_encoder_2": 1280}, "SDXL (its first encoder)"),
        ("text_encoder_2", {"text_encoder": 768, "text_encoder_2": 1280}, "SDXL (its second encoder)"),
        ("text_encoder", {"text_encoder": 768}, "Stable Diffusion 1.x"),
        ("text_encoder", {"text_encoder": 1280}, "SDXL (its second encoder)"),  # by its width alone
        ("text_encoder", {"text_encoder": WIDTH}, "Toy"),
        ("text_encoder", {"text_encoder": 5}, None),
    ],
)
def test_vectors_are_made_for_the_family_that_they_fit(encoder, widths, family):
    assert registry.made_for(encoder, widths) == family
