"""Everything that can be known, and go wrong, before a weight is read: settings, pictures, captions, ids, the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageColor

from neonym.config.dataset import DatasetConfig, DatasetSpec, SubsetSpec
from neonym.config.resolve import Origins
from neonym.config.rules import NO_PICTURES
from neonym.config.run import RunConfig
from neonym.config.sources import NO_NAME
from neonym.data.buckets import BucketRules
from neonym.data.caption_files import text_of
from neonym.data.captions import OBJECT_TEMPLATES, STYLE_TEMPLATES, by_tags, template_lines
from neonym.data.plan import ConceptPlan
from neonym.data.records import Dataset, Folder, scan
from neonym.errors import ConfigError, DataError, ModelError, Problem, some
from neonym.generation.request.prompts import SamplePrompt
from neonym.models.loading.identify import identify
from neonym.models.source import ModelSource
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.preflight.captions import token_problems
from neonym.preflight.defaults import Used, default_notes, with_defaults, with_table_defaults
from neonym.preflight.inputs import look
from neonym.preflight.milestones import Rhythm, make_rhythm
from neonym.preflight.settings import (
    learning_problems,
    optimizer_errors,
    setting_notes,
    setting_problems,
)
from neonym.preflight.words import read_weights, word_problems
from neonym.runs.outputs import file_names, run_folder
from neonym.seeds import concept_seed
from neonym.types import CaptionRules, ImageRecord, PictureRules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Prepared:
    """A run as far as it can be worked out without weights. With an error among `problems`, parts are missing."""

    run: RunConfig
    problems: list[Problem] = field(default_factory=list)
    config: DatasetConfig | None = None
    origins: Origins = field(default_factory=dict)  # of the data set's values
    source: ModelSource | None = None
    defaults: Used = field(default_factory=dict)  # of the settings that the user left to the model
    tokenizers: dict[str, WordTokenizer] = field(default_factory=dict)
    datasets: list[Dataset] = field(default_factory=list)
    records: list[ImageRecord] = field(default_factory=list)
    held_out: list[ImageRecord] = field(default_factory=list)
    lost: list[tuple[ImageRecord, str]] = field(default_factory=list)  # captions without their word, and why
    plans: list[ConceptPlan] = field(default_factory=list)
    rhythm: Rhythm | None = None
    prompts: list[SamplePrompt] = field(default_factory=list)
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # token -> rows of its --weights file

    @property
    def tokens(self) -> list[str]:
        return [c.token_string for c in self.config.concepts] if self.config else []

    @property
    def step_sizes(self) -> list[int]:
        """Samples of a step, per data set."""
        return [d.batch_size * self.run.optim.gradient_accumulation_steps for d in self.datasets]

    def file_names(self) -> list[str]:
        """The embedding file of each concept, without ending."""
        return file_names(self.run, self.tokens)

    def run_folder(self) -> Path:
        """Where the state, the events and the verdict of this run lie."""
        return run_folder(self.run, self.tokens)

    def step_folder(self) -> Path:
        """Where the files lie that are kept of steps although the user asked for none."""
        return self.run_folder() / "steps"

    def failed(self) -> bool:
        return any(p.severity == "error" for p in self.problems)

    def raise_errors(self) -> None:
        """Raises ConfigError with all errors."""
        if self.failed():
            raise ConfigError(self.problems)


def prepare(run: RunConfig, known: Sequence[Problem] = (), hasty: bool = False) -> Prepared:
    """Find everything out, in seconds. Errors are collected, not raised, beside what is `known` already.

    `hasty`: where a setting is wrong, no picture is opened.
    """
    ready = Prepared(run, list(known))
    seen = look(run)
    ready.config, ready.origins, ready.prompts = seen.read.config, seen.read.origins, seen.prompts
    ready.problems += [*without_missing(seen.problems, ready.problems), *optimizer_errors(run)]
    if any(p.where in ("--pretrained_model_name_or_path", "--vae") for p in seen.problems):
        return ready
    try:
        settings = run.model
        ready.source = identify(
            settings.pretrained_model_name_or_path,
            settings.vae,
            settings.v_parameterization,
            settings.offline,
            settings.variant,
        )
        ready.tokenizers = load_tokenizers(ready.source, run.model.max_token_length)
    except ModelError as error:
        ready.problems.append(error.problem)
    if ready.source is None:
        return ready
    run, ready.defaults = with_defaults(run, ready.source)
    ready.run = run
    ready.problems += [*setting_notes(run), *setting_problems(run, ready.source)]
    if ready.config is None:
        return ready
    ready.weights, found = read_weights(ready)
    counts = {token: len(next(iter(rows.values()))) for token, rows in ready.weights.items()}
    ready.config, ready.defaults = with_table_defaults(ready.config, run, ready.defaults, counts)
    ready.problems += found
    if hasty and ready.failed():
        return ready
    try:
        templates = read_templates(run)
    except DataError as error:
        ready.problems.append(error.problem)
        templates = ()
    ready.datasets = [as_dataset(spec, ready, ready.source, templates) for spec in ready.config.datasets]
    ready.problems += resolution_problems(ready.datasets, ready.source.latents.multiple)
    ready.records, ready.held_out = scan(ready.datasets, ready.problems.append, run.dataset.broken_images == "stop")
    ready.problems += separator_problems(ready.datasets)
    for tokenizer in ready.tokenizers.values():
        tokenizer.weighted = run.dataset.weighted_captions
    for spec in ready.config.concepts:
        for tokenizer in ready.tokenizers.values():
            tokenizer.add_word(spec.token_string, spec.vectors)
    ready.problems += [*word_problems(ready), *token_problems(ready)]
    if not ready.failed():
        ready.plans = make_plans(ready)
        kept = ready.defaults.get("save_every_n_steps")
        ready.rhythm = make_rhythm(run, ready.plans, kept and kept.value)
        for plan in ready.plans:
            plan.steps = ready.rhythm.total
        if ready.rhythm.first >= ready.rhythm.total:
            what = f"step {ready.rhythm.first} is not before the end of the training, step {ready.rhythm.total}"
            ready.problems.append(Problem("error", what, "--initial_step, --initial_epoch"))
        ready.problems += learning_problems(ready, ready.source, ready.rhythm)
        ready.problems += default_notes(ready.defaults, ready.step_folder(), run.eval.early_stop)
    return ready


def without_missing(found: Sequence[Problem], known: Sequence[Problem]) -> list[Problem]:
    """What was found, but not what is missing only because the config file could not be used."""
    unused = any(p.severity == "error" and p.where == "--config_file" for p in known)
    return [p for p in found if not (unused and p.what in (NO_PICTURES, NO_NAME))]


def resolution_problems(datasets: Sequence[Dataset], factor: int) -> Iterator[Problem]:
    """Without buckets the resolution is a size of latents."""
    wrong = [d.buckets.resolution for d in datasets if not d.buckets.enabled]
    for size in sorted({size for size in wrong if any(side % factor for side in size)}):
        what = f"{size} is not a multiple of {factor}"
        yield Problem("error", what, "resolution", "Change it, or use --enable_bucket")


def separator_problems(datasets: Sequence[Dataset]) -> Iterator[Problem]:
    """Tags without anything between them cannot be told apart."""
    places = [
        f"datasets[{d}] subsets[{s}]"
        for d, dataset in enumerate(datasets)
        for s, folder in enumerate(dataset.folders)
        if not folder.rules.separator and by_tags(folder.rules)
    ]
    if places:
        what = "`caption_separator` is empty, but captions are taken apart into tags"
        fix = 'Write caption_separator = ",", or leave out what moves, drops and keeps tags'
        yield Problem("error", what, some(places), fix)


def read_templates(run: RunConfig) -> tuple[str, ...]:
    """The sentences that are used instead of captions, if any. Raises DataError."""
    data = run.dataset
    if data.template_file is not None:
        lines = template_lines(text_of(Path(data.template_file), all_lines=True))
        if not any(mark in line for line in lines for mark in ("{}", "[name]")):
            raise DataError("names the word in no line", data.template_file, "Write [name] or {} where it belongs")
        return tuple(lines)
    return OBJECT_TEMPLATES if data.use_object_template else STYLE_TEMPLATES if data.use_style_template else ()


def as_dataset(spec: DatasetSpec, ready: Prepared, source: ModelSource, templates: tuple[str, ...]) -> Dataset:
    """A data set's settings as plain values."""
    rules = BucketRules(
        resolution=spec.resolution or (source.native_size, source.native_size),
        enabled=spec.enable_bucket,
        shortest=spec.min_bucket_reso,
        longest=spec.max_bucket_reso,
        steps=spec.bucket_reso_steps,
        no_upscale=spec.bucket_no_upscale,
    )
    folders = tuple(as_folder(s, ready, templates) for s in spec.subsets)
    assert spec.batch_size is not None
    return Dataset(folders, spec.batch_size, rules, spec.validation_split, spec.validation_seed or 0)


