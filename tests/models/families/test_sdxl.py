"""Verify what SDXL reads beside the text."""

from __future__ import annotations

import pytest
import torch

from neonym.models.families.sdxl_network import StableDiffusionXL
from neonym.types import Conditions, TextCond


def test_sdxl_names_what_it_misses():
    """Its size conditioning and pooled text are missing where a caller treats all families as one of the others."""
    text = TextCond(torch.zeros(1, 77, 8))
    predict = StableDiffusionXL.predict
    with pytest.raises(ValueError, match="`sizes` are missing"):
        predict(None, torch.zeros(1), torch.zeros(1), text)  # pyright: ignore
    with pytest.raises(ValueError, match="the pooled text"):
        predict(None, torch.zeros(1), torch.zeros(1), text, Conditions(torch.zeros(1, 6)))  # pyright: ignore
