"""Images by real drawing: the same from a seed in any batch, as diffusers draws them, changed where they should be."""

import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import save_file

from benchmarks.checkpoints import make_parts, save_folder
from benchmarks.generate import around
from neonym.errors import ModelError, UserError
from neonym.generation.guidance import Branch, Guidance
from neonym.generation.lora import Networks
from neonym.generation.pipeline import Pipeline, PipelineRules
from neonym.generation.request.jobs import Job
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
from neonym.generation.source_images import keep_masked, open_source
from neonym.generation.start_noise import NoiseChange
from neonym.models.model import load_model
from neonym.types import TextCond

JOB = Job("a sticker of a cat on a blue background", 3, 64, 64, steps=3, scale=3.0)
JOBS = [
    JOB, replace(JOB, prompt="a (red:1.3) apple", seed=4), replace(JOB, seed=5, scale=6.0, negative_prompt="blue"),
    replace(JOB, prompt="a taxi", seed=6),
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def pipeline(model):
    return Pipeline(model)


def pixels(image):
    return np.asarray(image).astype(int)


def one(pipeline, job):
    return pixels(pipeline.generate([job])[0])


@pytest.fixture
def photo(tmp_path):
    """Left half red, right half green."""
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    image.paste((40, 160, 60), (32, 0, 64, 64))
    image.save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def mask(tmp_path):
    """The left half is drawn anew."""
    image = Image.new("L", (64, 64), 0)
    image.paste(255, (0, 0, 32, 64))
    image.save(tmp_path / "mask.png")
    return str(tmp_path / "mask.png")


NAMES = [*SAMPLERS, *(name + end for name in SAMPLERS if name not in OWN_SPACING for end in SPACINGS)]


@pytest.mark.parametrize("sampler", NAMES)
def test_a_seed_is_a_image_in_any_batch_with_every_sampler(pipeline, sampler):
    jobs = [replace(job, sampler=sampler) for job in JOBS]
    together = pipeline.generate(jobs)
    assert np.ptp(pixels(together[0])) > 20
    for job, image in zip(jobs, together, strict=True):
        assert np.array_equal(one(pipeline, job), pixels(image))


def test_a_long_neighbour_changes_nothing(pipeline):
    jobs = [JOB, replace(JOB, prompt="cat " * 100), replace(JOB, negative_prompt="dog " * 100), replace(JOB, seed=9)]
    for job, image in zip(jobs, pipeline.generate(jobs), strict=True):
        assert np.array_equal(one(pipeline, job), pixels(image))


def test_a_batch_at_once_is_nearly_the_same(model, pipeline):
    at_once = Pipeline(model, PipelineRules(at_once=True)).generate(JOBS)
    for image, alone in zip(at_once, pipeline.generate(JOBS), strict=True):
        assert np.abs(pixels(image) - pixels(alone)).max() <= 2


def test_half_precision_is_for_the_model_alone(pipeline):
    """Noise is drawn and steps are made in float32: older versions of torch draw other numbers in half precision."""
    job, half = replace(JOB, sampler="euler_a"), Pipeline(load_model("builtin:emoji", "cpu", torch.bfloat16))
    assert half.model.dtype == torch.bfloat16
    with torch.inference_mode():
        latents = [p.latents([job], None, 1) for p in (pipeline, half)]
    assert latents[1].dtype == torch.float32
    assert float((latents[0] - latents[1]).abs().mean()) < 0.05
    assert not torch.equal(latents[1], latents[1].bfloat16().float())  # not rounded to it


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "unipc", "dpm++_2m_sde"])
@pytest.mark.parametrize("kind", ["", "Img2Img", "Inpaint"])
def test_the_image_is_the_one_that_diffusers_generates(model, pipeline, photo, mask, sampler, kind):
    """Bit for bit, from text, from an image and within a mask; only the mask's edge is put back by us alone."""
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
    assert np.array_equal(one(pipeline, job), pixels(keep_masked(theirs, job)))


