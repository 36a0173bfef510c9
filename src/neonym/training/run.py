"""A training run from settings to files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from neonym.config.run import RunConfig
from neonym.data.latent_cache import Latents, cache_moments
from neonym.data.latent_keys import Place, places
from neonym.data.loader import Loader
from neonym.data.sdscripts_latents import known_latents
from neonym.errors import Problem, UserError
from neonym.io.memo import default_folder
from neonym.models.loading.identify import fetched
from neonym.models.model import Model, load_model
from neonym.models.quantization import keep_in_eight_bits
from neonym.models.source import ModelSource
from neonym.preflight.milestones import Milestones, is_due
from neonym.preflight.plan import TrainingPlan
from neonym.preflight.preflight import preflight
from neonym.runs.events import Report, Silent, Stopped, stopping_at_once
from neonym.runs.hub import Hub
from neonym.runs.trackers import Trackers
from neonym.text.words import clean
from neonym.training.checkpoint import CheckpointStore
from neonym.training.concepts import add_concepts
from neonym.training.early_stopping import Plateau
from neonym.training.evaluation import Evaluation
from neonym.training.finite import Guard
from neonym.training.resume import find_beginning
from neonym.training.samples import Sampler
from neonym.training.setup import (
    objective_of,
    on_device,
    process_of,
    samples_at_once,
    start_accelerator,
    weight_dtype,
)
from neonym.training.state import TrainState, restore
from neonym.training.step import train_step
from neonym.training.verdict import Verdict, make_verdict
from neonym.types import ImageRecord


@dataclass
class Result:
    """What a run leaves. `signal` is the signal that stopped it, 0 if it went to its end."""

    files: list[Path] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    steps: int = 0
    signal: int = 0


def train(run: RunConfig, report: Report | None = None, known: Sequence[Problem] = ()) -> Result:
    """Learn the words of `run`. Resuming is calling it again. Raises UserError before anything is written."""
    return train_plan(preflight(run, known).complete_plan(), report or Silent())


def train_plan(ready: TrainingPlan, report: Report) -> Result:
    """Learn the words of a plan. Raises UserError before anything is written."""
    ready = replace(ready, run=on_device(ready.run, ready.source, report))
    accelerator = start_accelerator(ready.run, report)
    if not accelerator.is_main_process:
        report = Silent()
    for problem in ready.problems:
        report.note(f"{problem.severity}: {problem}")
    with accelerator.main_process_first():
        source = fetched(ready.source, weight_dtype(accelerator) != torch.float32)
    ready = replace(ready, source=source)
    store = CheckpointStore(ready)
    with store.open() if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        return train_ready(ready, store, accelerator, report)


def train_ready(ready: TrainingPlan, store: CheckpointStore, accelerator: Accelerator, report: Report) -> Result:
    """Of a run without errors, whose folder is there."""
    hub = Hub(ready.run.hub, report.note)
    beginning = find_beginning(ready, store)
    for note in beginning.notes:
        report.note(note)
    if beginning.finished and beginning.saved is not None:
        report.result(beginning.finished)
        return Result(store.final_files(), steps=beginning.saved.step)
    if accelerator.is_main_process:
        hub.open()
    step = beginning.saved.step if beginning.saved else 0
    try:
        with stopping_at_once(report):
            model = load_frozen(ready, accelerator, report)
            latents = encode_pictures(ready, model, report)
        state = begin(ready, model, beginning.fingerprint, accelerator)
        if beginning.saved is not None:
            restore(state, beginning.saved)
        loader = make_loader(ready, latents, model, accelerator)
        trackers = make_trackers(ready, state, accelerator, report)
        return follow(Running(ready, model, state, store, loader, accelerator, report, trackers, hub))
    except Stopped as stop:
        report.note("stopped before the first step; run the same command again")
        return Result(steps=step, signal=stop.signal)
    finally:
        report.end()


def load_frozen(ready: TrainingPlan, accelerator: Accelerator, report: Report) -> Model:
    """The model on its device, with the run's noising process."""
    run = ready.run
    model = load_model(
        ready.source, accelerator.device, weight_dtype(accelerator), run.model.max_token_length, run.model.clip_skip
    )
    if run.compute.fp8_base and accelerator.device.type == "mps":
        report.note("note: fp8_base -> the precision of --mixed_precision: this device has no 8-bit numbers")
    elif run.compute.fp8_base:
        keep_in_eight_bits(model.modules()["unet"])
    if run.compute.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if run.compute.torch_compile:
        model.compile(run.compute.dynamo_backend)
    model.process = process_of(model, run)
    return model


