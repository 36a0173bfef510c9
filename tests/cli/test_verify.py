"""`neonym verify`: its verdict, its sheet, and wrong flags."""

import json

import torch
from PIL import Image

from neonym.cli.main import main
from neonym.formats import write_embedding
from neonym.models.model import load_model
from neonym.types import Embedding
from support.commands import shown


def test_verify_tells_a_word_from_a_copy_of_an_ordinary_word(word, tmp_path, capsys):
    flags = ["--steps", "3", "--seeds", "2"]
    assert main(["verify", str(word), *flags, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["works"]
    assert facts["pixels_from_nearest"] > 1
    assert shown(facts["sheet"]).width > 256
    model = load_model()
    (cat,) = model.text.tokenizers["text_encoder"].token_ids("cat")
    rows = model.text.vocabulary("text_encoder")[[cat]].clone()
    copy = write_embedding(Embedding("copycat", {"text_encoder": rows}), tmp_path / "copycat.safetensors")
    assert main(["verify", str(copy), *flags]) == 3
    output = capsys.readouterr().out
    assert "DOES NOTHING" in output
    assert "nearest ordinary words: cat" in output
    odd = write_embedding(Embedding("copycat", {"text_encoder": rows}), tmp_path / "copycat (1).safetensors")
    assert main(["verify", str(odd), *flags]) == 3
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGBA", (90, 70), (200, 30, 30, 128)).save(images / "1.png")
    main(["verify", str(word), *flags, "--images", str(images), "--json"])
    facts = json.loads("{" + capsys.readouterr().out.partition("{")[2])
    assert facts["verdict"] in ("LEARNED", "WEAK", "NOT LEARNED")
    assert main(["verify", str(word), *flags, "--images", str(tmp_path / "none")]) == 2
    assert "--images" in capsys.readouterr().err


def test_verify_reports_all_mistakes_at_once(word, tmp_path, capsys):
    argv = [
        "--prompt",
        "a (cat:1.2.3)",
        "--out",
        tmp_path / "sheet.xyz",
        "--seeds",
        0,
        "--steps",
        2000,
        "--scale",
        "nan",
    ]
    assert main(["verify", str(word), *map(str, argv)]) == 2
    errors = capsys.readouterr().err
    for part in ("no place for the word", "`1.2.3` is no weight", "is not a .png file", "--seeds: 0 is less than 1",
                 "--steps: 2000 is more", "--scale: nan is not a finite number"):  # fmt: skip
        assert part in errors, part
    assert main(["verify", "", "--prompt", "a {} --s 3", "--out", f"{word}/sheet.png"]) == 2
    errors = capsys.readouterr().err
    assert "the file name is empty" in errors
    assert "`--s`: inline options work only with neonym generate" in errors
    assert main(["verify", str(word), "--out", f"{word}/sheet.png"]) == 2
    assert f"--out {word} cannot be written to" in capsys.readouterr().err
    wide = write_embedding(Embedding("wide", {"text_encoder": torch.ones(1, 768)}), tmp_path / "wide.safetensors")
    assert main(["verify", str(wide)]) == 2
    error = capsys.readouterr().err
    assert f"{wide}: the vectors of `wide` for text_encoder have 768 numbers" in error
    assert main(["verify", str(word), "--model", str(tmp_path / "none")]) == 2
