"""The texts in image files: read by other programs' rules, and used to generate the images again."""

import json
import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from neonym.formats import write_embedding
from neonym.generation.metadata import RunFacts, image_texts, parameters_text
from neonym.generation.request.jobs import Job
from neonym.types import Embedding
from support.commands import SMALL, generate, pixels, read_parameters, shown

PROMPT = "a sticker of a zyzzo on a blue background"
FACTS = RunFacts({"name": "models/sd-v1.5", "family": "sd1", "text_hash": "", "vae_hash": ""}, {}, [], {}, "cpu")
LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n:,"'), max_size=40)


def stripped_lines(text):
    """Return a prompt as AUTOMATIC1111 reads it, which strips the whitespace around its lines."""
    return "\n".join(line.strip() for line in text.strip().split("\n"))


def text_chunks(file):
    """Return the texts of a PNG file by its specification: tEXt in Latin-1, iTXt in UTF-8, here never compressed."""
    data, at, found = file.read_bytes(), 8, {}
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        key, _, rest = data[at + 8 : at + 8 + size].partition(b"\0")
        if kind == b"tEXt":
            found[key.decode("latin-1")] = rest.decode("latin-1")
        elif kind == b"iTXt":
            assert rest[:2] == b"\0\0"
            found[key.decode()] = rest[2:].split(b"\0", 2)[2].decode()
        at += size + 12
    return found


def test_image_files_store_how_they_were_generated(word, tmp_path, capsys):
    files = generate(
        tmp_path, "--textual_inversion_embeddings", word, "--prompt", f'{PROMPT}: "so, so" --n blurry, bad', "a dog",
        "--images_per_prompt", 2, "--sampler", "DPM++ 2M Karras", "--scale", 4, *SMALL,
    )  # fmt: skip
    assert [re.sub(r"\d{14}", "T", f.name) for f in files] == [f"im_T_{i:03d}_{5 + i}.png" for i in range(4)]
    assert capsys.readouterr().out.splitlines()[1] == f"{files[1]}  [2/4]"
    with Image.open(files[1]) as image:
        texts = image.text
    assert texts["prompt"] == f'{PROMPT}: "so, so"'
    assert (texts["negative-prompt"], texts["seed"], texts["sampler"]) == ("blurry, bad", "6", "dpmsolver++_karras")
    prompt, negative, values = read_parameters(texts["parameters"])
    assert (prompt, negative) == (texts["prompt"], "blurry, bad")
    assert values["Steps"] == "2"
    assert (values["Sampler"], values["Schedule type"]) == ("DPM++ 2M", "Karras")
    assert (values["Seed"], values["Size"], values["CFG scale"]) == ("6", "64x64", "4")
    ours = json.loads(texts["neonym"])
    assert ours["words"]["zyzzo"]["vectors"] == 2
    assert values["TI hashes"] == f"zyzzo: {ours['words']['zyzzo']['sha256'][:12]}"
    assert len(ours["model"]["text_hash"]) == 64


def test_an_image_is_generated_again_bit_for_bit(word, tmp_path, capsys):
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
    (tmp_path / "others.txt").write_text("a red dog\n")
    (third,) = generate(tmp_path, "--like", files[2], "--from_file", tmp_path / "others.txt")
    assert shown(third).text["prompt"] == "a red dog"
    capsys.readouterr()
    rows = torch.ones(2, 128)
    write_embedding(Embedding("zyzzo", {"text_encoder": rows}), word)
    generate(tmp_path, "--like", files[2])
    assert "has changed since" in capsys.readouterr().err
    generate(tmp_path, "--like", photo, code=2)
    assert "has no record of how it was generated" in capsys.readouterr().err


def test_jpeg_and_webp_files_are_generated_again(tmp_path):
    """Values recorded by inline options are kept, and the prompts in the files are used if there are no others."""
    jpeg, webp, png = generate(
        tmp_path, "--prompt", "a \u732b --c {x} \u732b --n bad --f 1.jpg", "b --f 2.webp",
        "a \u732b --d 5 --n bad --f 3.png", *SMALL,
    )  # fmt: skip
    (again,) = generate(tmp_path, "--like", jpeg)
    assert np.array_equal(pixels(shown(again)), pixels(shown(png)))
    assert (shown(again).text["prompt"], shown(again).text["clip-prompt"]) == ("a \u732b", "x \u732b")
    (third,) = generate(tmp_path, "--like", again)
    assert shown(third).text["clip-prompt"] == "x \u732b"
    (other,) = generate(tmp_path, "--like", webp)
    assert np.abs(pixels(shown(other)) - pixels(shown(webp))).mean() < 20
    (image,) = generate(tmp_path, "--image_path", jpeg, *SMALL)
    assert (shown(image).text["prompt"], shown(image).text["negative-prompt"]) == ("a \u732b", "bad")


def test_prompts_in_images_of_other_programs_are_used(tmp_path, capsys):
    text = PngInfo()
    text.add_text(
        "parameters", "a {red} cat,\nof two lines\nNegative prompt: bad\nSteps: 20, Sampler: Euler a, Seed: 3"
    )
    Image.new("RGB", (64, 64)).save(tmp_path / "web.png", pnginfo=text)
    (image,) = generate(tmp_path, "--image_path", tmp_path / "web.png", *SMALL)
    assert (shown(image).text["prompt"], shown(image).text["negative-prompt"]) == ("a {red} cat,\nof two lines", "bad")
    graph = PngInfo()
    graph.add_text("prompt", '{"3": {"class_type": "KSampler", "inputs": {}}}')
    Image.new("RGB", (64, 64)).save(tmp_path / "graph.png", pnginfo=graph)
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    generate(tmp_path, "--image_path", tmp_path, "--steps", 0, code=2)
    errors = capsys.readouterr().err
    for part in (
        "graph.png: the image stores no prompt",
        "plain.png: the image stores no prompt",
        "--steps: 0 is less than 1",
    ):
        assert errors.count(part) == 1, part


