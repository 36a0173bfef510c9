"""A training run from settings to files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn import Parameter

from neonym.config.run import RunConfig
from neonym.data.images import content_hash
from neonym.data.latent_cache import Place, cache_moments, default_folder
from neonym.data.loader import Loader
from neonym.data.plan import fingerprint
from neonym.errors import DataError, UserError
from neonym.learn.events import Report, Silent
from neonym.learn.objective import Objective
from neonym.learn.optim import make_optimizer, schedule
from neonym.learn.prepare import DEFAULT_INIT_WORD, ENOUGH_HELD_OUT, Prepared, prepare
from neonym.learn.rows import Concept, concept_seed, first_rows
from neonym.learn.state import TrainState, restore
from neonym.learn.step import train_step
from neonym.learn.store import CheckpointStore, settings_of
from neonym.learn.verdict import Verdict, evaluate, make_verdict
from neonym.models.family import Model, load_model
from neonym.types import Batch, Draw, ImageRecord
from neonym.words import clean

BAD_STEPS_ALLOWED = 5
EVALUATION = -1  # the "step" of evaluation keys: no training step has it


@dataclass
class Result:
    """What a run leaves. `signal` is the signal that stopped it, 0 if it went to its end."""

    files: list[Path] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    steps: int = 0
    signal: int = 0


def train(run: RunConfig, report: Report | None = None) -> Result:
    """Learn the words of `run`. Resuming is calling it again. Raises UserError before anything is written."""
    report = report or Silent()
    ready = prepare(run)
    ready.raise_errors()
    accelerator = start_accelerator(run, report)
    if not accelerator.is_main_process:
        report = Silent()
    for problem in ready.problems:
        report.note(f"{problem.severity}: {problem}")
    store = CheckpointStore(ready)
    if accelerator.is_main_process:
        make_folders(store)
    accelerator.wait_for_everyone()
    fingerprint = identity(ready)
    saved = store.latest(fingerprint)
    assert ready.source is not None
    model = load_model(
        ready.source, accelerator.device, weight_dtype(accelerator), run.model.max_token_length, run.model.clip_skip
    )
    if run.compute.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    concepts = add_concepts(model, ready)
    state = TrainState(concepts, fingerprint, scaler=accelerator.scaler)
    if saved is not None:
        restore(state, saved)
        report.note(f"going on from step {state.step} of the interrupted run in {store.folder}")
    try:
        moments = encode_pictures(ready, model, report)
        loader = make_loader(ready, moments, model, accelerator)
        return run_steps(ready, model, state, store, loader, accelerator, report)
    except Stopped:
        report.note("stopped before the first step; run the same command again")
        return Result(steps=state.step, signal=report.stop_wanted)
    finally:
        report.end()


class Stopped(Exception):
    """A stop was wished for before the first step."""


def encode_pictures(ready: Prepared, model: Model, report: Report) -> dict[Place, torch.Tensor]:
    """Every picture's moments; the VAE then leaves the device. Raises Stopped."""
    cache, source = ready.run.cache, ready.source
    assert source is not None

    def progress(done: int, total: int) -> None:
        if report.stop_wanted:
            raise Stopped
        report.phase("encoded", done, total)

    folder = None
    if cache.cache_latents_to_disk:
        folder = Path(cache.latent_cache_dir) if cache.latent_cache_dir else default_folder()
    records = [*ready.records, *ready.held_out]
    moments = cache_moments(records, model.encode_images, source.vae_hash(), folder, progress, report.note)
    model.modules()["vae"].to("cpu")
    return moments


