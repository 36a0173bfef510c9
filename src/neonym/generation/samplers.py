"""Samplers by name: sd-scripts', AUTOMATIC1111's and ComfyUI's spellings of diffusers' schedulers.

Names are checked before torch is loaded.
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
SAMPLERS: Schedulers = {  # of diffusion models
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
FLOW_SAMPLERS: Schedulers = {"euler": ("FlowMatchEulerDiscreteScheduler", {})}  # of rectified flows
DEFAULT_SAMPLERS: dict[Process, str] = {"diffusion": "ddim", "flow": "euler"}
ALIASES = {  # besides `k_` before a name, which means nothing, `dpmpp` for `dpm++`, and `_ka` for `_karras`
    "dpm++_2m": "dpmsolver++", "dpm++_2s": "dpmsingle", "dpm2": "dpm_2", "dpm2_a": "dpm_2_a", "plms": "pndm",
    "uni_pc": "unipc", "uni_pc_bh2": "unipc",
}  # fmt: skip
ABSENT = {  # samplers of AUTOMATIC1111 that diffusers does not have -> the nearest that it has
    "dpm++_2s_a": "dpm++_sde", "dpm_fast": "dpmsingle", "dpm_ad": "dpmsolver++", "dpm_adaptive": "dpmsolver++",
    "restart": "heun", "ddim_cfg++": "ddim",
}  # fmt: skip
TITLES = {  # AUTOMATIC1111's names, which image files carry
    "ddim": "DDIM", "pndm": "PLMS", "lms": "LMS", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun",
    "dpm_2": "DPM2", "dpm_2_a": "DPM2 a", "dpmsolver": "DPMSolver", "dpmsolver++": "DPM++ 2M", "dpmsingle": "DPM++ 2S",
    "dpm++_2m_sde": "DPM++ 2M SDE", "dpm++_2m_sde_heun": "DPM++ 2M SDE Heun", "dpm++_3m_sde": "DPM++ 3M SDE",
    "dpm++_sde": "DPM++ SDE", "unipc": "UniPC", "ddpm": "DDPM", "lcm": "LCM",
}  # fmt: skip
SPACINGS = {  # of the noise levels: Karras et al. 2022, eq. 5; even in their logarithm
    "_karras": {"use_karras_sigmas": True}, "_exponential": {"use_exponential_sigmas": True},
}  # fmt: skip
POSSIBLE_STEPS = 998  # with more, diffusers' spacing leaves the 1,000 noise levels or takes one of them twice
FEW_STEPS = {"lcm": 50}  # it was distilled for a few of 50
OWN_SPACING = ("ddim", "pndm", "ddpm", "lcm", "euler_a")
LATENT = {  # of all latent diffusion models, whatever an old config says: so diffusers' pipelines correct it, too
    "clip_sample": False, "steps_offset": 1, "skip_prk_steps": True,
}  # fmt: skip
UNSAID = {"set_alpha_to_one": False}  # as Stable Diffusion was trained, where the model's own config leaves it open


def sampler_name(text: str) -> str:
    """Return the name in SAMPLERS for any spelling, with one of SPACINGS behind it if asked for. Raises UserError."""
    name = "_".join(text.lower().split()).removeprefix("k_").replace("dpmpp", "dpm++").replace("ancestral", "a")
    plain, end = split_spacing(re.sub("_ka$", "_karras", name))
    plain = ALIASES.get(plain, plain)
    if plain in ABSENT:
        raise UserError(f"diffusers has no sampler `{text}`", "--sampler", f"The nearest is `{ABSENT[plain]}{end}`")
    if plain not in SAMPLERS:
        known = (*SAMPLERS, *ALIASES)
        close = get_close_matches(plain, known, n=1)
        guess = f"Did you mean `{close[0]}`? " if close else ""
        fix = f"{guess}Known: {', '.join(SAMPLERS)}, and most with {' or '.join(SPACINGS)}"
        raise UserError(f"the sampler `{text}` is not known", "--sampler", fix)
    if end and plain in OWN_SPACING:
        kind = end.strip("_").capitalize()
        raise UserError(f"the sampler `{plain}` has no {kind} noise levels", "--sampler", f"Use `{plain}`")
    if plain == "lms" and not is_installed("scipy"):
        raise UserError("the sampler lms needs the package `scipy`", "--sampler", install_command("scipy"))
    return plain + end


def split_spacing(name: str) -> tuple[str, str]:
    """Return a sampler's name without its spacing, and the spacing: `heun_karras` gives (`heun`, `_karras`)."""
    end = next((end for end in SPACINGS if name.endswith(end)), "")
    return name.removesuffix(end), end


