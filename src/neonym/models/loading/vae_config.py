"""Derive the config of a VAE in a checkpoint from its weights. This module does not need torch."""

from __future__ import annotations

import re
from typing import Any

from neonym.models.family import PerChannel
from neonym.models.loading.weight_files import Header

PREFIX = "first_stage_model."  # of the VAE in a whole checkpoint


def vae_config(
    header: Header, start: str, scaling_factor: PerChannel, shift_factor: PerChannel = 0.0
) -> dict[str, Any]:  # fmt: skip
    """Return the config of a VAE from the shapes of its weights, whose names have the prefix `start`.

    The names are CompVis' original ones or those of diffusers. Raises KeyError if weights are missing.
    """
    level = re.compile(
        re.escape(start) + r"encoder\.(?:down\.(\d+)\.block|down_blocks\.(\d+)\.resnets)\.0\.conv1\.weight"
    )
    found = {int(match[1] or match[2]): shape[0] for n, shape in header.shapes.items() if (match := level.fullmatch(n))}
    if set(found) != set(range(len(found))) or not found:
        raise KeyError(f"{start}encoder.down")
    widths = [found[i] for i in range(len(found))]
    return {
        "_class_name": "AutoencoderKL", "block_out_channels": widths, "layers_per_block": 2, "latent_channels": latent_channels(header, start),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths), "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "scaling_factor": scaling_factor, "shift_factor": shift_factor, "sample_size": 512,
    }  # fmt: skip


def latent_channels(header: Header, start: str) -> int:
    """Return the number of latent channels: half of the encoder's output, which is means and log-variances.

    Raises KeyError if the layer is missing.
    """
    return header.shapes[f"{start}encoder.conv_out.weight"][0] // 2
