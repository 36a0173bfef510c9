"""Everything that can be known, and go wrong, before a weight is read: settings, pictures, captions, ids, the plan."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neonym.config.dataset import DatasetConfig, DatasetSpec, SubsetSpec
from neonym.config.run import RunConfig
from neonym.config.sources import read_dataset
from neonym.data.buckets import BucketRules
from neonym.data.captions import final_caption
from neonym.data.plan import ConceptPlan
from neonym.data.records import Dataset, Folder, names, scan
from neonym.errors import ConfigError, ModelError, Problem
from neonym.learn.optim import reach
from neonym.learn.rows import concept_seed
from neonym.models.family import ModelSource, identify, load_tokenizers
from neonym.models.text import WordTokenizer
from neonym.types import CaptionRules, ImageRecord, Size
from neonym.words import clean

DEFAULT_INIT_WORD = "picture"
ENOUGH_HELD_OUT = 4  # pictures to judge a word by
TOO_SHORT = 0.5  # of the vocabulary's spread: a run that can carry a coordinate no farther cannot learn


@dataclass
class Prepared:
    """A run as far as it can be worked out without weights. With an error among `problems`, parts are missing."""

    run: RunConfig
    problems: list[Problem] = field(default_factory=list)
    config: DatasetConfig | None = None
    source: ModelSource | None = None
    tokenizers: dict[str, WordTokenizer] = field(default_factory=dict)
    datasets: list[Dataset] = field(default_factory=list)
    records: list[ImageRecord] = field(default_factory=list)
    held_out: list[ImageRecord] = field(default_factory=list)
    plans: list[ConceptPlan] = field(default_factory=list)

    @property
    def tokens(self) -> list[str]:
        return [c.token_string for c in self.config.concepts] if self.config else []

    @property
    def step_sizes(self) -> list[int]:
        """Samples of a step, per data set."""
        return [d.batch_size * self.run.optim.gradient_accumulation_steps for d in self.datasets]

    def file_names(self) -> list[str]:
        """The embedding file of each concept, without ending."""
        if len(self.tokens) == 1:
            return [self.run.save.output_name or self.tokens[0]]
        return list(self.tokens)

    def run_folder(self) -> Path:
        """Where the state, the events and the verdict of this run lie."""
        others = f"-and-{len(self.tokens) - 1}-more" if len(self.tokens) > 1 else ""
        name = self.run.save.output_name or self.tokens[0] + others
        return Path(self.run.save.output_dir) / f"{name}-run"

    def failed(self) -> bool:
        return any(p.severity == "error" for p in self.problems)

    def raise_errors(self) -> None:
        """Raises ConfigError with all errors."""
        if self.failed():
            raise ConfigError(self.problems)


def prepare(run: RunConfig) -> Prepared:
    """Find everything out, in seconds. Errors are collected, not raised."""
    ready = Prepared(run)
    try:
        ready.config, ready.problems = read_dataset(run)
    except ConfigError as error:
        ready.problems += error.problems
    try:
        ready.source = identify(run.model.pretrained_model_name_or_path)
        ready.tokenizers = load_tokenizers(ready.source, run.model.max_token_length)
    except ModelError as error:
        ready.problems.append(error.problem)
    if ready.config is None or ready.source is None:
        return ready
    ready.problems += [*setting_notes(run, ready.source), *setting_problems(run, ready.source)]
    ready.datasets = [as_dataset(spec, ready.source, ready.tokens) for spec in ready.config.datasets]
    for index, dataset in enumerate(ready.datasets):
        if any(side % ready.source.vae_factor for side in dataset.buckets.resolution):
            what = f"resolution {dataset.buckets.resolution} is not a multiple of {ready.source.vae_factor}"
            ready.problems.append(Problem("error", what, f"datasets[{index}]"))
    ready.records, ready.held_out = scan(
        ready.datasets, run.eval.validation_split, run.eval.validation_seed, ready.problems.append
    )
    for spec in ready.config.concepts:
        for tokenizer in ready.tokenizers.values():
            tokenizer.add_word(spec.token_string, spec.num_vectors_per_token)
    ready.problems += token_problems(ready)
    if not ready.failed():
        ready.plans = make_plans(ready)
    return ready


def as_dataset(spec: DatasetSpec, source: ModelSource, tokens: Sequence[str]) -> Dataset:
    """A data set's settings as plain values."""
    rules = BucketRules(
        resolution=spec.resolution or (source.native_size, source.native_size),
        enabled=spec.enable_bucket,
        shortest=spec.min_bucket_reso,
        longest=spec.max_bucket_reso,
        steps=spec.bucket_reso_steps,
        no_upscale=spec.bucket_no_upscale,
    )
    return Dataset(tuple(as_folder(s, tokens) for s in spec.subsets), spec.batch_size, rules)


def as_folder(spec: SubsetSpec, tokens: Sequence[str]) -> Folder:
    rules = CaptionRules(
        spec.caption_prefix, spec.caption_suffix, spec.caption_separator, spec.shuffle_caption, spec.keep_tokens
    )
    return Folder(
        path=Path(spec.image_dir),
        concept=tokens.index(spec.concept) if spec.concept else 0,
        repeats=spec.num_repeats,
        is_reg=spec.is_reg,
        caption_extension=spec.caption_extension,
        class_tokens=spec.class_tokens,
        flip=spec.flip_aug,
        rules=rules,
    )


