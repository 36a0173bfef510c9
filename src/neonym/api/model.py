"""Loading a model, for several calls of `neonym.generate`."""

from __future__ import annotations

import torch

from neonym.api.wording import python_wording
from neonym.models import model as models
from neonym.models.model import Model
from neonym.models.source import BUILTIN, ModelSource
from neonym.models.tokenizers.clip import CHUNK
from neonym.models.tokenizers.word_tokenizer import WordTokenizer


def load_model(
    name: str | ModelSource = BUILTIN,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    max_token_length: int = CHUNK,
    clip_skip: int = 1,
    tokenizers: dict[str, WordTokenizer] | None = None,
) -> Model:
    """Load a frozen model onto `device`, with its denoiser and text encoders in `dtype`.

    `tokenizers` are the model's own, if they are already loaded. Raises ModelError if the model cannot be loaded.
    """
    with python_wording():
        return models.load_model(name, device, dtype, max_token_length, clip_skip, tokenizers)
