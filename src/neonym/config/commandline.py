"""From a command line and a `--config_file` to settings, each with its origin."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from neonym.config.resolve import read_table
from neonym.config.run import RunConfig, fields_of
from neonym.config.sdscripts import OTHER_TRAINERS, SDSCRIPTS, Compat, CompatSettings
from neonym.errors import ConfigError, Problem, nearest
from neonym.files import whole_file

T = TypeVar("T", bound=BaseModel)
Values = dict[str, Any]
SECRETS = ("huggingface_token", "wandb_api_key")


class RunFlags(RunConfig):
    """What every command that takes a run's settings understands beside them."""

    config_file: str | None = Field(None, description="TOML file with flags; the command line wins over it.")
    output_config: bool = Field(False, description="Write the flags that were given to --config_file, and stop.")
    compat: CompatSettings = CompatSettings()  # pyright: ignore[reportInvalidTypeForm]


@dataclass
class Given:
    """Settings as they were given. A setting that is not among the `origins` has its default."""

    run: RunConfig
    origins: dict[str, str] = field(default_factory=dict)  # flag -> "command line" | the file's name
    problems: list[Problem] = field(default_factory=list)  # notes and warnings
    switches: set[str] = field(default_factory=set)  # switches of the command that are on in the config file


def parse_flags(model: type[T], argv: list[str], prog: str, description: str) -> T:
    """Read sd-scripts-style flags into a settings tree. A wrong flag ends the program with exit code 2."""
    import tyro

    options = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(model, args=argv, prog=prog, description=description, config=options, use_underscores=True)


def read_run(flags: RunFlags, argv: list[str]) -> Given:
    """The run's settings from parsed `flags`, of which `argv` names those that were given, and the config file.

    Raises ConfigError with everything that is wrong in the file.
    """
    named = flags_in(argv)
    sections = {name: section for section, name, _ in fields_of(type(flags))}
    line = {name: getattr(getattr(flags, sections[name]), name) for name in named if name in sections}
    given = Given(RunConfig(), dict.fromkeys(line, "command line"), repeated(argv))
    if flags.config_file is not None and not flags.output_config:
        path = Path(flags.config_file if flags.config_file.endswith(".toml") else f"{flags.config_file}.toml")
        table = flatten(read_table(path))
        own = {name for name in type(flags).model_fields if name not in RunConfig.model_fields} - {"compat"}
        given.switches = {name for name in own if table.pop(name, False)}
        check_keys(table, sections, str(path), given)
        for name, value in table.items():
            if name in sections and name not in line:
                line[name] = value
                given.origins[name] = str(path)
    line = replace_compat(line, SDSCRIPTS, given)
    given.run = validated(RunConfig, as_tree(line), given)
    return given


def flatten(table: Mapping[str, Any]) -> Values:
    """Sections are decoration: their keys stand side by side; a later one wins."""
    flat: Values = {}
    for key, value in table.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def check_keys(table: Values, known: Mapping[str, str], where: str, given: Given) -> None:
    """Raises ConfigError for keys that nothing knows; keys of sd-scripts' other trainers get one warning together."""
    others = sorted(key for key in table if key not in known and key in OTHER_TRAINERS)
    if others:
        what = f"{', '.join(others)}: settings of sd-scripts' other trainers, which mean nothing here"
        given.problems.append(Problem("warning", what, where))
    unknown = [key for key in table if key not in known and key not in OTHER_TRAINERS]
    if unknown:
        names = tuple(known)
        raise ConfigError([Problem("error", f"`{key}` is not known", where, nearest(key, names)) for key in unknown])


def repeated(argv: list[str]) -> list[Problem]:
    """A warning for each flag that a command line gives twice."""
    names = [a.partition("=")[0].replace("-", "_") for a in argv if a.startswith("--")]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    return [Problem("warning", "is there twice: only the last one counts", f"--{name[2:]}") for name in twice]


def flags_in(argv: list[str]) -> set[str]:
    """The names of the flags that a command line gives."""
    return {a.partition("=")[0].lstrip("-").replace("-", "_") for a in argv if a.startswith("--")}


def replace_compat(values: Values, table: Mapping[str, Compat], given: Given) -> Values:
    """sd-scripts' flags that are not settings here: renamed, passed over, refused, which goes to the problems."""
    kept = dict(values)
    for name, compat in table.items():
        value = kept.pop(name, None)
        if value in (None, False, (), "", "0", "0.0"):
            continue
        flag = f"--{name}"
        if compat.kind == "refused":
            given.problems.append(Problem("error", compat.reason, flag))
        elif compat.kind == "no effect":
            given.problems.append(Problem("note", f"has no effect here: {compat.reason}", flag))
        else:
            assert compat.setting is not None
            wanted = value if compat.value is None else compat.value
            if (kept.get(compat.setting) or wanted) != wanted:
                given.problems.append(Problem("error", f"goes against --{compat.setting}={kept[compat.setting]}", flag))
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


def validated(model: type[T], tree: dict[str, Values], given: Given) -> T:
    """Raises ConfigError with every value of a wrong kind, and where it stands."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = {}
        for item in error.errors():
            name = str(item["loc"][1])
            problems[name] = Problem(
                "error", f"{item['msg']} (found {item['input']!r})", f"{given.origins.get(name)}, `{name}`"
            )
        raise ConfigError(list(problems.values())) from error


def write_config(run: RunConfig, path: Path) -> Path:
    """Every setting that is not its default, as a `--config_file`. Raises ConfigError if there is such a file."""
    path = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
    lines = []
    for section, name, setting in fields_of(RunConfig):
        value = getattr(getattr(run, section), name)
        if value != setting.default and name not in SECRETS:
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    try:
        if path.exists():
            raise ConfigError([Problem("error", "is there already", str(path), "Name another --config_file")])
        with whole_file(path) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("error", f"cannot be written ({error.strerror})", str(path))]) from error
    return path
