"""Loading before the first step: the frozen model, the images as moments of its VAE, and the data loader."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from neonym.data.latent_cache import Latents, cache_moments
from neonym.data.latent_keys import LatentKey, latent_keys
from neonym.data.loader import Loader
from neonym.data.sdscripts_latents import known_latents
from neonym.data.shared_moments import SharedMoments
from neonym.io.memo import cache_folder
from neonym.models.loading.weight_files import state_of
from neonym.models.model import Model, load_model
from neonym.models.room import is_together, room_for_vae
from neonym.models.source import ModelSource
from neonym.preflight.plan import TrainingPlan
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Encoded
from neonym.runs.stop import Stop
from neonym.text.words import clean
from neonym.training.memory import idle_encoders, storage_of
from neonym.training.precision import weight_dtype
from neonym.training.setup import process_of, samples_at_once
from neonym.types import ImageRecord

MOST_READERS = 4  # threads that read the images while a GPU encodes those before them


class KeptModel:
    """A place that keeps the last model between trainings, so that the next words of the same model need not load it.

    The `moments` of encoded regularisation images stay as well.
    """

    def __init__(self) -> None:
        self._kind: tuple[object, ...] = ()
        self._model: Model | None = None
        self.moments = SharedMoments()

    def holds(self, kind: tuple[object, ...]) -> bool:
        """Return whether a model of this kind is kept."""
        return self._model is not None and self._kind == kind

    def get(self, kind: tuple[object, ...], load: Callable[[], Model]) -> Model:
        """Return the kept model if it is of this kind, else the one that `load` returns, which is kept then."""
        if self._model is None or self._kind != kind or not is_together(self._model):
            self._model = None  # its memory is needed
            self.moments.forget()
            self._kind, self._model = kind, load()
        return self._model


def kind_of_model(plans: Sequence[TrainingPlan], accelerator: Accelerator) -> tuple[object, ...]:
    """Return everything that decides the model that the words of these plans share: two of one kind are the same."""
    run, source = plans[0].run, plans[0].source
    compute = run.compute.model_copy(update={"lanes": None, "micro_batch_size": None})
    files = sorted({file for weights in source.weights.values() for file in weights.files})
    states = tuple((str(file), *state_of(file)) for file in files)
    return repr((run.model, compute, run.objective)), source.name, states, accelerator.device, idle_encoders(plans)


def load_frozen_model(plans: Sequence[TrainingPlan], accelerator: Accelerator, events: Dispatcher) -> Model:
    """Return the model that the words of these plans share, on its device, with their noising process.

    Raises ModelError.
    """
    plan, run = plans[0], plans[0].run
    storage = storage_of(run, plan.source, accelerator.device, events.note)
    model = load_model(
        replace(plan.source, storage=storage),
        accelerator.device,
        weight_dtype(accelerator),
        clip_skip=run.model.clip_skip,
        tokenizers={name: tokenizer.with_words({}) for name, tokenizer in plan.tokenizers.items()},
    )
    for encoder in idle_encoders(plans):
        model.text.remember(encoder)
    if run.compute.gradient_checkpointing or storage.blocks_to_swap:
        model.enable_gradient_checkpointing()
    if run.compute.torch_compile:
        model.compile(run.compute.dynamo_backend)
    model.process = process_of(model, run)
    model.text.comfyui = run.model.tokenize_as == "comfyui"
    return model


def encode_images(
    plan: TrainingPlan, model: Model, events: Dispatcher, stop: Stop, shared: SharedMoments | None = None
) -> Latents:
    """Encode every image, and move the VAE off the device unless some images are augmented differently in every step.

    What is `shared` with other words is not encoded again. Raises StopRequested between two images, and DataError for
    an image that cannot be read.
    """
    cache, source = plan.run.cache, plan.source
    folder = None
    if cache.cache_latents_to_disk:
        folder = Path(cache.latent_cache_dir) if cache.latent_cache_dir else cache_folder()

    def progress(done: int, total: int) -> None:
        events.emit(Encoded(done, total))
        stop.check()

    records = [*plan.concept.records, *plan.concept.held_out]
    known = sdscripts_latents(records, source, events) if plan.run.dataset.sdscripts_latents else {}
    readers = 0 if model.vae.device.type == "cpu" else min(MOST_READERS, os.cpu_count() or 1)
    with room_for_vae(model) as room:
        moments = cache_moments(
            records, lambda pixels: room(partial(model.vae.encode, pixels)), source.vae_hash(), folder, progress,
            events.note, events.warn, known, shared, readers,
        )  # fmt: skip
        if not plan.encodes_in_each_step:
            model.vae.to("cpu")
    return Latents(moments, model.vae.encode)


def sdscripts_latents(
    records: Sequence[ImageRecord], source: ModelSource, events: Dispatcher
) -> dict[LatentKey, torch.Tensor]:
    """Return the latents that sd-scripts cached, and emit notes with their number and with why others are not used."""
    found, refused = known_latents(
        records, latent_keys(records), source.family.latent_cache_suffix, source.latents.channels, source.latents.pixels
    )
    events.note(f"{len(found)} images are read from sd-scripts' caches, which do not record the VAE that encoded them")
    for reason, count in refused.items():
        events.note(f"{count} images are encoded, because sd-scripts' caches cannot be used for them: {reason}")
    return found


def make_loader(plan: TrainingPlan, latents: Latents, model: Model, accelerator: Accelerator) -> Loader:
    """Return the data loader of this process's share of each step of the word whose lexicon is in use."""
    lexicon = model.text.lexicon
    differs = any(tokenizer.differs_in_comfyui for tokenizer in lexicon.tokenizers.values())
    at_once = samples_at_once(plan, accelerator.device)
    return Loader(
        plan.concept.samples, latents, lexicon.tokenize, model.text.stacked, clean(plan.token),
        accelerator.device, at_once, [dataset.batch_size for dataset in plan.datasets],
        accelerator.process_index, accelerator.num_processes,
        tokenize_as=plan.run.model.tokenize_as if differs else "diffusers",
        guidance=None if model.source.facts.embedded_guidance is None else plan.run.objective.guidance_scale,
    )  # fmt: skip
