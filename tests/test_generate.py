"""The command: files and their names, what pictures say, drawing again, sheets, bad input, and stopping."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from neonym.cli.main import main
from neonym.config.generate import GenerateSettings
from neonym.config.sdscripts import GENERATOR
from neonym.errors import ModelError
from neonym.formats import write_embedding
from neonym.generation.embeddings import add_files
from neonym.generation.images import draw
from neonym.generation.painter import opened
from neonym.models.family import load_model
from neonym.types import Embedding

PROMPT = "a sticker of a zyzzo on a blue background"
FLAGS = json.loads((Path(__file__).parent / "golden" / "generator_flags.json").read_text())
SMALL = ("--steps", "2", "--W", "64", "--H", "64", "--seed", "5")


@pytest.fixture
def word(tmp_path):
    rows = 0.3 * torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    return write_embedding(Embedding("zyzzo", {"text_encoder": rows}), tmp_path / "zyzzo.safetensors")


def pixels(picture):
    return np.asarray(picture).astype(int)


def generate(tmp_path, *argv, code=0):
    """-> the picture files, in the order of their making"""
    out = tmp_path / "images"
    before = set(out.rglob("*")) if out.exists() else set()
    assert main(["generate", "--outdir", str(out), *map(str, argv)]) == code
    return sorted(p for p in set(out.rglob("*")) - before if p.is_file()) if out.exists() else []


def shown(file):
    """The picture, read and closed."""
    with Image.open(file) as picture:
        picture.load()
        return picture


def read_parameters(text):
    """AUTOMATIC1111's block, by its published description: prompt lines, a negative prompt, `Name: value` pairs."""
    *lines, last = text.split("\n")
    negative = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt: ")), len(lines))
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    values = {name: json.loads(value) if value.startswith('"') else value for name, value in pairs}
    return "\n".join(lines[:negative]), "\n".join(lines[negative:]).removeprefix("Negative prompt: "), values


@pytest.mark.parametrize("script", FLAGS)
def test_every_flag_of_sd_scripts_is_known(script):
    assert [name for name in FLAGS[script] if name not in {*GenerateSettings.model_fields, *GENERATOR}] == []
    assert not set(GENERATOR) & set(GenerateSettings.model_fields)
    renamed = {compat.setting for compat in GENERATOR.values() if compat.kind == "renamed"}
    assert renamed <= set(GenerateSettings.model_fields)


def test_the_word_changes_the_picture_and_the_seed_repeats_it(word):
    model = load_model()
    (without,) = draw(model, [PROMPT], [3], steps=4)
    add_files(model, [word])
    (first,), (again,) = draw(model, [PROMPT], [3], steps=4), draw(model, [PROMPT], [3], steps=4)
    (other,) = draw(model, [PROMPT], [4], steps=4)
    assert first.size == (128, 128)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, without)
    assert not np.array_equal(first, other)


def test_an_embedding_of_another_width_is_refused(tmp_path, capsys):
    path = write_embedding(Embedding("wide", {"text_encoder": torch.ones(1, 768)}), tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match="768 numbers, this model's words have 128"):
        add_files(load_model(), [path])
    generate(tmp_path, "--prompt", "a wide", "--textual_inversion_embeddings", path, code=2)
    assert "768 numbers, the words of builtin:emoji have 128" in capsys.readouterr().err
    pair = {"text_encoder": torch.ones(1, 128), "text_encoder_2": torch.ones(1, 128)}
    path = write_embedding(Embedding("pair", pair), tmp_path / "pair.safetensors")
    generate(tmp_path, "--prompt", "a pair", "--textual_inversion_embeddings", path, code=2)
    assert "learned for text_encoder_2, which builtin:emoji has not" in capsys.readouterr().err