def run_steps(
    ready: Prepared, model: Model, state: TrainState, store: CheckpointStore, loader: Loader,
    accelerator: Accelerator, report: Report,
) -> Result:  # fmt: skip
    """The loop: steps, evaluations, saves, until the end or a wish to stop."""
    run, objective, main = ready.run, Objective(), accelerator.is_main_process
    total = run.optim.max_train_steps
    shown = [evaluation_records(ready, i) for i in range(len(state.concepts))]
    tests = [evaluation_batches(ready, loader, i, records) for i, (records, _) in enumerate(shown)]
    with starting_rows(state.concepts):
        before = [evaluate(model, batches, objective) for batches in tests]
    report.begin(store.folder, state.step, total, sum(len(p.draws(0)) for p in loader.plans))
    tell_evaluation(report, state.step, before)
    guard = Guard(len(state.concepts), accelerator.device)
    for work in loader.steps(state.step, total):
        losses = train_step(model, state.concepts, work, objective, accelerator)
        state.step = work.step + 1
        guard.watch(losses)
        report.step(state.step, losses)
        if due(run.eval.eval_every_n_steps, state.step) and main:
            tell_evaluation(report, state.step, [evaluate(model, batches, objective) for batches in tests])
        if due(run.save.save_every_n_steps, state.step) and state.step < total and main:
            guard.check(state, ready)
            for file in store.save_step(state):
                report.event("saved", step=state.step, file=str(file))
        if main and (report.stop_wanted or due(run.save.state_every_n_steps, state.step)):
            guard.check(state, ready)
            store.save_state(state)
        if report.stop_wanted and state.step < total:
            report.note(f"stopped after step {state.step}; run the same command again to go on")
            report.event("stopped", step=state.step, signal=report.stop_wanted)
            return Result(steps=state.step, signal=report.stop_wanted)
    report.end()
    guard.check(state, ready)
    verdicts = [
        make_verdict(model, concept, first, evaluate(model, batches, objective), shown_on)
        for concept, first, batches, (_, shown_on) in zip(state.concepts, before, tests, shown, strict=True)
    ]
    files = store.finish(state, [v.as_dict() for v in verdicts]) if main else []
    for file, verdict in zip(files, verdicts, strict=False):
        report.note("\n".join([*verdict.lines(), f"  file: {file}"]))
    report.event("finished", step=state.step, files=[str(f) for f in files], verdicts=[v.as_dict() for v in verdicts])
    return Result(files, verdicts, state.step)


def tell_evaluation(report: Report, step: int, losses: Sequence[torch.Tensor]) -> None:
    """The mean evaluation loss of each concept, to the terminal and the event file."""
    means = [float(loss.mean()) for loss in losses]
    report.event("evaluated", step=step, loss=sum(means) / len(means), losses=means)


class Guard:
    """Nothing that is not finite goes on or is written: losses are collected without waiting, rows checked at saves."""

    def __init__(self, concepts: int, device: torch.device):
        self.bad = torch.zeros(concepts, device=device)
        self.seen = 0

    def watch(self, losses: torch.Tensor) -> None:
        self.bad += ~losses.isfinite()
        self.seen += 1
        if self.seen % 20 == 0:
            if float(self.bad.max()) > BAD_STEPS_ALLOWED:
                self.stop("the loss")
            self.bad.zero_()

    def check(self, state: TrainState, ready: Prepared) -> None:
        """Raises UserError if a row is not finite."""
        for token, concept in zip(ready.tokens, state.concepts, strict=True):
            if not all(bool(rows.isfinite().all()) for rows in concept.rows.values()):
                self.stop(f"the vectors of `{token}`")

    def stop(self, what: str) -> None:
        fix = "Lower --learning_rate, or use --mixed_precision no or bf16; files saved before are intact"
        raise UserError(f"{what} became infinite or not a number; nothing more is written", "training", fix)


def start_accelerator(run: RunConfig, report: Report) -> Accelerator:
    """The device, and the nearest precision that it can compute in."""
    precision = run.compute.mixed_precision
    if not torch.distributed.is_initialized():  # a second run in one process may use another device or precision
        AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = run.compute.cpu or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if precision == "fp16" and on_cpu:
        report.note(
            "note: mixed_precision fp16 -> fp32: a CPU does not compute in fp16; the result is at least as exact."
        )
        precision = "no"
    return Accelerator(mixed_precision=precision, cpu=run.compute.cpu)


def weight_dtype(accelerator: Accelerator) -> torch.dtype:
    """Of the frozen model: the training precision on a GPU. On a CPU autocast alone does it."""
    if accelerator.device.type == "cpu":
        return torch.float32
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)


def make_folders(store: CheckpointStore) -> None:
    try:
        store.prepare()
    except OSError as error:
        raise UserError(
            f"cannot be made ({error.strerror})", str(store.folder), "Choose another --output_dir"
        ) from error


