"""Embedding files: exact round trips, the real diffusers loader, refusal of what breaks programs."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from neonym.errors import FormatError
from neonym.formats import read_embedding, write_embedding
from neonym.generation.images import add_files, conditioning
from neonym.models.family import identify, load_model
from neonym.types import Embedding

ROWS = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))


def embedding(rows=ROWS, token="zyzzo") -> Embedding:
    return Embedding(token, {"text_encoder": rows}, {"neonym.steps": "7"})


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_round_trip_is_exact(tmp_path, ending):
    path = write_embedding(embedding(), tmp_path / f"zyzzo.{ending}")
    back = read_embedding(path)
    assert back.token == "zyzzo"
    assert torch.equal(back.vectors["text_encoder"], ROWS)
    assert list(tmp_path.iterdir()) == [path]


def test_the_layout_is_sd_scripts(tmp_path):
    content = load_file(write_embedding(embedding(), tmp_path / "zyzzo.safetensors"))
    assert list(content) == ["emb_params"]
    assert content["emb_params"].dtype == torch.float32
    assert content["emb_params"].shape == (3, 128)


def test_the_same_embedding_is_the_same_file(tmp_path):
    """In other processes too: the library alone writes metadata in random order."""
    code = (
        "import sys, torch; from neonym.formats import write_embedding; from neonym.types import Embedding;"
        "m = {c * 3: c for c in 'abcdefghijkl'};"
        "write_embedding(Embedding('w', {'text_encoder': torch.ones(1, 128)}, m), sys.argv[1])"
    )
    for ending in ("safetensors", "pt"):
        files = [tmp_path / f"{i}.{ending}" for i in range(2)]
        for file in files:
            subprocess.run([sys.executable, "-c", code, str(file)], check=True)
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("word", ["zyzzo", "my-word.v2"])
def test_diffusers_loads_it_to_the_same_conditioning(tmp_path, ending, word):
    """The real consumer: load_textual_inversion, then the pipeline's own prompt encoding."""
    from diffusers import StableDiffusionPipeline

    path = write_embedding(embedding(token=word), tmp_path / f"{word}.{ending}")
    pipeline = StableDiffusionPipeline.from_pretrained(identify("builtin:emoji").folder, dtype=torch.float32)
    if ending == "pt":  # diffusers takes a file with one tensor, or string_to_param with a name
        pipeline.load_textual_inversion(str(path))
    else:
        pipeline.load_textual_inversion(str(path), token=word)
    prompt = f"a sticker of a {word} on a red background"
    theirs = pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
    model = load_model()
    assert add_files(model, [path]) == [word]
    assert torch.equal(conditioning(model, [prompt]), theirs)
    assert not torch.allclose(conditioning(model, [prompt.replace(word, "picture")]), theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.zeros(0, 128), "a table of vectors"),
        (torch.zeros(128), "a table of vectors"),
        (torch.zeros(1, 2, 128), "a table of vectors"),
        (torch.full((1, 128), float("nan")), "not finite"),
        (torch.full((1, 128), float("inf")), "not finite"),
    ],
)
def test_what_breaks_programs_is_not_written(tmp_path, rows, words):
    with pytest.raises(FormatError, match=words):
        write_embedding(embedding(rows), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_foreign_layouts_are_read(tmp_path):
    save_file({"<tok>": ROWS[0]}, tmp_path / "one.safetensors")
    assert read_embedding(tmp_path / "one.safetensors").vectors["text_encoder"].shape == (1, 128)
    torch.save({"emb_params": ROWS.half()}, tmp_path / "kohya.pt")
    assert read_embedding(tmp_path / "kohya.pt").vectors["text_encoder"].dtype == torch.float32


def test_damaged_files_are_refused_in_a_sentence(tmp_path):
    good = write_embedding(embedding(), tmp_path / "good.safetensors").read_bytes()
    for name, content in {
        "cut.safetensors": good[:-9],
        "empty.safetensors": b"",
        "noise.safetensors": b"\xff" * 900,
        "huge.safetensors": (2**60).to_bytes(8, "little") + b"{}",
        "empty.pt": b"",
        "noise.pt": b"PK\x03\x04" + b"\x00" * 100,
        "text.pt": b"hello",
        "rows.safetensors": save({"a": torch.zeros(0, 128)}),
        "nan.safetensors": save({"a": torch.full((1, 128), float("nan"))}),
        "whole.safetensors": save({"a": torch.ones(1, 128, dtype=torch.int64)}),
        "deep.safetensors": save({"a": torch.ones(1, 1, 128)}),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=name):
            read_embedding(tmp_path / name)
    save_file({"a": ROWS, "b": ROWS.clone()}, tmp_path / "two.safetensors")
    with pytest.raises(FormatError, match="2 tensors"):
        read_embedding(tmp_path / "two.safetensors")
    with pytest.raises(FormatError, match="no such file"):
        read_embedding(tmp_path / "none.safetensors")