def test_files_and_what_they_say(word, tmp_path, capsys):
    files = generate(
        tmp_path, "--textual_inversion_embeddings", word, "--prompt", f'{PROMPT}: "so, so" --n blurry, bad', "a dog",
        "--images_per_prompt", 2, "--sampler", "DPM++ 2M Karras", "--scale", 4, *SMALL,
    )  # fmt: skip
    assert [re.sub(r"\d{14}", "T", f.name) for f in files] == [f"im_T_{i:03d}_{5 + i}.png" for i in range(4)]
    assert capsys.readouterr().out.splitlines()[1] == f"{files[1]}  [2/4]"
    with Image.open(files[1]) as picture:
        said = picture.text
    assert said["prompt"] == f'{PROMPT}: "so, so"'
    assert (said["negative-prompt"], said["seed"], said["sampler"]) == ("blurry, bad", "6", "dpmsolver++_karras")
    prompt, negative, values = read_parameters(said["parameters"])
    assert (prompt, negative) == (said["prompt"], "blurry, bad")
    assert values["Steps"] == "2"
    assert (values["Sampler"], values["Schedule type"]) == ("DPM++ 2M", "Karras")
    assert (values["Seed"], values["Size"], values["CFG scale"]) == ("6", "64x64", "4")
    ours = json.loads(said["neonym"])
    assert ours["words"]["zyzzo"]["vectors"] == 2
    assert values["TI hashes"] == f"zyzzo: {ours['words']['zyzzo']['sha256'][:12]}"
    assert len(ours["model"]["text_hash"]) == 64