def begin(ready: TrainingPlan, model: Model, fingerprint: dict[str, str], accelerator: Accelerator) -> TrainState:
    """The state before the first step."""
    settings = ready.run.eval
    plateau = Plateau(settings.early_stop_window, settings.early_stop_threshold) if settings.early_stop else None
    origin = ready.run.save.resume or ""
    return TrainState(
        add_concepts(model, ready), fingerprint, ready.milestones.first, origin, accelerator.scaler, plateau
    )


def make_trackers(ready: TrainingPlan, state: TrainState, accelerator: Accelerator, report: Report) -> Trackers:
    return Trackers(accelerator, ready.run, state.concepts, ready.milestones.steps_per_epoch, report.note)


def follow(running: Running) -> Result:
    """The loop, and what is to be done whichever way it ends. Raises UserError if another process is gone."""
    try:
        return run_steps(running)
    except RuntimeError as error:
        if running.accelerator.num_processes == 1 or isinstance(error, torch.OutOfMemoryError):
            raise
        raise without_others(running, error) from error
    finally:
        running.trackers.end()
        running.hub.close()


def encode_pictures(ready: TrainingPlan, model: Model, report: Report) -> Latents:
    """Every picture's moments; the VAE then leaves the device, unless there are pictures that change."""
    cache, source = ready.run.cache, ready.source
    folder = None
    if cache.cache_latents_to_disk:
        folder = Path(cache.latent_cache_dir) if cache.latent_cache_dir else default_folder()

    def progress(done: int, total: int) -> None:
        report.phase("encoded", done, total)
        if report.stop_wanted:
            raise Stopped(report.stop_wanted)

    records = [*ready.records, *ready.held_out]
    known = sdscripts_latents(records, source, report) if ready.run.dataset.sdscripts_latents else {}
    moments = cache_moments(records, model.encode_images, source.vae_hash(), folder, progress, report.note, known)
    if not any(r.pictures.changes for r in records):
        model.modules()["vae"].to("cpu")
    return Latents(moments, model.encode_images)


def sdscripts_latents(records: Sequence[ImageRecord], source: ModelSource, report: Report) -> dict[Place, torch.Tensor]:
    """Latents that sd-scripts cached, and what is said of them."""
    found, refused = known_latents(
        records, places(records), source.family, int(source.configs["vae"].get("latent_channels", 4)), source.vae_factor
    )
    report.note(f"{len(found)} pictures are read from sd-scripts' caches; they do not say of which VAE they are")
    for reason, count in refused.items():
        report.note(f"{count} pictures are encoded, for of their caches {reason}")
    return found


@dataclass
class Running:
    """Everything that a run works with."""

    ready: TrainingPlan
    model: Model
    state: TrainState
    store: CheckpointStore
    loader: Loader
    accelerator: Accelerator
    report: Report
    trackers: Trackers
    hub: Hub

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    def watch(self) -> None:
        """Raises Stopped in every process if one of them was asked to stop."""
        if signal := agreed(self.accelerator, self.report.stop_wanted):
            raise Stopped(signal)


