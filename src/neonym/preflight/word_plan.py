"""The plan of one word of a run, as if it were the only one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from neonym.config.dataset import DEFAULT_INIT_WORD, ConceptSpec, DatasetConfig
from neonym.config.rules import run_problems
from neonym.config.run import RunConfig
from neonym.data.plan import ConceptPlan
from neonym.data.records import steps_per_epoch
from neonym.errors import Problem
from neonym.generation.request.prompts import SamplePrompt
from neonym.models.source import ModelSource
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.preflight.defaults import UsedDefaults, default_notes, with_defaults, with_settings
from neonym.preflight.found import Preflight
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
from neonym.preflight.milestones import Milestones, make_milestones
from neonym.preflight.plan import PlannedConcept, TrainingPlan, kept_steps_folder, step_sizes
from neonym.preflight.words import StartingRows, encoders_with_rows
from neonym.runs.outputs import file_names, run_folder
from neonym.seeds import concept_seed
from neonym.text.words import clean, whole_word
from neonym.types import ImageRecord

OF_TABLES = ("num_vectors_per_token", "train_batch_size")  # settings that the tables of a dataset file may decide


class WordPlanner:
    """The planner of one word of a checked run: its settings, its images and its steps."""

    def __init__(
        self,
        found: Preflight,
        given: RunConfig,
        config: DatasetConfig,
        index: int,
        source: ModelSource,
        rows: Mapping[str, StartingRows],
        prompts: Sequence[SamplePrompt],
    ):
        self.spec, self.source, self.rows = (
            config.concepts[index],
            source,
            rows.get(config.concepts[index].token_string),
        )
        self.tokens = [spec.token_string for spec in config.concepts]
        self.run, self.defaults = settings_of_word(found, given, self.spec, source, len(self.tokens) == 1)
        own = [record for record in found.records if record.concept == index]
        kept = sorted({record.dataset for record in own})  # numbered anew, as in a run without the other words
        self.datasets = tuple(found.datasets[number] for number in kept)
        self.records = tuple(replace(record, concept=0, dataset=kept.index(record.dataset)) for record in own)
        held_out = [record for record in found.held_out if record.concept == index and record.dataset in kept]
        self.held_out = tuple(replace(record, concept=0, dataset=kept.index(record.dataset)) for record in held_out)
        self.config = config_of_word(config, self.spec, kept, is_alone=len(self.tokens) == 1)
        self.tokenizers = {name: of_word(own, self.spec.token_string) for name, own in found.tokenizers.items()}
        self.prompts = tuple(prompt for prompt in prompts if suits(prompt, self.spec.token_string, self.tokens))
        self.sizes = step_sizes(self.datasets, self.run)
        self.rate = rate_of(self.spec, self.run.optim)
        self.encoders = source.encoders_named(self.run.concept.train_encoders)

    @cached_property
    def milestones(self) -> Milestones:
        """The steps at which the training of the word begins, ends and saves."""
        optim, per_epoch = self.run.optim, steps_per_epoch(self.records, self.sizes)
        epochs, kept = optim.max_train_epochs, self.defaults.get("save_every_n_steps")
        total = epochs * per_epoch if epochs else optim.max_train_steps or self.source.defaults.max_train_steps.value
        return make_milestones(optim, self.run.save, total, per_epoch, kept and kept.value)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the length, the optimizer and the learning rate, and the defaults that are used."""
        optim, milestones = self.run.optim, self.milestones
        if milestones.first >= milestones.total:
            what = f"the run would start at step {milestones.first}, but the training ends at step {milestones.total}"
            yield Problem("error", what, "--initial_step, --initial_epoch", "Start earlier, or train longer")
            return
        yield from optimizer_warnings(optim, milestones.total)
        factors = factors_of(self.source, optim, self.encoders, self.rate)
        schedule = schedule_of(self.rate, optim, milestones.total, self.source)
        yield from rate_warnings(self.rate, schedule, optim, milestones, self.source, factors)
        yield from encoder_rate_notes(self.source, factors, self.rate)
        folder = kept_steps_folder(run_folder(self.run, self.spec.token_string))
        yield from default_notes(self.defaults, folder, self.run.eval.early_stop)

    def plan(self, problems: tuple[Problem, ...]) -> TrainingPlan:
        """Return the plan of the word; `problems` are the warnings and notes about its run."""
        warmup = self.defaults.get("lr_warmup_steps")
        return TrainingPlan(
            run=self.run,
            source=self.source,
            tokenizers=self.tokenizers,
            data=self.config,
            datasets=self.datasets,
            concept=self.concept(),
            milestones=self.milestones,
            prompts=self.prompts,
            model_warmup=warmup.value if warmup else None,
            problems=tuple(problem for problem in problems if not self.is_of_another(problem)),
        )

    def is_of_another(self, problem: Problem) -> bool:
        """Return whether a problem is that of another word of the run."""
        return any(problem.where.startswith(f"`{token}`") for token in self.tokens if token != self.spec.token_string)

    def concept(self) -> PlannedConcept:
        """Return where the word starts, what it learns from and how fast."""
        spec, run, total = self.spec, self.run, self.milestones.total
        return PlannedConcept(
            token=spec.token_string,
            file_name=file_names(run, [spec.token_string])[0],
            vectors=spec.vectors,
            init_word=spec.init_word or DEFAULT_INIT_WORD,
            start=self.rows,
            with_rows=encoders_with_rows(run, self.source, self.rows),
            encoders=self.encoders,
            has_default_rate="learning_rate" in self.defaults,
            own_rates=own_rates_of(run.optim, self.source),
            learning_rate=self.rate.first,
            schedule=schedule_of(self.rate, run.optim, total, self.source),
            samples=plan_samples(spec, self.records, self.sizes, run, total),
            records=self.records,
            held_out=self.held_out,
        )