def add_concepts(model: Model, ready: Prepared) -> list[Concept]:
    """Put the new words beside the frozen table, each with its own optimizer: the only trainable numbers."""
    assert ready.config is not None
    optim, concepts = ready.run.optim, []

    def learning_rate(step: int) -> float:
        factor = schedule(optim.lr_scheduler, step, optim.max_train_steps, optim.lr_warmup_steps)
        return optim.learning_rate * factor

    for spec in ready.config.concepts:
        init_word = spec.init_word or DEFAULT_INIT_WORD
        start = first_rows(model, spec.token_string, init_word, spec.num_vectors_per_token)
        rows = {name: Parameter(values.clone()) for name, values in start.items()}
        model.add_word(spec.token_string, dict(rows))
        concepts.append(
            Concept(
                token=spec.token_string,
                init_word=init_word,
                seed=concept_seed(optim.seed, spec.token_string),
                rows=rows,
                start=start,
                optimizer=make_optimizer(rows.values(), optim.learning_rate, optim.weight_decay),
                learning_rate=learning_rate,
                max_grad_norm=optim.max_grad_norm,
            )
        )
    return concepts


def identity(ready: Prepared) -> dict[str, str]:
    """Everything that decides the numbers of a run: two runs with the same one are the same run."""
    assert ready.source is not None
    assert ready.config is not None
    records = [*ready.records, *ready.held_out]
    try:
        hashes = [content_hash(r.path) for r in records]
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", str(error.filename)) from error
    concepts = [c.model_dump() for c in ready.config.concepts]
    pictures = fingerprint(records, hashes, ready.step_sizes, concepts)
    return {**settings_of(ready.run), "model_hash": ready.source.text_hash(), "pictures_and_captions": pictures}


def make_loader(ready: Prepared, moments: dict[Place, torch.Tensor], model: Model, accelerator: Accelerator) -> Loader:
    words = [clean(token) for token in ready.tokens]

    def shows(caption: str, concept: int) -> bool:
        return any(words[concept] in t.words_in(caption) for t in model.tokenizers.values())

    return Loader(
        ready.plans, moments, model.tokenize, shows, accelerator.device, ready.run.compute.micro_batch_size,
        [d.batch_size for d in ready.datasets], accelerator.process_index, accelerator.num_processes,
    )  # fmt: skip


def evaluation_records(ready: Prepared, concept: int) -> tuple[list[ImageRecord], str]:
    """What a concept is judged on: its held-out pictures if there are enough, else its training pictures."""
    held_out = [r for r in ready.held_out if r.concept == concept]
    if len(held_out) >= ENOUGH_HELD_OUT:
        return held_out, "held-out pictures"
    return [r for r in ready.records if r.concept == concept and not r.is_reg], "the training pictures"


def evaluation_batches(
    ready: Prepared, loader: Loader, concept: int, pictures: Sequence[ImageRecord]
) -> list[tuple[Batch, torch.Tensor]]:
    """Fixed samples: timesteps spread evenly over all noise levels, noise by key. -> [(batch, t [B])]"""
    count = ready.run.eval.eval_samples
    plan = ready.plans[concept]
    samples: list[tuple[Draw, int]] = []
    for i in range(count):
        draw = plan.draw(pictures[i % len(pictures)], EVALUATION, i)
        samples.append((draw, int((i + 0.5) / count * 1000)))
    samples.sort(key=lambda s: s[0].record.fit.bucket)
    batches, size = [], ready.datasets[0].batch_size
    while samples:
        bucket = samples[0][0].record.fit.bucket
        part = [s for s in samples[:size] if s[0].record.fit.bucket == bucket]
        batches.append((loader.batch([d for d, _ in part], concept), torch.tensor([t for _, t in part])))
        samples = samples[len(part) :]
    return batches


@contextmanager
def starting_rows(concepts: Sequence[Concept]) -> Iterator[None]:
    """The rows as they were at first, for the time of the block."""
    now = [{name: rows.detach().clone() for name, rows in c.rows.items()} for c in concepts]
    put_rows(concepts, [c.start for c in concepts])
    try:
        yield
    finally:
        put_rows(concepts, now)


@torch.no_grad()
def put_rows(concepts: Sequence[Concept], values: Sequence[dict[str, torch.Tensor]]) -> None:
    for concept, rows in zip(concepts, values, strict=True):
        for name, parameter in concept.rows.items():
            parameter.copy_(rows[name])


def due(every: int | None, step: int) -> bool:
    return bool(every) and step % every == 0  # pyright: ignore[reportOptionalOperand]