def run_steps(run: Running) -> Result:
    """The loop: steps, evaluations, saves, until the end or a wish to stop."""
    settings, state, milestones, report = run.ready.run, run.state, run.ready.milestones, run.report
    objective = objective_of(settings)
    evaluation = Evaluation(run.ready, run.loader, run.model, state.concepts, run.watch)
    guard, ends = Guard(state.concepts, run.loader.plans), time_limit(settings)
    sampler = Sampler(settings.sample, run.ready.prompts, run.store.sample_folder, run.store.run_name)
    report.begin(run.store.folder, state.step, milestones.total, sum(len(p.draws(0)) for p in run.loader.plans))
    whole = True
    try:
        begin_evaluations(run, evaluation, milestones)
        draw_due(run, sampler, milestones)
        last = milestones.total if state.plateau is None or not state.plateau.reached() else state.step
        for work in run.loader.steps(state.step, last):
            losses = train_step(run.model, state.concepts, work, objective, run.accelerator)
            state.step = work.step + 1
            guard.watch(work, losses)
            report.step(state.step, losses)
            run.trackers.step(state.step, losses)
            if is_due(settings.eval.eval_every_n_steps, state.step):
                evaluate(run, evaluation)
            draw_due(run, sampler, milestones)
            save_due(run, milestones, guard)
            ended = agreed(run.accelerator, int(state.plateau is not None and state.plateau.reached()))
            if not ended and state.step < milestones.total:
                run.watch()
            if agreed(run.accelerator, int(time.monotonic() > ends)) and state.step < milestones.total:
                report.note(f"the time of --max_train_time was up after step {state.step} of {milestones.total}")
                whole = False
                break
            if ended:
                what = f"ended after step {state.step} of {milestones.total}"
                report.note(f"the evaluation loss has stopped changing: {what}")
                break
        return finish(run, evaluation, guard, whole)
    except Stopped as stop:
        return stopped(run, guard, stop.signal)


def stopped(run: Running, guard: Guard, signal: int) -> Result:
    """The state of the last whole step is saved."""
    state, report = run.state, run.report
    if run.main:
        guard.check()
        run.store.save_last(state)
    way = " without --restart" if run.ready.run.save.restart else ""
    report.note(f"stopped after step {state.step}; run the same command again{way} to go on")
    report.event("stopped", step=state.step, signal=signal)
    return Result(steps=state.step, signal=signal)


def begin_evaluations(run: Running, evaluation: Evaluation, milestones: Milestones) -> None:
    """If evaluations are wished for: that of the start, and one that a stop cut off."""
    every, state = run.ready.run.eval.eval_every_n_steps, run.state
    if not every:
        return
    evaluation.tell(run.report, state.step, evaluation.losses([c.start for c in state.concepts]))
    if state.plateau is not None and len(state.plateau.history) < state.step // every - milestones.first // every:
        evaluate(run, evaluation)


def evaluate(run: Running, evaluation: Evaluation) -> None:
    """The evaluation of this step, to all that follow the run."""
    state = run.state
    rows = [c.result() for c in state.concepts]
    means = evaluation.tell(run.report, state.step, evaluation.losses(rows))
    run.trackers.evaluated(state.step, means)
    if state.plateau is not None:
        state.plateau.add(means, rows)


def without_others(run: Running, error: RuntimeError) -> UserError:
    """Another process of the run is gone: what this one has is saved. -> what to tell"""
    if run.main:
        Guard(run.state.concepts, run.loader.plans).check()
        run.store.save_last(run.state)
    what = f"another process ended, or none answered in time ({str(error).splitlines()[0]}); step {run.state.step} is saved"
    return UserError(what, "training", "Run the same command again to go on")


def draw_due(run: Running, sampler: Sampler, milestones: Milestones) -> None:
    """Sample pictures that are due after this step. What goes wrong with them is said, and training goes on."""
    tag = sampler.tag(run.state.step, milestones)
    if tag is None or not run.main:
        return
    try:
        *_, page = sampler.draw(run.model, run.state.concepts, tag, run.report)
        run.trackers.picture(run.state.step, page)
    except Exception as error:  # whatever a sampler, a full disk or too small a GPU raises
        run.report.note(f"warning: no sample pictures at {tag}: {error}")


