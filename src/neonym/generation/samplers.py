"""Samplers by name (sd-scripts', AUTOMATIC1111's and ComfyUI's spellings of diffusers' schedulers), and pipelines with them."""

from __future__ import annotations

import inspect
import warnings
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from neonym.errors import UserError

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
    "dpm++_sde": (SINGLESTEP, SDE),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
ALIASES = {
    "k_lms": "lms", "k_euler": "euler", "k_euler_a": "euler_a", "k_dpm_2": "dpm_2", "k_dpm_2_a": "dpm_2_a",
    "dpm++_2m": "dpmsolver++", "dpmpp_2m": "dpmsolver++", "dpmpp_2m_sde": "dpm++_2m_sde", "dpmpp_sde": "dpm++_sde",
    "dpm++_2s": "dpmsingle", "dpm2": "dpm_2", "dpm2_a": "dpm_2_a", "dpm_2_ancestral": "dpm_2_a",
    "euler_ancestral": "euler_a", "plms": "pndm", "uni_pc": "unipc",
}  # fmt: skip
SPOKEN = {  # AUTOMATIC1111's names, which pictures carry
    "ddim": "DDIM", "pndm": "PLMS", "lms": "LMS", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun",
    "dpm_2": "DPM2", "dpm_2_a": "DPM2 a", "dpmsolver": "DPM 2M", "dpmsolver++": "DPM++ 2M", "dpmsingle": "DPM++ 2S",
    "dpm++_2m_sde": "DPM++ 2M SDE", "dpm++_sde": "DPM++ SDE", "unipc": "UniPC", "lcm": "LCM",
}  # fmt: skip
KARRAS = "_karras"  # the noise levels of Karras et al. 2022, eq. 5
WITHOUT_KARRAS = ("ddim", "pndm", "lcm", "euler_a")
STANDARD = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True}


def sampler_name(text: str) -> str:
    """Any spelling -> the name in SAMPLERS, with `_karras` behind it if asked for. Raises UserError."""
    name = "_".join(text.lower().split())
    plain = name.removesuffix(KARRAS)
    plain = ALIASES.get(plain, plain)
    if plain not in SAMPLERS:
        known = (*SAMPLERS, *ALIASES)
        close = get_close_matches(plain, known, n=1)
        meant = f"Did you mean `{close[0]}`? " if close else ""
        fix = f"{meant}Known: {', '.join(SAMPLERS)}, and most with {KARRAS}"
        raise UserError(f"the sampler `{text}` is not known", "--sampler", fix)
    if name.endswith(KARRAS) and plain in WITHOUT_KARRAS:
        raise UserError(f"the sampler `{plain}` has no Karras noise levels", "--sampler", f"Use `{plain}`")
    if plain == "lms" and find_spec("scipy") is None:
        raise UserError("the sampler lms needs the package `scipy`", "--sampler", 'Install "neonym[generation]"')
    return plain + KARRAS if name.endswith(KARRAS) else plain


def spoken(name: str) -> str:
    """AUTOMATIC1111's name of a sampler."""
    plain = SPOKEN[name.removesuffix(KARRAS)]
    return f"{plain} Karras" if name.endswith(KARRAS) else plain


def make_scheduler(model: Any, sampler: str, zero_terminal_snr: bool = False) -> Any:
    """diffusers' scheduler for a model's noising process. Raises UserError if it cannot do what is asked.

    What the model's own folder says holds; what it leaves open is as Stable Diffusion was trained.
    """
    import diffusers

    name = sampler_name(sampler)
    kind, settings = SAMPLERS[name.removesuffix(KARRAS)]
    said = model.source.configs.get("scheduler", {})
    settings = {key: value for key, value in STANDARD.items() if key not in said} | settings
    if name.endswith(KARRAS):
        settings["use_karras_sigmas"] = True
    scheduler = getattr(diffusers, kind)
    if zero_terminal_snr or float(model.process.alphas_cumprod[-1]) == 0:  # trained with it: drawn with it
        if "rescale_betas_zero_snr" not in inspect.signature(scheduler.__init__).parameters:
            raise UserError(f"the sampler `{name}` cannot begin at pure noise", "--zero_terminal_snr", "Use ddim")
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "dpmsolver", the first version, is kept for old commands
        return scheduler.from_config(model.scheduler.config, **settings)


def make_pipeline(
    model: Any, sampler: str = "ddim", kind: str = "", unet: Any = None, zero_terminal_snr: bool = False
) -> Any:
    """diffusers' pipeline of the family round the loaded parts; `kind`: "", "Img2Img" or "Inpaint"."""
    import diffusers

    parts = {"vae": model.vae, "unet": model.unet if unet is None else unet, **model.encoders}
    for encoder, tokenizer in model.tokenizers.items():
        parts[encoder.replace("text_encoder", "tokenizer")] = tokenizer.tokenizer
    if model.pipeline_class == "StableDiffusionPipeline":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = make_scheduler(model, sampler, zero_terminal_snr)
    name = model.pipeline_class.replace("Pipeline", f"{kind}Pipeline")
    pipeline = getattr(diffusers, name)(**parts, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
