"""Verify that latents are normalised as the record of a family and the config of its VAE say."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL

from neonym.errors import ModelError
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.source import latents_in
from neonym.models.vae import Vae
from support.toy_family import (
    TOY,
    VAE_SIZES,
)


def test_latents_are_shifted_and_scaled(folder):
    model = load_model(str(folder))
    moments = model.vae.encode(torch.rand(1, 3, 64, 64) * 2 - 1)
    mean = moments[:, :16]
    assert torch.allclose(model.vae.mean(moments), (mean - 0.12) * 0.36)
    shown = model.vae.module.decode(mean).sample
    assert torch.allclose(model.vae.decode(model.vae.mean(moments)), shown, atol=1e-5)


PER_CHANNEL = [0.1 * i - 0.8 for i in range(16)]


@pytest.mark.parametrize(
    ("changes", "scale", "shift"),
    [
        ({}, 0.36, 0.12),
        ({"shift_factor": 0}, 0.36, 0.0),  # not the family's 0.12
        ({"shift_factor": None, "scaling_factor": None}, 0.36, 0.12),
        ({"shift_factor": PER_CHANNEL}, 0.36, PER_CHANNEL),
        ({"scaling_factor": [1 + i for i in range(16)]}, [1 + i for i in range(16)], 0.12),
        (
            {"latents_mean": PER_CHANNEL, "latents_std": [2.0 + i for i in range(16)]},
            [0.36 / (2 + i) for i in range(16)],
            PER_CHANNEL,
        ),
    ],
)
def test_latents_are_normalised_per_channel_as_the_config_says(changes, scale, shift):
    latents = latents_in({**VAE_SIZES, **changes}, TOY.latents)
    vae = Vae(AutoencoderKL(**VAE_SIZES).eval(), latents.scaling_factor, latents.shift_factor)
    x = torch.randn(2, 16, 8, 8)
    scales, shifts = (torch.tensor(own, dtype=torch.float32).expand(16)[:, None, None] for own in (scale, shift))
    assert torch.equal(vae.normalised(x), (x - shifts) * scales)
    assert vae.normalised(x.half()).dtype == torch.float16
    with torch.no_grad():
        assert torch.allclose(vae.decode(vae.normalised(x)), vae.module.decode(x).sample, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"scaling_factor": 0}, {"latents_std": [0.0] * 16}, {"latents_mean": [0.5] * 4}, {"shift_factor": "a"}],
    ids=str,
)
def test_an_invalid_normalisation_is_reported(folder, tmp_path, changes):
    shutil.copytree(folder, tmp_path / "model")
    config = tmp_path / "model" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(ModelError, match="its configs are invalid"):
        identify(str(tmp_path / "model"))