def save_due(run: Running, milestones: Milestones, guard: Guard) -> None:
    """Files and states that are due after this step. Nothing that is not finite is written."""
    done, epoch = run.state.step, milestones.saves_epoch(run.state.step)
    state_due = is_due(run.ready.run.save.state_every_n_steps, done)
    if not run.main or not (state_due or epoch or milestones.saves_step(done) or milestones.keeps_step(done)):
        return
    guard.check()
    try:
        files = run.store.save_step(run.state) if milestones.saves_step(done) else []
        if epoch:
            files += run.store.save_epoch(run.state, epoch, milestones.save_every_n_epochs or 1)
        kept = run.store.keep_step(run.state) if milestones.keeps_step(done) else []
        if state_due:
            run.store.save_state(run.state)
    except (UserError, OSError) as error:  # a full disk: what was saved before is intact, and the training goes on
        run.report.note(f"warning: {error} The training goes on; what was saved before is intact.")
        return
    for file in [*files, *kept]:
        run.report.event("saved", step=done, file=str(file))
    for file in files:
        run.hub.upload(file)


def finish(run: Running, evaluation: Evaluation, guard: Guard, whole: bool) -> Result:
    """Verdicts and final files. A run that its time limit ended is not `whole`. Raises Stopped."""
    state, report = run.state, run.report
    report.end()
    guard.look()
    guard.check()
    if state.plateau is not None:
        for concept, best in zip(state.concepts, state.plateau.best, strict=False):
            concept.chosen = best
    worths = evaluation.worths(lambda done, total: report.phase("judged", done, total))
    if not is_due(run.ready.run.eval.eval_every_n_steps, state.step):  # else it was told at this step
        run.trackers.evaluated(state.step, [worth.loss_after for worth in worths])
    verdicts = [
        make_verdict(run.model, *of_concept)
        for of_concept in zip(state.concepts, worths, evaluation.shown_on, strict=True)
    ]
    files = run.store.finish(state, [v.as_dict() for v in verdicts], whole) if run.main else []
    for file in files:
        run.hub.upload(file)
    for file, verdict in zip(files, verdicts, strict=False):
        report.result("\n".join([*verdict.lines(), f"  file: {file}"]))
    report.event("finished", step=state.step, files=[str(f) for f in files], verdicts=[v.as_dict() for v in verdicts])
    return Result(files[: len(verdicts)], verdicts, state.step)


def time_limit(run: RunConfig) -> float:
    """When `--max_train_time` is up, on the monotonic clock."""
    minutes = run.optim.max_train_time
    return float("inf") if minutes is None else time.monotonic() + 60 * minutes


def agreed(accelerator: Accelerator, wish: int) -> int:
    """The largest wish of all processes: they must stop after the same step."""
    if accelerator.num_processes == 1:
        return wish
    wishes = accelerator.gather(torch.tensor([wish], device=accelerator.device))
    return int(wishes.max())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue, reportArgumentType]


def make_loader(ready: TrainingPlan, latents: Latents, model: Model, accelerator: Accelerator) -> Loader:
    words = [clean(token) for token in ready.tokens]
    for tokenizer in model.tokenizers.values():
        tokenizer.weighted = ready.run.dataset.weighted_captions

    def shows(caption: str, concept: int) -> bool:
        return any(words[concept] in t.words_in(caption) for t in model.tokenizers.values())

    at_once = samples_at_once(ready.run, model.source, accelerator.device)
    return Loader(
        [concept.samples for concept in ready.concepts], latents, model.tokenize, model.emphasis, shows, accelerator.device, at_once,
        [d.batch_size for d in ready.datasets], accelerator.process_index, accelerator.num_processes,
    )  # fmt: skip
