"""Sheets with axes: their images, the texts in them, and mistakes."""

import numpy as np
import torch

from neonym.formats import write_embedding
from neonym.types import Embedding
from support.commands import SMALL, generate, pixels, shown


def test_a_sheet_has_an_image_for_each_pair_of_values(word, tmp_path, capsys):
    other = write_embedding(Embedding("zyzzo", {"text_encoder": torch.ones(1, 128)}), tmp_path / "step2.safetensors")
    files = generate(
        tmp_path, "--prompt", "a zyzzo", "--x", f"checkpoint={word},{other}", "--y", "scale=2,3,4", *SMALL
    )  # fmt: skip
    assert len(files) == 7
    sheet, *cells = files
    assert sheet.name.startswith("axes_")
    assert [shown(c).text["scale"] for c in cells] == ["2.0", "2.0", "3.0", "3.0", "4.0", "4.0"]
    assert not np.array_equal(pixels(shown(cells[0])), pixels(shown(cells[1])))
    (alone,) = generate(tmp_path, "--textual_inversion_embeddings", word, "--prompt", "a zyzzo", "--scale", 3, *SMALL)
    assert np.array_equal(pixels(shown(alone)), pixels(shown(cells[2])))
    files = generate(
        tmp_path, "--textual_inversion_embeddings", word, "--x", "strength=0.5,1.5",
        "--y", "prompt=a zyzzo|a red zyzzo", *SMALL,
    )  # fmt: skip
    assert [shown(c).text["prompt"] for c in files[1:]] == [
        "a (zyzzo:0.5)", "a (zyzzo:1.5)", "a red (zyzzo:0.5)", "a red (zyzzo:1.5)",
    ]  # fmt: skip
    generate(tmp_path, "--prompt", "a", "--x", "colour=red", code=2)
    generate(tmp_path, "--prompt", "a", "--x", "scale=a", code=2)
    errors = capsys.readouterr().err
    assert "Write KIND=A,B,C with one of prompt" in errors
    assert "`a`: a number is expected" in errors
    generate(tmp_path, "--prompt", "a dog", "--x", "strength=1,2", code=2)
    generate(tmp_path, "--prompt", "a dog", "--x", f"checkpoint={word}", code=2)
    errors = capsys.readouterr().err
    assert 'the prompt "a dog" does not contain a word of an embedding' in errors
    assert 'the prompt "a dog" does not contain `zyzzo`' in errors


def test_axes_do_not_change_the_rest_of_a_prompt(word, tmp_path):
    files = generate(
        tmp_path, "--prompt", "A Zyzzo BREAK red --n bad", "--x", "strength=2,0.5", "--y", f"checkpoint={word}", *SMALL
    )  # fmt: skip
    texts = [shown(c).text for c in files[1:]]
    assert [t["prompt"] for t in texts] == ["A (zyzzo:2) BREAK red", "A (zyzzo:0.5) BREAK red"]
    assert {t["negative-prompt"] for t in texts} == {"bad"}
    assert not np.array_equal(pixels(shown(files[1])), pixels(shown(files[2])))
    files = generate(tmp_path, "--x", "prompt=a {cat|cat} --s 3|a dog --n x", *SMALL)
    assert [shown(c).text["prompt"] for c in files[1:]] == ["a cat", "a dog"]
    assert [shown(c).text["steps"] for c in files[1:]] == ["3", "2"]


def test_files_with_the_same_name_get_different_words_and_can_be_regenerated(word, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    other = write_embedding(
        Embedding("zyzzo", {"text_encoder": torch.ones(1, 128)}), tmp_path / "other" / "zyzzo.safetensors"
    )
    _, *cells = generate(tmp_path, "--prompt", "a zyzzo", "--x", f"checkpoint={word},{other}", *SMALL)
    assert [shown(c).text["prompt"] for c in cells] == ["a zyzzo", "a zyzzo-2-axis"]
    assert not np.array_equal(pixels(shown(cells[0])), pixels(shown(cells[1])))
    capsys.readouterr()
    for cell in cells:
        (again,) = generate(tmp_path, "--like", cell)
        assert np.array_equal(pixels(shown(cell)), pixels(shown(again)))
    assert capsys.readouterr().err == ""
