"""Optional packages as data: which feature needs each of them, and which extra installs it."""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class OptionalPackage:
    """A package that may be missing. `module` is the name to import, `package` the name to install."""

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
    OptionalPackage("bitsandbytes", "bitsandbytes", "quantization", "faster --base_precision=nf4 on a GPU"),
    OptionalPackage("peft", "peft", "generation", "LoRAs: --network_weights of neonym generate"),
    OptionalPackage("scipy", "scipy", "generation", "the sampler lms"),
    OptionalPackage("gguf", "gguf", "gguf", "models in GGUF files"),
    OptionalPackage("nicegui", "nicegui", "web", "the page: neonym web"),
    OptionalPackage("ray", "ray", "fleet", "several machines: --ray of neonym fleet"),
    OptionalPackage("fsspec", "fsspec", "fleet", "output on an object store: --output_dir of neonym fleet"),
    OptionalPackage("pillow_jxl", "pillow-jxl-plugin", "jxl", "images in JPEG XL"),
)
MODULES = {optional.module: optional for optional in OPTIONAL}


def install_command(module: str) -> str:
    """Return the command that installs a missing package. Raises KeyError for a module that is not listed."""
    return f'pip install "neonym[{MODULES[module].extra}]"'


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it.

    A folder of the same name, such as wandb leaves in the working directory, does not count.
    """
    spec = find_spec(module)
    return spec is not None and spec.origin is not None
