"""Images that start from others: img2img, masks, two stages."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.checkpoints import make_parts, save_folder
from neonym.generation.pipeline import Pipeline, PipelineRules
from neonym.generation.source_images import open_source
from neonym.models.model import load_model
from support.commands import pixels
from support.jobs import JOB, JOBS, image_of


def test_a_lower_strength_keeps_more_of_the_source_image(pipeline, photo):
    source = pixels(Image.open(photo))
    generated = {s: image_of(pipeline, replace(JOB, steps=10, source=photo, strength=s)) for s in (0.1, 0.9)}
    distance = {s: np.abs(generated[s] - source).mean() for s in generated}
    assert distance[0.1] < distance[0.9]
    jobs = [replace(job, source=photo, strength=0.9) for job in JOBS]
    for job, image in zip(jobs, pipeline.generate(jobs), strict=True):
        assert np.array_equal(image_of(pipeline, job), pixels(image))


def test_inpainting_changes_only_the_white_part_of_the_mask(pipeline, photo, mask):
    source = pixels(Image.open(photo))
    generated = image_of(pipeline, replace(JOB, source=photo, mask=mask, strength=1.0, steps=4))
    assert np.array_equal(generated[:, 32:], source[:, 32:])
    assert np.abs(generated[:, :32] - source[:, :32]).mean() > 5


@pytest.mark.parametrize("latents", [False, True])
def test_both_stages_keep_the_part_that_the_mask_keeps(model, photo, mask, latents):
    pipeline = Pipeline(model, PipelineRules(highres_scale=0.5, highres_steps=3, highres_latents=latents))
    job = replace(JOB, width=128, height=128, strength=0.8, steps=4, source=photo, mask=mask)
    small, large = pipeline.generate_stages([job])
    for image, side in ((small[0], 64), (large[0], 128)):
        source = pixels(open_source(photo, (side, side)))
        assert np.array_equal(pixels(image)[:, side // 2 + 4 :], source[:, side // 2 + 4 :])
        assert np.abs(pixels(image)[:, : side // 2] - source[:, : side // 2]).mean() > 5
    alone = image_of(Pipeline(model), replace(job, width=64, height=64, steps=3))
    assert np.array_equal(alone, pixels(small[0]))  # the first stage is an image with a mask like any other


@pytest.mark.parametrize("latents", [False, True])
def test_two_stages_give_a_small_and_a_large_image(model, latents):
    pipeline = Pipeline(model, PipelineRules(highres_scale=0.5, highres_steps=3, highres_latents=latents))
    job = replace(JOB, width=128, height=128, strength=0.5, steps=4)
    small, large = pipeline.generate_stages([job])
    assert (small[0].size, large[0].size) == ((64, 64), (128, 128))
    assert np.array_equal(pixels(small[0]), image_of(Pipeline(model), replace(job, width=64, height=64, steps=3)))
    assert np.array_equal(pixels(pipeline.generate([job, replace(job, seed=9)])[0]), pixels(large[0]))


def test_sdxl_starts_from_an_image(tmp_path, photo, mask):
    save_folder(make_parts("sdxl", tiny=True, dtype=torch.float32), "sdxl", tmp_path / "xl", "epsilon")
    pipeline = Pipeline(load_model(str(tmp_path / "xl")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = image_of(pipeline, replace(JOB, source=photo, strength=0.7))
        masked = image_of(pipeline, replace(JOB, source=photo, mask=mask, strength=0.7))
    assert plain.shape == (64, 64, 3)
    assert np.array_equal(masked[:, 32:], pixels(Image.open(photo))[:, 32:])
