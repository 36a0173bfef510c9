"""From a command line and a `--config_file` to settings, each with its origin."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from neonym.config.file_kinds import misplaced
from neonym.config.flags import expected, flag_fields, flags_in, is_switch, repeated
from neonym.config.other_trainers import meaning_of
from neonym.config.resolve import read_table
from neonym.config.run import RunConfig, fields_of, group
from neonym.config.sdscripts import GUI, OTHER_TRAINERS, SDSCRIPTS, Compat, CompatSettings
from neonym.config.values import UnreadableValue, as_meant, as_written
from neonym.errors import ConfigError, Problem, nearest
from neonym.io.atomic import whole_file

Values = dict[str, Any]
SECRETS = ("huggingface_token", "wandb_api_key")


class RunFlags(RunConfig):
    """What every command that takes a run's settings understands beside them."""

    config_file: str | None = Field(None, description="TOML file with flags; the command line wins over it.")
    output_config: bool = Field(False, description="Write the flags that were given to --config_file, and stop.")
    debug_dataset: bool = Field(False, description="Print every picture's final caption and token ids, and stop.")
    compat: CompatSettings = group(CompatSettings)  # pyright: ignore[reportInvalidTypeForm]


@dataclass
class Given:
    """Settings as they were given. A setting that is not among the `origins` has its default."""

    run: RunConfig
    origins: dict[str, str] = field(default_factory=dict)  # flag -> "command line" | the file's name
    problems: list[Problem] = field(default_factory=list)  # notes and warnings
    debug_dataset: bool = False  # wished for, on the command line or in the file


def read_run(flags: RunFlags, argv: list[str], known: Sequence[Problem] = ()) -> Given:
    """The run's settings from parsed `flags`, of which `argv` names those that were given, and the config file.

    What is wrong goes to the problems, after those that are `known`; a value that is wrong is left out.
    """
    named = flags_in(argv, type(flags))
    sections = {name: section for section, name, _ in fields_of(type(flags))}
    line = {name: getattr(getattr(flags, sections[name]), name) for name in named if name in sections}
    origins = dict.fromkeys(line, "command line")
    given = Given(RunConfig(), origins, [*known, *repeated(argv)], flags.debug_dataset)
    if flags.config_file is not None and not flags.output_config:
        for name, value in known_keys(config_path(flags.config_file), flags, sections, given).items():
            if name not in line:
                line[name] = value
                given.origins[name] = str(config_path(flags.config_file))
    line = replace_compat(line, SDSCRIPTS, given)
    given.run = validated(line, given)
    return given


def config_path(name: str) -> Path:
    """The config file of this name; its ending may be left out, as in sd-scripts."""
    path = Path(name)
    return path if name.endswith(".toml") or path.exists() else Path(f"{name}.toml")


def known_keys(path: Path, flags: RunFlags, sections: Mapping[str, str], given: Given) -> Values:
    """The settings in a config file; everything that is wrong with it becomes a problem."""
    try:
        if wrong := misplaced(path, "config_file"):
            raise ConfigError([wrong])
        table = flatten(read_table(path))
    except ConfigError as error:
        given.problems += error.problems
        return {}
    take_own(table, str(path), given)
    given.problems += key_problems(table, sections, str(path))
    fields = flag_fields(type(flags))
    known = {name: as_meant(value, fields[name].annotation) for name, value in table.items() if name in sections}
    for name in [name for name, value in known.items() if isinstance(value, bool) and not is_switch(fields[name])]:
        what = f"`{str(known.pop(name)).lower()}` is not {expected(fields[name].annotation)}"
        given.problems.append(Problem("error", what, f"{path}, `{name}`"))
    return known


def take_own(table: Values, where: str, given: Given) -> None:
    """What is no setting, but wished of the program: to show the data set; files to read and write are the line's to name."""
    wish = table.pop("debug_dataset", False)
    if isinstance(wish, bool):
        given.debug_dataset |= wish
    else:
        given.problems.append(Problem("error", f"`{wish}` is neither true nor false", f"{where}, `debug_dataset`"))
    for name in ("config_file", "output_config"):
        if table.pop(name, False):
            given.problems.append(Problem("warning", "means something on the command line only", f"{where}, `{name}`"))