def make_plans(ready: Prepared) -> list[ConceptPlan]:
    """One plan for each concept."""
    plans = []
    for index, token in enumerate(ready.tokens):
        records = [r for r in ready.records if r.concept == index]
        seed = concept_seed(ready.run.optim.seed, token)
        plans.append(ConceptPlan(records, ready.step_sizes, seed, ready.run.dataset.prior_loss_weight))
    return plans


def token_problems(ready: Prepared) -> list[Problem]:
    """Does every word reach the model? An error if it never does, a warning for each picture where it does not."""
    problems = []
    for index, token in enumerate(ready.tokens):
        own = [r for r in ready.records if r.concept == index and not r.is_reg]
        if not own:
            problems.append(Problem("error", "there are no pictures of it", f"`{token}`", "Check the folders"))
            continue
        missing, cut = [], []
        for record in own:
            caption = final_caption(record.caption, record.rules, (0, 0, 0))
            for tokenizer in ready.tokenizers.values():
                ids, wanted = tokenizer(caption), tokenizer.words_in(caption)
                if clean(token) not in wanted:
                    missing.append(record.path)
                elif ids.lost_rows:
                    cut.append(record.path)
        fix = f"Write `{token}` in the caption files, or set class_tokens to a text with it"
        if len(missing) == len(own):
            what = f"none of the {len(own)} captions contains the word, so nothing would be learned ({names(missing)})"
            problems.append(Problem("error", what, f"`{token}`", fix))
        elif missing:
            what = f"{len(missing)} of {len(own)} captions do not contain the word ({names(missing)})"
            problems.append(Problem("warning", what, f"`{token}`", fix))
        if cut:
            what = f"the word is cut off at the end of {len(cut)} captions ({names(cut)})"
            fix = "Put the word first, or use a larger --max_token_length"
            problems.append(Problem("error" if len(cut) == len(own) else "warning", what, f"`{token}`", fix))
        kept_back = sum(r.concept == index for r in ready.held_out)
        if 0 < kept_back < ENOUGH_HELD_OUT:
            what = f"only {kept_back} pictures are held out: too few to judge by, so the training pictures are used"
            problems.append(Problem("warning", what, "--validation_split", f"Hold out {ENOUGH_HELD_OUT} or none"))
        for tokenizer in ready.tokenizers.values():
            if len(tokenizer.pieces(clean(token))) == 1:
                what = "is an ordinary word: diffusers refuses such a file name, other programs replace the word by it"
                problems.append(Problem("warning", what, f"`{token}`", "Choose a word that is not in the dictionary"))
    sizes = Counter[Size](r.fit.bucket for r in ready.records)
    source = ready.source
    if source is not None and sizes and max(map(max, sizes)) > 2 * source.native_size:
        what = f"pictures are trained at up to {max(sizes)}, the model is made for {source.native_size}"
        problems.append(Problem("warning", what, "resolution", "Leave resolution out to use the model's own size"))
    return problems


def setting_problems(run: RunConfig, source: ModelSource) -> list[Problem]:
    """Settings that contradict the model, the disk or each other."""
    problems, save = [], run.save
    if run.model.clip_skip > source.text_layers:
        what = f"the model has {source.text_layers} text layers, not {run.model.clip_skip}"
        problems.append(Problem("error", what, "--clip_skip"))
    wanted = Path(save.output_dir).absolute()
    folder = next(p for p in (wanted, *wanted.parents) if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        problems.append(Problem("error", f"{folder} is not a folder that can be written to", "--output_dir"))
    if save.save_last_n_steps is not None and save.save_every_n_steps is None:
        problems.append(Problem("warning", "has no effect without --save_every_n_steps", "--save_last_n_steps"))
    if run.cache.latent_cache_dir is not None and not run.cache.cache_latents_to_disk:
        problems.append(Problem("warning", "has no effect without --cache_latents_to_disk", "--latent_cache_dir"))
    if run.optim.lr_scheduler != "constant" and run.optim.lr_warmup_steps >= run.optim.max_train_steps:
        what = f"the warm-up of {run.optim.lr_warmup_steps} steps is as long as the training: the rate is never reached"
        problems.append(Problem("warning", what, "--lr_warmup_steps"))
    return problems


def setting_notes(run: RunConfig, source: ModelSource) -> list[Problem]:
    """What a user should know about the settings: replaced, without effect, hopeless."""
    notes = []
    if run.model.pretrained_model_name_or_path == "builtin:emoji":
        notes.append(
            Problem(
                "note",
                "the small built-in model is used (builtin:emoji); name yours with --pretrained_model_name_or_path",
            )
        )
    if run.optim.optimizer_type.lower() != "adamw":
        what = (
            f"{run.optim.optimizer_type} -> AdamW: the optimizer state is a few kilobytes, so there is nothing to save"
        )
        notes.append(Problem("note", what))
    if run.compute.xformers or run.compute.mem_eff_attn:
        notes.append(Problem("note", "xformers / mem_eff_attn -> PyTorch's own attention, which gives the same result"))
    if run.cache.cache_latents:
        notes.append(Problem("note", "cache_latents: pictures are always encoded once, before training"))
    optim = run.optim
    farthest = reach(optim.lr_scheduler, optim.max_train_steps, optim.lr_warmup_steps, optim.learning_rate)
    if farthest < TOO_SHORT * source.word_spread:
        what = (
            f"{optim.max_train_steps} steps at learning rate {optim.learning_rate:g} can move a number of the word by no "
            f"more than {farthest:.2g}, {100 * farthest / source.word_spread:.0f} % of the spread of this model's words "
            f"({source.word_spread:.2g}): the word can hardly be learned"
        )
        notes.append(Problem("warning", what, "--learning_rate", "Values around 5e-3 learn in a hundred steps"))
    return notes