def as_folder(spec: SubsetSpec, ready: Prepared, templates: tuple[str, ...]) -> Folder:
    """A subset's settings as plain values. Regularisation pictures keep their captions: they do not show the word."""
    data, concept = ready.run.dataset, ready.tokens.index(spec.concept) if spec.concept else 0
    captions = CaptionRules(
        word=ready.tokens[concept],
        prefix=spec.caption_prefix,
        suffix=spec.caption_suffix,
        separator=spec.caption_separator,
        shuffle=spec.shuffle_caption,
        keep_tokens=spec.keep_tokens,
        keep_separator=spec.keep_tokens_separator,
        secondary_separator=spec.secondary_separator,
        wildcards=spec.enable_wildcard,
        dropout=spec.caption_dropout_rate,
        drop_every_n_epochs=spec.caption_dropout_every_n_epochs,
        tag_dropout=spec.caption_tag_dropout_rate,
        warmup_min=spec.token_warmup_min,
        warmup_steps=spec.token_warmup_step,
        weighted=data.weighted_captions,
        templates=() if spec.is_reg else templates,
    )
    pictures = PictureRules(
        background=ImageColor.getrgb(data.background)[:3],
        interpolation=spec.resize_interpolation,
        flip=spec.flip_aug,
        random_crop=spec.random_crop,
        color=spec.color_aug,
        face_crop=spec.face_crop_aug_range,
        alpha_mask=spec.alpha_mask,
    )
    return Folder(
        path=Path(spec.image_dir) if spec.image_dir else None,
        concept=concept,
        repeats=spec.num_repeats,
        is_reg=spec.is_reg,
        caption_extension=spec.caption_extension,
        class_tokens=spec.class_tokens,
        metadata=Path(spec.metadata_file) if spec.metadata_file else None,
        masks=Path(spec.conditioning_data_dir) if spec.conditioning_data_dir else None,
        rules=captions,
        pictures=pictures,
    )


def make_plans(ready: Prepared) -> list[ConceptPlan]:
    """One plan for each concept."""
    plans = []
    for index, token in enumerate(ready.tokens):
        records = [r for r in ready.records if r.concept == index]
        seed = concept_seed(ready.run.optim.seed, token)
        stratified = ready.run.objective.timestep_sampling == "stratified"
        weight = ready.run.dataset.prior_loss_weight
        plans.append(ConceptPlan(records, ready.step_sizes, seed, weight, stratified))
    return plans
