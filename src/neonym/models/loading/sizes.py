"""Count the weights of a model by how they can be kept in memory. The networks are made without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neonym.io.memo import memoized, versions
from neonym.models.memory import ModelSizes, Numbers, PartSizes
from neonym.models.source import ModelSource

WIDTHS = ("dim", "d_model", "hidden_size")  # keys of the width of a token's states, in configs


def sizes_of(source: ModelSource) -> ModelSizes | None:
    """Return the sizes of a model, or None if its denoiser is not made of equal blocks, so that there is no estimate.

    There is none for an invalid config either, which is reported when the model is loaded. The result is cached, as
    imports take seconds.
    """
    denoiser = source.family.denoiser
    if not denoiser.blocks:
        return None
    configs = {part: source.configs[part] for part in source.kinds}
    key = [versions("diffusers", "transformers"), source.family.name, repr(source.encoder_specs), repr(denoiser)]
    try:
        found = memoized("sizes", [*key, configs], lambda: {part: part_sizes(source, part) for part in source.kinds})
    except Exception:  # libraries fail in any way on invalid configs
        return None
    parts = {part: from_json(values) for part, values in found.items()}
    known = {denoiser.part, *source.encoders, "vae"}
    return ModelSizes(
        denoiser=parts[denoiser.part],
        encoders={encoder.name: parts[encoder.name] for encoder in source.encoder_specs},
        lengths={encoder.name: encoder.max_length * encoder.is_large for encoder in source.encoder_specs},
        vae=parts["vae"],
        pixels_per_token=source.latents.pixels * source.latents.patch,
        others=sum(sum(part.numbers) for name, part in parts.items() if name not in known),
    )


def from_json(values: Sequence[Any]) -> PartSizes:
    """Return the sizes of a part from the lists in a memo."""
    numbers, blocks, width, largest = values
    return PartSizes(Numbers(*numbers), tuple(Numbers(*block) for block in blocks), width, largest)


def part_sizes(source: ModelSource, part: str) -> PartSizes:
    """Return the sizes of one network, which is made without weights."""
    from neonym.models.loading.assemble import block_names, empty_part, scheme_rules, tie_weights
    from neonym.models.quantization import layers_to_quantize

    module = empty_part(source, part)
    tie_weights(module)
    rules = scheme_rules(source.family, part, "nf4", "nf4")
    schemes = {f"{name}.weight": scheme for name, (_, scheme) in layers_to_quantize(module, rules).items()}
    counts = {name: tensor.numel() for name, tensor in module.named_parameters()}
    blocks = tuple(
        counted({name: count for name, count in counts.items() if name.startswith(f"{block}.")}, schemes)
        for block in block_names(source.family, part, module)
    )
    largest = max((counts[name] for name in schemes), default=0)
    return PartSizes(counted(counts, schemes), blocks, width_in(source.configs[part]), largest)


def counted(counts: Mapping[str, int], schemes: Mapping[str, str]) -> Numbers:
    """Return the numbers of weights, by how each can be kept."""
    sums = {"plain": 0, "int8": 0, "nf4": 0}
    for name, count in counts.items():
        sums[schemes.get(name, "plain")] += count
    return Numbers(sums["plain"], sums["int8"], sums["nf4"])


def width_in(config: Mapping[str, Any]) -> int:
    """Return the width of a token's states from the config of a network; 0 if it has no tokens, as a VAE."""
    found = next((config[key] for key in WIDTHS if config.get(key)), 0)
    return int(found or config.get("num_attention_heads", 0) * config.get("attention_head_dim", 0))
