"""Packages that only some features need, as data: what each is for, and how it is installed."""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class OptionalPackage:
    """A package that may be missing. `module` is what is imported, `package` what is installed."""

    module: str
    package: str
    extra: str
    purpose: str


OPTIONAL = (
    OptionalPackage("lion_pytorch", "lion-pytorch", "optimizers", "the optimizer Lion"),
    OptionalPackage("dadaptation", "dadaptation", "optimizers", "the optimizers DAdapt*"),
    OptionalPackage("prodigyopt", "prodigyopt", "optimizers", "the optimizer Prodigy"),
    OptionalPackage("schedulefree", "schedulefree", "optimizers", "the schedule-free optimizers"),
    OptionalPackage("tensorboard", "tensorboard", "logging", "--logging_dir"),
    OptionalPackage("wandb", "wandb", "logging", "--log_with=wandb"),
    OptionalPackage("onnxruntime", "onnxruntime", "captioning", "WD taggers: neonym caption tag"),
    OptionalPackage("peft", "peft", "generation", "LoRAs: --network_weights of neonym generate"),
    OptionalPackage("scipy", "scipy", "generation", "the sampler lms"),
    OptionalPackage("pillow_jxl", "pillow-jxl-plugin", "jxl", "images in JPEG XL"),
)
MODULES = {optional.module: optional for optional in OPTIONAL}


def install(module: str) -> str:
    """Return the command that installs a package that is missing."""
    return f'pip install "neonym[{MODULES[module].extra}]"'


def is_installed(module: str) -> bool:
    """Return whether a module could be imported; it is not. A folder of that name, as wandb leaves one, is none."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
