"""Checks a run before any weights are read. A run without errors gets a training plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from neonym.config.data_settings import ModelSettings
from neonym.config.dataset import DEFAULT_INIT_WORD, ConceptSpec, DatasetConfig
from neonym.config.resolve import Origins
from neonym.config.rules import NO_IMAGES, objective_problems
from neonym.config.run import RunConfig
from neonym.config.sources import NO_NAME
from neonym.config.without_effect import diffusion_warnings, flow_warnings
from neonym.data.datasets import Dataset
from neonym.data.plan import ConceptPlan
from neonym.data.records import scan, steps_per_epoch
from neonym.errors import ConfigError, DataError, ModelError, Problem
from neonym.generation.request.prompts import SamplePrompt
from neonym.models.loading.identify import identify
from neonym.models.loading.separate_files import given_files
from neonym.models.source import ModelSource
from neonym.models.tokenizers.loading import load_tokenizers, with_tokenizers
from neonym.preflight.captions import Lost, caption_problems
from neonym.preflight.datasets import make_datasets, read_templates, resolution_problems, separator_problems
from neonym.preflight.defaults import UsedDefaults, default_notes, with_defaults, with_table_defaults
from neonym.preflight.images import image_problems, unused_keys
from neonym.preflight.inputs import declares_v_prediction, read_inputs
from neonym.preflight.learning import (
    encoder_rate_notes,
    factors_of,
    optimizer_errors,
    optimizer_warnings,
    own_rates_of,
    rate_of,
    rate_warnings,
    schedule_of,
)
from neonym.preflight.memory import memory_problems
from neonym.preflight.milestones import make_milestones
from neonym.preflight.one_encoder_files import one_encoder_problems
from neonym.preflight.plan import PlannedConcept, TrainingPlan, kept_steps_folder, step_sizes
from neonym.preflight.possible_captions import Tokenizers
from neonym.preflight.sample_prompts import oversized_prompts
from neonym.preflight.settings import setting_notes, unsuitable_settings
from neonym.preflight.words import StartingRows, encoders_with_rows, read_starting_rows, word_problems
from neonym.runs.outputs import file_names, run_folder
from neonym.seeds import concept_seed
from neonym.types import ImageRecord


@dataclass(frozen=True)
class Preflight:
    """The result of checking a run: all its problems, and its plan if none of them is an error.

    The other fields are for `neonym check`, which shows what is known even about a run with errors.
    """

    run: RunConfig
    problems: tuple[Problem, ...]
    plan: TrainingPlan | None = None
    config: DatasetConfig | None = None
    origins: Origins = field(default_factory=dict)  # where the values of the dataset come from
    source: ModelSource | None = None
    defaults: UsedDefaults = field(default_factory=dict)  # the defaults of settings that the user leaves to the model
    tokenizers: Tokenizers = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    records: tuple[ImageRecord, ...] = ()
    held_out: tuple[ImageRecord, ...] = ()
    lost: tuple[Lost, ...] = ()  # captions without their word, and why

    @property
    def tokens(self) -> list[str]:
        """The words, in the order of the dataset file."""
        return [concept.token_string for concept in self.config.concepts] if self.config else []

    def with_problems(self, problems: Iterable[Problem], **changes: Any) -> Preflight:
        """Return a copy with more problems, and with these fields changed."""
        return replace(self, problems=(*self.problems, *problems), **changes)

    def failed(self) -> bool:
        """Return whether there is an error among the problems."""
        return any(problem.severity == "error" for problem in self.problems)

    def raise_errors(self) -> None:
        """Raise ConfigError with all errors, if there are any."""
        if self.failed():
            raise ConfigError(list(self.problems))

    def complete_plan(self) -> TrainingPlan:
        """Return the plan of the run. Raises ConfigError with all errors, if there are any."""
        if self.plan is None:
            raise ConfigError(list(self.problems))
        return self.plan


def preflight(run: RunConfig, known: Sequence[Problem] = (), hasty: bool = False) -> Preflight:
    """Return everything that can be known about a run before any weights are read, within seconds.

    Problems, errors included, are collected after those that are `known`. A `hasty` check opens no images if a setting
    is wrong.
    """
    inputs = read_inputs(run)
    problems = [*known, *without_missing(inputs.problems, known)]
    problems += optimizer_errors(run.optim) if inputs.settings_are_valid else ()
    source, tokenizers, config = None, {}, inputs.data.config
    if not any(p.where in ("--pretrained_model_name_or_path", "--vae") for p in inputs.problems):
        source, tokenizers, of_model = read_model(run.model)
        problems += of_model
    predicts_v = source.prediction_type == "v_prediction" if source else declares_v_prediction(run.model)
    if source is not None and source.family.process == "flow":
        sampling = run.objective.timestep_sampling or source.flow.sampling
        problems += flow_warnings(run.objective, sampling, source.facts.embedded_guidance is not None)
    elif predicts_v is not None:
        problems += objective_problems(run.objective, predicts_v)
        problems += diffusion_warnings(run.objective)
    found = Preflight(run, tuple(problems), None, config, inputs.data.origins, source, {}, tokenizers)
    if source is None or not tokenizers:
        return found
    run, used = with_defaults(run, source)
    of_settings = [*setting_notes(run), *unsuitable_settings(run, source), *memory_problems(run, source)]
    of_settings += oversized_prompts(inputs.prompts, run.sample.sample_prompts, source)
    found = found.with_problems(of_settings, run=run, defaults=used)
    if config is None:
        return found
    rows, of_rows = read_starting_rows(config.concepts, run.concept.weights, source)
    counts = {token: len(next(iter(by_encoder.values()))) for token, by_encoder in rows.items()}
    config, used = with_table_defaults(config, run, used, counts)
    of_files = [] if found.failed() else one_encoder_problems(run, source, found.tokens, rows)
    found = found.with_problems([*of_rows, *of_files], config=config, defaults=used)
    if hasty and found.failed():
        return found
    found = read_images(found, config, source, rows)
    return found if found.failed() else make_plan(found, config, source, rows, inputs.prompts)


def without_missing(found: Sequence[Problem], known: Sequence[Problem]) -> list[Problem]:
    """Return the problems, without those about settings that are missing only because the config file is unusable."""
    unused = any(p.severity == "error" and p.where == "--config_file" for p in known)
    return [p for p in found if not (unused and p.what in (NO_IMAGES, NO_NAME))]


def read_model(settings: ModelSettings) -> tuple[ModelSource | None, Tokenizers, list[Problem]]:
    """Return the model and its tokenizers, or the reason why it cannot be used."""
    source = None
    try:
        source = identify(
            settings.pretrained_model_name_or_path,
            settings.vae,
            settings.v_parameterization,
            settings.offline,
            settings.variant,
            given_files(settings),
            settings.model_version,
        )
        source = with_tokenizers(source, settings.tokenizer)
        return source, load_tokenizers(source, settings.max_token_length), []
    except ModelError as error:
        return source, {}, error.problems


def read_images(
    found: Preflight, config: DatasetConfig, source: ModelSource, rows: Mapping[str, StartingRows]
) -> Preflight:
    """Return what is known about the run once all images and captions are read."""
    run, problems, templates = found.run, list[Problem](), ()
    try:
        templates = read_templates(run.dataset)
    except DataError as error:
        problems.append(error.problem)
    datasets = make_datasets(config, run.dataset, source.native_size, templates)
    problems += resolution_problems(datasets, source.latents.multiple)
    records, held_out = scan(datasets, problems.append, run.dataset.broken_images == "stop")
    problems += separator_problems(datasets)
    for name, tokenizer in found.tokenizers.items():
        tokenizer.reads_emphasis = run.dataset.weighted_captions
        for spec in config.concepts:
            without_rows = {*source.encoders}.difference(encoders_with_rows(run, source, rows.get(spec.token_string)))
            stand_in = tokenizer.ids_of(spec.init_word or DEFAULT_INIT_WORD)
            tokenizer.add_word(spec.token_string, stand_in if name in without_rows else spec.vectors)
    problems += word_problems(config.concepts, file_names(run, found.tokens), found.tokenizers)
    of_captions, lost = caption_problems(found.tokens, records, held_out, found.tokenizers)
    problems += of_captions
    problems += image_problems(records, datasets, source, run.dataset.masked_loss)
    problems += unused_keys(config)
    images = {"datasets": datasets, "records": tuple(records), "held_out": tuple(held_out), "lost": tuple(lost)}
    return found.with_problems(problems, **images)


def make_plan(
    found: Preflight,
    config: DatasetConfig,
    source: ModelSource,
    rows: Mapping[str, StartingRows],
    prompts: tuple[SamplePrompt, ...],
) -> Preflight:
    """Return what is known about a run without errors once its steps are counted, with its plan if a step is left."""
    run, sizes = found.run, step_sizes(found.datasets, found.run)
    by_concept = [[r for r in found.records if r.concept == index] for index in range(len(config.concepts))]
    per_epoch = max(steps_per_epoch(records, sizes) for records in by_concept)
    epochs, kept = run.optim.max_train_epochs, found.defaults.get("save_every_n_steps")
    total = epochs * per_epoch if epochs else run.optim.max_train_steps or source.defaults.max_train_steps.value
    milestones = make_milestones(run.optim, run.save, total, per_epoch, kept and kept.value)
    if milestones.first >= total:
        what = f"the run would start at step {milestones.first}, but the training ends at step {total}"
        return found.with_problems(
            [Problem("error", what, "--initial_step, --initial_epoch", "Start earlier, or train longer")]
        )
    rates = [rate_of(spec, run.optim) for spec in config.concepts]
    schedules = [schedule_of(rate, run.optim, total, source) for rate in rates]
    encoders, own_rates = source.encoders_named(run.concept.train_encoders), own_rates_of(run.optim, source)
    problems = list(optimizer_warnings(run.optim, total))
    for rate, schedule in zip(rates, schedules, strict=True):
        factors = factors_of(source, run.optim, encoders, rate)
        problems += rate_warnings(rate, schedule, run.optim, milestones, source, factors)
        problems += encoder_rate_notes(source, factors, rate)
    folder = kept_steps_folder(run_folder(run, found.tokens))
    found = found.with_problems(dict.fromkeys([*problems, *default_notes(found.defaults, folder, run.eval.early_stop)]))
    warmup = found.defaults.get("lr_warmup_steps")
    plan = TrainingPlan(
        run=run,
        source=source,
        tokenizers=found.tokenizers,
        data=config,
        datasets=found.datasets,
        records=found.records,
        held_out=found.held_out,
        concepts=tuple(
            PlannedConcept(
                token=spec.token_string,
                file_name=file,
                vectors=spec.vectors,
                init_word=spec.init_word or DEFAULT_INIT_WORD,
                start=rows.get(spec.token_string),
                with_rows=encoders_with_rows(run, source, rows.get(spec.token_string)),
                encoders=encoders,
                has_default_rate="learning_rate" in found.defaults and spec.learning_rate is None,
                own_rates=own_rates,
                learning_rate=rate.first,
                schedule=schedule,
                samples=plan_samples(spec, records, sizes, run, total),
                records=tuple(records),
                held_out=tuple(record for record in found.held_out if record.concept == index),
            )
            for index, (spec, file, records, rate, schedule) in enumerate(
                zip(config.concepts, file_names(run, found.tokens), by_concept, rates, schedules, strict=True)
            )
        ),
        milestones=milestones,
        prompts=prompts,
        model_warmup=warmup.value if warmup else None,
        problems=found.problems,
    )
    return replace(found, plan=plan)


def plan_samples(
    spec: ConceptSpec, records: Sequence[ImageRecord], sizes: Sequence[int], run: RunConfig, total: int
) -> ConceptPlan:
    """Return the plan of a word's samples in each of `total` steps."""
    stratified = run.objective.timestep_draws == "stratified"
    seed = concept_seed(run.optim.seed, spec.token_string)
    return ConceptPlan(records, sizes, seed, run.dataset.prior_loss_weight, stratified, total)
