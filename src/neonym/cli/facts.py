"""Collect what is known about a run before it starts: the object of `neonym check --json`, made of plain values.

Sizes are [width, height].
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neonym.data.buckets import bucket_sizes
from neonym.data.captions import Moment, final_caption
from neonym.data.images import still_view
from neonym.data.latent_keys import entry_name, latent_keys, size_conditioning
from neonym.data.records import steps_per_epoch
from neonym.io.memo import cache_folder
from neonym.preflight.captions import unreadable_emphasis
from neonym.preflight.memory import memory_table
from neonym.preflight.plan import step_sizes
from neonym.preflight.possible_captions import example_caption, fate_of_word, surely_fits
from neonym.seeds import concept_seed, dice
from neonym.text.emphasis import parse_emphasis

if TYPE_CHECKING:
    from neonym.preflight.preflight import Preflight
    from neonym.types import ImageRecord


def as_object(found: Preflight, draws: int, step: int) -> dict[str, Any]:
    """Return the whole object. Captions are those of training step `step`, with `draws` random draws of each.

    `defaults` holds the settings that are not given, each with its source. `memory` holds estimates in gigabytes.
    """
    items = Items(found, draws, step)
    return {
        "problems": [asdict(p) for p in found.problems],
        "defaults": {name: asdict(default) for name, default in found.defaults.items()},
        "memory": memory_facts(found),
        "datasets": [dataset_facts(found, index) for index in range(len(found.datasets))],
        "config": [config_facts(found, index) for index in range(len(found.datasets))],
        "items": [items.facts(r, False) for r in found.records] + [items.facts(r, True) for r in found.held_out],
    }


def memory_facts(found: Preflight) -> dict[str, dict[str, float]]:
    """Return the estimated gigabytes of a step on a GPU by precision of the weights; an empty table if unknown."""
    source, tokenizers = found.source, found.tokenizers
    return memory_table(found.run, source, found.datasets, tokenizers) if source and tokenizers else {}


def dataset_facts(found: Preflight, index: int) -> dict[str, Any]:
    """Return the facts about a dataset.

    `buckets` lists the buckets that have images, with repeats counted. `bucket_sizes` lists all possible ones, and none
    if there is no upscaling, because the sizes then depend on the images.
    """
    records, sizes = [r for r in found.records if r.dataset == index], step_sizes(found.datasets, found.run)
    by_concept = [[r for r in records if r.concept == c] for c in range(len(found.tokens))]
    counts: Counter[tuple[int, int]] = Counter()
    for record in records:
        counts[record.fit.bucket] += record.repeats
    return {
        "resolution": list(found.datasets[index].buckets.resolution),
        "batch_size": found.datasets[index].batch_size,
        **bucket_facts(found, index),
        "buckets": [{"size": list(size), "count": count} for size, count in sorted(counts.items())],
        "training_items": sum(r.repeats for r in records if not r.is_reg),
        "regularisation_items": sum(r.repeats for r in records if r.is_reg),
        "held_out_items": sum(r.dataset == index for r in found.held_out),
        "steps_per_epoch": max(steps_per_epoch(own, sizes) for own in by_concept),
    }


def bucket_facts(found: Preflight, index: int) -> dict[str, Any]:
    """Return the limits of the buckets, rounded to the grid, and all sizes between them; none if impossible."""
    rules = found.datasets[index].buckets
    if not rules.enabled:
        return {"bucket_limits": None, "bucket_sizes": [list(rules.resolution)]}
    try:
        rules = rules.adjusted()
    except ValueError:  # a problem reports it
        return {"bucket_limits": None, "bucket_sizes": []}
    return {"bucket_limits": [rules.shortest, rules.longest], "bucket_sizes": [list(s) for s in bucket_sizes(rules)]}


def config_facts(found: Preflight, index: int) -> dict[str, Any]:
    """Return the values of a dataset and its subsets, and where each comes from."""
    if found.config is None:
        return {}
    spec = found.config.datasets[index]
    return {
        "kind": spec.style,
        "settings": spec.model_dump(mode="json"),
        "origins": {
            f"subsets[{subset}].{key}" if subset is not None else key: origin
            for (dataset, subset, key), origin in found.origins.items()
            if dataset == index
        },
    }


class Items:
    """A source of facts about images. What concerns all images is found out once."""

    def __init__(self, found: Preflight, draws: int, step: int):
        self.found, self.draws, self.step = found, draws, step
        self.moments = [moment(found, concept, step) for concept in range(len(found.tokens))]
        self.cached, self.unread = cached_images(found), unreadable_captions(found)

    def facts(self, record: ImageRecord, held_out: bool) -> dict[str, Any]:
        """Return the facts about an image, which is either trained on or held out for evaluation."""
        found, token, at = self.found, self.found.tokens[record.concept], self.moments[record.concept]
        seed = concept_seed(found.run.optim.seed, token)
        readable = str(record.path) not in self.unread
        caption = example_caption(record, at)
        ids = {name: tokenizer(caption) for name, tokenizer in found.tokenizers.items()} if readable else {}
        return {
            "path": str(record.path),
            "concept": token,
            "dataset": record.dataset,
            "repeats": record.repeats,
            "is_reg": record.is_reg,
            "loss_weight": found.run.dataset.prior_loss_weight if record.is_reg else 1.0,
            "held_out": held_out,
            "flip_aug": record.image_rules.flip,
            "mask": str(record.mask) if record.mask else ("alpha" if record.image_rules.alpha_mask else None),
            **place_facts(record),
            "stored_caption": record.caption,
            "caption": caption,
            "captions": [
                final_caption(record.caption, record.rules, dice(seed, self.step, k, "caption"), at)
                for k in range(self.draws)
            ],
            "ids": {name: encoded.ids for name, encoded in ids.items()},
            "weighted_pieces": parse_emphasis(caption) if record.rules.weighted and readable else None,
            "weights": {name: encoded.emphasis for name, encoded in ids.items()} if record.rules.weighted else None,
            "learned_positions": {name: list(encoded.learned) for name, encoded in ids.items()},
            "word_survives": record.is_reg or (readable and self.survives(record, token)),
            "cached": record.path in self.cached,
        }

    def survives(self, record: ImageRecord, token: str) -> bool:
        """Return whether the word is in every form that the caption can take in training."""
        tokenizers = self.found.tokenizers
        return fate_of_word(record, token, tokenizers, surely_fits(record, tokenizers)) is None


def place_facts(record: ImageRecord) -> dict[str, Any]:
    """Return how an image is resized and cropped, and which bucket it is in.

    `told_sizes` are the sizes that SDXL is conditioned on, height first: original size, crop from top and left, size.
    """
    (width, height), fit = record.size, record.fit
    return {
        "original_size": [width, height],
        "resized_size": list(fit.resized),
        "bucket": list(fit.bucket),
        "crop_ltrb": list(fit.crop),
        "ratio_error": fit.bucket[0] / fit.bucket[1] - width / height,
        "told_sizes": list(size_conditioning(record.size, still_view(record))),
    }


def moment(found: Preflight, concept: int, step: int) -> Moment:
    """Return the moment in training on which captions depend at `step`, in the first epoch if an error left no plan."""
    if not found.plans:
        return Moment(step=step)
    samples = found.plans[concept].concept.samples
    return Moment(1 + step // samples.steps_per_epoch, step, samples.steps)


def unreadable_captions(found: Preflight) -> set[str]:
    """Return the images whose captions have emphasis that cannot be parsed, so that they have no token ids."""
    return {problem.where for problem in unreadable_emphasis((*found.records, *found.held_out))}


def cached_images(found: Preflight) -> set[Path]:
    """Return the images whose latents' moments are cached on disk."""
    folder = Path(found.run.cache.latent_cache_dir) if found.run.cache.latent_cache_dir else cache_folder()
    if found.source is None or "vae" not in found.source.weights or not folder.is_dir():
        return set()
    vae_hash = found.source.vae_hash()
    contents = {r.path: r.content[:64] for r in found.records}
    missing = {
        path
        for path, view in latent_keys(found.records)
        if not (folder / entry_name(contents[path], view, vae_hash)).is_file()
    }
    return {r.path for r in found.records if not r.image_rules.changes} - missing
