"""`neonym generate`: files and their names, wrong input, and warnings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from neonym.config.generate import GenerateSettings, generate_problems
from neonym.config.sdscripts import GENERATOR
from neonym.errors import ModelError
from neonym.formats import write_embedding
from neonym.generation.embeddings import add_files
from neonym.generation.images import generate_images
from neonym.generation.source_images import open_source
from neonym.models.model import load_model
from neonym.types import Embedding
from support import GOLDEN
from support.commands import SMALL, generate, pixels, read_parameters, shown

PROMPT = "a sticker of a zyzzo on a blue background"
FLAGS = json.loads((GOLDEN / "generator_flags.json").read_text())


@pytest.mark.parametrize("script", FLAGS)
def test_every_flag_of_sd_scripts_generator_is_known(script):
    assert [name for name in FLAGS[script] if name not in {*GenerateSettings.model_fields, *GENERATOR}] == []
    assert not set(GENERATOR) & set(GenerateSettings.model_fields)
    renamed = {compat.setting for compat in GENERATOR.values() if compat.kind == "renamed"}
    assert renamed <= set(GenerateSettings.model_fields)


def test_the_word_changes_the_image_and_the_seed_reproduces_it(word):
    model = load_model()
    (without,) = generate_images(model, [PROMPT], [3], steps=4)
    add_files(model, [word])
    (first,), (again,) = generate_images(model, [PROMPT], [3], steps=4), generate_images(model, [PROMPT], [3], steps=4)
    (other,) = generate_images(model, [PROMPT], [4], steps=4)
    assert first.size == (128, 128)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, without)
    assert not np.array_equal(first, other)


def test_an_embedding_of_another_width_is_refused(tmp_path, capsys):
    path = write_embedding(Embedding("wide", {"text_encoder": torch.ones(1, 768)}), tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match="768 numbers, but the words of builtin:emoji have 128"):
        add_files(load_model(), [path])
    generate(tmp_path, "--prompt", "a wide", "--textual_inversion_embeddings", path, code=2)
    assert "768 numbers, but the words of builtin:emoji have 128" in capsys.readouterr().err
    pair = {"text_encoder": torch.ones(1, 128), "text_encoder_2": torch.ones(1, 128)}
    path = write_embedding(Embedding("pair", pair), tmp_path / "pair.safetensors")
    generate(tmp_path, "--prompt", "a pair", "--textual_inversion_embeddings", path, code=2)
    assert "builtin:emoji (Stable Diffusion 1.x) has no text encoder for them" in capsys.readouterr().err


def test_source_images_may_be_rotated_deep_or_transparent(tmp_path):
    """The source images are rotated by EXIF, 16 bits deep, and transparent."""
    turned = Image.new("RGB", (128, 64), (200, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (image,) = generate(tmp_path, "--prompt", "a", "--image_path", tmp_path / "turned.jpg", "--steps", 2)
    assert shown(image).size == (64, 128)
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert abs(pixels(open_source(str(tmp_path / "deep.png"), (64, 64))).mean() - 127) < 3
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pixels(open_source(str(tmp_path / "clear.png"), (64, 64))).min() == 255


def test_a_word_may_have_brackets_in_its_name(tmp_path, capsys):
    rows = 0.3 * torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    vectors = {"text_encoder": rows}
    odd = write_embedding(Embedding("my", vectors), tmp_path / "my (1).safetensors")
    plain = write_embedding(Embedding("my", vectors), tmp_path / "mine.safetensors")
    images = [
        generate(tmp_path, "--textual_inversion_embeddings", file, "--prompt", f"a ({word}:1.2) dog", *SMALL)[0]
        for file, word in ((odd, "my (1)"), (odd, r"my \(1\)"), (odd, "<my (1)>"), (plain, "mine"))
    ]
    assert "no prompt uses" not in capsys.readouterr().err
    assert all(np.array_equal(pixels(shown(images[0])), pixels(shown(p))) for p in images[1:])


def test_wrong_lines_are_all_reported(tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"a cat --s x{i}\n" for i in range(30)))
    generate(tmp_path, "--from_file", file, "--prompt", "a --q", code=2)
    errors = capsys.readouterr().err
    assert all(
        part in errors for part in ("`--q` is not an inline option", "line 1:", "line 18:", "and 11 more like these")
    )
    file.write_text("# nothing\n\n")
    generate(tmp_path, "--from_file", file, code=2)
    assert "the file has no prompts" in capsys.readouterr().err


def test_image_files_are_named_as_requested(tmp_path):
    assert [f.name for f in generate(tmp_path, "--prompt", "a", "b", "--sequential_file_name", *SMALL)] == [
        "im_000001.png", "im_000002.png",
    ]  # fmt: skip
    assert [f.name for f in generate(tmp_path, "--prompt", "a", "--sequential_file_name", *SMALL)] == ["im_000003.png"]
    named = generate(tmp_path, "--prompt", "a --f sub/one", "b --f two.jpg", "c --f two.jpg", *SMALL)
    assert [str(f.relative_to(tmp_path / "images")) for f in named] == ["sub/one.png", "two.jpg", "two_2.jpg"]
    with Image.open(named[1]) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]  # the EXIF folder and the tag that AUTOMATIC1111 reads
    assert read_parameters(comment.removeprefix(b"UNICODE\0").decode("utf-16-be"))[2]["Seed"] == "6"
    photo = tmp_path / "images" / "photo.png"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(photo)
    before = photo.read_bytes()
    images = generate(tmp_path, "--prompt", "a", "b", "--image_path", photo, "--use_original_file_name", *SMALL)
    assert [f.name for f in images] == ["photo_2.png", "photo_3.png"]
    assert photo.read_bytes() == before


def test_two_stages_and_a_grid_are_written(tmp_path):
    files = generate(
        tmp_path, "--prompt", "a cat", "a dog", "--highres_fix_scale", 0.5, "--highres_fix_steps", 2,
        "--highres_fix_save_1st", "--grid", "--sequential_file_name", "--steps", 4, "--seed", 1,
    )  # fmt: skip
    names = ["im_0000001.png", "im_0000002.png", "im_1000001.png", "im_1000002.png"]
    assert [f.name for f in files[1:]] == names
    assert files[0].name.startswith("grid_")
    assert [shown(f).size for f in files[1:]] == [(64, 64)] * 2 + [(128, 128)] * 2
    assert shown(files[0]).width > 256


def test_prompts_stored_in_images_are_used_if_there_are_no_others(word, tmp_path, capsys):
    (first,) = generate(tmp_path, "--prompt", "a red cat --n blue", *SMALL)
    (second,) = generate(tmp_path, "--image_path", first, *SMALL)
    assert shown(second).text["prompt"] == "a red cat"
    assert shown(second).text["negative-prompt"] == "blue"
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    generate(tmp_path, "--image_path", tmp_path / "plain.png", code=2)
    assert "stores no prompt" in capsys.readouterr().err


def test_unused_words_are_reported_and_words_can_be_renamed(word, tmp_path, capsys):
    generate(tmp_path, "--textual_inversion_embeddings", word, "--prompt", "a dog", *SMALL)
    assert "no prompt uses `zyzzo`" in capsys.readouterr().err
    generate(tmp_path, "--textual_inversion_embeddings", f"mycat={word}", "--prompt", "a <mycat>", *SMALL)
    assert "no prompt uses" not in capsys.readouterr().err
    generate(tmp_path, "--prompt", "cat " * 80, "--max_embeddings_multiples", 1, *SMALL)
    assert "5 tokens at the end are cut off" in capsys.readouterr().err


def test_all_mistakes_are_reported_at_once(tmp_path, capsys):
    argv = [
        "--prompt", "a (cat:1.2.3)", "--sampler", "foo", "--image_path", tmp_path / "nix.png", "--strength", 2,
        "--control_net_models", "a", "b", "--textual_inversion_embeddings", tmp_path / "nope.pt", "--steps=0",
        "--network_weights", tmp_path / "l.safetensors", "--ckpt", tmp_path / "model", "--fp16", "--bf16",
        "--noise_offset_prob", 0.5, "--scale", "much", "--foo",
    ]  # fmt: skip
    assert generate(tmp_path, *argv, code=2) == []
    errors = capsys.readouterr().err
    for part in ("--scale: `much` is not a number", "--foo is not known", "`foo` is not known", "nix.png",
                 "--strength: 2.0 is more than 1", "ControlNet is not supported", "nope.pt",
                 "--steps: 0 is less than 1", "l.safetensors", "model: there is no such file or folder", "--fp16 --bf16",
                 "needs --noise_offset_range", "`1.2.3` is no weight"):  # fmt: skip
        assert part in errors, part


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "there is nothing to generate"),
        (["--from_file", "nix.txt"], "cannot be read"),
        (["--prompt", "a", "--mask_path", "m.png"], "needs an image to mask"),
        (["--prompt", "a", "--W", "1000000"], "a side of 1000000 pixels is not possible"),
        (["--prompt", "a --w 4"], "a side of 4 pixels is not possible"),
        (["--prompt", "a", "--seed", str(1 << 70)], "--seed"),
        (["--prompt", "a", "--v2"], "the model is Stable Diffusion 1.x, not Stable Diffusion 2.x"),
        (["--prompt", "a", "--v_parameterization"], "predicts noise, not v"),
        (["--prompt", "a", "--zero_terminal_snr"], "predicts noise cannot start at pure noise"),
        (["--prompt", "a", "--zero_terminal_snr", "--sampler", "lms"], "`lms` cannot start at pure noise"),
        (["--prompt", "a", "--zero_terminal_snr", "--sampler", "heun_karras"], "`heun_karras` cannot start"),
        (["--prompt", "a", "--zero_terminal_snr", "--x", "sampler=ddim,heun"], "`heun` cannot start at pure noise"),
        (["--prompt", "a", "--x", "sampler=ddim,nope"], "--x sampler=ddim,nope: the sampler `nope` is not known"),
        (["--prompt", "a", "--network_mul", "0.5"], "1 multipliers for 0 LoRAs"),
        (["--prompt", "a", "--from_module", "x.py"], "runs no code from its inputs"),
        (["--prompt", "a", "--image_path", "{tmp}/bad.png"], "cannot be read as an image"),
        (["--prompt", "a", "--clip_skip", "50"], "more than the text encoder's 2 layers"),
        (["--prompt", "a", "--steps", "2000"], "2000 is more than 1000"),
        (["--prompt", "a", "--scale", "nan"], "nan is not a finite number"),
        (["--prompt", "a --am 1,2"], "2 multipliers for 0 LoRAs"),
        (["--prompt", "a --am nan"], "finite numbers are expected"),
        (["--prompt", "a --s -5"], "a whole number from 0"),
        (["--prompt", "a", "--scale", "1e9"], "1000000000.0 is not between -100 and 1000"),
        (["--prompt", "a", "--negative_scale=-101"], "-101.0 is not between -100 and 1000"),
        (["--prompt", "a", "--network_mul", "nan"], "finite numbers"),
        (["--prompt", "a", "--noise_offset_range", "0.5", "0.1"], "0.5 0.1 is not a range within -10 to 10"),
        (["--prompt", "a", "--pyramid_noise_discount_range", "nan", "1"], "nan 1.0 is not a range within 0 to 1"),
        (["--prompt", "a", "--original_width", "0"], "0 is less than 1"),
        (["--prompt", "a", "--crop_top=-5"], "-5 is less than 0"),
        (["--prompt", "a --ow -5"], "a whole number from 1"),
        (["--prompt", "a --w 64 b"], "a whole number is expected"),
        (["--prompt", "a --f " + "x" * 300], "at most 200 bytes"),
        (["--prompt", "{" * 3000 + "}" * 3000], "nested braces"),
        (["--prompt", "{e$$1-20$$" + "|".join("abcdefghijklmnopqrst") + "}"], "variants are too many"),
        (["--prompt", "a", "--highres_fix_scale", "0.5", "--strength", "0.1", "--steps", "4"], "leaves none of"),
        (["--prompt", "a", "--textual_inversion_embeddings", "=x.pt"], "the word is empty"),
        (["--prompt", "a", "--outdir", "{tmp}/good.png/out"], "cannot be written to"),
        (["--prompt", "a --t 0.1", "--image_path", "{tmp}/good.png", "--steps", "2"], "leaves none of"),
        (["--prompt", "a", "--ckpt", "{tmp}/*.ckpt"], "the pattern matches 0 files"),
        (["--prompt", "a", "--ds_depth_1", "0"], "Deep Shrink is not supported"),  # a depth, and not "off"
        (["--prompt", "a", "--clip_guidance_scale", "0.1"], "guidance by CLIP"),
        (["--prompt", "a", "--sampler", "DPM++ 2S a Karras"], "The nearest is `dpm++_sde_karras`"),
        (["--prompt", "a", "--network_mul", "x", "y"], "`x y` is not numbers"),
        (["--prompt", "a", "--noise_offset_range", "x", "y"], "`x y` is not two numbers"),
        (["--prompt", "a", "--n_iter", "1" + "0" * 20], "is more than 1000000"),
        (["--prompt", "a", "--vae_batch_size", "1e300"], "is more than 1000000"),
        (["--prompt", "a", "--outdir", ""], "--outdir is empty"),
        (["--prompt", "a", "--image_path", "{tmp}/good.png", "--mask_image", ""], "--mask_image is empty"),
        (["--prompt", "a", "--x", ""], "--x is empty"),
        (["--like", ""], "--like is empty"),
        (["--ckpt", "", "--from_file", ""], "--ckpt is empty"),
        (["--prompt", "a", "--textual_inversion_embeddings", ""], "--textual_inversion_embeddings is empty"),
        (["--x", "prompt=a {e$$red|blue} cat"], "makes several prompts: write them one by one"),
    ],
)
def test_wrong_input_is_reported(argv, message, tmp_path, capsys):
    write_embedding(Embedding("x", {"text_encoder": torch.ones(1, 128)}), tmp_path / "x.pt")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    generate(tmp_path, *[a.replace("{tmp}", str(tmp_path)) for a in argv], code=2)
    assert message in capsys.readouterr().err


def test_odd_settings_are_reported_and_the_images_are_generated(tmp_path, capsys):
    files = generate(
        tmp_path, "--prompt", "lost", "--prompt", "a --s 0 --h 20", "--W", 64, "--seed", 1, "--fp16",
        "--iter_same_seed", "--images_per_prompt", 2,
    )  # fmt: skip
    errors = capsys.readouterr().err
    assert [shown(f).text["steps"] for f in files] == ["1", "1"]
    for part in ("warning: --prompt is set more than once: only the last one counts",
                 "0 steps are not possible with ddim: using 1 instead", "20 is not a multiple of 8: using 16 instead",
                 "note: --fp16 has no effect on a CPU, which computes in float32",
                 "warning: --iter_same_seed makes the 2 images of a prompt identical"):  # fmt: skip
        assert errors.count(part) == 1, part


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"strength": 0.5}, "--strength has no effect without --image_path or --highres_fix_scale"),
        ({"highres_fix_save_1st": True}, "--highres_fix_save_1st has no effect without --highres_fix_scale"),
        ({"noise_offset_range": (0, 1)}, "--noise_offset_range has no effect without --noise_offset_prob"),
        ({"network_merge": True}, "--network_merge has no effect without --network_weights"),
        ({"no_half_vae": True}, "--no_half_vae has no effect without --fp16 or --bf16"),
        ({"batch_at_once": True}, "--batch_at_once has no effect without --batch_size"),
        ({"use_original_file_name": True}, "--use_original_file_name has no effect without --image_path"),
        ({"W": 64, "image_path": "a.png"}, "--W has no effect with --image_path, unless both"),
        ({"interactive": True, "grid": True}, "--grid has no effect for prompts that are entered with --interactive"),
        ({"interactive": True, "n_iter": 2}, "--n_iter has no effect for prompts that are entered with --interactive"),
        ({"x": "scale=2", "n_iter": 2}, "--n_iter has no effect with --x and --y"),
        ({"x": "scale=2", "prompt": ("a", "b")}, "only the first prompt is used for a grid with axes"),
    ],
)
def test_settings_without_effect_are_reported(flags, message):
    (problem,) = generate_problems(GenerateSettings(**flags))
    assert message in str(problem)
    assert problem.severity == "warning"


def test_syntax_of_other_programs_is_reported(word, tmp_path, capsys):
    prompts = [
        "a <lora:x:1> cat",
        "a embedding:nix and <nix>",
        "a cat AND a dog",
        "a [cat:dog:0.5]",
        "a AND-gate (b:1.2)",
    ]
    named = ["--textual_inversion_embeddings", f"cat={word}"]
    assert len(generate(tmp_path, *named, "--prompt", *prompts, *SMALL)) == len(prompts)
    errors = capsys.readouterr().err
    for part in ("`<lora:x:1>` loads no LoRA here", "`embedding:nix` does not name one of the embedding files",
                 "`AND` does not combine two prompts", "`[cat:dog:0.5]` does not change the prompt between steps",
                 "`cat` is an ordinary word: wherever it occurs in a prompt"):  # fmt: skip
        assert errors.count(part) == 1, part
    assert errors.count("warning: ") == 5


def test_a_mistake_is_reported_once(tmp_path, capsys):
    for argv, part in (
        (["--W", "-64"], "a side of -64 pixels"),
        (["--network_mul", 1, 2], "2 multipliers for 0 LoRAs"),
    ):
        generate(tmp_path, "--prompt", "a", *argv, code=2)
        errors = capsys.readouterr().err
        assert part in errors
        assert errors.count("error: ") == 1, errors


def test_sizes_that_a_model_does_not_read_are_reported(tmp_path, capsys):
    generate(tmp_path, "--crop_top", 3, "--prompt", "a --ow 64 --cl 3", *SMALL)
    errors = capsys.readouterr().err
    assert "--crop_top: only SDXL reads the sizes of images" in errors
    assert "--ow, --cl: only SDXL reads the sizes of images" in errors


def test_flags_of_sd_scripts_without_effect_are_reported(tmp_path, capsys):
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
    errors = capsys.readouterr().err
    assert all(
        f"note: {flag} has no effect here" in errors for flag in ("--xformers", "--no_preview", "--network_module")
    )
