"""Derive the config of a VAE in a file from its weights. This module does not need torch."""

from __future__ import annotations

import re
from typing import Any

from neonym.io.memo import memoized, versions
from neonym.models.family import LatentSpec, PerChannel
from neonym.models.loading.encoder_files import VaeFacts
from neonym.models.loading.header import Header, Part

PREFIX = "first_stage_model."  # of the VAE in a whole checkpoint
CAUSAL = "wan21_or_qwen_image"
STATISTICS = "bn.running_mean"  # of a VAE that normalises its latents by a batch norm


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
        "_class_name": "AutoencoderKL", "block_out_channels": widths, "layers_per_block": resnets(header, start),
        "latent_channels": latent_channels(header, start),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths), "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "scaling_factor": scaling_factor, "shift_factor": shift_factor, "sample_size": 512,
        "use_quant_conv": f"{start}quant_conv.weight" in header.shapes,
        "use_post_quant_conv": f"{start}post_quant_conv.weight" in header.shapes,
    }  # fmt: skip


def resnets(header: Header, start: str) -> int:
    """Return the number of residual blocks in each level of the encoder."""
    part, names = (
        Part(header, start),
        ("encoder.down.0.block.{}.conv1.weight", "encoder.down_blocks.0.resnets.{}.conv1.weight"),
    )
    return max(part.layers(name) for name in names)


def latent_channels(header: Header, start: str) -> int:
    """Return the number of latent channels: half of the encoder's output, which is means and log-variances.

    Raises KeyError if the layer is missing.
    """
    return header.shapes[f"{start}encoder.conv_out.weight"][0] // 2


def separate_vae_config(header: Header, facts: VaeFacts, latents: LatentSpec) -> dict[str, Any]:
    """Return the config of a VAE of a rectified flow, whose latents are those of its family.

    Raises KeyError if weights are missing.
    """
    if facts.kind == CAUSAL:
        return causal_config(Part(header, facts.prefix), latents.module)
    config = vae_config(header, facts.prefix, latents.scaling_factor, latents.shift_factor) | {"sample_size": 1024}
    normalised = ("scaling_factor", "shift_factor")  # which a VAE with a batch norm does by that
    own = (
        {k: v for k, v in config.items() if k not in normalised}
        if f"{facts.prefix}{STATISTICS}" in header.shapes
        else config
    )
    return {**own, "_class_name": latents.module}


def causal_config(part: Part, module: str) -> dict[str, Any]:
    """Return the config of a VAE with causal convolutions. Its normalisation is the default of its class."""
    first = "encoder.conv1.weight" if "encoder.conv1.weight" in part else "encoder.conv_in.weight"
    return {**class_defaults(module), "_class_name": module, "base_dim": part.shape(first)[0]}


def class_defaults(module: str) -> dict[str, Any]:
    """Return the default config of a class of diffusers. The result is cached, as imports take seconds."""

    def read() -> dict[str, Any]:
        import diffusers
        from accelerate import init_empty_weights

        with init_empty_weights():
            return {k: v for k, v in getattr(diffusers, module)().config.items() if not k.startswith("_")}

    return memoized("class-defaults", [versions("diffusers"), module], read)
