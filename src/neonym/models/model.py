"""Define the interface of models for training and generation, and load them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from neonym.io.imports import uncollected
from neonym.io.transfer import sent
from neonym.models.encoders.blocks import checkpoint_blocks, checkpointed
from neonym.models.loading.identify import identify, with_weights
from neonym.models.process.diffusion import Diffusion
from neonym.models.process.flow import Flow
from neonym.models.source import BUILTIN, ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.clip import CHUNK
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.models.vae import Vae
from neonym.types import NO_CONDITIONS, Batch, Conditions, Noisy, TextCond

KINDS_OF_BLOCKS = 64  # that are compiled apart: widths, sizes of images, batches


class Model(ABC):
    """A frozen text-to-image model. The only tensors with gradients are the rows added by `text.add_word`.

    A family implements how the denoiser is called (`predict`) and how text is encoded (`TextSide.encode`).
    """

    def __init__(
        self, source: ModelSource, denoiser: nn.Module, text: TextSide, vae: Vae, process: Diffusion | Flow,
        scheduler_config: Mapping[str, Any],
    ):  # fmt: skip
        self.source, self.denoiser, self.text, self.vae = source, denoiser, text, vae
        self.process, self.scheduler_config = process, scheduler_config
        for module in self.modules().values():
            module.requires_grad_(False).eval()

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """Return the denoiser's prediction for noised latents, both float32 [B,C,h,w].

        `t` holds one timestep (0 to 1000) for each sample [B], or one for all. A flow predicts noise - x_0.
        """

    def noised(self, batch: Batch) -> Noisy:
        """Return the noised latents of a batch, and what should be predicted for them, on the device of the denoiser.

        They are computed where the moments are: on the host while a word is trained, whatever the device.
        """
        x0 = self.vae.draw(batch.moments, batch.keys)  # [B,2C,h,w] -> [B,C,h,w]
        noisy = self.process.add_noise(x0, batch.keys, batch.levels)  # x_t, target [B,C,h,w]; t, snr [B]
        on_device = {name: sent(getattr(noisy, name), self.device) for name in ("x_t", "target", "t", "snr")}
        return replace(noisy, **on_device)

    @property
    def device(self) -> torch.device:
        """The device of the denoiser."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the denoiser."""
        # diffusers' own property iterates over all modules, which takes 5 % of a small step
        return next(self.denoiser.parameters()).dtype

    def modules(self) -> dict[str, nn.Module]:
        """Return every part by its name in a Diffusers folder."""
        denoiser = self.source.family.denoiser.part
        return {denoiser: self.denoiser, "vae": self.vae.module, **self.text.encoders, **self.text.adapters}

    def enable_gradient_checkpointing(self, function: Callable[..., Any] = checkpointed) -> None:
        """Recompute activations in the backward pass: those of the denoiser, and of T5 and language models.

        CLIP, under 2 % of a step, keeps its own. `function` is `checkpointed`, or does the same.
        """
        # diffusers' own function saves the state of random numbers, of which there are none, and waits for the device
        self.denoiser.enable_gradient_checkpointing(function)  # pyright: ignore[reportCallIssue]
        for encoder in self.source.encoder_specs:
            if encoder.is_large:
                checkpoint_blocks(self.text.encoders[encoder.name], function)

    def compile(self, backend: str) -> None:
        """Compile the blocks of the denoiser with torch.compile: those of one kind and size share their code."""
        torch._dynamo.config.recompile_limit = max(KINDS_OF_BLOCKS, torch._dynamo.config.recompile_limit)
        kinds = set(getattr(self.denoiser, "_repeated_blocks", None) or ())  # as diffusers names them
        lists = [getattr(self.denoiser, name) for name in self.source.family.denoiser.blocks]
        kinds |= {type(block).__name__ for blocks in lists for block in blocks}
        for block in self.denoiser.modules():
            if type(block).__name__ in kinds:
                block.compile(backend=backend, dynamic=False)


def load_model(
    name: str | ModelSource = BUILTIN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_token_length: int = CHUNK,
    clip_skip: int = 1,
    tokenizers: dict[str, WordTokenizer] | None = None,
) -> Model:
    """Load a frozen model onto `device`, with its denoiser and text encoders in `dtype`.

    The device "auto" is the fastest one.

    `tokenizers` are the model's own, if they are already loaded. Raises ModelError if the model cannot be loaded.
    """
    source = with_weights(identify(name) if isinstance(name, str) else name, dtype != torch.float32)
    own = load_tokenizers(source, max_token_length) if tokenizers is None else tokenizers
    with uncollected():
        return import_module(source.family.module).load(source, own, device_named(device), dtype, clip_skip)


def device_named(device: torch.device | str) -> torch.device:
    """Return a device; "auto" is the fastest one available."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
