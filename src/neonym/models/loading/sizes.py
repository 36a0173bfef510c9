"""Find out what an estimate of memory needs: how many weights there are by how they can be kept, and activations.

The networks are made without weights. Results are cached, as imports take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from neonym.io.memo import memoized, versions
from neonym.models.memory import Activations, ModelSizes, Numbers, PartSizes, Step
from neonym.models.source import ModelSource
from neonym.models.tokenizers.word_tokenizer import WordTokenizer

WIDTHS = ("dim", "d_model", "hidden_size")  # keys of the width of a token's states, in configs


def sizes_for(
    source: ModelSource, tokenizers: Mapping[str, WordTokenizer], step: Step
) -> tuple[ModelSizes, Step] | None:
    """Return the sizes of a model, and the step with its activations, measured if there is no formula for them.

    None if there is no estimate: an invalid config is reported when the model is loaded.
    """
    sizes = sizes_of(source)
    if sizes is None or sizes.denoiser.blocks:
        return sizes and (sizes, step)
    measured = activations_of(source, tokenizers, step)
    return measured and (sizes, replace(step, measured=measured))


def activations_of(
    source: ModelSource, tokenizers: Mapping[str, WordTokenizer], step: Step
) -> Activations | None:  # fmt: skip
    """Return the activations of one sample of a step, as measured; None for a model that cannot be made or called."""

    def compute() -> Activations | None:
        from neonym.models.activations import measured_activations

        try:
            return measured_activations(source, tokenizers, step)
        except Exception:  # libraries fail in any way on invalid configs
            return None

    found = memoized("activations", [*key_of(source), versions("torch"), step.size, step.width, step.chunks], compute)
    return found and Activations(*found)


def sizes_of(source: ModelSource) -> ModelSizes | None:
    """Return the sizes of a model, or None for an invalid config."""
    denoiser = source.family.denoiser
    try:
        found = memoized("sizes", key_of(source), lambda: {part: part_sizes(source, part) for part in source.kinds})
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


def key_of(source: ModelSource) -> list[Any]:
    """Return all that decides the shapes of a model, as a key of memos."""
    family, configs = source.family, {part: source.configs[part] for part in source.kinds}
    libraries = versions("diffusers", "transformers")
    return [libraries, family.name, repr(source.encoder_specs), repr(family.denoiser), configs]


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
    width = width_in(source.configs[part]) if blocks else 0
    return PartSizes(counted(counts, schemes), blocks, width, largest)


def counted(counts: Mapping[str, int], schemes: Mapping[str, str]) -> Numbers:
    """Return the numbers of weights, by how each can be kept."""
    sums = {"plain": 0, "int8": 0, "nf4": 0}
    for name, count in counts.items():
        sums[schemes.get(name, "plain")] += count
    return Numbers(sums["plain"], sums["int8"], sums["nf4"])


def width_in(config: Mapping[str, Any]) -> int:
    """Return the width of a token's states from the config of a network made of blocks."""
    found = next((config[key] for key in WIDTHS if config.get(key)), 0)
    return int(found or config.get("num_attention_heads", 0) * config.get("attention_head_dim", 0))
