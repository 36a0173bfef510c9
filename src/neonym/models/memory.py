"""Estimate the memory that a training step needs, and choose settings that fit a device. No torch is needed.

The numbers of weights are exact: those of the networks themselves. Activations are counted in a step without numbers
(`activations.py`), which `python -m benchmarks.counted` compares with measurements; docs/training.md has the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from neonym.models.storage import BYTES, Scheme, Storage, spread

GB = 1e9
RESERVE = 0.8e9  # the context of the device, and workspaces of its libraries
GAPS = 0.1  # between allocations, as a share of the activations
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
    largest: int  # numbers in the largest layer


class ModelSizes(NamedTuple):
    """The sizes of a model."""

    denoiser: PartSizes
    encoders: Mapping[str, PartSizes]
    vae: PartSizes
    others: int = 0  # numbers in other parts, such as adapters


class Activations(NamedTuple):
    """The most bytes that a sample of a step, and an image in the VAE, take at a time besides the weights."""

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
    can_leave: bool = True  # the memory of the CPU holds a U-Net and its encoders while the VAE encodes


class Needs(NamedTuple):
    """A record of what a training step of a model needs memory for: weights and activations."""

    sizes: ModelSizes
    step: Step
    activations: Activations  # of one sample


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
    is_alone: bool = False  # whether the weights can leave the device while it encodes

    @property
    def reserve(self) -> float:
        """The bytes in reserve."""
        return RESERVE + GAPS * max(self.activations, self.encoding)

    @property
    def total(self) -> float:
        """All bytes, with a reserve."""
        beside = 0 if self.is_alone else self.weights
        return max(self.weights + self.activations, beside + self.encoding) + self.reserve


def estimate(needs: Needs, choice: Choice) -> Estimate:
    """Return the memory that a training step needs on its device."""
    model, step, own = needs
    vae, one = model.vae.numbers.memory(None, 4), own.checkpointed if choice.checkpointing else own.plain
    samples = min(step.samples, choice.samples or step.samples)
    is_alone = step.can_leave and not (model.denoiser.blocks or step.keeps_vae)
    weights, activations = weights_on(model, step, choice.storage), one * samples + vae * step.keeps_vae
    return Estimate(weights, activations, own.encoding + vae, is_alone)


def weights_on(model: ModelSizes, step: Step, storage: Storage) -> float:
    """Return the bytes of the weights on the device during a step, with the largest layer of them as it is used."""
    parts: list[tuple[PartSizes, Scheme | None, int]] = [(model.denoiser, storage.denoiser, storage.blocks_to_swap)]
    for name, part in model.encoders.items():
        parts.append((part, storage.encoders, len(part.blocks) if name in storage.waiting else 0))
    held = sum(part_memory(*own, step.width) for own in parts)
    dequantized = max((part.largest for part, scheme, _ in parts if scheme is not None), default=0)
    return held + (model.others + dequantized) * step.width


def part_memory(part: PartSizes, scheme: Scheme | None, blocks_to_swap: int, width: int) -> float:
    """Return the bytes of a part's weights on the device: blocks that are swapped share the buffers."""
    blocks = [block.memory(scheme, width) for block in part.blocks]
    swapped = [blocks[i] for i in spread(blocks_to_swap, len(blocks))]
    buffers = max(swapped, default=0.0) * min(BUFFERS, len(swapped))
    return part.numbers.memory(scheme, width) - sum(swapped) + buffers


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


def fitting_choice(needs: Needs, memory: float, among: Iterable[Choice]) -> tuple[Choice, Estimate]:
    """Return the first choice whose estimate fits in `memory` bytes, or the smallest of all if none fits."""
    found: list[tuple[Choice, Estimate]] = []
    for choice in among:
        needed = estimate(needs, choice)
        if needed.total <= memory:
            return choice, needed
        found.append((choice, needed))
    return min(found, key=lambda each: each[1].total)
