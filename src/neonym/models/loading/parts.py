"""The parts of a model with their weights on a device."""

from __future__ import annotations

import torch
from torch import nn

from neonym.errors import ModelError
from neonym.io.pickles import first_line
from neonym.models.batch_invariance import make_alike
from neonym.models.loading.assemble import load_part
from neonym.models.loading.weight_files import stays_on_disk
from neonym.models.source import ModelSource
from neonym.models.vae import Vae


def load_parts(source: ModelSource, device: torch.device, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return the parts of a model, one on its device before the next is read. The VAE stays in float32. Raises ModelError."""
    quiet_libraries()
    parts = {}
    for part in loading_order(source):
        precision = torch.float32 if part == "vae" else dtype
        try:
            module = load_part(source, part, precision, device)
        except (ModelError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # damaged weights make the libraries fail in any way
            what = f"its weights cannot be read ({first_line(error)})"
            raise ModelError(what, source.name, "Is it complete?") from error
        parts[part] = on_device(module, device)
    return parts


def vae_of(source: ModelSource, parts: dict[str, nn.Module]) -> Vae:
    """Return the VAE with the normalisation of its latents."""
    latents = source.latents
    return Vae(parts["vae"], latents.scaling_factor, latents.shift_factor)  # pyright: ignore[reportArgumentType]


def loading_order(source: ModelSource) -> list[str]:
    """Return the largest part, the denoiser, first: it is there twice while it is cast.

    It comes last if a file is read as a whole for each part, as a pickle in the old serialisation is: then what is there
    already adds to all of it.
    """
    parts = list(source.kinds)
    mapped = all(stays_on_disk(file) for weights in source.weights.values() for file in weights.files)
    return parts if mapped else parts[::-1]


def quiet_libraries() -> None:
    """Turn off the progress bars and the advice of diffusers and transformers."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a part on its device, batch-invariant on a CPU.

    Convolutions are faster with channels last there; in fp16, which it does not compute in, they stay in the mapped file.
    """
    if device.type == "cpu":
        make_alike(module)
    if device.type == "cpu" and next(module.parameters()).dtype != torch.float16:
        return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return module.to(device)
