"""Samplers by name (sd-scripts', AUTOMATIC1111's and ComfyUI's spellings of diffusers' schedulers), and pipelines with them.

The names are asked for before torch is loaded.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from neonym.errors import UserError
from neonym.extras import install, is_installed

if TYPE_CHECKING:
    import torch

MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
PLUS_PLUS = {"algorithm_type": "dpmsolver++"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
FIRST_VERSION = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> diffusers' scheduler and its settings
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": (MULTISTEP, FIRST_VERSION),
    "dpmsolver++": (MULTISTEP, PLUS_PLUS),
    "dpmsingle": (SINGLESTEP, PLUS_PLUS),
    "dpm++_2m_sde": (MULTISTEP, SDE),
    "dpm++_2m_sde_heun": (MULTISTEP, SDE | {"solver_type": "heun"}),
    "dpm++_3m_sde": (MULTISTEP, SDE | {"solver_order": 3}),
    "dpm++_sde": (SINGLESTEP, SDE),
    "unipc": ("UniPCMultistepScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
ALIASES = {  # besides `k_` before a name, which means nothing, `dpmpp` for `dpm++`, and `_ka` for `_karras`
    "dpm++_2m": "dpmsolver++", "dpm++_2s": "dpmsingle", "dpm2": "dpm_2", "dpm2_a": "dpm_2_a", "plms": "pndm",
    "uni_pc": "unipc", "uni_pc_bh2": "unipc",
}  # fmt: skip
ABSENT = {  # samplers of AUTOMATIC1111 that diffusers does not have -> the nearest that it has
    "dpm++_2s_a": "dpm++_sde", "dpm_fast": "dpmsingle", "dpm_ad": "dpmsolver++", "dpm_adaptive": "dpmsolver++",
    "restart": "heun", "ddim_cfg++": "ddim",
}  # fmt: skip
SPOKEN = {  # AUTOMATIC1111's names, which pictures carry
    "ddim": "DDIM", "pndm": "PLMS", "lms": "LMS", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun",
    "dpm_2": "DPM2", "dpm_2_a": "DPM2 a", "dpmsolver": "DPMSolver", "dpmsolver++": "DPM++ 2M", "dpmsingle": "DPM++ 2S",
    "dpm++_2m_sde": "DPM++ 2M SDE", "dpm++_2m_sde_heun": "DPM++ 2M SDE Heun", "dpm++_3m_sde": "DPM++ 3M SDE",
    "dpm++_sde": "DPM++ SDE", "unipc": "UniPC", "ddpm": "DDPM", "lcm": "LCM",
}  # fmt: skip
SPACINGS = {  # of the noise levels: Karras et al. 2022, eq. 5; evenly in their logarithm
    "_karras": {"use_karras_sigmas": True}, "_exponential": {"use_exponential_sigmas": True},
}  # fmt: skip
POSSIBLE_STEPS = 998  # with more, diffusers' spacing leaves the 1,000 noise levels or takes one of them twice
FEW_STEPS = {"lcm": 50}  # it was distilled for a few of 50
OWN_SPACING = ("ddim", "pndm", "ddpm", "lcm", "euler_a")
STANDARD = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True}


def sampler_name(text: str) -> str:
    """Any spelling -> the name in SAMPLERS, with one of SPACINGS behind it if asked for. Raises UserError."""
    name = "_".join(text.lower().split()).removeprefix("k_").replace("dpmpp", "dpm++").replace("ancestral", "a")
    plain, end = parted(re.sub("_ka$", "_karras", name))
    plain = ALIASES.get(plain, plain)
    if plain in ABSENT:
        raise UserError(f"diffusers has no sampler `{text}`", "--sampler", f"The nearest is `{ABSENT[plain]}{end}`")
    if plain not in SAMPLERS:
        known = (*SAMPLERS, *ALIASES)
        close = get_close_matches(plain, known, n=1)
        meant = f"Did you mean `{close[0]}`? " if close else ""
        fix = f"{meant}Known: {', '.join(SAMPLERS)}, and most with {' or '.join(SPACINGS)}"
        raise UserError(f"the sampler `{text}` is not known", "--sampler", fix)
    if end and plain in OWN_SPACING:
        kind = end.strip("_").capitalize()
        raise UserError(f"the sampler `{plain}` has no {kind} noise levels", "--sampler", f"Use `{plain}`")
    if plain == "lms" and not is_installed("scipy"):
        raise UserError("the sampler lms needs the package `scipy`", "--sampler", install("scipy"))
    return plain + end


def parted(name: str) -> tuple[str, str]:
    """`heun_karras` -> (`heun`, `_karras`)"""
    end = next((end for end in SPACINGS if name.endswith(end)), "")
    return name.removesuffix(end), end


def possible_steps(sampler: str, steps: int) -> int:
    """The nearest number of steps that a sampler can take."""
    return min(max(steps, 1), FEW_STEPS.get(parted(sampler)[0], POSSIBLE_STEPS))


def spoken(name: str) -> str:
    """AUTOMATIC1111's name of a sampler, without its noise levels."""
    return SPOKEN[parted(name)[0]]


