"""Tests of `neonym convert A B OUT`, which joins the two files that diffusers' example writes for SDXL."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from neonym.cli.main import main
from neonym.formats import read_embedding, write_embedding
from neonym.types import Embedding

FIRST = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
SECOND = torch.randn(2, 1280, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def halves(tmp_path):
    """Return two files as diffusers' example writes them: each has a tensor named after the word."""
    files = [tmp_path / "learned_embeds.safetensors", tmp_path / "learned_embeds_2.bin"]
    save_file({"<cat-toy>": FIRST}, files[0])
    torch.save({"<cat-toy>": SECOND}, files[1])
    return files


@pytest.mark.parametrize("ending", ["safetensors", "pt", "bin", "png"])
def test_halves_are_joined_by_width_in_either_order(halves, tmp_path, ending):
    for name, files in (("ab", halves), ("ba", halves[::-1])):
        out = tmp_path / f"{name}.{ending}"
        assert main(["convert", *map(str, files), str(out)]) == 0
        found = read_embedding(out)
        assert found.token == "<cat-toy>"
        assert torch.equal(found.vectors["text_encoder"], FIRST)
        assert torch.equal(found.vectors["text_encoder_2"], SECOND)
    if ending == "safetensors":
        assert set(load_file(tmp_path / "ab.safetensors")) == {"clip_l", "clip_g"}


def test_flags_and_file_names_choose_the_word_and_the_output(halves, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(halves[0]), "--token", "toy", str(halves[1]), f"{out}/", "--to", "pt"]) == 0
    assert read_embedding(out / "toy.pt").token == "toy"
    save_file({"emb_params": SECOND}, tmp_path / "unnamed.safetensors")
    assert main(["convert", str(halves[0]), str(tmp_path / "unnamed.safetensors"), str(tmp_path / "n.pt")]) == 0
    assert read_embedding(tmp_path / "n.pt").token == "<cat-toy>"
    torch.save({"<cat-toy>": FIRST, "<dog>": FIRST + 1}, tmp_path / "several.bin")
    both = [str(tmp_path / "several.bin"), str(halves[1])]
    assert main(["convert", *both, str(tmp_path / "s.pt"), "--word", "<cat-toy>"]) == 0
    capsys.readouterr()
    assert main(["convert", *both, str(tmp_path / "t.pt")]) == 2
    assert "holds 2 words" in capsys.readouterr().err


def test_files_that_are_not_halves_of_one_word_are_refused(halves, tmp_path, capsys):
    pair = write_embedding(Embedding("xl", {"text_encoder": FIRST, "text_encoder_2": SECOND}), tmp_path / "xl.pt")
    others = {"other.safetensors": {"<dog>": SECOND}, "three.safetensors": {"<cat-toy>": torch.ones(3, 1280)}}
    for name, content in others.items():
        save_file(content, tmp_path / name)
    for one, two, message in (
        (halves[0], halves[0], "are not the two halves of one word: they have vectors of 768, 768 numbers"),
        (pair, halves[0], "are not the two halves"),
        (
            halves[0],
            tmp_path / "other.safetensors",
            "are different words (<cat-toy>, <dog>). Name the joined word with --token",
        ),
        (halves[0], tmp_path / "three.safetensors", "different numbers of vectors [2, 3]"),
        (halves[0], tmp_path / "none.safetensors", "there is no such file"),
    ):
        assert main(["convert", str(one), str(two), str(tmp_path / "new.safetensors")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new.safetensors").exists()
    assert main(["convert", *map(str, halves), str(tmp_path / "xl.pt")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_no_file_is_written_if_one_of_several_cannot_be_written(tmp_path, capsys):
    rows = FIRST.clone()
    rows[1] = 0
    torch.save({"<a>": FIRST, "<b>": rows}, tmp_path / "two.bin")
    assert main(["convert", str(tmp_path / "two.bin"), str(tmp_path / "out")]) == 2
    assert "a vector is zero" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    torch.save({"a/b": FIRST, "a_b": FIRST + 1}, tmp_path / "same.bin")
    assert main(["convert", str(tmp_path / "same.bin"), str(tmp_path / "out")]) == 2
    assert "would be the file of 2 words" in capsys.readouterr().err
