"""Run `neonym check`, which finds everything that can be wrong with a run before any weights are read."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import Field

from neonym.cli.terminal import print_problems
from neonym.config.command_line import SECRETS, Given, RunFlags, read_run
from neonym.config.dataset import DatasetValues, SubsetSpec
from neonym.config.flags import read_command_line
from neonym.config.resolve import FLAG_NAMES
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.values import as_written
from neonym.errors import Problem, counted, in_one_line

if TYPE_CHECKING:
    from neonym.preflight.preflight import Preflight

MOST_LISTED = 200  # captions
MOST_SHOWN = 400  # characters of one caption
WAYS = {  # key of `memory_table` -> its column
    "plain": "as it is", "one_at_a_time": "one at a time", "gradient_checkpointing": "checkpointing",
    "half_swapped": "half swapped", "all_swapped": "all swapped",
}  # fmt: skip
DESCRIPTION = "Check a training run: settings, images, captions, token ids, buckets, caches. Takes training's flags."


class CheckFlags(RunFlags):
    """The flags of training, and those for the format of the answer."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(False, description="Print one JSON object.")
    draws: int = Field(1, ge=0, description="How many random draws of each caption the object lists.")
    at_step: int = Field(0, ge=0, description="The step whose captions the object lists, counted from 0.")
    print_config: bool = Field(False, description="Print every effective value and where it comes from.")


