"""Resolves the values of a dataset table: a subset's own, then the dataset's, `[general]`, the flags, the default.

All problems of a file are found in one pass, each with its place and the most similar known name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from neonym.config.dataset import (
    DATASET_KEYS,
    KINDS,
    NEEDED_KEYS,
    OWN_KEYS,
    ConceptSpec,
    DatasetConfig,
    DatasetSpec,
    DatasetValues,
    FolderValues,
    Style,
    SubsetSpec,
    SubsetValues,
)
from neonym.config.other_trainers import OTHER_SUBSET_KEYS, meaning_of
from neonym.config.own_settings import OWN_SETTINGS, own_settings
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.errors import ConfigError, Problem, nearest
from neonym.io.json import read_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Table = dict[str, Any]
Origins = dict[tuple[int, int | None, str], str]  # (dataset, subset or None, key) -> the level of its value
FLAGS = {name for _, name, _ in fields_of(RunConfig)}
FLAG_NAMES = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}  # key -> flag, where they differ
BACKSLASH = "In double quotes, a backslash starts an escape sequence: write paths with / or in 'single quotes'"
LEVELS = ("subset", "dataset", "general", "command line")
GENERAL_KEYS = (*DatasetValues.model_fields, *SubsetValues.model_fields, *FolderValues.model_fields)


@dataclass
class Resolved:
    """A dataset table with every value resolved. `config` is None if there is an error among the `problems`."""

    config: DatasetConfig | None = None
    concepts: tuple[ConceptSpec | None, ...] = ()  # those of the table, valid or not; None: its word cannot be read
    subset_concepts: dict[str, Any] = field(default_factory=dict)  # place of a subset -> the concept that it names
    origins: Origins = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def error(self, what: str, where: str, fix: str = "") -> None:
        """Add an error to the problems."""
        self.problems.append(Problem("error", what, where, fix))

    def add(self, more: Sequence[Problem]) -> None:
        """Add `more` problems, except those of flags that are reported already."""
        reported = {p.where for p in self.problems}
        self.problems += [p for p in more if not p.where.startswith("--") or p.where not in reported]

    def failed(self) -> bool:
        """Return whether there is an error among the problems."""
        return any(p.severity == "error" for p in self.problems)


def read_table(path: Path, fix: str = "Check the path") -> Any:
    """Return the content of a .toml or .json file, unchecked.

    Raises ConfigError with the parser's message, or with `fix` if the file cannot be opened.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([Problem("error", f"cannot be read ({error.strerror})", str(path), fix)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("error", "is not UTF-8 text", str(path), "Save it as UTF-8")]) from error
    try:
        table, twice = read_json(text) if path.suffix.lower() == ".json" else (tomllib.loads(text), [])
    except (ValueError, RecursionError) as error:
        fix = BACKSLASH if "\\" in text else ""
        raise ConfigError([Problem("error", str(error), str(path), fix)]) from error
    if twice:
        raise ConfigError(
            [Problem("error", f"`{key}` is there twice", str(path), "Remove one of them") for key in twice]
        )
    return table


def resolve(table: Any, run: RunConfig, where: str) -> Resolved:
    """Return a dataset table, from a file or made from a folder, with every value resolved.

    The result also has the level that each value comes from, and all problems. `where` names the table in messages.
    """
    found = Resolved()
    table = checked_table(table, where, found)
    unknown_keys(table, ("general", "concepts", "datasets"), where, found)
    general = checked_table(table.get("general", {}), f"{where} [general]", found)
    unknown_keys(general, GENERAL_KEYS, f"{where} [general]", found)
    check_values(general, f"{where} [general]", found)
    concepts = [
        resolve_concept(checked_table(row, f"{where} concepts[{i}]", found), f"{where} concepts[{i}]", found)
        for i, row in enumerate(checked_list(table.get("concepts", []), f"{where} concepts", found))
    ]
    found.concepts = tuple(concepts or ([None] if table.get("concepts") else []))
    rows = checked_list(table.get("datasets", []), f"{where} datasets", found)
    if not rows and not found.failed():
        found.error("there is no [[datasets]]", where, "Add one, with a [[datasets.subsets]] in it")
    line = check_flags(DatasetValues, check_flags(SubsetSpec, flag_values(run), found), found)
    above, datasets = (general, line), []
    for i, row in enumerate(rows):
        place = f"{where} datasets[{i}]"
        table = checked_table(row, place, found)
        datasets.append(resolve_dataset(i, table, above, run.dataset.masked_loss, place, found))
    if not found.failed():
        found.config = DatasetConfig(concepts=tuple(filter(None, concepts)), datasets=tuple(datasets))
    return found


