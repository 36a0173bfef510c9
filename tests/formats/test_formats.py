"""Verify embedding files: exact round trips, loading by the real diffusers, and refusal of what breaks programs."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from neonym.errors import FormatError
from neonym.formats import read_embedding, write_embedding
from neonym.generation.conditioning import conditioning
from neonym.generation.embeddings import add_files
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.registry import families
from neonym.types import Embedding

ROWS = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))


def embedding(rows=ROWS, token="zyzzo") -> Embedding:
    return Embedding(token, {"text_encoder": rows}, {"neonym.steps": "7"})


@pytest.mark.parametrize("ending", ["safetensors", "pt", "ckpt", "bin", "png"])
def test_round_trip_is_exact(tmp_path, ending):
    path = write_embedding(embedding(), tmp_path / f"zyzzo.{ending}")
    back = read_embedding(path)
    assert back.token == "zyzzo"
    assert torch.equal(back.vectors["text_encoder"], ROWS)
    assert list(tmp_path.iterdir()) == [path]


def test_the_safetensors_layout_is_that_of_sd_scripts(tmp_path):
    content = load_file(write_embedding(embedding(), tmp_path / "zyzzo.safetensors"))
    assert list(content) == ["emb_params"]
    assert content["emb_params"].dtype == torch.float32
    assert content["emb_params"].shape == (3, 128)


def test_the_same_embedding_gives_the_same_bytes(tmp_path):
    """Two processes write the same file, although the safetensors library writes metadata in random order."""
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


def test_a_long_text_is_dropped_without_the_other_metadata(tmp_path):
    """The comment of an archive holds 64 KiB, less than a thumbnail needs."""
    told = {"neonym.steps": "7", "modelspec.thumbnail": "x" * 70000, "modelspec.title": "zyzzo"}
    for ending in ("safetensors", "png", "pt", "bin"):
        path = write_embedding(Embedding("zyzzo", {"text_encoder": ROWS}, told), tmp_path / f"a.{ending}")
        found = read_embedding(path)
        assert found.token == "zyzzo"
        kept = {n: t for n, t in told.items() if len(t) < 70000} if ending in ("pt", "bin") else told
        assert kept.items() <= found.metadata.items()


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("word", ["zyzzo", "my-word.v2"])
def test_diffusers_computes_the_same_conditioning(tmp_path, ending, word):
    """The real library loads the file with load_textual_inversion and encodes a prompt with the pipeline's own method."""
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
    assert torch.equal(conditioning(model, [prompt]).sequence, theirs)
    assert not torch.allclose(conditioning(model, [prompt.replace(word, "picture")]).sequence, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.zeros(0, 128), "a table of vectors"),
        (torch.zeros(128), "a table of vectors"),
        (torch.zeros(1, 2, 128), "a table of vectors"),
        (torch.tensor([[1.0] * 128, [0.0] * 128]), "a vector is zero"),
        (torch.full((1, 128), float("nan")), "not finite"),
        (torch.full((1, 128), float("inf")), "not finite"),
    ],
)
def test_embeddings_that_break_programs_are_not_written(tmp_path, rows, words):
    with pytest.raises(FormatError, match=words):
        write_embedding(embedding(rows), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_layouts_of_other_programs_are_read(tmp_path):
    save_file({"<tok>": ROWS[0]}, tmp_path / "one.safetensors")
    assert read_embedding(tmp_path / "one.safetensors").vectors["text_encoder"].shape == (1, 128)
    torch.save({"emb_params": ROWS.half()}, tmp_path / "kohya.pt")
    assert read_embedding(tmp_path / "kohya.pt").vectors["text_encoder"].dtype == torch.float32


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
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
    save_file({"a": ROWS, "b": ROWS + 1}, tmp_path / "two.safetensors")
    with pytest.raises(FormatError, match="2 words .a, b."):
        read_embedding(tmp_path / "two.safetensors")
    with pytest.raises(FormatError, match="no such file"):
        read_embedding(tmp_path / "none.safetensors")


PAIR = {"text_encoder": torch.randn(2, 768, generator=torch.Generator().manual_seed(1)),
        "text_encoder_2": torch.randn(2, 1280, generator=torch.Generator().manual_seed(2))}  # fmt: skip


@pytest.mark.parametrize("ending", ["safetensors", "pt", "ckpt", "bin", "png"])
def test_sdxl_pairs_round_trip(tmp_path, ending):
    path = write_embedding(Embedding("zyzzo", PAIR, {}), tmp_path / f"zyzzo.{ending}")
    if ending != "png":
        content = load_file(path) if ending == "safetensors" else torch.load(path, weights_only=True)
        assert set(content) == {"clip_l", "clip_g"}
    back = read_embedding(path)
    assert back.token == "zyzzo"
    assert all(torch.equal(back.vectors[name], rows) for name, rows in PAIR.items())
    unequal = {**PAIR, "text_encoder_2": PAIR["text_encoder_2"][:1]}
    with pytest.raises(FormatError, match="different numbers"):
        write_embedding(Embedding("zyzzo", unequal, {}), tmp_path / f"x.{ending}")


def test_layouts_of_other_trainers_are_read(tmp_path):
    """Files are laid out as each program writes them."""
    parameter = torch.nn.Parameter(ROWS)
    pickled = {
        "onetrainer.pt": ({"emp_params": ROWS}, "onetrainer"),
        "learned_embeds.bin": ({"<cat-toy>": ROWS}, "<cat-toy>"),
        "web.pt": ({"string_to_token": {"*": 265}, "string_to_param": {"*": parameter}, "name": "web-ui", "step": 5,
                    "sd_checkpoint": None, "sd_checkpoint_name": None}, "web-ui"),
        "original.pt": ({"string_to_token": {"*": torch.tensor(265)},
                         "string_to_param": torch.nn.ParameterDict({"*": parameter})}, "original"),
    }  # fmt: skip
    for name, (content, token) in pickled.items():
        for old in (False, True) if name != "original.pt" else (False,):
            torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not old)
            found = read_embedding(tmp_path / name)
            assert found.token == token
            assert torch.equal(found.vectors["text_encoder"], ROWS), name
    save_file({"emp_params": ROWS, "emp_params_out": ROWS + 1}, tmp_path / "out.safetensors")
    assert torch.equal(read_embedding(tmp_path / "out.safetensors").vectors["text_encoder"], ROWS)
    save_file(
        {"text_encoders_0": PAIR["text_encoder"], "text_encoders_1": PAIR["text_encoder_2"]}, tmp_path / "p.safetensors"
    )
    assert set(read_embedding(tmp_path / "p.safetensors").vectors) == {"text_encoder", "text_encoder_2"}
    lora = {"lora_unet_x.alpha": torch.ones(1), "bundle_emb.mine.string_to_param.*": ROWS}
    save_file(lora, tmp_path / "lora.safetensors")
    assert read_embedding(tmp_path / "lora.safetensors").token == "mine"
    save_file({**lora, "bundle_emb.yours.emb_params": ROWS + 1}, tmp_path / "two.safetensors")
    with pytest.raises(FormatError, match="2 words .mine, yours."):
        read_embedding(tmp_path / "two.safetensors")