def spacing(name: str) -> str | None:
    """AUTOMATIC1111's name of its noise levels, if they are not the usual ones."""
    return parted(name)[1].strip("_").capitalize() or None


def make_scheduler(model: Any, sampler: str, zero_terminal_snr: bool = False) -> Any:
    """diffusers' scheduler for a model's noising process. Raises UserError if it cannot do what is asked.

    What the model's own folder says holds; what it leaves open is as Stable Diffusion was trained.
    """
    import diffusers

    name = sampler_name(sampler)
    plain, end = parted(name)
    kind, settings = SAMPLERS[plain]
    said = model.source.configs.get("scheduler", {})
    settings = {key: value for key, value in STANDARD.items() if key not in said} | settings | SPACINGS.get(end, {})
    scheduler = getattr(diffusers, kind)
    if zero_terminal_snr or model.process.begins_at_pure_noise:  # trained with it: drawn with it
        check_pure_noise(name)
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "dpmsolver", the first version, is kept for old commands
        return scheduler.from_config(model.scheduler_config, **settings)


def check_pure_noise(sampler: str) -> None:
    """Raises UserError if it cannot begin there."""
    import diffusers

    kind, _ = SAMPLERS[parted(sampler)[0]]
    if "rescale_betas_zero_snr" not in inspect.signature(getattr(diffusers, kind).__init__).parameters:
        raise UserError(f"the sampler `{sampler}` cannot begin at pure noise", "--zero_terminal_snr", "Use ddim")


def make_pipeline(
    model: Any, sampler: str = "ddim", kind: str = "", unet: Any = None, zero_terminal_snr: bool = False
) -> Any:
    """diffusers' pipeline of the family round the loaded parts; `kind`: "", "Img2Img" or "Inpaint".

    With a guided U-Net of ours for `unet`, which knows its texts, it has no part that reads text.
    """
    import diffusers

    parts = {"vae": model.vae.module, "unet": unet or model.denoiser}
    for encoder, tokenizer in model.text.tokenizers.items():
        parts[encoder] = None if unet else model.text.encoders[encoder]
        parts[encoder.replace("text_encoder", "tokenizer")] = None if unet else tokenizer.clip.for_pipeline()
    if model.source.family.pipeline == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = make_scheduler(model, sampler, zero_terminal_snr)
    name = model.source.family.pipeline.replace("Pipeline", f"{kind}Pipeline")
    pipeline = getattr(diffusers, name)(**parts, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    if kind:
        begin_midway(pipeline)
    return pipeline


def begin_midway(pipeline: Any) -> None:
    """Two samplers of diffusers rely on their first steps, which are left out where a picture is begun from another."""
    import diffusers
    import torch

    scheduler, usual, step = pipeline.scheduler, pipeline.get_timesteps, pipeline.scheduler.step

    @functools.wraps(step)
    def with_what_there_is(guess: Any, t: Any, sample: Any, **rest: Any) -> Any:
        return step(guess, t, sample, order=min(4, len(scheduler.derivatives) + 1), **rest)

    @functools.wraps(usual)
    def second_one_twice(*given: Any, **rest: Any) -> tuple[torch.Tensor, int]:
        """PNDM's list is one longer than its steps: the second stands there twice, wherever it begins."""
        timesteps, count = usual(*given, **rest)
        if len(timesteps) < len(scheduler.timesteps):
            timesteps = torch.cat([timesteps[1:2], timesteps[2:3], timesteps[2:]])
        return timesteps, count

    if isinstance(scheduler, diffusers.LMSDiscreteScheduler):
        pipeline.scheduler.step = with_what_there_is
    if isinstance(scheduler, diffusers.PNDMScheduler) and scheduler.config["skip_prk_steps"]:
        pipeline.get_timesteps = second_one_twice