def samplers_of(process: Process) -> Schedulers:
    """Return the samplers of a noising process."""
    return FLOW_SAMPLERS if process == "flow" else SAMPLERS


def default_sampler(process: Process) -> str:
    """Return the sampler of a noising process where none is asked for."""
    return DEFAULT_SAMPLERS[process]


def check_process(name: str, process: Process, model: str) -> None:
    """Raise UserError if the sampler `name` is not one for the process of `model`."""
    plain, end = split_spacing(name)
    known = samplers_of(process)
    if plain not in known or (end and process == "flow"):
        what = f"the sampler `{name}` is not for {model}, which is a rectified flow"
        raise UserError(what, "--sampler", f"Use {' or '.join(known)}")


def sampler_for_sample(text: str, process: Process) -> str:
    """Return the sampler of a training run's sample image, by any spelling; as in sd-scripts, flows always use Euler's.

    Raises UserError.
    """
    name = sampler_name(text)
    return name if name in FLOW_SAMPLERS or process == "diffusion" else default_sampler(process)


def possible_steps(sampler: str, steps: int) -> int:
    """Return the nearest number of steps that a sampler can take."""
    return min(max(steps, 1), FEW_STEPS.get(split_spacing(sampler)[0], POSSIBLE_STEPS))


def title(name: str) -> str:
    """Return AUTOMATIC1111's name of a sampler, without the spacing of its noise levels."""
    return TITLES[split_spacing(name)[0]]


def spacing_title(name: str) -> str | None:
    """Return AUTOMATIC1111's name of the spacing of a sampler's noise levels, None for the usual one."""
    return split_spacing(name)[1].strip("_").capitalize() or None


def make_scheduler(model: Model, sampler: str, zero_terminal_snr: bool = False) -> Any:
    """Return diffusers' scheduler for a model's noising process, with the model's own config where it has one.

    A diffusion model that was trained down to pure noise begins there, too. Raises UserError for a sampler that cannot.
    """
    import diffusers

    name, family = sampler_name(sampler), model.source.family
    check_process(name, family.process, family.label)
    plain, end = split_spacing(name)
    kind, settings = samplers_of(family.process)[plain]
    if family.process == "diffusion":
        own = model.source.configs.get("scheduler", {})
        unsaid = {key: value for key, value in UNSAID.items() if key not in own}
        settings = LATENT | unsaid | settings | SPACINGS.get(end, {})
        if zero_terminal_snr or model.process.begins_at_pure_noise:
            check_pure_noise(name)
            settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "dpmsolver", the first version, is kept for old commands
        return getattr(diffusers, kind).from_config(model.scheduler_config, **settings)


def check_pure_noise(sampler: str) -> None:
    """Raise UserError if a sampler of diffusion models cannot begin at pure noise (zero terminal SNR)."""
    import diffusers

    kind, _ = SAMPLERS[split_spacing(sampler)[0]]
    if "rescale_betas_zero_snr" not in inspect.signature(getattr(diffusers, kind).__init__).parameters:
        raise UserError(f"the sampler `{sampler}` cannot begin at pure noise", "--zero_terminal_snr", "Use ddim")