def main(argv: list[str], prog: str) -> int:
    """Run the command and return its exit code."""
    with gc_paused():
        return run_check(argv, prog)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Switch the garbage collector off for the duration of the block.

    Importing and scanning create no reference cycles, and the search for them takes an eighth of the time of a check.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_check(argv: list[str], prog: str) -> int:
    """Check the run that the arguments describe, print the result, and return the exit code."""
    line = read_command_line(CheckFlags, argv, prog, DESCRIPTION)
    flags, given = line.flags, read_run(line.flags, line.argv, line.problems)
    if flags.output_config:
        fix = "Write the config file with neonym train"
        given.problems.append(Problem("warning", "has no effect here: a check writes nothing", "--output_config", fix))
    from neonym.cli.facts import as_object
    from neonym.preflight.images import similar_image_warnings
    from neonym.preflight.preflight import preflight

    found = preflight(given.run, given.problems)
    origins = {at: named_origin(at[2], origin, given) for at, origin in found.origins.items()}
    found = found.with_problems(similar_image_warnings(found.records), origins=origins)
    if flags.print_config:
        print_config(found, given)
    elif flags.as_json:
        json.dump(as_object(found, flags.draws, flags.at_step), sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        if given.debug_dataset:
            print_ids(found)
        print_summary(found)
    return 2 if found.failed() else 0


def named_origin(key: str, origin: str, given: Given) -> str:
    """Return the origin of a key's value; if a flag set it, the origin of the flag."""
    if origin != "command line":
        return origin
    return given.origins.get(FLAG_NAMES.get(key, key), "default")


def print_config(found: Preflight, given: Given) -> None:
    """Print the values of all flags, concepts, datasets and subsets, each with its origin."""
    in_tables = {FLAG_NAMES.get(key, key) for key in (*DatasetValues.model_fields, *SubsetSpec.model_fields)}
    for section, name, _ in fields_of(RunConfig):
        if not (section in ("dataset", "eval") and name in in_tables) and name not in SECRETS:
            value = getattr(getattr(found.run, section), name)
            print_value(name, *from_model(found, name, value, given.origins.get(name, "default")))
    if found.config is not None:
        for concept in found.config.concepts if len(found.config.concepts) > 1 else ():
            print("\n[[concepts]]")
            for key, value in concept.model_dump(mode="json").items():
                origin = "concept" if key in concept.model_fields_set else "default"
                print_value(key, *from_model(found, key, value, origin))
        for d, dataset in enumerate(found.config.datasets):
            values = dataset.model_dump(exclude={"subsets"}, mode="json")
            from_source = dataset.resolution is None and len(found.datasets) > d
            if from_source:
                values["resolution"] = list(found.datasets[d].buckets.resolution)
            print_table(found, "[[datasets]]", (d, None), values, {"resolution": "the model"} if from_source else {})
            for s, subset in enumerate(dataset.subsets):
                print_table(found, "[[datasets.subsets]]", (d, s), subset.model_dump(mode="json"), {})
    print_problems(found.problems)


def print_table(
    found: Preflight, title: str, at: tuple[int, int | None], values: dict[str, Any], origins: Mapping[str, str]
) -> None:
    """Print a dataset or a subset. `origins` holds the origins of values that come from the model."""
    print(f"\n{title}")
    for key, value in values.items():
        origin = origins.get(key) or found.origins.get((*at, key), "default")
        print_value(key, *from_model(found, key, value, origin))


def from_model(found: Preflight, key: str, value: Any, origin: str) -> tuple[Any, str]:
    """Return a value and its origin; a default that the model sets takes the place of the general default."""
    default = found.defaults.get(FLAG_NAMES.get(key, key))
    return (default.value, str(default)) if default is not None and origin == "default" else (value, origin)


def print_value(name: str, value: Any, origin: str) -> None:
    """Print a value and its origin as a line of TOML."""
    print(f"{name} = {json.dumps(as_written(value), ensure_ascii=False)}  # {origin}")


def print_summary(found: Preflight) -> None:
    """Print the problems, datasets, defaults and words for people to read."""
    from neonym.cli.facts import dataset_facts, moment
    from neonym.preflight.possible_captions import example_caption

    for problem in found.problems:
        print(f"{problem.severity}: {problem}")
    if found.lost:
        print("captions in which the word does not survive:")
    for record, how in found.lost[:MOST_LISTED]:
        caption = example_caption(record, moment(found, record.concept, 0))
        print(f"  {in_one_line(str(record.path))} ({how}): {excerpt(caption)}")
    if len(found.lost) > MOST_LISTED:
        print(f"  and {len(found.lost) - MOST_LISTED} more, which --json lists as word_survives")
    for index in range(len(found.datasets)):
        facts = dataset_facts(found, index)
        buckets = ", ".join(f"{w}x{h}: {b['count']}" for b in facts["buckets"] for w, h in [b["size"]])
        sizes = f"batch {facts['batch_size']}, {counted(facts['steps_per_epoch'], 'step')} per epoch"
        print(f"dataset {index}: {sizes}, buckets {buckets or 'none'}")
    if found.defaults:
        print("defaults in use:")
    for name, default in found.defaults.items():
        print(f"  {name} {default.value}: {default}")
    for line in memory_lines(found):
        print(line)
    for index, token in enumerate(found.tokens):
        own = [r for r in found.records if r.concept == index]
        example = f", for example {excerpt(example_caption(own[0], moment(found, index, 0)))}" if own else ""
        print(f"`{token}`: {counted(len(own), 'image') if own else 'no images'}{example}")
    errors = sum(p.severity == "error" for p in found.problems)
    print(f"{errors} error{'s' * (errors > 1)}: training would not start" if errors else "ready to train")


def memory_lines(found: Preflight) -> list[str]:
    """Return what a step is estimated to need on a GPU, a line for each precision of the weights.

    Each column adds something to the one before that saves memory.
    """
    from neonym.cli.facts import memory_facts

    table = memory_facts(found)
    if not table:
        return []
    columns = [way for way in WAYS if way in next(iter(table.values()))]
    head = "GB of GPU memory (estimated)" + "".join(f"{WAYS[way]:>16}" for way in columns)
    return [head, *(f"{name:>28}" + "".join(f"{ways[way]:>16g}" for way in columns) for name, ways in table.items())]


def excerpt(text: str) -> str:
    """Return the beginning of a text in quotes."""
    return repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}...")


def print_ids(found: Preflight) -> None:
    """Print the caption and the token ids of each image for `--debug_dataset`, with the learned ids marked."""
    from torch import tensor

    from neonym.cli.facts import moment, unreadable_captions
    from neonym.preflight.possible_captions import example_caption

    unread = unreadable_captions(found)
    for record in found.records:
        caption = example_caption(record, moment(found, record.concept, 0))
        print(f"\n{record.path}\n{'reg ' if record.is_reg else ''}caption: {caption}")
        for name, tokenizer in found.tokenizers.items() if str(record.path) not in unread else ():
            encoded = tokenizer(caption, found.run.model.tokenize_as == "comfyui")
            flat = [i for row in encoded.ids for i in row]
            marks = ", ".join(f"{p} ({flat[p]})" for p in encoded.learned) or "none: the word is missing"
            print(f"input ids: {tensor(encoded.ids)}")
            print(f"learned ids of {name} at positions: {marks}")