def run_of_word(run: RunConfig, spec: ConceptSpec, is_alone: bool) -> RunConfig:
    """Return the settings of a word: those of the run with its own, and files that are named after it.

    If the word has a number of steps, the run's number of epochs does not hold for it.
    """
    own = dict(spec.settings)
    if "max_train_steps" in own:
        own.setdefault("max_train_epochs", None)
    if not is_alone:
        names = ("token_string", "init_word", "num_vectors_per_token", "weights")
        own |= {name: getattr(spec, name) for name in names}
        own["output_name"] = spec.token_string
    return with_settings(run, own)


def own_setting_problems(run: RunConfig, config: DatasetConfig) -> Iterator[Problem]:
    """Yield what is wrong with the settings of each word that has its own, beside what is wrong with the run's."""
    with_own = [spec for spec in config.concepts if spec.settings]
    known = {*run_problems(run), *optimizer_errors(run.optim)} if with_own else set()
    for spec in with_own:
        own = run_of_word(run, spec, is_alone=True)
        rules = run_problems(own)
        is_valid = not any(problem.severity == "error" for problem in rules)
        for problem in [*rules, *(optimizer_errors(own.optim) if is_valid else ())]:
            if problem not in known:
                yield replace(problem, where=f"`{spec.token_string}`, {problem.where}")


def config_of_word(config: DatasetConfig, spec: ConceptSpec, kept: Sequence[int], is_alone: bool) -> DatasetConfig:
    """Return the tables of a dataset file without those of other words; `kept` are the word's datasets."""
    if is_alone:
        return config
    datasets = []
    for dataset in (config.datasets[number] for number in kept):
        subsets = tuple(subset for subset in dataset.subsets if subset.concept == spec.token_string)
        datasets.append(dataset.model_copy(update={"subsets": subsets}))
    return config.model_copy(update={"concepts": (spec,), "datasets": tuple(datasets)})


def settings_of_word(
    found: Preflight, given: RunConfig, spec: ConceptSpec, source: ModelSource, is_alone: bool
) -> tuple[RunConfig, UsedDefaults]:
    """Return the settings of a word with the defaults of the model, and the defaults that are used.

    The word's own settings decide some of them, such as the rate of its optimizer. `given` are the run's, without any.
    """
    run, used = run_of_word(found.run, spec, is_alone), dict(found.defaults)
    if spec.settings:
        run, own = with_defaults(run_of_word(given, spec, is_alone), source)
        used = {name: default for name, default in own.items() if name in used or name not in OF_TABLES}
    if spec.learning_rate is not None:
        used.pop("learning_rate", None)
    return run, used


def of_word(tokenizer: WordTokenizer, token: str) -> WordTokenizer:
    """Return a copy of a tokenizer that knows no other new word than `token`."""
    own = tokenizer.words[clean(token)]
    ids = range(tokenizer.vocab, tokenizer.vocab + len(own)) if isinstance(own, range) else own
    return tokenizer.with_words({clean(token): ids})


def suits(prompt: SamplePrompt, token: str, tokens: Sequence[str]) -> bool:
    """Return whether a word has sample images of a prompt: unless the prompt contains only other words of the run."""
    found = {clean(word) for word in whole_word(tuple(clean(word) for word in tokens)).findall(clean(prompt.prompt))}
    return not found or clean(token) in found


def plan_samples(
    spec: ConceptSpec, records: Sequence[ImageRecord], sizes: Sequence[int], run: RunConfig, total: int
) -> ConceptPlan:
    """Return the plan of a word's samples in each of `total` steps."""
    stratified = run.objective.timestep_draws == "stratified"
    seed = concept_seed(run.optim.seed, spec.token_string)
    return ConceptPlan(records, sizes, seed, run.dataset.prior_loss_weight, stratified, total)
