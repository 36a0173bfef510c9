"""What a model is to the rest of the program, and how one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from neonym.models.loading.identify import fetched, identify
from neonym.models.process.diffusion import Diffusion, Key
from neonym.models.source import BUILTIN, ModelSource
from neonym.models.tokenizers.clip import WordTokenizer
from neonym.types import TextCond

Keep = Literal["none", "original", "abs"]  # what weights in a text leave as it was: nothing, the mean, the mean size


class Model(Protocol):
    """A frozen model. The only tensors with gradients are rows added by `add_word`."""

    source: ModelSource
    process: Diffusion
    tokenizers: dict[str, WordTokenizer]  # per encoder
    pipeline_class: str  # diffusers' pipeline that draws with it
    device: torch.device
    dtype: torch.dtype  # of the U-Net

    def add_word(self, token: str, rows: dict[str, Tensor]) -> None: ...
    def remove_word(self, token: str) -> None: ...  # the one added last
    def vocabulary(self, encoder: str) -> Tensor: ...  # [V,W]
    def encode_images(self, pixels: Tensor) -> Tensor: ...  # [B,3,H,W] -> [B,2C,h,w]
    def draw_latents(self, moments: Tensor, keys: Sequence[Key]) -> Tensor: ...  # -> [B,C,h,w]
    def tokenize(self, caption: str) -> dict[str, Tensor]: ...  # {e: [K,L]}
    def emphasis(self, caption: str) -> dict[str, Tensor] | None: ...  # {e: [K,L]}, None if captions have no weights
    def encode_text(
        self, tokens: dict[str, Tensor], emphasis: dict[str, Tensor] | None = None, keep: Keep = "none"
    ) -> TextCond: ...
    def denoise(
        self, x_t: Tensor, t: Tensor, text: TextCond, sizes: Tensor | None = None
    ) -> Tensor: ...  # sizes [B,6] -> [B,C,h,w]
    def modules(self) -> dict[str, nn.Module]: ...
    def enable_gradient_checkpointing(self) -> None: ...
    def compile(self, backend: str) -> None: ...  # torch.compile of what is the most work


def load_model(
    name: str | ModelSource = BUILTIN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_token_length: int = 75,
    clip_skip: int = 1,
) -> Model:
    """Load a frozen model onto `device`, its U-Net and text encoder in `dtype`. Raises ModelError."""
    source = fetched(identify(name) if isinstance(name, str) else name, dtype != torch.float32)
    return import_module(source.module).load(source, torch.device(device), dtype, max_token_length, clip_skip)
