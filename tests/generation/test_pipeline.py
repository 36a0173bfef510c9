"""Images from jobs: the same in any batch, as diffusers generates them, and changed by each setting as intended."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.checkpoints import make_parts, save_folder
from benchmarks.generate import around
from neonym.errors import UserError
from neonym.generation.guidance import Branch, Guidance
from neonym.generation.pipeline import Pipeline, PipelineRules
from neonym.generation.source_images import keep_masked
from neonym.generation.start_noise import NoiseChange
from neonym.models.model import load_model
from neonym.types import TextCond
from support.commands import pixels
from support.jobs import JOB, JOBS, image_of


def test_a_long_prompt_in_the_batch_does_not_change_the_other_images(pipeline):
    jobs = [JOB, replace(JOB, prompt="cat " * 100), replace(JOB, negative_prompt="dog " * 100), replace(JOB, seed=9)]
    for job, image in zip(jobs, pipeline.generate(jobs), strict=True):
        assert np.array_equal(image_of(pipeline, job), pixels(image))


def test_batch_at_once_gives_nearly_the_same_images(model, pipeline):
    at_once = Pipeline(model, PipelineRules(at_once=True)).generate(JOBS)
    for image, alone in zip(at_once, pipeline.generate(JOBS), strict=True):
        assert np.abs(pixels(image) - pixels(alone)).max() <= 2


def test_noise_and_steps_stay_in_float32_in_half_precision(pipeline):
    """Noise is drawn in float32, because older versions of torch draw other numbers in half precision."""
    job, half = replace(JOB, sampler="euler_a"), Pipeline(load_model("builtin:emoji", "cpu", torch.bfloat16))
    assert half.model.dtype == torch.bfloat16
    with torch.inference_mode():
        latents = [p.latents([job], None, 1) for p in (pipeline, half)]
    assert latents[1].dtype == torch.float32
    assert float((latents[0] - latents[1]).abs().mean()) < 0.05
    assert not torch.equal(latents[1], latents[1].bfloat16().float())  # not rounded to it


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "unipc", "dpm++_2m_sde"])
@pytest.mark.parametrize("kind", ["", "Img2Img", "Inpaint"])
def test_images_equal_those_of_diffusers(model, pipeline, photo, mask, sampler, kind):
    """They are equal bit for bit, from text, from an image and within a mask, but for the edge of the mask."""
    job = replace(JOB, steps=5, negative_prompt="blurry", sampler=sampler, strength=0.6)
    given: dict[str, Any] = {"width": 64, "height": 64} if kind != "Img2Img" else {}
    if kind:
        job = replace(job, source=photo, mask=mask if kind == "Inpaint" else None)
        given |= {"image": pipeline.source_latents([job]), "strength": 0.6}
    if job.mask is not None:
        given |= {"mask_image": Image.open(mask), "masked_image_latents": given["image"]}
    theirs = around(model, sampler, kind)(
        job.prompt, negative_prompt="blurry", num_inference_steps=5, guidance_scale=3.0, **given,
        generator=[torch.Generator().manual_seed(3)],
    ).images[0]  # fmt: skip
    assert np.array_equal(image_of(pipeline, job), pixels(keep_masked(theirs, job)))


def test_guidance_scales_and_negative_prompts_change_images(model, pipeline):
    base = image_of(pipeline, replace(JOB, scale=1.0, negative_prompt="red"))
    # up to a scale of 1, there is no guidance and no negative prompt
    assert np.array_equal(base, image_of(pipeline, replace(JOB, scale=0.0)))
    guided = image_of(pipeline, replace(JOB, negative_prompt="red"))
    assert not np.array_equal(guided, image_of(pipeline, JOB))
    away = {s: image_of(pipeline, replace(JOB, negative_prompt="red", negative_scale=s)) for s in (0.0, 2.0)}
    assert np.array_equal(away[0.0], image_of(pipeline, JOB))  # guided away from the empty prompt only
    assert not np.array_equal(away[2.0], away[0.0])
    assert not np.array_equal(
        image_of(Pipeline(model, PipelineRules(guidance_rescale=0.7)), JOB), image_of(pipeline, JOB)
    )


def test_rescaled_guidance_has_the_contrast_of_the_unguided_prediction():
    predictions = [torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    branch = Branch(TextCond(torch.zeros(2, 77, 8)))
    scale = torch.full((2, 1, 1, 1), 9.0)
    contrast = Guidance(branch, branch, scale, rescale=1.0).combine(predictions).std((1, 2, 3))
    assert torch.allclose(contrast, predictions[1].std((1, 2, 3)), rtol=1e-5)
    assert (Guidance(branch, branch, scale).combine(predictions).std((1, 2, 3)) > 5 * contrast).all()


def test_noise_offset_and_pyramid_noise_change_images_in_any_batch(model, pipeline):
    offset = Pipeline(model, PipelineRules(noise=(NoiseChange("offset", 1.0, (0.5, 0.6)),)))
    pyramid = Pipeline(model, PipelineRules(noise=(NoiseChange("pyramid", 1.0, (0.3, 0.4)),)))
    never = Pipeline(model, PipelineRules(noise=(NoiseChange("offset", 0.0, (0.5, 0.6)),)))
    plain = image_of(pipeline, JOB)
    assert np.array_equal(image_of(never, JOB), plain)
    for altered in (offset, pyramid):
        assert not np.array_equal(image_of(altered, JOB), plain)
        assert np.array_equal(pixels(altered.generate(JOBS)[0]), image_of(altered, JOB))


def test_zero_terminal_snr_changes_images_and_needs_a_sampler_for_it(tmp_path):
    save_folder(make_parts("sd2", tiny=True, dtype=torch.float32), "sd2", tmp_path / "v", "v_prediction")
    model = load_model(str(tmp_path / "v"))
    zero = Pipeline(model, PipelineRules(zero_terminal_snr=True))
    for sampler in ("ddim", "euler", "dpmsolver++"):
        job = replace(JOB, sampler=sampler)
        assert not np.array_equal(image_of(zero, job), image_of(Pipeline(model), job))
    with pytest.raises(UserError, match="cannot start at pure noise"):
        image_of(zero, replace(JOB, sampler="pndm"))


def test_vae_options_hardly_change_images(model, pipeline):
    several = Pipeline(model, PipelineRules(vae_batch_size=4)).generate(JOBS)
    for image, alone in zip(several, pipeline.generate(JOBS), strict=True):
        assert np.abs(pixels(image) - pixels(alone)).max() <= 1
    tiled = Pipeline(load_model(), PipelineRules(vae_tiling=True))
    assert np.abs(image_of(tiled, replace(JOB, width=256)) - image_of(pipeline, replace(JOB, width=256))).mean() < 20


def test_an_image_that_is_not_finite_is_an_error(model):
    broken = Pipeline(model, PipelineRules(noise=(NoiseChange("offset", 1.0, (1e30, 1e30)),)))
    with pytest.raises(UserError, match="seed 3: .*not finite"):
        broken.generate([JOB])


def test_sdxl_reads_the_sizes_of_a_job(tmp_path):
    save_folder(make_parts("sdxl", tiny=True, dtype=torch.float32), "sdxl", tmp_path / "xl", "epsilon")
    pipeline = Pipeline(load_model(str(tmp_path / "xl")))
    plain = image_of(pipeline, JOB)
    assert np.array_equal(plain, image_of(pipeline, replace(JOB, original_width=64, original_height=64)))
    for other in ({"original_width": 640}, {"crop_top": 32}, {"original_height_negative": 640}):
        assert not np.array_equal(plain, image_of(pipeline, replace(JOB, **other)))
    jobs = [JOB, replace(JOB, prompt="a dog", seed=8, crop_left=9)]
    for job, image in zip(jobs, pipeline.generate(jobs), strict=True):
        assert np.array_equal(image_of(pipeline, job), pixels(image))
