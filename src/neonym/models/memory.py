"""Estimate the memory that a training step needs, and choose settings that fit a device. No torch is needed.

The numbers of weights are exact: those of the networks themselves. Activations are measured for models whose denoiser is
not made of equal blocks (`activations.py`), and follow from formulas for the others, which `python -m
benchmarks.families` compares with measurements; docs/training.md has the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from neonym.models.storage import BYTES, Scheme, Storage, spread

GB = 1e9
# Activations inside a block, as a multiple of its input: 15 to 25 in transformers with an MLP of 4 times the width
INNER = 20
# The same in text encoders: T5-XXL keeps about 1.5 GB for 24 blocks x 512 tokens x 4096, Qwen3-4B 1 GB for 27 blocks
ENCODER_INNER = 15
VAE_BYTES = 2048  # per pixel while the VAE encodes an image: four maps of 128 channels in float32
RESERVE = 1.5 * GB  # the context of the device, workspaces of its libraries, and gaps between allocations
RESERVE_OF_MEASURED = 0.8e9  # the same where activations are measured, without the gaps
GAPS = 0.1  # of activations that are measured
BUFFERS = 2  # blocks in the ring of `offload.py`


class Numbers(NamedTuple):
    """Numbers of weights, by how they can be kept."""

    plain: int = 0  # never quantized
    in_int8: int = 0  # int8 in every scheme
    quantized: int = 0

    def memory(self, scheme: Scheme | None, width: int) -> float:
        """Return the bytes of the weights; unquantized ones have `width` bytes each."""
        if scheme is None:
            return float(width * sum(self))
        return width * self.plain + BYTES["int8"] * self.in_int8 + BYTES[scheme] * self.quantized


class PartSizes(NamedTuple):
    """The sizes of one network of a model."""

    numbers: Numbers
    blocks: tuple[Numbers, ...]  # of each block, in the order of the forward pass; none for CLIP and VAEs
    width: int  # of the states of a token
    largest: int  # numbers in the largest layer


class ModelSizes(NamedTuple):
    """The sizes of a model. `lengths` are the ids that each encoder with blocks reads, at most."""

    denoiser: PartSizes
    encoders: Mapping[str, PartSizes]
    lengths: Mapping[str, int]
    vae: PartSizes
    pixels_per_token: int  # of an image's side
    others: int = 0  # numbers in other parts, such as adapters


class Activations(NamedTuple):
    """The most bytes that a sample of a step, and an image in the VAE, take at a time besides the weights, as measured."""

    plain: float
    checkpointed: float  # with gradient checkpointing
    encoding: float


@dataclass(frozen=True)
class Step:
    """A training step: its largest image, the samples that go through the model together, and its arithmetic."""

    size: tuple[int, int]
    samples: int = 1
    width: int = 2  # bytes of a number
    without_rows: tuple[str, ...] = ()  # encoders that learn nothing, so that nothing in them is kept
    chunks: int = 1  # of a caption in CLIP
    keeps_vae: bool = False  # it encodes images in every step
    measured: Activations | None = None  # None: the formulas hold


@dataclass(frozen=True)
class Choice:
    """Settings that decide how much memory is needed."""

    storage: Storage
    checkpointing: bool = False
    samples: int | None = None  # that go through the model together; None: those of the step

    @property
    def precision(self) -> tuple[Scheme | None, Scheme | None]:
        """The schemes of denoiser and encoders: all that changes the result by more than rounding."""
        return self.storage.denoiser, self.storage.encoders

    def __str__(self) -> str:
        storage = self.storage
        encoders = storage.encoders if storage.encoders != storage.denoiser else None
        flags = {
            "--micro_batch_size": self.samples, "--base_precision": storage.denoiser, "--encoder_precision": encoders,
            "--blocks_to_swap": storage.blocks_to_swap,
        }  # fmt: skip
        switches = {
            "--gradient_checkpointing": self.checkpointing,
            "--cache_text_encoder_outputs": storage.waiting,
        }
        given = [f"{name}={value}" for name, value in flags.items() if value]
        return " ".join([*given, *(name for name, value in switches.items() if value)])


class Estimate(NamedTuple):
    """The bytes that a step needs."""

    weights: float
    activations: float
    encoding: float  # what the VAE needs before the first step
    is_measured: bool = False  # activations and encoding, so that a smaller reserve suffices

    @property
    def reserve(self) -> float:
        """The bytes in reserve."""
        own = max(self.activations, self.encoding)
        return RESERVE_OF_MEASURED + GAPS * own if self.is_measured else RESERVE

    @property
    def total(self) -> float:
        """All bytes, with a reserve."""
        return self.weights + max(self.activations, self.encoding) + self.reserve


def estimate(model: ModelSizes, step: Step, choice: Choice) -> Estimate:
    """Return the memory that a training step needs on its device."""
    storage = choice.storage
    weights = part_memory(model.denoiser, storage.denoiser, storage.blocks_to_swap, step.width)
    for name, part in model.encoders.items():
        swapped = len(part.blocks) if name in storage.waiting else 0
        weights += part_memory(part, storage.encoders, swapped, step.width)
    weights += model.others * step.width
    dequantized, encoders = 0, ((part, storage.encoders) for part in model.encoders.values())
    for part, scheme in ((model.denoiser, storage.denoiser), *encoders):
        if scheme is not None:
            dequantized = max(dequantized, part.largest * step.width)
    vae, own, pixels = model.vae.numbers.memory(None, 4), step.measured, step.size[0] * step.size[1]
    activations = activations_of(model, step, choice.checkpointing) * min(step.samples, choice.samples or step.samples)
    encoding = own.encoding if own else float(VAE_BYTES * pixels)
    return Estimate(weights + dequantized, activations + vae * step.keeps_vae, encoding + vae, own is not None)


def activations_of(model: ModelSizes, step: Step, checkpointing: bool) -> float:
    """Return the bytes of the activations of one sample."""
    if step.measured is not None:
        return step.measured.checkpointed if checkpointing else step.measured.plain
    image_tokens = step.size[0] * step.size[1] // model.pixels_per_token**2
    tokens = image_tokens + sum(model.lengths.values())
    kept = kept_activations(model.denoiser, tokens, INNER, checkpointing)
    for name, part in model.encoders.items():
        if name not in step.without_rows:
            kept += kept_activations(part, model.lengths[name], ENCODER_INNER, checkpointing)
    return float(kept * step.width)


def part_memory(part: PartSizes, scheme: Scheme | None, blocks_to_swap: int, width: int) -> float:
    """Return the bytes of a part's weights on the device: blocks that are swapped share the buffers."""
    blocks = [block.memory(scheme, width) for block in part.blocks]
    swapped = [blocks[i] for i in spread(blocks_to_swap, len(blocks))]
    buffers = max(swapped, default=0.0) * min(BUFFERS, len(swapped))
    return part.numbers.memory(scheme, width) - sum(swapped) + buffers


