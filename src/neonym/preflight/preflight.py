"""Checks a run before any weights are read. A run without errors gets a training plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from neonym.config.data_settings import ModelSettings
from neonym.config.dataset import DEFAULT_INIT_WORD, DatasetConfig
from neonym.config.rules import NO_IMAGES, objective_problems
from neonym.config.run import RunConfig
from neonym.config.sources import NO_NAME
from neonym.config.without_effect import diffusion_warnings, flow_warnings
from neonym.data.records import scan
from neonym.errors import DataError, ModelError, Problem
from neonym.generation.request.prompts import SamplePrompt
from neonym.models.loading.identify import identify
from neonym.models.loading.separate_files import given_files
from neonym.models.source import ModelSource
from neonym.models.tokenizers.loading import load_tokenizers, with_tokenizers
from neonym.preflight.captions import caption_problems
from neonym.preflight.datasets import make_datasets, read_templates, resolution_problems, separator_problems
from neonym.preflight.defaults import with_defaults, with_table_defaults
from neonym.preflight.found import Preflight
from neonym.preflight.images import image_problems, unused_keys
from neonym.preflight.inputs import declares_v_prediction, read_inputs
from neonym.preflight.learning import (
    optimizer_errors,
)
from neonym.preflight.memory import memory_problems
from neonym.preflight.one_encoder_files import one_encoder_problems
from neonym.preflight.possible_captions import Tokenizers
from neonym.preflight.sample_prompts import oversized_prompts
from neonym.preflight.settings import setting_notes, unsuitable_settings
from neonym.preflight.word_plan import WordPlanner, own_setting_problems
from neonym.preflight.words import StartingRows, encoders_with_rows, read_starting_rows, word_problems
from neonym.runs.outputs import file_names


def preflight(run: RunConfig, known: Sequence[Problem] = (), hasty: bool = False) -> Preflight:
    """Return everything that can be known about a run before any weights are read, within seconds.

    Problems, errors included, are collected after those that are `known`. A `hasty` check opens no images if a setting
    is wrong.
    """
    inputs = read_inputs(run)
    problems = [*known, *without_missing(inputs.problems, known)]
    problems += optimizer_errors(run.optim) if inputs.settings_are_valid else ()
    source, tokenizers, config = None, {}, inputs.data.config
    problems += own_setting_problems(run, config) if config and inputs.settings_are_valid else ()
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
    found = Preflight(run, tuple(problems), (), config, inputs.data.origins, source, {}, tokenizers)
    if source is None or not tokenizers:
        return found
    given, (run, used) = run, with_defaults(run, source)
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
    return found if found.failed() else with_plans(found, given, config, source, rows, inputs.prompts)


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


def with_plans(
    found: Preflight,
    given: RunConfig,
    config: DatasetConfig,
    source: ModelSource,
    rows: Mapping[str, StartingRows],
    prompts: tuple[SamplePrompt, ...],
) -> Preflight:
    """Return what is known about a run without errors once the steps of each word are counted, with a plan for each.

    `given` are its settings without defaults.
    """
    words = [WordPlanner(found, given, config, index, source, rows, prompts) for index in range(len(config.concepts))]
    found = found.with_problems(dict.fromkeys(problem for word in words for problem in word.problems()))
    if found.failed():
        return found
    return replace(found, plans=tuple(word.plan(found.problems) for word in words))
