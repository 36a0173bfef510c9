"""From a command line and a `--config_file` to settings, each with its origin."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from neonym.config.file_kinds import misplaced
from neonym.config.flags import flag_fields, flags_in, repeated
from neonym.config.flat import Sink, Values, flatten, key_problems, replace_compat, typed, validated
from neonym.config.resolve import read_table
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of, group
from neonym.config.sdscripts import SDSCRIPTS, CompatSettings
from neonym.config.values import as_written
from neonym.errors import ConfigError, Problem
from neonym.io.atomic import atomic_write

SECRETS = ("huggingface_token", "wandb_api_key")


class RunFlags(RunConfig):
    """The settings of a run, and what every command that takes them understands beside them."""

    config_file: str | None = Field(None, description="TOML file with flags; the command line wins over it.")
    output_config: bool = Field(False, description="Write the flags that were given to --config_file, and stop.")
    debug_dataset: bool = Field(False, description="Print every image's final caption and token ids, and stop.")
    compat: CompatSettings = group(CompatSettings)  # pyright: ignore[reportInvalidTypeForm]


@dataclass
class Given(Sink):
    """Settings as they were given. A setting that is not among the `origins` has its default."""

    run: RunConfig = field(default_factory=RunConfig)
    debug_dataset: bool = False  # asked for, on the command line or in the file


def read_run(flags: RunFlags, argv: list[str], known: Sequence[Problem] = ()) -> Given:
    """Return the run's settings from parsed `flags`, of which `argv` names those that were given, and the config file.

    What is wrong goes to the problems, after those that are `known`. Wrong values are left out.
    """
    named = flags_in(argv, type(flags))
    sections = {name: section for section, name, _ in fields_of(type(flags))}
    line = {name: getattr(getattr(flags, sections[name]), name) for name in named if name in sections}
    origins = dict.fromkeys(line, "command line")
    given = Given(origins, [*known, *repeated(argv)], debug_dataset=flags.debug_dataset)
    if flags.config_file is not None and not flags.output_config:
        for name, value in known_keys(config_path(flags.config_file), flags, sections, given).items():
            if name not in line:
                line[name] = value
                given.origins[name] = str(config_path(flags.config_file))
    line = replace_compat(line, SDSCRIPTS, given)
    given.run = validated(RunConfig, line, given)
    return given


def config_path(name: str) -> Path:
    """Return the config file of this name. Its ending may be left out, as in sd-scripts."""
    path = Path(name)
    return path if name.endswith(".toml") or path.exists() else Path(f"{name}.toml")


def known_keys(path: Path, flags: RunFlags, sections: Mapping[str, str], given: Given) -> Values:
    """Return the settings in a config file. Everything that is wrong with it becomes a problem."""
    try:
        if wrong := misplaced(path, "config_file"):
            raise ConfigError([wrong])
        table = flatten(read_table(path))
    except ConfigError as error:
        given.problems += error.problems
        return {}
    take_own(table, str(path), given)
    given.problems += key_problems(table, sections, str(path))
    known = {name: value for name, value in table.items() if name in sections}
    return typed(known, flag_fields(type(flags)), str(path), given)


def take_own(table: Values, where: str, given: Given) -> None:
    """Take the keys out of a config file that are not settings: only `debug_dataset` has an effect there."""
    wish = table.pop("debug_dataset", False)
    if isinstance(wish, bool):
        given.debug_dataset |= wish
    else:
        given.problems.append(Problem("error", f"`{wish}` is neither true nor false", f"{where}, `debug_dataset`"))
    for name in ("config_file", "output_config"):
        if table.pop(name, False):
            given.problems.append(Problem("warning", "means something on the command line only", f"{where}, `{name}`"))


def write_config(run: RunConfig, path: Path) -> Path:
    """Write every setting that is not its default, as a `--config_file`. Raises ConfigError if the file exists."""
    path = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
    lines = []
    for section, name, setting in fields_of(RunConfig):
        value = getattr(getattr(run, section), name)
        if value != setting.default and name not in SECRETS:
            lines.append(f"{name} = {json.dumps(as_written(value), ensure_ascii=False)}")
    try:
        if path.exists():
            raise ConfigError([Problem("error", "is there already", str(path), "Name another --config_file")])
        with atomic_write(path) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("error", f"cannot be written ({error.strerror})", str(path))]) from error
    return path