def resolve_concept(row: Table, where: str, found: Resolved) -> ConceptSpec | None:
    """Return one row of `[[concepts]]` without wrong values, so that its word can be checked; None if that is wrong."""
    own, wrong = own_settings(row, where)
    found.problems += wrong
    row = {key: value for key, value in row.items() if key not in OWN_SETTINGS}
    concept = build(ConceptSpec, row, where, found)
    if concept is not None:
        return concept.with_settings(own)
    wrong = wrong_values(ConceptSpec, row)
    rest = {key: value for key, value in row.items() if key not in wrong}
    return None if "token_string" in wrong else ConceptSpec.model_validate(rest)


def resolve_dataset(
    index: int, row: Table, above: tuple[Table, Table], masked_loss: bool, where: str, found: Resolved
) -> DatasetSpec | None:
    """Return one row of `[[datasets]]` with its inherited values; None if it cannot be used."""
    listed = checked_list(row.get("subsets", []), f"{where} subsets", found)
    tables = [checked_table(raw, f"{where} subsets[{i}]", found) for i, raw in enumerate(listed)]
    if not tables:
        found.error("has no subsets", where, "Add a [[datasets.subsets]] with an image_dir")
        return None
    found.subset_concepts |= {f"{where} subsets[{i}]": raw.get("concept") for i, raw in enumerate(tables)}
    style = style_of(tables, where, masked_loss, found)
    if style is None:
        return None
    allowed = (*DatasetValues.model_fields, *SubsetValues.model_fields, *DATASET_KEYS[style])
    unknown_keys(row, (*allowed, "subsets"), where, found)
    check_values({key: value for key, value in row.items() if key in allowed}, where, found)
    values = inherit(tuple(DatasetValues.model_fields), (row, *above), LEVELS[1:], (index, None), found)
    subsets = [
        resolve_subset((index, i), style, raw, (row, *above), f"{where} subsets[{i}]", found)
        for i, raw in enumerate(tables)
    ]
    return build(DatasetSpec, {**values, "subsets": [s for s in subsets if s]}, where, found)


def resolve_subset(
    at: tuple[int, int], style: Style, raw: Table, above: tuple[Table, ...], where: str, found: Resolved
) -> SubsetSpec | None:
    """Return one row of `[[datasets.subsets]]` with its inherited values; None if it cannot be used."""
    own = OWN_KEYS[style]
    unknown_keys(raw, (*SubsetValues.model_fields, *own), where, found, elsewhere=tuple(DatasetValues.model_fields))
    check_values({key: value for key, value in raw.items() if key in SubsetSpec.model_fields}, where, found)
    for key in NEEDED_KEYS[style]:
        if raw.get(key) is None:
            found.error(f"`{key}` is missing", where, f"Add {key} = '...'")
    inherited = (*SubsetValues.model_fields, *(key for key in own if key in FolderValues.model_fields), "alpha_mask")
    only_here = tuple(key for key in own if key not in inherited)
    allowed_above = tuple({k: v for k, v in table.items() if k in inherited} for table in above)
    values = inherit((*inherited, *only_here), (raw, *allowed_above), LEVELS, at, found)
    return build(SubsetSpec, {k: v for k, v in values.items() if k in SubsetSpec.model_fields}, where, found)


def inherit(
    keys: tuple[str, ...],
    tables: tuple[Table, ...],
    levels: tuple[str, ...],
    at: tuple[int, int | None],
    found: Resolved,
) -> Table:
    """Return the value of each key from the first of the tables that sets it, and record its level in `found`.

    A value that is itself a table is never merged with others.
    """
    values = {}
    for key in keys:
        for table, level in zip(tables, levels, strict=True):
            if table.get(key) is not None:
                values[key] = table[key]
                found.origins[at[0], at[1], key] = level
                break
    return values


def style_of(tables: list[Table], where: str, masked_loss: bool, found: Resolved) -> Style | None:
    """Return the kind of a dataset in sd-scripts: folders, metadata files, or folders with masks.

    A dataset of mixed kinds is an error, for which None is returned.
    """
    masked = [table.get("conditioning_data_dir") is not None for table in tables]
    listed = [table.get("metadata_file") is not None for table in tables]
    if any(masked) and not all(masked):
        found.error("has masks (conditioning_data_dir) in only some subsets", where, "Split it into two [[datasets]]")
    elif any(listed) and not all(listed):
        found.error("mixes folders and metadata files", where, "Split it into two [[datasets]]")
    elif any(masked) and not masked_loss:
        found.error("has masks (conditioning_data_dir), which need --masked_loss", where, "Add --masked_loss")
    else:
        return "controlnet" if all(masked) else "finetuning" if all(listed) else "dreambooth"
    return None


