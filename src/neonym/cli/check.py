"""`neonym check`: everything that can be wrong with a run, found before a weight is read."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import Field

from neonym.config.commandline import SECRETS, Given, RunFlags, read_run
from neonym.config.flags import read_line
from neonym.config.resolve import FLAG_NAMES
from neonym.config.run import RunConfig, fields_of
from neonym.errors import Problem

if TYPE_CHECKING:
    from neonym.learn.prepare import Prepared
    from neonym.types import ImageRecord

FEW_PICTURES = 300
DESCRIPTION = "Check a training run: settings, pictures, captions, token ids, buckets, caches. Takes training's flags."


class CheckFlags(RunFlags):
    """The flags of training, and how to answer."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(False, description="Print one JSON object.")
    draws: int = Field(1, ge=0, description="How many keyed draws of each caption the object lists.")
    print_config: bool = Field(False, description="Print every effective value and where it was found.")


def main(argv: list[str], prog: str) -> int:
    line = read_line(CheckFlags, argv, prog, DESCRIPTION)
    flags, given = line.flags, read_run(line.flags, line.argv, line.problems)
    from neonym.learn.prepare import prepare

    ready = prepare(given.run, given.problems)
    ready.problems += look_alikes(ready)
    ready.origins = {at: named_origin(at[2], origin, given) for at, origin in ready.origins.items()}
    if flags.print_config:
        print_config(ready, given)
    elif flags.as_json:
        json.dump(as_object(ready, flags.draws), sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print_summary(ready)
    return 2 if ready.failed() else 0


def as_object(ready: Prepared, draws: int) -> dict[str, Any]:
    """Everything that is known of a run, as plain values. Sizes are [width, height]."""
    cached = cached_pictures(ready)
    return {
        "problems": [asdict(p) for p in ready.problems],
        "datasets": [dataset_facts(ready, index) for index in range(len(ready.datasets))],
        "config": [config_facts(ready, index) for index in range(len(ready.datasets))],
        "items": [
            item_facts(ready, record, draws, cached, held_out)
            for held_out, records in ((False, ready.records), (True, ready.held_out))
            for record in records
        ],
    }


def dataset_facts(ready: Prepared, index: int) -> dict[str, Any]:
    from neonym.data.records import steps_per_epoch

    records = [r for r in ready.records if r.dataset == index]
    by_concept = [[r for r in records if r.concept == c] for c in range(len(ready.tokens))]
    counts: Counter[tuple[int, int]] = Counter()
    for record in records:
        counts[record.fit.bucket] += record.repeats
    return {
        "resolution": list(ready.datasets[index].buckets.resolution),
        "batch_size": ready.datasets[index].batch_size,
        "buckets": [{"size": list(size), "count": count} for size, count in sorted(counts.items())],
        "steps_per_epoch": max(steps_per_epoch(own, ready.step_sizes) for own in by_concept),
    }


def config_facts(ready: Prepared, index: int) -> dict[str, Any]:
    """Every value of a data set and its subsets, and where it was found."""
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


def item_facts(ready: Prepared, record: ImageRecord, draws: int, cached: set[Path], held_out: bool) -> dict[str, Any]:
    """`captions` are draws of the first step of training, each with a key of its own."""
    from neonym.data.captions import Moment, final_caption
    from neonym.learn.caption_checks import first_caption, lost_word
    from neonym.learn.rows import concept_seed
    from neonym.seeds import dice

    steps = ready.rhythm.total if ready.rhythm else 1
    caption = first_caption(record, steps)
    bad_weights = has_bad_weights(ready, record)
    ids = {} if bad_weights else {name: tokenizer(caption) for name, tokenizer in ready.tokenizers.items()}
    seed = concept_seed(ready.run.optim.seed, ready.tokens[record.concept])
    return {
        "path": str(record.path),
        "concept": ready.tokens[record.concept],
        "repeats": record.repeats,
        "is_reg": record.is_reg,
        "held_out": held_out,
        "flip_aug": record.pictures.flip,
        "mask": str(record.mask) if record.mask else ("alpha" if record.pictures.alpha_mask else None),
        "original_size": list(record.size),
        "resized_size": list(record.fit.resized),
        "bucket": list(record.fit.bucket),
        "crop_ltrb": list(record.fit.crop),
        "caption": caption,
        "captions": [
            final_caption(record.caption, record.rules, dice(seed, 0, k, "caption"), Moment(steps=steps))
            for k in range(draws)
        ],
        "ids": {name: found.ids.tolist() for name, found in ids.items()},
        "learned_positions": {name: list(found.learned) for name, found in ids.items()},
        "word_survives": record.is_reg
        or (not bad_weights and lost_word(record, ready.tokens[record.concept], ready.tokenizers) is None),
        "cached": record.path in cached,
    }


def has_bad_weights(ready: Prepared, record: ImageRecord) -> bool:
    """Whether weights in its captions cannot be read, so that it has no ids."""
    return any(p.where == str(record.path) and "no weight" in p.what for p in ready.problems)


def cached_pictures(ready: Prepared) -> set[Path]:
    """Pictures whose moments lie on disk already."""
    from neonym.data.index import default_folder
    from neonym.data.latent_cache import entry_name, places

    folder = Path(ready.run.cache.latent_cache_dir) if ready.run.cache.latent_cache_dir else default_folder()
    if ready.source is None or not folder.is_dir():
        return set()
    vae_hash = ready.source.vae_hash()
    contents = {r.path: r.content[:64] for r in ready.records}
    missing = {
        path
        for path, view in places(ready.records)
        if not (folder / entry_name(contents[path], view, vae_hash)).is_file()
    }
    return {r.path for r in ready.records if not r.pictures.changes} - missing


def look_alikes(ready: Prepared) -> list[Problem]:
    """Pictures that are the same or nearly so count twice. Nearly: in small sets, for pictures have to be decoded for it."""
    from neonym.data.duplicates import fingerprints, similar

    shown = {r.path: r.content for r in ready.records if not r.is_reg}
    if len(shown) <= FEW_PICTURES:
        groups = similar(fingerprints(list(shown)))
    else:
        by_content: dict[str, list[Path]] = {}
        for path, content in shown.items():
            by_content.setdefault(content, []).append(path)
        groups = [group for group in by_content.values() if len(group) > 1]
    if not groups:
        return []
    named = "; ".join(" = ".join(path.name for path in group[:4]) for group in groups[:3])
    what = f"{sum(map(len, groups))} pictures look like others ({named}{'; ...' if len(groups) > 3 else ''})"
    return [Problem("warning", what, "pictures", "They count more than the others: keep one of each")]


def named_origin(key: str, origin: str, given: Given) -> str:
    """What gave a flag its value, for a key that fell back to it."""
    if origin != "command line":
        return origin
    return given.origins.get(FLAG_NAMES.get(key, key), "default")


def print_config(ready: Prepared, given: Given) -> None:
    """Every flag, then every data set and subset, each value with its origin."""
    for section, name, _ in fields_of(RunConfig):
        if section != "dataset" and name not in SECRETS:
            value = getattr(getattr(ready.run, section), name)
            print(f"{name} = {json.dumps(value, ensure_ascii=False)}  # {given.origins.get(name, 'default')}")
    for d, dataset in enumerate(ready.config.datasets if ready.config else ()):
        tables = [("[[datasets]]", None, dataset.model_dump(exclude={"subsets"}, mode="json"))]
        tables += [("[[datasets.subsets]]", s, spec.model_dump(mode="json")) for s, spec in enumerate(dataset.subsets)]
        for title, subset, values in tables:
            print(f"\n{title}")
            for key, value in values.items():
                print(
                    f"{key} = {json.dumps(value, ensure_ascii=False)}  # {ready.origins.get((d, subset, key), 'default')}"
                )
    for problem in ready.problems:
        print(f"{problem.severity}: {problem}", file=sys.stderr)


def print_summary(ready: Prepared) -> None:
    """For people."""
    for problem in ready.problems:
        print(f"{problem.severity}: {problem}")
    for index in range(len(ready.datasets)):
        facts = dataset_facts(ready, index)
        buckets = ", ".join(f"{w}x{h}: {b['count']}" for b in facts["buckets"] for w, h in [b["size"]])
        print(
            f"data set {index}: batch {facts['batch_size']}, {facts['steps_per_epoch']} steps per epoch, buckets {buckets}"
        )
    for token in ready.tokens:
        own = [r for r in ready.records if ready.tokens[r.concept] == token]
        print(f"`{token}`: {len(own)} pictures, for example {own[0].caption!r}" if own else f"`{token}`: no pictures")
    errors = sum(p.severity == "error" for p in ready.problems)
    print(f"{errors} errors: training would not start" if errors else "ready to train")


def print_ids(ready: Prepared) -> None:
    """`--debug_dataset`: each picture's caption and ids, the learned ids marked."""
    from neonym.learn.caption_checks import first_caption

    for record in ready.records:
        caption = first_caption(record, ready.rhythm.total if ready.rhythm else 1)
        print(f"\n{record.path}\n{'reg ' if record.is_reg else ''}caption: {caption}")
        for name, tokenizer in ready.tokenizers.items() if not has_bad_weights(ready, record) else ():
            found = tokenizer(caption)
            marks = ", ".join(f"{p} ({found.ids.flatten()[p]})" for p in found.learned) or "none: the word is not there"
            print(f"input ids: {found.ids}")
            print(f"learned ids of {name} at positions: {marks}")
