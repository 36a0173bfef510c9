"""Samplers: their names, their processes, and the images that they generate in any batch."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from neonym.errors import UserError
from neonym.generation.samplers import (
    ALIASES,
    OWN_SPACING,
    SAMPLERS,
    SPACINGS,
    check_process,
    default_sampler,
    sampler_name,
    spacing_title,
    title,
)
from neonym.generation.sampling import Start, sample_latents
from support.commands import pixels
from support.jobs import JOB, JOBS, image_of

NAMES = [*SAMPLERS, *(name + end for name in SAMPLERS if name not in OWN_SPACING for end in SPACINGS)]


@pytest.mark.parametrize("sampler", NAMES)
def test_every_sampler_generates_the_same_image_in_any_batch(pipeline, sampler):
    jobs = [replace(job, sampler=sampler) for job in JOBS]
    together = pipeline.generate(jobs)
    assert np.ptp(pixels(together[0])) > 20
    for job, image in zip(jobs, together, strict=True):
        assert np.array_equal(image_of(pipeline, job), pixels(image))


def flow_of(target):
    """Return the exact velocity of a rectified flow all of whose images are `target` [C,h,w]."""
    return lambda x_t, t, done: (x_t - target) / (t / 1000)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_rectified_flow_ends_at_its_image(dynamic):
    """On a straight line, any number of steps ends at the image: from noise, from an image and within a mask."""
    generator = torch.Generator().manual_seed(0)
    noise, target, other = (torch.randn(2, 16, 8, 6, generator=generator) for _ in range(3))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    for steps in (1, 4):
        ends = sample_latents(scheduler, flow_of(target), noise, [generator] * 2, steps)
        assert torch.allclose(ends, target, atol=1e-4)
    assert scheduler.timesteps[0] == 1000
    seen, counted = [], []

    def predict(x_t, t, done):
        seen.append((x_t, float(t) / 1000))
        counted.append((done.steps, done.of))
        return flow_of(target)(x_t, t, done)

    half = torch.zeros(2, 1, 8, 6)
    half[..., 3:] = 1
    ends = sample_latents(scheduler, predict, noise, [generator] * 2, 4, Start(other, 0.5, half))
    assert torch.allclose(ends[..., 3:], target[..., 3:], atol=1e-4)
    assert torch.equal(ends[..., :3], other[..., :3])
    assert len(seen) == 2
    assert counted == [(2, 4), (3, 4)]  # of all steps, although the first two are left out
    x_t, sigma = seen[0]
    assert sigma < 1
    # the image, noised to the level of the first step
    assert torch.allclose(x_t, sigma * noise + (1 - sigma) * other, atol=1e-5)


def test_samplers_for_another_process_are_refused():
    for name in ("ddim", "euler_karras", "dpm++_2m_sde"):
        with pytest.raises(
            UserError, match=rf"`{re.escape(name)}` does not support Toy, which is a rectified flow.*Use euler"
        ):
            check_process(name, "flow", "Toy")
    check_process("euler", "flow", "Toy")
    check_process("euler_karras", "diffusion", "Stable Diffusion 1.x")
    assert (default_sampler("flow"), default_sampler("diffusion")) == ("euler", "ddim")


def test_samplers_are_found_by_the_names_of_other_programs():
    for names in (
        ("Euler a", "k_euler_a", "euler_ancestral", "Euler A", "euler_a"),
        ("DPM++ 2M Karras", "k_dpmpp_2m_ka", "dpmpp_2m_karras", "k_dpmpp_2m_karras", "DPM++_2M_Karras", "dpmsolver++_karras"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde", "dpm++_2m_sde"),
        ("DPM++ 3M SDE Exponential", "dpmpp_3m_sde_exponential", "dpm++_3m_sde_exponential"),
        ("DPM++ 2M SDE Heun", "dpm++_2m_sde_heun"),
        ("DPM2 a Karras", "dpm_2_ancestral_karras", "dpm_2_a_karras"),
        ("PLMS", "k_pndm", "pndm"), ("UniPC", "uni_pc", "uni_pc_bh2", "unipc"), ("DDPM", "ddpm"),
    ):  # fmt: skip
        assert [sampler_name(name) for name in names] == [names[-1]] * len(names)
    for name in NAMES:
        full_title = " ".join(filter(None, (title(name), spacing_title(name))))
        assert sampler_name(full_title) == name
    assert all(target in SAMPLERS for target in ALIASES.values())
    with pytest.raises(UserError, match=r"`eular` is not known.*Did you mean `euler`"):
        sampler_name("eular")
    with pytest.raises(UserError, match="does not support Karras noise levels"):
        sampler_name("ddim_karras")


@pytest.mark.parametrize(("sampler", "single_step"), [("lms", "euler"), ("pndm", "ddim")])
def test_multistep_samplers_start_from_an_image_without_earlier_steps(pipeline, photo, sampler, single_step):
    """The first step from an image is that of the corresponding single-step sampler, wherever it starts."""
    for steps, strength in ((4, 0.25), (20, 0.05)):
        job = replace(JOB, source=photo, steps=steps, strength=strength)
        ours, plain = (image_of(pipeline, replace(job, sampler=name)) for name in (sampler, single_step))
        assert np.abs(ours - plain).max() <= 2


def test_multistep_samplers_are_accurate_from_an_image(pipeline, photo):
    """With so few steps, an error in the first ones would show."""
    job = replace(JOB, source=photo, steps=8, strength=0.5)
    exact = image_of(pipeline, replace(job, steps=80, sampler="ddim"))
    error = {
        name: np.abs(image_of(pipeline, replace(job, sampler=name)) - exact).mean() for name in ("pndm", "lms", "ddim")
    }
    assert error["pndm"] < 1.5 * error["ddim"]
    assert error["lms"] < 1.5 * error["ddim"]