def test_a_picture_is_drawn_again_bit_for_bit(word, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(photo)
    files = generate(
        tmp_path, "--textual_inversion_embeddings", word, "--prompt", "a {zyzzo|cat} [red] --n (bad:1.2)", "a dog",
        "--images_per_prompt", 3, "--batch_size", 3, "--emb_normalize_mode", "abs", "--image_path", photo, *SMALL,
    )  # fmt: skip
    (again,) = generate(tmp_path, "--like", files[2])
    with Image.open(files[2]) as before, Image.open(again) as after:
        assert np.array_equal(pixels(before), pixels(after))
        assert before.text["parameters"] == after.text["parameters"]
    (other,) = generate(tmp_path, "--like", files[2], "--seed", 9)
    with Image.open(files[2]) as before, Image.open(other) as after:
        assert not np.array_equal(pixels(before), pixels(after))
        assert after.text["seed"] == "9"
    capsys.readouterr()
    rows = torch.ones(2, 128)
    write_embedding(Embedding("zyzzo", {"text_encoder": rows}), word)
    generate(tmp_path, "--like", files[2])
    assert "has changed since" in capsys.readouterr().err
    generate(tmp_path, "--like", photo, code=2)
    assert "does not say how it was made" in capsys.readouterr().err


def test_a_changed_picture_is_told_when_it_is_drawn_again(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(photo)
    (first,) = generate(tmp_path, "--prompt", "a cat", "--image_path", photo, "--steps", 4)
    Image.new("RGB", (64, 64), (20, 40, 40)).save(photo)
    generate(tmp_path, "--like", first)
    assert f"{photo}: the file has changed since" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["[]", "{}", "{", '{"job": {}}', '{"job": 3, "settings": {}, "model": {}}'])
def test_a_damaged_record_is_one_message(said, tmp_path, capsys):
    text = PngInfo()
    text.add_text("neonym", said)
    Image.new("RGB", (64, 64)).save(tmp_path / "odd.png", pnginfo=text)
    generate(tmp_path, "--like", tmp_path / "odd.png", code=2)
    assert "is damaged" in capsys.readouterr().err


def test_pictures_of_every_kind_are_begun_from(tmp_path):
    """Turned by EXIF, 16 bits deep, transparent."""
    turned = Image.new("RGB", (128, 64), (200, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (drawn,) = generate(tmp_path, "--prompt", "a", "--image_path", tmp_path / "turned.jpg", "--steps", 2)
    assert shown(drawn).size == (64, 128)
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert abs(pixels(opened(str(tmp_path / "deep.png"), (64, 64))).mean() - 127) < 3
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pixels(opened(str(tmp_path / "clear.png"), (64, 64))).min() == 255


def test_a_word_with_brackets_in_its_name(tmp_path, capsys):
    rows = 0.3 * torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    vectors = {"text_encoder": rows}
    odd = write_embedding(Embedding("my", vectors), tmp_path / "my (1).safetensors")
    plain = write_embedding(Embedding("my", vectors), tmp_path / "mine.safetensors")
    pictures = [
        generate(tmp_path, "--textual_inversion_embeddings", file, "--prompt", f"a ({word}:1.2) dog", *SMALL)[0]
        for file, word in ((odd, "my (1)"), (odd, r"my \(1\)"), (odd, "<my (1)>"), (plain, "mine"))
    ]
    assert "no prompt uses" not in capsys.readouterr().err
    assert all(np.array_equal(pixels(shown(pictures[0])), pixels(shown(p))) for p in pictures[1:])


def test_every_wrong_line_is_told(tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"a cat --s x{i}\n" for i in range(30)))
    generate(tmp_path, "--from_file", file, "--prompt", "a --q", code=2)
    said = capsys.readouterr().err
    assert all(part in said for part in ("`--q` is no inline option", "line 1:", "line 18:", "and 11 more like these"))
    file.write_text("# nothing\n\n")
    generate(tmp_path, "--from_file", file, code=2)
    assert "there is no prompt in it" in capsys.readouterr().err


def test_names_of_files(tmp_path):
    assert [f.name for f in generate(tmp_path, "--prompt", "a", "b", "--sequential_file_name", *SMALL)] == [
        "im_000001.png", "im_000002.png",
    ]  # fmt: skip
    assert [f.name for f in generate(tmp_path, "--prompt", "a", "--sequential_file_name", *SMALL)] == ["im_000003.png"]
    named = generate(tmp_path, "--prompt", "a --f sub/one", "b --f two.jpg", "c --f two.jpg", *SMALL)
    assert [str(f.relative_to(tmp_path / "images")) for f in named] == ["sub/one.png", "two.jpg", "two_2.jpg"]
    with Image.open(named[1]) as picture:
        comment = picture.getexif().get_ifd(0x8769).get(0x9286) or picture.getexif()[0x9286]
    assert read_parameters(comment.removeprefix(b"UNICODE\0").decode("utf-16-be"))[2]["Seed"] == "6"
    photo = tmp_path / "images" / "photo.png"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(photo)
    before = photo.read_bytes()
    begun = generate(tmp_path, "--prompt", "a", "b", "--image_path", photo, "--use_original_file_name", *SMALL)
    assert [f.name for f in begun] == ["photo_2.png", "photo_3.png"]
    assert photo.read_bytes() == before


def test_two_stages_and_a_grid(tmp_path):
    files = generate(
        tmp_path, "--prompt", "a cat", "a dog", "--highres_fix_scale", 0.5, "--highres_fix_steps", 2,
        "--highres_fix_save_1st", "--grid", "--sequential_file_name", "--steps", 4, "--seed", 1,
    )  # fmt: skip
    names = ["im_0000001.png", "im_0000002.png", "im_1000001.png", "im_1000002.png"]
    assert [f.name for f in files[1:]] == names
    assert files[0].name.startswith("grid_")
    assert [shown(f).size for f in files[1:]] == [(64, 64)] * 2 + [(128, 128)] * 2
    assert shown(files[0]).width > 256


def test_prompts_of_pictures_are_used_where_there_are_no_others(word, tmp_path, capsys):
    (first,) = generate(tmp_path, "--prompt", "a red cat --n blue", *SMALL)
    (second,) = generate(tmp_path, "--image_path", first, *SMALL)
    assert shown(second).text["prompt"] == "a red cat"
    assert shown(second).text["negative-prompt"] == "blue"
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    generate(tmp_path, "--image_path", tmp_path / "plain.png", code=2)
    assert "carries no prompt" in capsys.readouterr().err


def test_sheets_with_axes(word, tmp_path, capsys):
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
        tmp_path, "--textual_inversion_embeddings", word, "--x", "strength=0.5,1.5", "--y", "prompt=a zyzzo|a red zyzzo",
        *SMALL,
    )  # fmt: skip
    assert [shown(c).text["prompt"] for c in files[1:]] == [
        "a (zyzzo:0.5)", "a (zyzzo:1.5)", "a red (zyzzo:0.5)", "a red (zyzzo:1.5)",
    ]  # fmt: skip
    generate(tmp_path, "--prompt", "a", "--x", "colour=red", code=2)
    generate(tmp_path, "--prompt", "a", "--x", "scale=a", code=2)
    said = capsys.readouterr().err
    assert "Write KIND=A,B,C with one of prompt" in said
    assert "`a`: a number is expected" in said
    generate(tmp_path, "--prompt", "a dog", "--x", "strength=1,2", code=2)
    generate(tmp_path, "--prompt", "a dog", "--x", f"checkpoint={word}", code=2)
    said = capsys.readouterr().err
    assert 'the prompt "a dog" has not a word of an embedding' in said
    assert 'the prompt "a dog" has not `zyzzo`' in said


def test_axes_leave_the_rest_of_a_prompt_alone(word, tmp_path):
    files = generate(
        tmp_path, "--prompt", "A Zyzzo BREAK red --n bad", "--x", "strength=2,0.5", "--y", f"checkpoint={word}", *SMALL
    )  # fmt: skip
    said = [shown(c).text for c in files[1:]]
    assert [t["prompt"] for t in said] == ["A (0-axis-zyzzo:2) BREAK red", "A (0-axis-zyzzo:0.5) BREAK red"]
    assert {t["negative-prompt"] for t in said} == {"bad"}
    assert not np.array_equal(pixels(shown(files[1])), pixels(shown(files[2])))
    files = generate(tmp_path, "--x", "prompt=a {cat|cat} --s 3|a dog --n x", *SMALL)
    assert [shown(c).text["prompt"] for c in files[1:]] == ["a cat", "a dog"]
    assert [shown(c).text["steps"] for c in files[1:]] == ["3", "2"]


def test_words_that_no_prompt_uses_and_words_by_another_name(word, tmp_path, capsys):
    generate(tmp_path, "--textual_inversion_embeddings", word, "--prompt", "a dog", *SMALL)
    assert "no prompt uses `zyzzo`" in capsys.readouterr().err
    generate(tmp_path, "--textual_inversion_embeddings", f"mycat={word}", "--prompt", "a <mycat>", *SMALL)
    assert "no prompt uses" not in capsys.readouterr().err
    generate(tmp_path, "--prompt", "cat " * 80, "--max_embeddings_multiples", 1, *SMALL)
    assert "5 tokens at the end are cut off" in capsys.readouterr().err


def test_every_mistake_at_once(tmp_path, capsys):
    argv = [
        "--prompt", "a (cat:1.2.3)", "--sampler", "foo", "--image_path", tmp_path / "nix.png", "--strength", 2,
        "--control_net_models", "a", "b", "--textual_inversion_embeddings", tmp_path / "nope.pt", "--steps=0",
        "--network_weights", tmp_path / "l.safetensors", "--ckpt", tmp_path / "model", "--fp16", "--bf16",
        "--noise_offset_prob", 0.5,
    ]  # fmt: skip
    assert generate(tmp_path, *argv, code=2) == []
    said = capsys.readouterr().err
    for part in ("`foo` is not known", "nix.png", "--strength: 2.0 is more than 1", "ControlNet is not supported",
                 "nope.pt", "--steps: 0 is less than 1", "l.safetensors", "is not a checkpoint file", "--fp16 --bf16",
                 "needs --noise_offset_range", "`1.2.3` is no weight"):  # fmt: skip
        assert part in said, part


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "there is nothing to draw"),
        (["--from_file", "nix.txt"], "cannot be read"),
        (["--prompt", "a", "--mask_path", "m.png"], "there is no picture that is masked"),
        (["--prompt", "a", "--W", "1000000"], "a side of 1000000 pixels is not possible"),
        (["--prompt", "a --w 4"], "a side of 4 pixels is not possible"),
        (["--prompt", "a", "--seed", str(1 << 70)], "--seed"),
        (["--prompt", "a", "--v2"], "the model is of the family sd1"),
        (["--prompt", "a", "--v_parameterization"], "predicts noise, not v"),
        (["--prompt", "a", "--network_mul", "0.5"], "1 multipliers for 0 LoRAs"),
        (["--prompt", "a", "--from_module", "x.py"], "may run code"),
        (["--prompt", "a", "--image_path", "{tmp}/bad.png"], "cannot be read as a picture"),
        (["--prompt", "a", "--clip_skip", "50"], "more than the 2 layers"),
        (["--prompt", "a", "--steps", "2000"], "2000 is more than 1000"),
        (["--prompt", "a", "--scale", "nan"], "nan is no finite number"),
        (["--prompt", "a --am 1,2"], "2 multipliers for 0 LoRAs"),
        (["--prompt", "a --am nan"], "finite numbers are expected"),
        (["--prompt", "a --s 5000"], "1 to 1000"),
        (["--prompt", "a --ow -5"], "a whole number from 1"),
        (["--prompt", "a --w 64 b"], "a whole number is expected"),
        (["--prompt", "a --f " + "x" * 300], "at most 200 bytes"),
        (["--prompt", "{" * 3000 + "}" * 3000], "braces within each other"),
        (["--prompt", "{e$$1-20$$" + "|".join("abcdefghijklmnopqrst") + "}"], "variants are too many"),
        (["--prompt", "a", "--highres_fix_scale", "0.5", "--strength", "0.1", "--steps", "4"], "leaves no step"),
        (["--prompt", "a", "--textual_inversion_embeddings", "=x.pt"], "the word has no name"),
        (["--prompt", "a", "--outdir", "{tmp}/good.png/out"], "cannot be written to"),
        (["--prompt", "a --t 0.1", "--image_path", "{tmp}/good.png", "--steps", "2"], "leaves no step"),
        (["--prompt", "a", "--ckpt", "{tmp}/*.ckpt"], "the pattern fits 0 files"),
    ],
)
def test_bad_input(argv, said, tmp_path, capsys):
    write_embedding(Embedding("x", {"text_encoder": torch.ones(1, 128)}), tmp_path / "x.pt")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    generate(tmp_path, *[a.replace("{tmp}", str(tmp_path)) for a in argv], code=2)
    assert said in capsys.readouterr().err


