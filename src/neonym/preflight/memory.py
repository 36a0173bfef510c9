"""Estimate the memory of a run before any weights are read. No torch is needed if the sizes of the model are cached."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from neonym.config.run import RunConfig
from neonym.data.datasets import Dataset
from neonym.errors import ModelError, Problem
from neonym.models.loading.cpu_precision import is_bf16_on_cpu
from neonym.models.loading.enough_memory import FLOAT32, may_have_gpu, memory_problem
from neonym.models.loading.sizes import needs_of
from neonym.models.memory import GB, Choice, Needs, Step, estimate
from neonym.models.source import ModelSource
from neonym.models.storage import SCHEMES, Scheme, Storage
from neonym.models.tokenizers.clip import CHUNK
from neonym.models.tokenizers.word_tokenizer import WordTokenizer

HALF = 2  # bytes of a number in the precision of a GPU


def is_fitted(run: RunConfig) -> bool:
    """Return whether `--fit` chooses the settings of memory: it is on, and the user sets none of them."""
    compute = run.compute
    is_open = compute.base_precision == compute.encoder_precision == "auto" and compute.blocks_to_swap is None
    return (
        compute.fit == "auto" and is_open and not (compute.gradient_checkpointing or compute.cache_text_encoder_outputs)
    )


def memory_problems(run: RunConfig, source: ModelSource) -> list[Problem]:
    """Return an error if the memory of this machine cannot hold the model in the form that the settings choose.

    What a GPU holds is known when the run starts. Where `--fit` chooses, the smallest form counts: for a U-Net, it
    chooses on a GPU only.
    """
    compute, on_cpu = run.compute, is_on_cpu(run)
    if is_fitted(run):
        storage = Storage() if on_cpu and not source.family.denoiser.blocks else Storage("nf4", "nf4")
    else:
        base, encoders = scheme_of(compute.base_precision), compute.encoder_precision
        waiting = without_rows(run, source) if compute.cache_text_encoder_outputs and not on_cpu else ()
        scheme = base if encoders == "auto" else scheme_of(encoders)
        storage = Storage(base, scheme, compute.blocks_to_swap or 0, waiting)
    try:
        width = HALF if not on_cpu or is_half_on_cpu(compute.mixed_precision, source) else FLOAT32
        problem = memory_problem(replace(source, storage=storage), on_cpu, width)
    except ModelError as error:
        return error.problems
    return [problem] if problem else []


def is_on_cpu(run: RunConfig) -> bool:
    """Return whether a run certainly computes on the CPU."""
    return run.compute.cpu or not may_have_gpu()


def is_half_on_cpu(precision: str, source: ModelSource) -> bool:
    """Return whether a setting of precision halves the weights of a model without CUDA."""
    if precision == "auto":
        return is_bf16_on_cpu(source)
    return precision == "bf16" or (precision == "fp16" and sys.platform == "darwin")


def scheme_of(precision: str) -> Scheme | None:
    """Return the scheme that a setting of precision names; None if weights are not quantized."""
    return next((scheme for scheme in SCHEMES if scheme == precision), None)


def without_rows(run: RunConfig, source: ModelSource) -> tuple[str, ...]:
    """Return the names of T5 and language models that learn nothing in a run, so that their states are constant.

    A word may nevertheless have rows for them, if it starts from a file.
    """
    trained = source.encoders_named(run.concept.train_encoders)
    return tuple(spec.name for spec in source.encoder_specs if spec.is_large and spec.name not in trained)


def largest_step(
    run: RunConfig, source: ModelSource, datasets: Sequence[Dataset], samples: int | None, width: int
) -> Step:
    """Return a step that needs as much memory as any: `samples` (None: the largest batch) of the largest images."""
    size = max((dataset.buckets.resolution for dataset in datasets), key=lambda size: size[0] * size[1])
    most = max(dataset.batch_size for dataset in datasets)
    chunks = run.model.max_token_length // CHUNK
    return Step(size, min(samples or most, most), width, without_rows(run, source), chunks=chunks)


def memory_table(
    run: RunConfig, source: ModelSource, datasets: Sequence[Dataset], tokenizers: Mapping[str, WordTokenizer]
) -> dict[str, dict[str, float]]:
    """Return the gigabytes that a step is estimated to need on a GPU, for each precision of the weights.

    The ways are: as it is, with one sample at a time, with gradient checkpointing too, with half of the blocks swapped
    too, and with all. The table is empty for models without an estimate, and without a GPU for those with a U-Net. Runs of
    the others, which are larger, are often planned on another machine, which is worth the seconds that counting takes.
    """
    if not datasets or (is_on_cpu(run) and not source.family.denoiser.blocks):
        return {}
    needs = needs_of(source, tokenizers, largest_step(run, source, datasets, run.compute.micro_batch_size, HALF))
    if needs is None:
        return {}
    return {
        scheme or "bf16": {
            way: round(estimate(needs, Choice(Storage(scheme, scheme, swapped), checkpointing, at_once)).total / GB, 1)
            for way, (checkpointing, at_once, swapped) in ways_to_save(needs).items()
        }
        for scheme in (None, *SCHEMES)
    }  # fmt: skip


def ways_to_save(needs: Needs) -> dict[str, tuple[bool, int | None, int]]:
    """Return the ways of the table: checkpointing, samples that go through the model together, and swapped blocks."""
    ways: dict[str, tuple[bool, int | None, int]] = {"plain": (False, None, 0)}
    if needs.step.samples > 1:
        ways["one_at_a_time"] = (False, 1, 0)
    ways["gradient_checkpointing"] = (True, 1, 0)
    if blocks := len(needs.sizes.denoiser.blocks):
        ways |= {"half_swapped": (True, 1, blocks // 2), "all_swapped": (True, 1, blocks)}
    return ways