def kept_activations(part: PartSizes, tokens: int, inner: int, checkpointing: bool) -> int:
    """Return how many numbers are kept for the backward pass, for one sample.

    With checkpointing, these are the inputs of all blocks and the inside of one; otherwise, the insides of all.
    """
    blocks = len(part.blocks)
    return (blocks + inner if checkpointing else blocks * inner) * tokens * part.width


def smaller_batches(samples: int) -> tuple[int | None, ...]:
    """Return the numbers of samples that may go through the model together: a whole batch (None), or powers of two."""
    return None, *(2**power for power in reversed(range(samples.bit_length())) if 2**power < samples)


def choices(blocks: int, can_swap: bool = True, can_wait: tuple[str, ...] = ()) -> Iterator[Choice]:
    """Yield the choices of `fit`, those first that change the result least, then those that are fastest.

    Blocks of the denoiser `can_swap` unless it is compiled; the encoders that `can_wait` have no rows.
    """
    yield Choice(Storage())
    yield Choice(Storage(), True)
    if can_wait:
        yield Choice(Storage(waiting=can_wait))
        yield Choice(Storage(waiting=can_wait), True)
    yield Choice(Storage(None, "fp8", waiting=can_wait), True)
    yield Choice(Storage("fp8", "fp8", waiting=can_wait), True)
    counts = range(1, blocks + 1) if can_swap else ()
    yield from (Choice(Storage("fp8", "fp8", count, can_wait), True) for count in counts if count <= blocks // 2)
    yield Choice(Storage("nf4", "nf4", waiting=can_wait), True)
    yield from (Choice(Storage("nf4", "nf4", count, can_wait), True) for count in counts)


def fitting_choice(
    model: ModelSizes, step: Step, memory: float, among: Iterable[Choice]
) -> tuple[Choice, Estimate]:  # fmt: skip
    """Return the first choice whose estimate fits in `memory` bytes, or the smallest of all if none fits."""
    found: list[tuple[Choice, Estimate]] = []
    for choice in among:
        needed = estimate(model, step, choice)
        if needed.total <= memory:
            return choice, needed
        found.append((choice, needed))
    return min(found, key=lambda each: each[1].total)
