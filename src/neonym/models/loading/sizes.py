"""Find out what an estimate of memory needs: how many weights there are by how they can be kept, and activations.

The networks are made without weights. Results are cached, as imports take seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neonym.io.memo import memoized, versions
from neonym.models.memory import Activations, ModelSizes, Needs, Numbers, PartSizes, Step
from neonym.models.source import ModelSource
from neonym.models.tokenizers.word_tokenizer import WordTokenizer

_uncountable: set[str] = set()  # keys of models that could not be made or called, in this process


def needs_of(source: ModelSource, tokenizers: Mapping[str, WordTokenizer], step: Step) -> Needs | None:
    """Return what a step of a model needs memory for.

    None if there is no estimate: an invalid config is reported when the model is loaded.
    """
    sizes, activations = sizes_of(source), activations_of(source, tokenizers, step)
    return Needs(sizes, step, activations) if sizes and activations else None


def activations_of(
    source: ModelSource, tokenizers: Mapping[str, WordTokenizer], step: Step
) -> Activations | None:  # fmt: skip
    """Return the activations of one sample of a step; None for a model that cannot be made or called."""

    def compute() -> Activations:
        from neonym.models.activations import counted_activations

        return counted_activations(source, tokenizers, step)

    texts = {name: own.reads_emphasis for name, own in tokenizers.items()}
    own = [repr(source.facts), source.configs.get("scheduler"), texts]
    key = [*key_of(source), versions("torch", "neonym"), *own, step.size, step.width, step.chunks, step.without_rows]
    if repr(key) in _uncountable:
        return None
    try:
        return Activations(*memoized("activations", key, compute))
    except Exception:  # libraries fail in any way on invalid configs
        _uncountable.add(repr(key))
        return None


def sizes_of(source: ModelSource) -> ModelSizes | None:
    """Return the sizes of a model, or None for an invalid config."""
    denoiser, key = source.family.denoiser, [*key_of(source), PartSizes._fields]
    try:
        found = memoized("sizes", key, lambda: {part: part_sizes(source, part) for part in source.kinds})
    except Exception:  # libraries fail in any way on invalid configs
        return None
    parts = {part: from_json(values) for part, values in found.items()}
    known = {denoiser.part, *source.encoders, "vae"}
    return ModelSizes(
        denoiser=parts[denoiser.part],
        encoders={encoder.name: parts[encoder.name] for encoder in source.encoder_specs},
        vae=parts["vae"],
        others=sum(sum(part.numbers) for name, part in parts.items() if name not in known),
    )


def key_of(source: ModelSource) -> list[Any]:
    """Return all that decides the shapes of a model, as a key of memos."""
    family, configs = source.family, {part: source.configs[part] for part in source.kinds}
    libraries = versions("diffusers", "transformers")
    return [libraries, family.name, repr(source.encoder_specs), repr(family.denoiser), configs]


def from_json(values: Sequence[Any]) -> PartSizes:
    """Return the sizes of a part from the lists in a memo."""
    numbers, blocks, largest = values
    return PartSizes(Numbers(*numbers), tuple(Numbers(*block) for block in blocks), largest)


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
    return PartSizes(counted(counts, schemes), blocks, largest)


def counted(counts: Mapping[str, int], schemes: Mapping[str, str]) -> Numbers:
    """Return the numbers of weights, by how each can be kept."""
    sums = {"plain": 0, "int8": 0, "nf4": 0}
    for name, count in counts.items():
        sums[schemes.get(name, "plain")] += count
    return Numbers(sums["plain"], sums["int8"], sums["nf4"])