def flow_of(target):
    """The exact velocity of a rectified flow all of whose images are `target` [C,h,w]."""
    return lambda x_t, t: (x_t - target) / (t / 1000)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_rectified_flow_is_stepped_through(dynamic):
    """On a straight line every number of steps ends at the image, from noise, from an image and within a mask."""
    generator = torch.Generator().manual_seed(0)
    noise, target, other = (torch.randn(2, 16, 8, 6, generator=generator) for _ in range(3))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    for steps in (1, 4):
        ends = sample_latents(scheduler, flow_of(target), noise, [generator] * 2, steps)
        assert torch.allclose(ends, target, atol=1e-4)
    assert scheduler.timesteps[0] == 1000
    seen = []

    def predict(x_t, t):
        seen.append((x_t, float(t) / 1000))
        return flow_of(target)(x_t, t)

    half = torch.zeros(2, 1, 8, 6)
    half[..., 3:] = 1
    ends = sample_latents(scheduler, predict, noise, [generator] * 2, 4, Start(other, 0.5, half))
    assert torch.allclose(ends[..., 3:], target[..., 3:], atol=1e-4)
    assert torch.equal(ends[..., :3], other[..., :3])
    assert len(seen) == 2
    x_t, sigma = seen[0]
    assert sigma < 1
    assert torch.allclose(x_t, sigma * noise + (1 - sigma) * other, atol=1e-5)  # the image noised to where it begins


def test_guidance(model, pipeline):
    base = one(pipeline, replace(JOB, scale=1.0, negative_prompt="red"))
    assert np.array_equal(base, one(pipeline, replace(JOB, scale=0.0)))  # up to 1: no guidance, no negative prompt
    guided = one(pipeline, replace(JOB, negative_prompt="red"))
    assert not np.array_equal(guided, one(pipeline, JOB))
    away = {s: one(pipeline, replace(JOB, negative_prompt="red", negative_scale=s)) for s in (0.0, 2.0)}
    assert np.array_equal(away[0.0], one(pipeline, JOB))  # away from the empty prompt alone
    assert not np.array_equal(away[2.0], away[0.0])
    assert not np.array_equal(one(Pipeline(model, PipelineRules(guidance_rescale=0.7)), JOB), one(pipeline, JOB))


