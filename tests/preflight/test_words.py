"""Tests of the problems of a new word: its name, its init word, and the file that it starts from."""

import pytest
import torch

from neonym.cli.main import main
from neonym.formats import read_embedding, write_embedding
from neonym.models.model import load_model
from neonym.preflight.preflight import preflight
from neonym.training.concept import initial_rows
from neonym.types import Embedding
from support.checks import settings
from support.data_sets import make_images


@pytest.mark.parametrize(
    ("word", "count", "severity", "words"),
    [
        ("red fluffy dog", 2, "warning", "has 3 tokens for 2 vectors: `red`, `fluffy` are used, `dog` is not. Use --num_vectors_per_token=3"),
        ("red fluffy big dog", 1, "warning", "has 4 tokens for 1 vector: `red` is used, `fluffy`, `big`, `dog` are not"),
        ("red dog", 5, "note", "has 2 tokens for 5 vectors, which start from them in turn: `red`, `dog`, `red`, `dog`, `red`."),
        ("cute", 12, "note", "has 1 token for 12 vectors, which start from them in turn: `cute`, `cute`"),
        ("red dog", 2, None, ""),
    ],
)  # fmt: skip
def test_an_init_word_with_more_or_fewer_tokens_than_vectors_is_reported(images, word, count, severity, words):
    flags = {"train_data_dir": str(images), "token_string": "mychar4", "init_word": word}
    found = [p for p in preflight(settings(**flags, num_vectors_per_token=count)).problems if "init word" in p.where]
    assert [p.severity for p in found] == ([severity] if severity else [])
    assert all(words in str(p) for p in found)


def test_vectors_start_from_the_tokens_in_turn():
    model = load_model()
    table = model.text.vocabulary("text_encoder")
    red, fluffy, dog = model.text.tokenizers["text_encoder"].token_ids("red fluffy dog")
    assert torch.equal(initial_rows(model, "red fluffy dog", 2)["text_encoder"], table[[red, fluffy]].float())
    assert torch.equal(initial_rows(model, "red dog", 3)["text_encoder"], table[[red, dog, red]].float())


def test_check_and_train_report_unused_tokens_of_the_init_word(images, tmp_path, capsys):
    flags = [f"--train_data_dir={images}", "--token_string=mychar4", "--init_word=red fluffy dog"]
    assert main(["check", *flags]) == 0
    assert "`fluffy`, `dog` are not" in capsys.readouterr().out
    more = ["--max_train_steps=1", "--eval_samples=8", "--cpu", f"--output_dir={tmp_path / 'out'}"]
    assert main(["train", *flags, *more]) in (0, 3)
    assert "`fluffy`, `dog` are not" in capsys.readouterr().err


def starting_file(path, **shapes) -> str:
    vectors = {name: torch.arange(1.0, 1 + n * w).reshape(n, w) for name, (n, w) in shapes.items()}
    return str(write_embedding(Embedding("old", vectors, {"neonym.vectors": "2"}), path))


def test_a_file_with_another_number_of_vectors_is_an_error_whose_fixes_work(images, tmp_path, capsys):
    """Both fixes in the message work: the number of vectors in the file, and a resized file."""
    file = starting_file(tmp_path / "old.safetensors", text_encoder=(2, 128))
    flags = ["check", f"--train_data_dir={images}", "--token_string=mychar4"]
    assert main([*flags, f"--weights={file}", "--num_vectors_per_token=3"]) == 2
    output = capsys.readouterr().out
    assert "has 2 vectors, but --num_vectors_per_token of `mychar4` is 3" in output
    assert f"neonym convert {file} NEW.safetensors --vectors=3" in output
    assert main([*flags, f"--weights={file}", "--num_vectors_per_token=2"]) == 0
    resized = tmp_path / "NEW.safetensors"
    assert main(["convert", file, str(resized), "--vectors=3"]) == 0
    assert main([*flags, f"--weights={resized}", "--num_vectors_per_token=3"]) == 0


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_resizing_cuts_vectors_or_repeats_them_in_turn(tmp_path, ending):
    file = starting_file(tmp_path / "old.safetensors", text_encoder=(2, 768), text_encoder_2=(2, 1280))
    rows = read_embedding(file).vectors
    for count, order in ((1, [0]), (5, [0, 1, 0, 1, 0])):
        out = tmp_path / f"{count}.{ending}"
        assert main(["convert", file, str(out), f"--vectors={count}"]) == 0
        found = read_embedding(out)
        assert all(torch.equal(found.vectors[name], rows[name][order]) for name in rows)
        assert found.metadata.get("neonym.vectors", str(count)) == str(count)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"text_encoder": (2, 768)}, "for text_encoder have 768 numbers, but the words of builtin:emoji have 128"),
        (
            {"text_encoder": (2, 768), "text_encoder_2": (2, 1280)},
            "1280 numbers called clip_g: builtin:emoji (Stable Diffusion 1.x) has no text encoder for them, only SDXL",
        ),
    ],
)
def test_a_file_for_another_kind_of_model_is_an_error(images, tmp_path, shapes, words):
    file = starting_file(tmp_path / "old.safetensors", **shapes)
    run = settings(train_data_dir=str(images), token_string="mychar4", num_vectors_per_token=2, weights=file)
    found = [str(p) for p in preflight(run).problems if p.severity == "error"]
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"token_string": "MyChar", "num_vectors_per_token": 2}, ["diffusers loses all but the first vector"]),
        ({"token_string": "MyChar"}, []),  # a single vector is not lost
        ({"token_string": "MyChar", "output_name": "mychar4", "num_vectors_per_token": 2}, []),
        (
            {"token_string": "mychar4", "output_name": "my <char>"},
            [
                "ComfyUI cannot use a name with spaces",
                "ComfyUI ends names at brackets",
                "InvokeAI accepts",
                "Windows does not allow",
            ],
        ),
        ({"token_string": "mychar4", "output_name": "my char"}, ["ComfyUI cannot use a name with spaces"]),
        ({"token_string": "mychär"}, ["InvokeAI accepts only ASCII letters, digits, spaces and . , _ - in names"]),
        ({"token_string": "cat"}, ["is an ordinary word"]),
        ({"token_string": "mychar4", "output_name": "cat"}, ["is an ordinary word"]),
    ],
)
def test_names_that_some_program_cannot_use_get_a_warning(tmp_path, flags, words):
    images = make_images(tmp_path / "p", 2, caption=f"a sticker of a {flags['token_string']}")
    problems = preflight(settings(train_data_dir=str(images), **flags)).problems
    warnings = [p.what for p in problems if "`" in p.where and p.severity == "warning"]
    assert all(any(word in f for f in warnings) for word in words), warnings
    assert len(warnings) == len(words)


def test_check_and_train_warn_about_the_name(tmp_path, images, capsys):
    flags = [
        f"--train_data_dir={images}",
        "--token_string=mychar4",
        "--output_name=My Char",
        "--num_vectors_per_token=2",
    ]
    assert main(["check", *flags]) == 0
    assert "with capital letters" in capsys.readouterr().out
    assert main(["train", *flags, "--max_train_steps=1", "--eval_samples=8", "--cpu", f"--output_dir={tmp_path}"]) in (
        0,
        3,
    )
    assert "with capital letters" in capsys.readouterr().err
