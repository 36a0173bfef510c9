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
from neonym.data.latent_keys import entry_name, places, told_sizes
from neonym.data.records import steps_per_epoch
from neonym.io.memo import cache_folder
from neonym.preflight.captions import lost_word, shown_caption, surely_fits
from neonym.seeds import concept_seed, dice
from neonym.text.emphasis import parse_emphasis

if TYPE_CHECKING:
    from neonym.preflight.prepare import Prepared
    from neonym.types import ImageRecord


def as_object(ready: Prepared, draws: int, step: int) -> dict[str, Any]:
    """Return the whole object. Captions are as in `step` of the training, with `draws` keyed draws of each.

    `defaults` holds the settings that were not given, each with its source.
    """
    items = Items(ready, draws, step)
    return {
        "problems": [asdict(p) for p in ready.problems],
        "defaults": {name: asdict(default) for name, default in ready.defaults.items()},
        "datasets": [dataset_facts(ready, index) for index in range(len(ready.datasets))],
        "config": [config_facts(ready, index) for index in range(len(ready.datasets))],
        "items": [items.facts(r, False) for r in ready.records] + [items.facts(r, True) for r in ready.held_out],
    }


def dataset_facts(ready: Prepared, index: int) -> dict[str, Any]:
    """Return the facts about a data set.

    `buckets` are those with images, repeats counted. `bucket_sizes` are all possible ones (without upscaling, none are
    fixed).
    """
    records = [r for r in ready.records if r.dataset == index]
    by_concept = [[r for r in records if r.concept == c] for c in range(len(ready.tokens))]
    counts: Counter[tuple[int, int]] = Counter()
    for record in records:
        counts[record.fit.bucket] += record.repeats
    return {
        "resolution": list(ready.datasets[index].buckets.resolution),
        "batch_size": ready.datasets[index].batch_size,
        **bucket_facts(ready, index),
        "buckets": [{"size": list(size), "count": count} for size, count in sorted(counts.items())],
        "training_items": sum(r.repeats for r in records if not r.is_reg),
        "regularisation_items": sum(r.repeats for r in records if r.is_reg),
        "held_out_items": sum(r.dataset == index for r in ready.held_out),
        "steps_per_epoch": max(steps_per_epoch(own, ready.step_sizes) for own in by_concept),
    }


def bucket_facts(ready: Prepared, index: int) -> dict[str, Any]:
    """Return the limits of the buckets on the grid and every size between them, or none if the limits cannot hold."""
    rules = ready.datasets[index].buckets
    if not rules.enabled:
        return {"bucket_limits": None, "bucket_sizes": [list(rules.resolution)]}
    try:
        rules = rules.adjusted()
    except ValueError:  # a problem reports it
        return {"bucket_limits": None, "bucket_sizes": []}
    return {"bucket_limits": [rules.shortest, rules.longest], "bucket_sizes": [list(s) for s in bucket_sizes(rules)]}


def config_facts(ready: Prepared, index: int) -> dict[str, Any]:
    """Return every value of a data set and its subsets, and where it was found."""
    assert ready.config is not None
    spec = ready.config.datasets[index]
    return {
        "kind": spec.style,
        "settings": spec.model_dump(mode="json"),
        "origins": {
            f"subsets[{subset}].{key}" if subset is not None else key: origin
            for (dataset, subset, key), origin in ready.origins.items()
            if dataset == index
        },
    }


class Items:
    """A source of facts about one image after another, which finds out once what concerns all of them."""

    def __init__(self, ready: Prepared, draws: int, step: int):
        self.ready, self.draws, self.step = ready, draws, step
        self.moments = [moment(ready, concept, step) for concept in range(len(ready.tokens))]
        self.cached, self.unread = cached_pictures(ready), bad_weights(ready)

    def facts(self, record: ImageRecord, held_out: bool) -> dict[str, Any]:
        ready, token, at = self.ready, self.ready.tokens[record.concept], self.moments[record.concept]
        seed = concept_seed(ready.run.optim.seed, token)
        readable = str(record.path) not in self.unread
        caption = shown_caption(record, at)
        ids = {name: tokenizer(caption) for name, tokenizer in ready.tokenizers.items()} if readable else {}
        return {
            "path": str(record.path),
            "concept": token,
            "dataset": record.dataset,
            "repeats": record.repeats,
            "is_reg": record.is_reg,
            "loss_weight": ready.run.dataset.prior_loss_weight if record.is_reg else 1.0,
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
            "ids": {name: found.ids for name, found in ids.items()},
            "weighted_pieces": parse_emphasis(caption) if record.rules.weighted and readable else None,
            "weights": {name: found.weights for name, found in ids.items()} if record.rules.weighted else None,
            "learned_positions": {name: list(found.learned) for name, found in ids.items()},
            "word_survives": record.is_reg or (readable and self.survives(record, token)),
            "cached": record.path in self.cached,
        }

    def survives(self, record: ImageRecord, token: str) -> bool:
        """Return whether the word is in every form of the caption that can be used in training."""
        tokenizers = self.ready.tokenizers
        return lost_word(record, token, tokenizers, surely_fits(record, tokenizers)) is None


def place_facts(record: ImageRecord) -> dict[str, Any]:
    """Return how an image is resized and cropped, and the bucket that it is in.

    `told_sizes` are the sizes that SDXL is conditioned on, height first: original size, crop from top and left, size.
    """
    (width, height), fit = record.size, record.fit
    return {
        "original_size": [width, height],
        "resized_size": list(fit.resized),
        "bucket": list(fit.bucket),
        "crop_ltrb": list(fit.crop),
        "ratio_error": fit.bucket[0] / fit.bucket[1] - width / height,
        "told_sizes": list(told_sizes(record.size, still_view(record))),
    }


def moment(ready: Prepared, concept: int, step: int) -> Moment:
    """Return what captions depend on at `step`. If an error left no plan, return the moment of the first epoch."""
    if ready.rhythm is None or not ready.plans:
        return Moment(step=step)
    return Moment(1 + step // ready.plans[concept].steps_per_epoch, step, ready.rhythm.total)


def bad_weights(ready: Prepared) -> set[str]:
    """Return the paths of images whose captions have weights that cannot be read, and therefore no ids."""
    return {p.where for p in ready.problems if "no weight" in p.what}


def cached_pictures(ready: Prepared) -> set[Path]:
    """Return the paths of images whose latents are cached on disk already."""
    folder = Path(ready.run.cache.latent_cache_dir) if ready.run.cache.latent_cache_dir else cache_folder()
    if ready.source is None or "vae" not in ready.source.weights or not folder.is_dir():
        return set()
    vae_hash = ready.source.vae_hash()
    contents = {r.path: r.content[:64] for r in ready.records}
    missing = {
        path
        for path, view in places(ready.records)
        if not (folder / entry_name(contents[path], view, vae_hash)).is_file()
    }
    return {r.path for r in ready.records if not r.image_rules.changes} - missing
