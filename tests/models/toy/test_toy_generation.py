"""Verify that images are generated with a family that nothing in `src/` knows."""

from __future__ import annotations

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from neonym import generate, train
from neonym.config.generate import GenerateSettings
from neonym.models.model import load_model
from support.commands import generate as command
from support.commands import shown
from support.toy_family import (
    TOY,
)


def test_the_word_changes_what_is_generated(run_for, folder):
    (file,) = train(run_for("word", max_train_steps=2)).files
    prompts = ["a photo of mychar4", "a photo of mychar4", "a photo of dog"]
    shared = {"words": [f"mychar4={file}"], "model": load_model(str(folder)), "seed": 1, "steps": 2, "size": (64, 48)}
    with_word, again, without = (generate(prompt, **shared)[0] for prompt in prompts)
    assert with_word.size == (64, 48)
    assert with_word.tobytes() == again.tobytes() != without.tobytes()


def test_a_dynamic_shift_counts_the_patches_of_the_family(folder, monkeypatch):
    """An image of 64 x 48 pixels is 8 x 6 latents, which are 12 tokens in patches of 2 x 2."""
    model, seen = load_model(str(folder)), []
    dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 20, "base_shift": 1.0}
    model.scheduler_config = {**model.scheduler_config, **dynamic, "max_shift": 2.0}
    plain = FlowMatchEulerDiscreteScheduler.set_timesteps

    def watched(self, *arguments, sigmas=None, mu=None, **more):
        seen.append(mu)
        return plain(self, *arguments, sigmas=sigmas, mu=mu, **more)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "set_timesteps", watched)
    generate("a dog", model=model, seed=1, steps=2, size=(64, 48))
    assert seen == [1.5]


def test_the_command_generates_from_text_from_an_image_and_within_a_mask(folder, tmp_path, capsys):
    """The sampler is a flow's by default, sides are multiples of 16, and settings without effect are reported."""
    Image.new("RGB", (64, 48), (200, 40, 40)).save(tmp_path / "photo.png")
    Image.new("L", (64, 48), 0).save(tmp_path / "keep.png")
    flags = ("--ckpt", folder, "--prompt", "a photo of a dog", "--steps", 3, "--seed", 1)
    (plain,) = command(tmp_path, *flags, "--W", 64, "--H", 40, "--crop_top", 3, "--zero_terminal_snr")
    said = capsys.readouterr().err
    assert "40 is not a multiple of 16: using 32" in said
    assert "--crop_top: only SDXL reads the sizes of images" in said
    assert "--zero_terminal_snr has no effect: Toy always starts at pure noise" in said
    assert (shown(plain).size, shown(plain).text["sampler"]) == ((64, 32), "euler")
    (again,) = command(tmp_path, "--like", plain)
    assert shown(again).tobytes() == shown(plain).tobytes()
    begun = ("--image_path", tmp_path / "photo.png", "--W", 64, "--H", 48, "--strength", 0.7)
    (image,) = command(tmp_path, *flags, *begun)
    assert shown(image).size == (64, 48)
    (kept,) = command(tmp_path, *flags, *begun, "--mask_path", tmp_path / "keep.png")
    assert shown(kept).tobytes() == shown(tmp_path / "photo.png").tobytes()


def test_samplers_of_diffusion_are_refused_before_a_weight_is_read(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("neonym.generation.run.load_model", None)
    for flags in (("--sampler", "ddim"), ("--sampler", "dpm++_2m_sde"), ("--x", "sampler=euler,Heun Karras")):
        command(tmp_path, "--ckpt", folder, "--prompt", "a dog", *flags, code=2)
        assert "does not support Toy, which is a rectified flow. Use euler" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["v1", "v2", "sdxl"])
def test_a_flag_that_names_another_family_is_refused(folder, tmp_path, capsys, flag):
    command(tmp_path, "--ckpt", folder, "--prompt", "a dog", f"--{flag}", code=2)
    assert f"--{flag}: the model is Toy, not " in capsys.readouterr().err


def test_the_flag_of_a_family_need_not_be_a_setting(tmp_path):
    """`TOY.flag` names no field of the settings, and images are generated with any model."""
    assert TOY.flag not in GenerateSettings.model_fields
    assert len(command(tmp_path, "--prompt", "a dog", "--steps", 1, "--W", 64, "--H", 64)) == 1
