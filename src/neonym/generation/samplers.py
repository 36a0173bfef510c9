"""Find diffusers' schedulers by the sampler names of sd-scripts, AUTOMATIC1111 and ComfyUI.

Names are checked without importing torch.
"""

from __future__ import annotations

import inspect
import re
import warnings
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from neonym.errors import UserError
from neonym.extras import install_command, is_installed

if TYPE_CHECKING:
    from neonym.models.model import Model

Process = Literal["diffusion", "flow"]
Schedulers = dict[str, tuple[str, dict[str, Any]]]  # name -> diffusers' scheduler and its settings

MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
PLUS_PLUS = {"algorithm_type": "dpmsolver++"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
FIRST_VERSION = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
SAMPLERS: Schedulers = {  # for diffusion models
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
FLOW_SAMPLERS: Schedulers = {"euler": ("FlowMatchEulerDiscreteScheduler", {})}  # for rectified flows
DEFAULT_SAMPLERS: dict[Process, str] = {"diffusion": "ddim", "flow": "euler"}
ALIASES = {  # besides `k_` before a name, which is ignored, `dpmpp` for `dpm++`, and `_ka` for `_karras`
    "dpm++_2m": "dpmsolver++", "dpm++_2s": "dpmsingle", "dpm2": "dpm_2", "dpm2_a": "dpm_2_a", "plms": "pndm",
    "uni_pc": "unipc", "uni_pc_bh2": "unipc",
}  # fmt: skip
UNAVAILABLE = {  # AUTOMATIC1111's samplers that diffusers lacks -> the nearest one that it has
    "dpm++_2s_a": "dpm++_sde", "dpm_fast": "dpmsingle", "dpm_ad": "dpmsolver++", "dpm_adaptive": "dpmsolver++",
    "restart": "heun", "ddim_cfg++": "ddim",
}  # fmt: skip
TITLES = {  # AUTOMATIC1111's names, which are written to image files
    "ddim": "DDIM", "pndm": "PLMS", "lms": "LMS", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun",
    "dpm_2": "DPM2", "dpm_2_a": "DPM2 a", "dpmsolver": "DPMSolver", "dpmsolver++": "DPM++ 2M", "dpmsingle": "DPM++ 2S",
    "dpm++_2m_sde": "DPM++ 2M SDE", "dpm++_2m_sde_heun": "DPM++ 2M SDE Heun", "dpm++_3m_sde": "DPM++ 3M SDE",
    "dpm++_sde": "DPM++ SDE", "unipc": "UniPC", "ddpm": "DDPM", "lcm": "LCM",
}  # fmt: skip
SPACINGS = {  # of the noise levels: Karras et al. 2022, equation 5; evenly spaced logarithms
    "_karras": {"use_karras_sigmas": True}, "_exponential": {"use_exponential_sigmas": True},
}  # fmt: skip
POSSIBLE_STEPS = 998  # with more, diffusers' spacing goes beyond the 1,000 noise levels or uses one of them twice
FEW_STEPS = {"lcm": 50}  # LCM was distilled to take a few steps out of 50
OWN_SPACING = ("ddim", "pndm", "ddpm", "lcm", "euler_a")
LATENT_SETTINGS = {  # for every latent diffusion model, whatever an old config says, as in diffusers' pipelines
    "clip_sample": False, "steps_offset": 1, "skip_prk_steps": True,
}  # fmt: skip
FALLBACKS = {"set_alpha_to_one": False}  # as Stable Diffusion was trained, if the model's config does not say


def sampler_name(text: str) -> str:
    """Return the name in SAMPLERS for any spelling, followed by the requested one of SPACINGS, if any.

    Raises UserError for a sampler that is unknown or not available.
    """
    name = "_".join(text.lower().split()).removeprefix("k_").replace("dpmpp", "dpm++").replace("ancestral", "a")
    plain, end = split_spacing(re.sub("_ka$", "_karras", name))
    plain = ALIASES.get(plain, plain)
    if plain in UNAVAILABLE:
        raise UserError(
            f"diffusers has no sampler `{text}`", "--sampler", f"The nearest is `{UNAVAILABLE[plain]}{end}`"
        )
    if plain not in SAMPLERS:
        known = (*SAMPLERS, *ALIASES)
        close = get_close_matches(plain, known, n=1)
        guess = f"Did you mean `{close[0]}`? " if close else ""
        fix = f"{guess}Known: {', '.join(SAMPLERS)}, and most with {' or '.join(SPACINGS)}"
        raise UserError(f"the sampler `{text}` is not known", "--sampler", fix)
    if end and plain in OWN_SPACING:
        kind = end.strip("_").capitalize()
        raise UserError(f"the sampler `{plain}` does not support {kind} noise levels", "--sampler", f"Use `{plain}`")
    if plain == "lms" and not is_installed("scipy"):
        raise UserError("the sampler `lms` needs the package `scipy`", "--sampler", install_command("scipy"))
    return plain + end


def split_spacing(name: str) -> tuple[str, str]:
    """Return a sampler's name without its spacing, and the spacing: for `heun_karras`, (`heun`, `_karras`)."""
    end = next((end for end in SPACINGS if name.endswith(end)), "")
    return name.removesuffix(end), end


def samplers_of(process: Process) -> Schedulers:
    """Return the samplers for a noising process."""
    return FLOW_SAMPLERS if process == "flow" else SAMPLERS


def default_sampler(process: Process) -> str:
    """Return the sampler that is used for a noising process by default."""
    return DEFAULT_SAMPLERS[process]


def check_process(name: str, process: Process, model: str) -> None:
    """Raise UserError if the sampler `name` does not support the noising process of `model`."""
    plain, end = split_spacing(name)
    known = samplers_of(process)
    if plain not in known or (end and process == "flow"):
        what = f"the sampler `{name}` does not support {model}, which is a rectified flow"
        raise UserError(what, "--sampler", f"Use {' or '.join(known)}")


def sampler_for_sample(text: str, process: Process) -> str:
    """Return the sampler for a training run's sample image, by any spelling. As in sd-scripts, flows use Euler's.

    Raises UserError for a sampler that is unknown or not available.
    """
    name = sampler_name(text)
    return name if name in FLOW_SAMPLERS or process == "diffusion" else default_sampler(process)


def possible_steps(sampler: str, steps: int) -> int:
    """Return the number of steps nearest to `steps` that a sampler can take."""
    return min(max(steps, 1), FEW_STEPS.get(split_spacing(sampler)[0], POSSIBLE_STEPS))


def title(name: str) -> str:
    """Return AUTOMATIC1111's name for a sampler, without the spacing of its noise levels."""
    return TITLES[split_spacing(name)[0]]


def spacing_title(name: str) -> str | None:
    """Return AUTOMATIC1111's name for the spacing of a sampler's noise levels, or None for the usual spacing."""
    return split_spacing(name)[1].strip("_").capitalize() or None


def make_scheduler(model: Model, sampler: str, zero_terminal_snr: bool = False) -> Any:
    """Return diffusers' scheduler for a model's noising process, with the model's own config if it has one.

    For a diffusion model that was trained down to pure noise, sampling starts at pure noise as well. Raises UserError
    for a sampler that cannot do that, or that does not support the model's process.
    """
    import diffusers

    name, family = sampler_name(sampler), model.source.family
    check_process(name, family.process, family.label)
    plain, end = split_spacing(name)
    kind, settings = samplers_of(family.process)[plain]
    if family.process == "diffusion":
        own = model.source.configs.get("scheduler", {})
        unsaid = {key: value for key, value in FALLBACKS.items() if key not in own}
        settings = LATENT_SETTINGS | unsaid | settings | SPACINGS.get(end, {})
        if zero_terminal_snr or model.process.begins_at_pure_noise:
            check_pure_noise(name)
            settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with warnings.catch_warnings():
        # "dpmsolver", the first version, is deprecated but kept for old commands
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(diffusers, kind).from_config(model.scheduler_config, **settings)


def check_pure_noise(sampler: str) -> None:
    """Raise UserError if a sampler for diffusion models cannot start at pure noise (zero terminal SNR)."""
    import diffusers

    kind, _ = SAMPLERS[split_spacing(sampler)[0]]
    if "rescale_betas_zero_snr" not in inspect.signature(getattr(diffusers, kind).__init__).parameters:
        raise UserError(f"the sampler `{sampler}` cannot start at pure noise", "--zero_terminal_snr", "Use ddim")