def flag_values(run: RunConfig) -> Table:
    """Return the values of the command line under their names in a dataset file."""
    values = run.dataset.model_dump() | run.eval.model_dump()
    values |= {key: values[flag] for key, flag in FLAG_NAMES.items()}
    if run.dataset.resolution is not None:
        values["resolution"] = run.dataset.resolution.size
    if zoom := run.dataset.face_crop_aug_range:
        values["face_crop_aug_range"] = (zoom.low, zoom.high)
    return {
        name: value for name, value in values.items() if name in (*GENERAL_KEYS, "alpha_mask") and value is not None
    }


def check_values(table: Table, where: str, found: Resolved) -> None:
    """Check each value of a table on its own, so that a mistake is reported where it is written."""
    for model in (DatasetValues, SubsetSpec):
        build(model, {k: v for k, v in table.items() if k in model.model_fields}, where, found)


def build(model: type[BaseModel], values: Table, where: str, found: Resolved) -> Any:
    """Return a `model` made of `values`, or None if one is wrong. Each mistake is reported once, with its key."""
    wrong = wrong_values(model, values)
    for key, item in wrong.items():
        if item["type"] == "extra_forbidden":
            own = OWN_SETTINGS if model is ConceptSpec else ()
            unknown_keys({key: None}, (*model.model_fields, *own), where, found)
            continue
        problem = Problem("error", f"`{key}`: {mistake(item, values)}", where)
        reported = any(p.what == problem.what and where.startswith(p.where.removesuffix("[general]").strip())
                   for p in found.problems)  # fmt: skip
        if not reported:
            found.problems.append(problem)
    return None if wrong else model.model_validate(values)


def check_flags(model: type[BaseModel], values: Table, found: Resolved) -> Table:
    """Return the values of the command line that `model` accepts. The others are reported under their flags."""
    wrong = wrong_values(model, {k: v for k, v in values.items() if k in model.model_fields})
    for key, item in wrong.items():
        found.error(mistake(item, values), f"--{FLAG_NAMES.get(key, key)}")
    return {key: value for key, value in values.items() if key not in wrong}


def wrong_values(model: type[BaseModel], values: Table) -> dict[str, Mapping[str, Any]]:
    """Return pydantic's error for each key that is unknown, missing or has a wrong value."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        return {str(item["loc"][0]): item for item in error.errors()}
    return {}


def mistake(item: Mapping[str, Any], values: Table) -> str:
    """Return what is wrong with one value, from pydantic's error."""
    message = item["msg"].removeprefix("Value error, ")
    return message if item["type"] == "missing" else f"{message} (found {values.get(str(item['loc'][0]))!r})"


def unknown_keys(
    values: Table, known: tuple[str, ...], where: str, found: Resolved, elsewhere: tuple[str, ...] = ()
) -> None:
    """Report each key that is not `known`. Keys in `elsewhere` belong to the dataset above."""
    for key in values:
        if key in known:
            continue
        if key in elsewhere:
            found.error(f"`{key}` is a setting of the dataset, not of a subset", where, "Move it to [[datasets]]")
            continue
        fix = name_here(key, known) or home_of(key) or nearest(key, known) or f"Allowed here: {', '.join(known)}"
        found.error(f"`{key}` is not known here", where, fix)


def name_here(key: str, known: tuple[str, ...]) -> str:
    """Return what a key of another program's datasets is called in Neonym, or "" if that is unknown."""
    here = OTHER_SUBSET_KEYS.get(key)
    return f"In Neonym it is `{here}`" if here in known else "" if key in FLAGS else meaning_of(key, FLAGS)


def home_of(key: str) -> str:
    """Return where a misplaced key belongs, or "" if it is not known at all."""
    styles = [KINDS[style] for style, own in OWN_KEYS.items() if key in own]
    if key in DatasetValues.model_fields:
        return "It belongs to [[datasets]]"
    if key in SubsetValues.model_fields or len(styles) == len(OWN_KEYS):
        return "It belongs to [[datasets.subsets]]"
    if styles:
        return f"It belongs to [[datasets.subsets]] of {' and '.join(styles)}"
    return f"It is a flag: --{key}" if key in FLAGS else ""


def checked_table(value: Any, where: str, found: Resolved) -> Table:
    """Return a value that is a table. For any other value, report it and return an empty table."""
    if isinstance(value, dict):
        return value
    found.error("must be a table", where)
    return {}


def checked_list(value: Any, where: str, found: Resolved) -> list[Any]:
    """Return a value that is a list. For any other value, report it and return an empty list."""
    if isinstance(value, list):
        return value
    found.error("must be a list: write it with double brackets, [[...]]", where)
    return []