def test_a_changed_source_image_is_reported(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(photo)
    (first,) = generate(tmp_path, "--prompt", "a cat", "--image_path", photo, "--steps", 4)
    Image.new("RGB", (64, 64), (20, 40, 40)).save(photo)
    generate(tmp_path, "--like", first)
    assert f"{photo}: the file has changed since" in capsys.readouterr().err


@pytest.mark.parametrize("message", ["[]", "{}", "{", '{"job": {}}', '{"job": 3, "settings": {}, "model": {}}'])
def test_a_damaged_record_is_reported(message, tmp_path, capsys):
    text = PngInfo()
    text.add_text("neonym", message)
    Image.new("RGB", (64, 64)).save(tmp_path / "odd.png", pnginfo=text)
    generate(tmp_path, "--like", tmp_path / "odd.png", code=2)
    assert "is damaged" in capsys.readouterr().err


@given(LINES, LINES)
@example("", "\n")
@example("a\n", "b \n\n")
@example(" \n\na", "\n\nb\n c")
@example("a\n\nb", " ")
def test_any_prompt_can_be_read_back(prompt, negative):
    job = Job(prompt, 7, 64, 128, negative, steps=3, scale=2.5)
    read = read_parameters(parameters_text(job, FACTS))
    assert read[:2] == (stripped_lines(prompt), stripped_lines(negative))
    assert (read[2]["Seed"], read[2]["Size"], read[2]["CFG scale"]) == ("7", "64x128", "2.5")
    assert read[2]["Model"] == "sd-v1.5"


@pytest.mark.parametrize(
    "prompt", ["Negative prompt: a cat", "a cat\n  Negative prompt: dog\nred", "negative prompt: x"]
)
def test_a_prompt_that_looks_like_a_negative_prompt_is_read_back(prompt):
    read = read_parameters(parameters_text(Job(prompt, 7, 64, 64, "bad"), FACTS))
    assert read[0].lower() == stripped_lines(prompt).lower()  # the text encoder ignores capitals
    assert read[1] == "bad"


@pytest.mark.parametrize(
    "prompt", ["Steps: 1, Sampler: x, CFG scale: 2", '\u65e5\u672c (\u732b:1.2) "x"', "", "a\nb: c, d", " a\\\\"]
)
def test_odd_prompts_are_stored_and_generated_again(prompt, tmp_path):
    (file,) = generate(tmp_path, "--prompt", prompt, "--negative_prompt", "x: y, z\nNegative prompt: \u00e9", *SMALL)
    texts = text_chunks(file)
    assert texts["prompt"] == prompt.strip()
    assert read_parameters(texts["parameters"])[0] == stripped_lines(prompt)
    (again,) = generate(tmp_path, "--like", file)
    assert np.array_equal(pixels(shown(file)), pixels(shown(again)))
    assert text_chunks(again)["parameters"] == texts["parameters"]


def test_both_stages_store_their_values_and_are_generated_again(tmp_path):
    files = generate(
        tmp_path, "--prompt", "a cat", "--highres_fix_scale", 0.6, "--highres_fix_steps", 2, "--steps", 4, "--W", 128,
        "--H", 96, "--seed", 3, "--strength", 0.5, "--highres_fix_save_1st", "--sequential_file_name",
    )  # fmt: skip
    small, large = files
    assert [shown(f).size for f in files] == [(64, 32), (128, 96)]  # 76 x 57, down to multiples of 32
    values = read_parameters(shown(large).text["parameters"])[2]
    assert (values["Steps"], values["Size"]) == ("2", "64x32")  # of the first stage, as in AUTOMATIC1111
    assert (values["Hires steps"], values["Hires resize"]) == ("4", "128x96")
    assert (values["Hires upscaler"], values["Denoising strength"]) == ("Lanczos", "0.5")
    assert not [name for name in read_parameters(shown(small).text["parameters"])[2] if name.startswith("Hires")]
    (again,) = generate(tmp_path, "--like", small)
    assert np.array_equal(pixels(shown(small)), pixels(shown(again)))
    *_, again = generate(tmp_path, "--like", large)
    assert np.array_equal(pixels(shown(large)), pixels(shown(again)))


def test_sdxl_images_store_their_sizes():
    facts = RunFacts({**FACTS.model, "family": "sdxl"}, {}, [], {}, "cpu")
    texts = image_texts(Job("a", 1, 64, 128, original_width=640, crop_top=3), facts)
    assert (texts["original-width"], texts["original-height"], texts["crop-top"]) == ("640", "128", "3")
    assert texts["original-width-negative"] == "640"


def test_only_words_in_the_prompts_are_recorded():
    word = {"file": "x.pt", "sha256": "0" * 64, "vectors": 1}
    facts = RunFacts(FACTS.model, {"zyzzo": word, "my (1)": word, "other": word, "zyz": word}, [], {}, "cpu")
    read = read_parameters(parameters_text(Job("a <Zyzzo> (another:1.2)", 7, 64, 64, r"my \(1\)"), facts))
    assert read[2]["TI hashes"] == f"zyzzo: {'0' * 12}, my (1): {'0' * 12}"


def test_renamed_words_are_generated_again(word, tmp_path):
    (file,) = generate(tmp_path, "--textual_inversion_embeddings", f"mycat={word}", "--prompt", "a <mycat>", *SMALL)
    (again,) = generate(tmp_path, "--like", file)
    assert np.array_equal(pixels(shown(file)), pixels(shown(again)))