def test_rescaled_guidance_has_the_contrast_of_the_unguided_prediction():
    guesses = [torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    branch = Branch(TextCond(torch.zeros(2, 77, 8)))
    scale = torch.full((2, 1, 1, 1), 9.0)
    contrast = Guidance(branch, branch, scale, rescale=1.0).combine(guesses).std((1, 2, 3))
    assert torch.allclose(contrast, guesses[1].std((1, 2, 3)), rtol=1e-5)
    assert (Guidance(branch, branch, scale).combine(guesses).std((1, 2, 3)) > 5 * contrast).all()


def test_img2img_keeps_what_its_strength_leaves(pipeline, photo):
    source = pixels(Image.open(photo))
    drawn = {s: one(pipeline, replace(JOB, steps=10, source=photo, strength=s)) for s in (0.1, 0.9)}
    distance = {s: np.abs(drawn[s] - source).mean() for s in drawn}
    assert distance[0.1] < distance[0.9]
    jobs = [replace(job, source=photo, strength=0.9) for job in JOBS]
    for job, image in zip(jobs, pipeline.generate(jobs), strict=True):
        assert np.array_equal(one(pipeline, job), pixels(image))


def test_inpainting_changes_white_parts_alone(pipeline, photo, mask):
    source = pixels(Image.open(photo))
    drawn = one(pipeline, replace(JOB, source=photo, mask=mask, strength=1.0, steps=4))
    assert np.array_equal(drawn[:, 32:], source[:, 32:])
    assert np.abs(drawn[:, :32] - source[:, :32]).mean() > 5


@pytest.mark.parametrize("latents", [False, True])
def test_both_of_two_stages_keep_what_a_mask_keeps(model, photo, mask, latents):
    pipeline = Pipeline(model, PipelineRules(highres_scale=0.5, highres_steps=3, highres_latents=latents))
    job = replace(JOB, width=128, height=128, strength=0.8, steps=4, source=photo, mask=mask)
    small, large = pipeline.generate_stages([job])
    for image, side in ((small[0], 64), (large[0], 128)):
        source = pixels(open_source(photo, (side, side)))
        assert np.array_equal(pixels(image)[:, side // 2 + 4 :], source[:, side // 2 + 4 :])
        assert np.abs(pixels(image)[:, : side // 2] - source[:, : side // 2]).mean() > 5
    alone = one(Pipeline(model), replace(job, width=64, height=64, steps=3))
    assert np.array_equal(alone, pixels(small[0]))  # the first stage is an image with a mask like any other


@pytest.mark.parametrize("latents", [False, True])
def test_two_stages(model, latents):
    pipeline = Pipeline(model, PipelineRules(highres_scale=0.5, highres_steps=3, highres_latents=latents))
    job = replace(JOB, width=128, height=128, strength=0.5, steps=4)
    small, large = pipeline.generate_stages([job])
    assert (small[0].size, large[0].size) == ((64, 64), (128, 128))
    assert np.array_equal(pixels(small[0]), one(Pipeline(model), replace(job, width=64, height=64, steps=3)))
    assert np.array_equal(pixels(pipeline.generate([job, replace(job, seed=9)])[0]), pixels(large[0]))


def test_start_noise(model, pipeline):
    offset = Pipeline(model, PipelineRules(noise=(NoiseChange("offset", 1.0, (0.5, 0.6)),)))
    pyramid = Pipeline(model, PipelineRules(noise=(NoiseChange("pyramid", 1.0, (0.3, 0.4)),)))
    never = Pipeline(model, PipelineRules(noise=(NoiseChange("offset", 0.0, (0.5, 0.6)),)))
    plain = one(pipeline, JOB)
    assert np.array_equal(one(never, JOB), plain)
    for altered in (offset, pyramid):
        assert not np.array_equal(one(altered, JOB), plain)
        assert np.array_equal(pixels(altered.generate(JOBS)[0]), one(altered, JOB))


def test_zero_terminal_snr(tmp_path):
    save_folder(make_parts("sd2", tiny=True, dtype=torch.float32), "sd2", tmp_path / "v", "v_prediction")
    model = load_model(str(tmp_path / "v"))
    zero = Pipeline(model, PipelineRules(zero_terminal_snr=True))
    for sampler in ("ddim", "euler", "dpmsolver++"):
        job = replace(JOB, sampler=sampler)
        assert not np.array_equal(one(zero, job), one(Pipeline(model), job))
    with pytest.raises(UserError, match="cannot begin at pure noise"):
        one(zero, replace(JOB, sampler="pndm"))


def test_vae_options_change_nothing_but_memory(model, pipeline):
    several = Pipeline(model, PipelineRules(vae_batch_size=4)).generate(JOBS)
    for image, alone in zip(several, pipeline.generate(JOBS), strict=True):
        assert np.abs(pixels(image) - pixels(alone)).max() <= 1
    tiled = Pipeline(load_model(), PipelineRules(vae_tiling=True))
    assert np.abs(one(tiled, replace(JOB, width=256)) - one(pipeline, replace(JOB, width=256))).mean() < 20


def test_samplers_of_another_process_are_refused_by_name():
    for name in ("ddim", "euler_karras", "dpm++_2m_sde"):
        with pytest.raises(
            UserError, match=rf"`{re.escape(name)}` is not for Toy, which is a rectified flow.*Use euler"
        ):
            check_process(name, "flow", "Toy")
    check_process("euler", "flow", "Toy")
    check_process("euler_karras", "diffusion", "Stable Diffusion 1.x")
    assert (default_sampler("flow"), default_sampler("diffusion")) == ("euler", "ddim")


def test_names_of_samplers():
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
        said = " ".join(filter(None, (title(name), spacing_title(name))))
        assert sampler_name(said) == name
    assert all(target in SAMPLERS for target in ALIASES.values())
    with pytest.raises(UserError, match=r"`eular` is not known.*Did you mean `euler`"):
        sampler_name("eular")
    with pytest.raises(UserError, match="no Karras noise levels"):
        sampler_name("ddim_karras")


@pytest.mark.parametrize(("sampler", "same"), [("lms", "euler"), ("pndm", "ddim")])
def test_samplers_with_a_memory_begin_without_one(pipeline, photo, sampler, same):
    """The first step from an image is that of the sampler without a memory, wherever it begins."""
    for steps, strength in ((4, 0.25), (20, 0.05)):
        job = replace(JOB, source=photo, steps=steps, strength=strength)
        ours, plain = (one(pipeline, replace(job, sampler=name)) for name in (sampler, same))
        assert np.abs(ours - plain).max() <= 2


def test_plms_is_as_good_in_the_middle_of_its_steps_as_from_their_beginning(pipeline, photo):
    """With so few steps, what the first ones get wrong would be seen."""
    job = replace(JOB, source=photo, steps=8, strength=0.5)
    exact = one(pipeline, replace(job, steps=80, sampler="ddim"))
    error = {name: np.abs(one(pipeline, replace(job, sampler=name)) - exact).mean() for name in ("pndm", "lms", "ddim")}
    assert error["pndm"] < 1.5 * error["ddim"]
    assert error["lms"] < 1.5 * error["ddim"]


def test_numbers_that_are_not_finite_are_no_image(model):
    broken = Pipeline(model, PipelineRules(noise=(NoiseChange("offset", 1.0, (1e30, 1e30)),)))
    with pytest.raises(UserError, match="seed 3: .*not finite"):
        broken.generate([JOB])


def lora_tensors(model, seed=0, scale=0.2):
    """A small LoRA of every attention layer, under kohya's names."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    parts = [("lora_unet_", "", model.denoiser, ("to_q", "to_k", "to_v", "to_out.0"))]
    parts.append(
        ("lora_te_", "text_model.", model.text.encoders["text_encoder"], ("q_proj", "k_proj", "v_proj", "out_proj"))
    )
    for start, body, module, endings in parts:
        for name, layer in module.named_modules():
            if name.endswith(endings):
                key = start + (body + name.removeprefix(body)).replace(".", "_")
                tensors[f"{key}.lora_down.weight"] = scale * torch.randn(2, layer.in_features, generator=generator)
                tensors[f"{key}.lora_up.weight"] = scale * torch.randn(layer.out_features, 2, generator=generator)
                tensors[f"{key}.alpha"] = torch.tensor(2.0)
    return tensors


def test_loras_change_images_by_their_multipliers(tmp_path):
    model = load_model()
    plain = one(Pipeline(model), JOB)
    files = [str(tmp_path / f"{i}.safetensors") for i in range(2)]
    for i, file in enumerate(files):
        save_file(lora_tensors(model, seed=i), file)
    networks = Networks(model, files, (1.0,))
    pipeline = Pipeline(model, networks=networks)
    drawn = {m: one(pipeline, replace(JOB, multipliers=m)) for m in ((0.0,), (1.0, 0.0), (0.5, 0.0), (1.0, 1.0))}
    assert np.abs(drawn[0.0,] - plain).max() <= 1
    change = {m: np.abs(image - plain).mean() for m, image in drawn.items()}
    assert 0 < change[0.5, 0.0] < change[1.0, 0.0]
    assert not np.array_equal(drawn[1.0, 0.0], drawn[1.0, 1.0])
    assert np.array_equal(one(pipeline, replace(JOB, multipliers=(1.0,))), drawn[1.0, 1.0])  # the last one repeats
    merged = Pipeline(other := load_model(), networks=Networks(other, files[:1], (1.0,), merge=True))
    assert np.abs(one(merged, JOB) - drawn[1.0, 0.0]).max() <= 2


def test_a_lora_is_added_to_the_weights_by_kohyas_rule(tmp_path):
    """Multiplier x alpha / rank x up x down."""
    tensors = lora_tensors(load_model())
    save_file(tensors, tmp_path / "lora.safetensors")
    model = load_model()
    networks = Networks(model, [str(tmp_path / "lora.safetensors")], (0.7,))
    assert networks.problems == []
    drawn = one(Pipeline(model, networks=networks), replace(JOB, multipliers=(0.7,)))
    other: Any = load_model()
    with torch.no_grad():
        for start, body, module in (
            ("lora_unet_", "", other.denoiser), ("lora_te_", "text_model.", other.text.encoders["text_encoder"]),
        ):  # fmt: skip
            for name, layer in module.named_modules():
                key = start + (body + name.removeprefix(body)).replace(".", "_")
                if f"{key}.alpha" in tensors:
                    change = tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"]
                    layer.weight += 0.7 * tensors[f"{key}.alpha"] / 2 * change
    assert np.abs(drawn - one(Pipeline(other), JOB)).max() <= 1


def test_what_is_no_lora_is_refused(tmp_path, capfd):
    def load(name, tensors):
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / name)
        return Networks(load_model(), [str(tmp_path / name)], ())

    good = lora_tensors(load_model())
    with pytest.raises(ModelError, match="holds no LoRA"):
        load("none.safetensors", {"a": torch.ones(2)})
    with pytest.raises(ModelError, match="holds no LoRA"):
        load("loha.safetensors", {key.replace("lora_down.weight", "hada_w1_a"): t for key, t in good.items()})
    with pytest.raises(ModelError, match="of it fits the model|does not fit the model"):
        load("other.safetensors", {"x.lora_down.weight": torch.ones(2, 2)})
    with pytest.raises(ModelError, match="does not fit the model"):
        load("wide.safetensors", {key: torch.ones(2, 9) if "down.w" in key else t for key, t in good.items()})
    with pytest.raises(ModelError, match="not finite"):
        load("nan.safetensors", {key: t * float("nan") for key, t in good.items()})
    more = {key.replace("down_blocks_1", "down_blocks_9"): t for key, t in good.items() if "down_blocks_1" in key}
    (problem,) = load("more.safetensors", good | more).problems
    assert f"{len(more) // 3} of its {(len(good) + len(more)) // 3} layers are not in the model" in problem.what
    assert len(capfd.readouterr().err) < 500  # no list of every shape


def test_sdxl_is_told_its_sizes(tmp_path):
    save_folder(make_parts("sdxl", tiny=True, dtype=torch.float32), "sdxl", tmp_path / "xl", "epsilon")
    pipeline = Pipeline(load_model(str(tmp_path / "xl")))
    plain = one(pipeline, JOB)
    assert np.array_equal(plain, one(pipeline, replace(JOB, original_width=64, original_height=64)))
    for other in ({"original_width": 640}, {"crop_top": 32}, {"original_height_negative": 640}):
        assert not np.array_equal(plain, one(pipeline, replace(JOB, **other)))
    jobs = [JOB, replace(JOB, prompt="a dog", seed=8, crop_left=9)]
    for job, image in zip(jobs, pipeline.generate(jobs), strict=True):
        assert np.array_equal(one(pipeline, job), pixels(image))


def test_sdxl_begins_from_a_image(tmp_path, photo, mask):
    save_folder(make_parts("sdxl", tiny=True, dtype=torch.float32), "sdxl", tmp_path / "xl", "epsilon")
    pipeline = Pipeline(load_model(str(tmp_path / "xl")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = one(pipeline, replace(JOB, source=photo, strength=0.7))
        masked = one(pipeline, replace(JOB, source=photo, mask=mask, strength=0.7))
    assert plain.shape == (64, 64, 3)
    assert np.array_equal(masked[:, 32:], pixels(Image.open(photo))[:, 32:])