def flatten(table: Mapping[str, Any]) -> Values:
    """Sections are decoration: their keys stand side by side; a later one wins."""
    flat: Values = {}
    for key, value in table.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def key_problems(table: Values, known: Mapping[str, str], where: str) -> Iterator[Problem]:
    """Keys that nothing knows; those of sd-scripts' other trainers, and of its GUI, get one warning together."""
    for others, whose in ((OTHER_TRAINERS, "settings of sd-scripts' other trainers"), (GUI, "notes of kohya_ss's GUI")):
        found = sorted(key for key in table if key not in known and key in others)
        if found:
            yield Problem("warning", f"{', '.join(found)}: {whose}, which mean nothing here", where)
    for key in table:
        if key not in known and key not in OTHER_TRAINERS | GUI:
            yield Problem("error", f"`{key}` is not known", where, meaning_of(key, known) or nearest(key, tuple(known)))


def replace_compat(values: Values, table: Mapping[str, Compat], given: Given) -> Values:
    """sd-scripts' flags that are not settings here: renamed, passed over, refused, which goes to the problems."""
    kept = dict(values)
    for name, compat in table.items():
        value = kept.pop(name, None)
        flag = f"--{name}"
        if value == "" and compat.kind == "renamed":
            given.problems.append(Problem("error", "is empty", flag, "Give it a value, or leave it out"))
        if value in (None, False, (), ""):
            continue
        if compat.kind == "refused":
            given.problems.append(Problem("error", compat.reason, flag))
        elif compat.form == "count" and not (isinstance(value, int) and value >= 0):
            given.problems.append(Problem("error", f"`{value}` is not a whole number from 0 up", flag))
        elif compat.kind == "no effect":
            given.problems.append(Problem("note", f"has no effect here: {compat.reason}", flag))
        else:
            assert compat.setting is not None
            wanted = value if compat.value is None else compat.value
            other = kept.get(compat.setting)
            if other and other != wanted:
                given.problems.append(Problem("error", f"goes against --{compat.setting}={other}", flag))
            elif compat.told:
                given.problems.append(Problem("note", compat.reason, flag))
            kept[compat.setting] = wanted
            given.origins[compat.setting] = given.origins[name]
    return kept


def as_tree(values: Values) -> dict[str, Values]:
    """Flat settings under their sections."""
    tree: dict[str, Values] = {}
    for section, name, _ in fields_of(RunConfig):
        if name in values:
            tree.setdefault(section, {})[name] = values[name]
    return tree


def validated(values: Values, given: Given) -> RunConfig:
    """The settings without the values of a wrong kind, which become problems with the place where they stand."""
    try:
        return RunConfig.model_validate(as_tree(values))
    except ValidationError as error:
        wrong = {str(item["loc"][1]): item for item in error.errors()}
    for name, item in wrong.items():
        if isinstance(error := item.get("ctx", {}).get("error"), UnreadableValue):
            given.problems.append(Problem("error", str(error), f"--{name}", error.fix))
            continue
        where = f"{given.origins.get(name)}, `{name}`"
        what = item["msg"].replace("a valid tuple", "a list")
        given.problems.append(Problem("error", f"{what} (found {item['input']!r})", where))
    return RunConfig.model_validate(as_tree({n: value for n, value in values.items() if n not in wrong}))


def write_config(run: RunConfig, path: Path) -> Path:
    """Every setting that is not its default, as a `--config_file`. Raises ConfigError if there is such a file."""
    path = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
    lines = []
    for section, name, setting in fields_of(RunConfig):
        value = getattr(getattr(run, section), name)
        if value != setting.default and name not in SECRETS:
            lines.append(f"{name} = {json.dumps(as_written(value), ensure_ascii=False)}")
    try:
        if path.exists():
            raise ConfigError([Problem("error", "is there already", str(path), "Name another --config_file")])
        with whole_file(path) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("error", f"cannot be written ({error.strerror})", str(path))]) from error
    return path
