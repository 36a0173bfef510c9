"""Settings from a command line and its `--config_file`, each with its origin."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from neonym.config.file_kinds import misplaced
from neonym.config.flags import flag_fields, flags_in, repeated_flags
from neonym.config.flat import Sink, Values, coerced, flatten, key_problems, replace_compat, validated
from neonym.config.resolve import read_table
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of, group
from neonym.config.sdscripts import SDSCRIPTS, CompatSettings
from neonym.config.values import as_written
from neonym.errors import ConfigError, Problem
from neonym.io.atomic import atomic_write

SECRETS = ("huggingface_token", "wandb_api_key")


class RunFlags(RunConfig):
    """The settings of a run, and the flags that every command with these settings takes beside them."""

    config_file: str | None = Field(
        None, description="A TOML file with flags. Flags on the command line take precedence."
    )
    output_config: bool = Field(
        False, description="Write the given flags to the file that --config_file names, and stop."
    )
    debug_dataset: bool = Field(
        False, description="Print the final caption and the token ids of every image, and stop."
    )
    compat: CompatSettings = group(CompatSettings)  # pyright: ignore[reportInvalidTypeForm]


@dataclass
class Given(Sink):
    """The settings as the user gave them. A setting that is not among the `origins` has its default."""

    run: RunConfig = field(default_factory=RunConfig)
    debug_dataset: bool = False  # requested on the command line or in the file


def read_run(flags: RunFlags, argv: list[str], known: Sequence[Problem] = ()) -> Given:
    """Return the settings of a run, from its parsed `flags` and its config file. `argv` tells which flags were given.

    Problems are collected after those that are `known`. Wrong values are left out.
    """
    named = flags_in(argv, type(flags))
    sections = {name: section for section, name, _ in fields_of(type(flags))}
    line = {name: getattr(getattr(flags, sections[name]), name) for name in named if name in sections}
    origins = dict.fromkeys(line, "command line")
    given = Given(origins, [*known, *repeated_flags(argv)], debug_dataset=flags.debug_dataset)
    if flags.config_file is not None and not flags.output_config:
        for name, value in read_config_file(config_path(flags.config_file), flags, sections, given).items():
            if name not in line:
                line[name] = value
                given.origins[name] = str(config_path(flags.config_file))
    line = replace_compat(line, SDSCRIPTS, given)
    given.run = validated(RunConfig, line, given)
    return given


def config_path(name: str) -> Path:
    """Return the path of a config file. The ending .toml may be left out, as in sd-scripts."""
    path = Path(name)
    return path if name.endswith(".toml") or path.exists() else Path(f"{name}.toml")


def read_config_file(path: Path, flags: RunFlags, sections: Mapping[str, str], given: Given) -> Values:
    """Return the settings in a config file. Each mistake in it becomes a problem."""
    try:
        if wrong := misplaced(path, "config_file"):
            raise ConfigError([wrong])
        table = read_table(path)
        if not isinstance(table, dict):
            raise ConfigError([Problem("error", "must be a table", str(path), "Write flags with their values")])
        table = flatten(table)
    except ConfigError as error:
        given.problems += error.problems
        return {}
    take_command_keys(table, str(path), given)
    given.problems += key_problems(table, sections, str(path))
    known = {name: value for name, value in table.items() if name in sections}
    return coerced(known, flag_fields(type(flags)), str(path), given)


def take_command_keys(table: Values, where: str, given: Given) -> None:
    """Remove the keys that are not settings from a config file. Only `debug_dataset` has an effect in a file."""
    requested = table.pop("debug_dataset", False)
    if isinstance(requested, bool):
        given.debug_dataset |= requested
    else:
        given.problems.append(Problem("error", f"`{requested}` is neither true nor false", f"{where}, `debug_dataset`"))
    for name in ("config_file", "output_config"):
        if table.pop(name, False):
            given.problems.append(Problem("warning", "has an effect only on the command line", f"{where}, `{name}`"))


def as_toml(run: RunConfig) -> str:
    """Return the text of a `--config_file` with every setting that differs from its default.

    Keys and tokens of online services are left out.
    """
    lines = []
    for section, name, setting in fields_of(RunConfig):
        value = getattr(getattr(run, section), name)
        if value != setting.default and name not in SECRETS:
            lines.append(f"{name} = {json.dumps(as_written(value), ensure_ascii=False)}\n")
    return "".join(lines)


def write_config(run: RunConfig, path: Path) -> Path:
    """Write a `--config_file` with the settings of a run (see `as_toml`), and return its path.

    Raises ConfigError if the file exists or cannot be written.
    """
    path = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
    try:
        if path.exists():
            raise ConfigError([Problem("error", "already exists", str(path), "Choose another --config_file")])
        with atomic_write(path) as part:
            part.write_text(as_toml(run), encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("error", f"cannot be written ({error.strerror})", str(path))]) from error
    return path
