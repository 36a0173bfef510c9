"""What training and generation need of a model, and how one is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from neonym.models.loading.identify import fetched, identify
from neonym.models.process.diffusion import Diffusion
from neonym.models.process.flow import Flow
from neonym.models.source import BUILTIN, ModelSource
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.clip import CHUNK
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.models.vae import Vae
from neonym.types import TextCond


class Model(ABC):
    """A frozen model. The only tensors with gradients are rows added by `text.add_word`.

    A family adds how its network is called (`predict`) and how its text is encoded (`TextSide.encode`).
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
    def predict(self, x_t: Tensor, t: Tensor, text: TextCond, sizes: Tensor | None = None) -> Tensor:
        """Return what the network predicts of noised latents, in float32: [B,C,h,w] -> [B,C,h,w].

        `t`: timesteps [B], or one, in thousandths. `sizes` [B,6] (original height and width, crop from top and left, target
        height and width) are read by families with size conditioning.
        """

    @property
    def device(self) -> torch.device:
        """Return where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the denoiser. diffusers' own property goes through all modules: a twentieth of a small step."""
        return next(self.denoiser.parameters()).dtype

    def modules(self) -> dict[str, nn.Module]:
        """Return every part under its name in a Diffusers folder."""
        return {self.source.family.denoiser.part: self.denoiser, "vae": self.vae.module, **self.text.encoders}

    def enable_gradient_checkpointing(self) -> None:
        """Compute the denoiser's activations again in the backward pass; the text side is under 2 % of a step."""
        self.denoiser.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]

    def compile(self, backend: str) -> None:
        """Compile the denoiser, which is the most work, with torch.compile."""
        on_cpu = self.device.type == "cpu"
        self.denoiser.compile(backend=backend, dynamic=False if on_cpu else None)


def load_model(
    name: str | ModelSource = BUILTIN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_token_length: int = CHUNK,
    clip_skip: int = 1,
    tokenizers: dict[str, WordTokenizer] | None = None,
) -> Model:
    """Load a frozen model onto `device`, its denoiser and text encoders in `dtype`.

    `tokenizers`: its own, if they are loaded already. Raises ModelError.
    """
    source = fetched(identify(name) if isinstance(name, str) else name, dtype != torch.float32)
    own = load_tokenizers(source, max_token_length) if tokenizers is None else tokenizers
    return import_module(source.family.module).load(source, own, torch.device(device), dtype, clip_skip)
