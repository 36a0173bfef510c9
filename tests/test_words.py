"""What is said of a new word before a weight is read: its starting word."""

import pytest
import torch
from conftest import settings

from neonym.cli.main import main
from neonym.learn.prepare import prepare
from neonym.learn.rows import first_rows
from neonym.models.family import load_model


@pytest.mark.parametrize(
    ("word", "count", "severity", "words"),
    [
        ("red fluffy dog", 2, "warning", "has 3 tokens for 2 vectors: `red`, `fluffy` are used, `dog` is not. Give --num_vectors_per_token=3"),
        ("red fluffy big dog", 1, "warning", "has 4 tokens for 1 vector: `red` is used, `fluffy`, `big`, `dog` are not"),
        ("red dog", 5, "note", "has 2 tokens for 5 vectors, which start from them in turn: `red`, `dog`, `red`, `dog`, `red`."),
        ("cute", 12, "note", "has 1 token for 12 vectors, which start from them in turn: `cute`, `cute`"),
        ("red dog", 2, None, ""),
    ],
)  # fmt: skip
def test_tokens_of_the_init_word_against_vectors(pictures, word, count, severity, words):
    flags = {"train_data_dir": str(pictures), "token_string": "mychar4", "init_word": word}
    found = [p for p in prepare(settings(**flags, num_vectors_per_token=count)).problems if "init word" in p.where]
    assert [p.severity for p in found] == ([severity] if severity else [])
    assert all(words in str(p) for p in found)


def test_vectors_start_as_it_is_said():
    model = load_model()
    table = model.vocabulary("text_encoder")
    red, fluffy, dog = model.tokenizers["text_encoder"].pieces("red fluffy dog")
    assert torch.equal(first_rows(model, "red fluffy dog", 2)["text_encoder"], table[[red, fluffy]].float())
    assert torch.equal(first_rows(model, "red dog", 3)["text_encoder"], table[[red, dog, red]].float())


def test_check_says_it_and_train_too(pictures, tmp_path, capsys):
    flags = [f"--train_data_dir={pictures}", "--token_string=mychar4", "--init_word=red fluffy dog"]
    assert main(["check", *flags]) == 0
    assert "`fluffy`, `dog` are not" in capsys.readouterr().out
    more = ["--max_train_steps=1", "--eval_samples=8", "--cpu", f"--output_dir={tmp_path / 'out'}"]
    assert main(["train", *flags, *more]) in (0, 3)
    assert "`fluffy`, `dog` are not" in capsys.readouterr().err
