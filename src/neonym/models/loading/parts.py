"""Load the parts of a model with their weights onto a device."""

from __future__ import annotations

import torch
from torch import nn

from neonym.errors import ModelError
from neonym.io.pickles import first_line
from neonym.models.batch_invariance import make_batch_invariant
from neonym.models.loading.assemble import load_part, swapped_in
from neonym.models.loading.enough_memory import check_memory
from neonym.models.loading.weight_files import stays_on_disk
from neonym.models.offload import swap_blocks
from neonym.models.process.flow import Flow
from neonym.models.source import ModelSource
from neonym.models.vae import Vae


def load_parts(source: ModelSource, device: torch.device, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return the parts of a model; each is on its device before the next is read.

    The VAE is float32. Raises ModelError, also if there is not enough memory for what is read.
    """
    check_memory(source, device.type != "cuda", dtype.itemsize, free_on(device))
    quiet_libraries()
    avoid_broken_kernels(device)
    parts = {}
    for part in loading_order(source):
        precision = torch.float32 if part == "vae" else dtype
        try:
            module = load_part(source, part, precision, device)
        except (ModelError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # damaged weights make the libraries fail in any way
            what = f"its weights cannot be read ({first_line(error)})"
            raise ModelError(what, source.name, "Is the model complete?") from error
        if swapped := swapped_in(source, part, module):
            swap_blocks(module, swapped, device)
        parts[part] = moved_to_device(module, device)
    return parts


def free_on(device: torch.device) -> float | None:
    """Return the free bytes of a GPU's own memory; None for other devices, which use that of the CPU."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by this process
    return float(torch.cuda.mem_get_info(device)[0] + unused)


def vae_of(source: ModelSource, parts: dict[str, nn.Module], kind: type[Vae] = Vae) -> Vae:
    """Return the VAE of a model as one of the class `kind`, with the normalisation of its latents."""
    latents = source.latents
    return kind(parts["vae"], latents.scaling_factor, latents.shift_factor)  # pyright: ignore[reportArgumentType]


def flow_of(source: ModelSource, dtype: torch.dtype) -> Flow:
    """Return the process of a flow whose network has the precision `dtype`."""
    return Flow.of(source.flow, source.latents.patch, dtype)


def loading_order(source: ModelSource) -> list[str]:
    """Return the parts in the order that needs the least memory: usually the denoiser, the largest part, first.

    If a file is read whole for each part, as pickles in the old serialisation are, the denoiser comes last: parts that
    are already loaded add to the whole file.
    """
    parts = list(source.kinds)
    mapped = all(stays_on_disk(file) for weights in source.weights.values() for file in weights.files)
    return parts if mapped else parts[::-1]


def avoid_broken_kernels(device: torch.device) -> None:
    """Turn off cuDNN's attention on a GPU: its backward pass failed for T5's biased attention (torch 2.11, H200).

    Others of torch's kernels take its place.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def quiet_libraries() -> None:
    """Turn off the progress bars and the warnings of diffusers and transformers."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def moved_to_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a part on its device. On a CPU it is made batch-invariant.

    On a CPU, convolutions of images are faster with channels last; those of videos do not have this layout. Weights that
    are packed keep theirs, so that they stay in the memory-mapped file.
    """
    if device.type != "cpu":
        return module.to(device)
    make_batch_invariant(module)
    for layer in module.modules():
        if type(layer) is nn.Conv2d and layer.weight.dtype != torch.float16:
            layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return module