def test_flags_of_sd_scripts_that_have_nothing_to_do_are_said(tmp_path, capsys):
    argv = [
        "--xformers",
        "--no_preview",
        "--network_module",
        "networks.lora",
        "--vae_slices",
        "2",
        "--vae_batch_size",
        "0.5",
    ]
    assert len(generate(tmp_path, "--prompt", "a", *argv, *SMALL)) == 1
    said = capsys.readouterr().err
    assert all(
        f"note: {flag}: has no effect here" in said for flag in ("--xformers", "--no_preview", "--network_module")
    )


def script(*argv, **options):
    """A real process of sd-scripts' name."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "gen_img_diffusers.py"), *map(str, argv)], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def test_prompts_that_are_typed(word, tmp_path):
    typed = "a zyzzo --d 7\n\n# nothing\na cat --zz 1\na {e$$red|blue} zyzzo\n"
    process = script("--interactive", "--textual_inversion_embeddings", word, "--outdir", tmp_path / "o", *SMALL)
    out, err = process.communicate(typed, timeout=120)
    assert process.returncode == 0, err
    assert [shown(line).text["prompt"] for line in out.splitlines()] == ["a zyzzo", "a red zyzzo", "a blue zyzzo"]
    assert "`--zz` is no inline option" in err


def test_what_is_finished_is_kept_when_it_is_stopped(tmp_path):
    out = tmp_path / "o"
    process = script("--prompt", "a cat", "--images_per_prompt", 500, "--outdir", out, *SMALL)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and len(list(out.glob("*.png")) if out.exists() else ()) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    pictures = list(out.iterdir())
    assert f"{len(pictures)} pictures are finished" in err
    assert all(shown(p).size == (64, 64) for p in pictures)  # and nothing half-written


def test_verify(word, tmp_path, capsys):
    flags = ["--steps", "3", "--seeds", "2"]
    assert main(["verify", str(word), *flags, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["works"]
    assert facts["pixels_from_nearest"] > 1
    assert shown(facts["sheet"]).width > 256
    model = load_model()
    (cat,) = model.tokenizers["text_encoder"].pieces("cat")
    rows = model.vocabulary("text_encoder")[[cat]].clone()
    copy = write_embedding(Embedding("copycat", {"text_encoder": rows}), tmp_path / "copycat.safetensors")
    assert main(["verify", str(copy), *flags]) == 3
    said = capsys.readouterr().out
    assert "DOES NOTHING" in said
    assert "nearest ordinary words: cat" in said
    odd = write_embedding(Embedding("copycat", {"text_encoder": rows}), tmp_path / "copycat (1).safetensors")
    assert main(["verify", str(odd), *flags]) == 3
    assert main(["verify", str(copy), "--prompt", "a dog"]) == 2
    assert main(["verify", str(copy), "--prompt", "a ({}:1.2.3)"]) == 2
    assert main(["verify", str(copy), "--out", str(tmp_path / "sheet.xyz")]) == 2
