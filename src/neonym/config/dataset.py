"""The data-set file: `[general]`, `[[concepts]]`, `[[datasets]]`, `[[datasets.subsets]]`.

A value is looked up in the subset, then the data set, then `[general]`, then the command line. All problems of a
file are found in one reading.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from neonym.config.run import DatasetSettings, Section
from neonym.config.values import parse_resolution
from neonym.errors import ConfigError, Problem, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConceptSpec(Section):
    """One new word. Several `[[concepts]]` make several words in one run."""

    token_string: str
    init_word: str | None = None
    num_vectors_per_token: int = Field(1, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    weights: str | None = None


class SubsetValues(Section):
    """What may stand in `[general]`, in a data set and in a subset."""

    num_repeats: int = 1
    caption_extension: str | None = None
    class_tokens: str | None = None
    caption_separator: str = Field(",", min_length=1)
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    shuffle_caption: bool = False
    keep_tokens: int = Field(0, ge=0)
    flip_aug: bool = False


class DatasetValues(Section):
    """What may stand in `[general]` and in a data set."""

    batch_size: int = Field(4, ge=1)
    resolution: tuple[int, int] | None = None
    enable_bucket: bool = False
    min_bucket_reso: int = Field(256, ge=8)
    max_bucket_reso: int = Field(1024, ge=8)
    bucket_reso_steps: int = Field(64, ge=8, multiple_of=8)
    bucket_no_upscale: bool = False

    @field_validator("resolution", mode="before")
    @classmethod
    def _one_number_or_two(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = parse_resolution(value) or value
        if isinstance(value, int) and not isinstance(value, bool):
            value = (value, value)
        pair = value if isinstance(value, (list, tuple)) else ()
        if value is not None and not (len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)):
            raise ValueError("a size is one positive whole number, or two: [width, height]")
        return value


class SubsetSpec(SubsetValues):
    """One folder of pictures."""

    image_dir: str
    is_reg: bool = False
    concept: str | None = Field(
        None, description="Token of the concept that the folder shows; needed if there are several."
    )


class DatasetSpec(DatasetValues):
    """Subsets that share a batch size, a resolution and buckets."""

    subsets: tuple[SubsetSpec, ...]


class DatasetConfig(Section):
    """A data-set file with every value resolved."""

    concepts: tuple[ConceptSpec, ...]
    datasets: tuple[DatasetSpec, ...]


def read_table(path: Path) -> Any:
    """The raw table of a .toml or .json file. Raises ConfigError with the parser's place."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        fix = "Check the path, or give a folder of pictures with --train_data_dir"
        raise ConfigError([Problem("error", f"cannot be read ({error.strerror})", str(path), fix)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("error", "is not UTF-8 text", str(path), "Save it as UTF-8")]) from error
    try:
        return json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except ValueError as error:
        fix = "In TOML a backslash starts an escape: write paths with / or in 'single quotes'" if "\\" in text else ""
        raise ConfigError([Problem("error", str(error), str(path), fix)]) from error


def resolve(table: Any, flags: DatasetSettings, where: str) -> tuple[DatasetConfig | None, list[Problem]]:
    """A file's table, or the one made from a folder -> all values, and everything that is wrong."""
    problems: list[Problem] = []
    table = as_table(table, where, problems)
    unknown_keys(table, ("general", "concepts", "datasets"), where, problems)
    general = as_table(table.get("general", {}), f"{where} [general]", problems)
    unknown_keys(general, (*DatasetValues.model_fields, *SubsetValues.model_fields), f"{where} [general]", problems)
    concepts = [
        build(ConceptSpec, as_table(row, f"{where} concepts[{i}]", problems), f"{where} concepts[{i}]", problems)
        for i, row in enumerate(as_list(table.get("concepts", []), f"{where} concepts", problems))
    ]
    rows = as_list(table.get("datasets", []), f"{where} datasets", problems)
    if not rows:
        problems.append(Problem("error", "there is no [[datasets]]", where, "Add one with a [[datasets.subsets]]"))
    datasets = [
        resolve_dataset(
            as_table(row, f"{where} datasets[{i}]", problems), general, flags, f"{where} datasets[{i}]", problems
        )
        for i, row in enumerate(rows)
    ]
    if any(p.severity == "error" for p in problems):
        return None, problems
    return DatasetConfig(concepts=tuple(filter(None, concepts)), datasets=tuple(filter(None, datasets))), problems


def resolve_dataset(
    row: dict[str, Any], general: dict[str, Any], flags: DatasetSettings, where: str, problems: list[Problem]
) -> DatasetSpec | None:
    """One `[[datasets]]` row with its fallbacks."""
    unknown_keys(row, (*DatasetValues.model_fields, *SubsetValues.model_fields, "subsets"), where, problems)
    above = {**flag_values(flags), **general}
    own = {**pick(above, DatasetValues), **pick(row, DatasetValues)}
    subsets = []
    listed = as_list(row.get("subsets", []), f"{where} subsets", problems)
    if not listed:
        problems.append(Problem("error", "has no subsets", where, "Add [[datasets.subsets]] with an image_dir"))
    for i, raw in enumerate(listed):
        place = f"{where} subsets[{i}]"
        values = {**pick(above, SubsetValues), **pick(row, SubsetValues), **as_table(raw, place, problems)}
        subsets.append(build(SubsetSpec, values, place, problems))
    return build(DatasetSpec, {**own, "subsets": [s.model_dump() for s in subsets if s]}, where, problems)


def flag_values(flags: DatasetSettings) -> dict[str, Any]:
    """The command line under the data-set file's names."""
    values = flags.model_dump()
    values |= {"batch_size": values["train_batch_size"], "num_repeats": values["dataset_repeats"]}
    known = (*DatasetValues.model_fields, *SubsetValues.model_fields)
    return {name: value for name, value in values.items() if name in known and value is not None}


def pick(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in model.model_fields}


def build(model: type[BaseModel], values: dict[str, Any], where: str, problems: list[Problem]) -> Any:
    """Validate `values`; what is wrong goes to `problems`, each with its key and the nearest known name."""
    try:
        return model.model_validate(values, strict=False)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                unknown_keys({key: None}, tuple(model.model_fields), where, problems)
            else:
                given = "" if item["type"] == "missing" else f" (found {item['input']!r})"
                problems.append(Problem("error", f"`{key}`: {item['msg']}{given}", where))
        return None


def unknown_keys(values: dict[str, Any], known: tuple[str, ...], where: str, problems: list[Problem]) -> None:
    """A problem for each key that is not `known`."""
    for key in values:
        if key not in known:
            fix = nearest(key, known) or f"Allowed here: {', '.join(known)}"
            problems.append(Problem("error", f"`{key}` is not known here", where, fix))


def as_table(value: Any, where: str, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    problems.append(Problem("error", "should be a table", where))
    return {}


def as_list(value: Any, where: str, problems: list[Problem]) -> list[Any]:
    if isinstance(value, list):
        return value
    problems.append(Problem("error", "should be a list: write it with double brackets, [[...]]", where))
    return []