def test_image_cards_are_read_from_text_and_pixels(tmp_path):
    """The embedding is read from the text chunk, or from the pixels if a program has dropped the chunk."""
    path = write_embedding(embedding(), tmp_path / "zyzzo.png")
    with Image.open(path) as card:
        assert "sd-ti-embedding" in card.info
        pixels = card.convert("RGB")
    for ending in ("png", "webp"):
        bare = tmp_path / f"bare.{ending}"
        pixels.save(bare, **({"lossless": True} if ending == "webp" else {}))
        found = read_embedding(bare)
        assert found.token == "zyzzo"
        assert torch.equal(found.vectors["text_encoder"], ROWS)
    for size in ((64, 64), (300, 7)):
        Image.new("RGB", size, "red").save(tmp_path / "none.png")
        with pytest.raises(FormatError, match="no embedding"):
            read_embedding(tmp_path / "none.png")


class Evil:
    """An object that pickles to a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt"])
def test_no_file_runs_code(tmp_path, ending):
    import os
    import pickle
    import time
    import zipfile

    mark = tmp_path / "ran"
    calls = [
        (os.system, (f"touch {mark}",)),
        (eval, (f"open({str(mark)!r}, 'w')",)),
        (tuple, ((1, 2),)),
        (os.mkdir, (str(mark),)),
    ]
    for call in calls:
        path = tmp_path / f"evil.{ending}"
        for content in (Evil(*call), {"string_to_param": {"*": (ROWS, (Evil(*call),))}}, [[Evil(*call)]]):
            torch.save(content, path)
            said = "no tensors|run code" if call[0] is tuple else "run code"
            with pytest.raises(FormatError, match=said):
                read_embedding(path)
            path.write_bytes(pickle.dumps(content))
            with pytest.raises(FormatError, match="evil"):
                read_embedding(path)
    assert not mark.exists()
    bomb = tmp_path / f"bomb.{ending}"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200 << 20))
    started = time.monotonic()
    with pytest.raises(FormatError, match="compressed archive"):
        read_embedding(bomb)
    assert time.monotonic() - started < 2


def test_convert_inspect_and_recipe_agree(tmp_path, capsys):
    from neonym.cli.main import main

    first = write_embedding(embedding(), tmp_path / "zyzzo.safetensors")
    chain = [first, *(tmp_path / f"zyzzo.{e}" for e in ("pt", "bin", "png", "ckpt"))]
    for source, target in pairwise(chain):
        assert main(["convert", str(source), str(target)]) == 0
    assert main(["convert", str(chain[-1]), str(tmp_path / "back.safetensors")]) == 0
    assert torch.equal(read_embedding(tmp_path / "back.safetensors").vectors["text_encoder"], ROWS)
    assert main(["convert", str(first), str(chain[1])]) == 2  # it is there already
    assert main(["convert", str(first), str(tmp_path), "--to", "gguf"]) == 2
    capsys.readouterr()
    assert main(["convert", str(first), str(tmp_path / "My Word.pt"), "--token", "My Word"]) == 0
    assert "capital letters" in capsys.readouterr().out
    assert main(["inspect", str(first), "--json", "--model", "builtin:emoji"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["encoders"]["text_encoder"]["vectors"] == 3
    assert len(facts["model"]["text_encoder"]["nearest"]) == 3
    assert main(["inspect", str(first), "--for", "sdxl"]) == 2
    assert "DOES NOT FIT sdxl" in capsys.readouterr().out
    assert main(["inspect", str(first), "--for", "sd9"]) == 2
    known = ", ".join(family.name for family in families())
    assert capsys.readouterr().err == f"neonym inspect: error: --for: `sd9` is not one of {known}.\n"
    assert main(["recipe", str(first)]) == 2


def test_a_run_leaves_a_card_and_its_recipe(run_for, tmp_path, capsys):
    from neonym import train
    from neonym.cli.main import main
    from neonym.config.resolve import read_table

    precise = {"mixed_precision": "bf16", "save_precision": "fp16"}
    run = run_for(max_train_steps=3, learning_rate=0.004, num_vectors_per_token=2, min_snr_gamma=5.0, **precise)
    file = train(run).files[0]
    card = file.with_suffix(".md").read_text()
    assert "2 vectors" in card
    assert "Only Neonym can use it" in card
    assert "ComfyUI" not in card
    capsys.readouterr()
    assert main(["recipe", str(file)]) == 0
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(capsys.readouterr().out)
    table = read_table(recipe)
    assert table["learning_rate"] == 0.004
    assert table["min_snr_gamma"] == 5.0
    assert precise.items() <= table.items()
    again = [
        "--config_file",
        str(recipe),
        "--train_data_dir",
        str(tmp_path / "pictures"),
        "--output_dir",
        str(tmp_path / "again"),
    ]
    assert main(["train", *again, "--cpu", "--eval_samples", "8"]) in (0, 3)
    assert torch.equal(
        read_embedding(tmp_path / "again" / "mychar4.safetensors").vectors["text_encoder"],
        read_embedding(file).vectors["text_encoder"],
    )


def test_a_recipe_contains_the_data_set_file_of_its_word(tmp_path, images, capsys):
    from neonym.cli.main import main
    from neonym.config.resolve import read_table

    subset = f'[[datasets.subsets]]\nimage_dir = "{images}"\ncaption_separator = ";"'
    words = "".join(f'[[concepts]]\ntoken_string = "{word}"\n' for word in ("mychar4", "zyzzo"))
    other = f'[[datasets.subsets]]\nimage_dir = "{images}"\nconcept = "zyzzo"\nclass_tokens = "zyzzo"\ncaption_extension = ".none"'
    config = tmp_path / "set.toml"
    config.write_text(f'{words}[[datasets]]\nbatch_size = 2\n{subset}\nconcept = "mychar4"\n[[datasets]]\n{other}\n')
    learn = ["--cpu", "--eval_samples", "8", "--max_train_steps", "2"]
    assert main(["train", "--dataset_config", str(config), "--output_dir", str(tmp_path / "out"), *learn]) in (0, 3)
    file = tmp_path / "out" / "mychar4.safetensors"
    capsys.readouterr()
    assert main(["recipe", str(file)]) == 0
    told = capsys.readouterr().out
    assert str(tmp_path) not in told
    recipe, data = tmp_path / "recipe.toml", tmp_path / "data.toml"
    recipe.write_text(told)
    data.write_text("\n".join(line.removeprefix("# ") for line in told[told.index("# [[datasets]]") :].splitlines()))
    (dataset,) = read_table(data)["datasets"]  # that of the other word is none of its own
    assert dataset["batch_size"] == 2
    assert dataset["subsets"] == [{"image_dir": images.name, "caption_separator": ";"}]
    data.write_text(data.read_text().replace(f'"{images.name}"', f'"{images}"'))
    again = ["--config_file", str(recipe), "--dataset_config", str(data), "--output_dir", str(tmp_path / "again")]
    assert main(["train", *again, "--cpu", "--eval_samples", "8"]) in (0, 3)
    rows = [read_embedding(f).vectors["text_encoder"] for f in (file, tmp_path / "again" / "mychar4.safetensors")]
    assert torch.equal(*rows)
