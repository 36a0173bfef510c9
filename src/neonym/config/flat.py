"""Settings under their flat names, from a command line, a config file or Python, with all their problems."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from neonym.config.flags import expected, flag_fields, is_switch
from neonym.config.other_trainers import meaning_of
from neonym.config.schema import fields_of
from neonym.config.sdscripts import GUI, OTHER_TRAINERS, Compat
from neonym.config.values import UnreadableValue, coerce
from neonym.config.wording import in_python
from neonym.errors import ConfigError, Problem, nearest

T = TypeVar("T", bound=BaseModel)
Values = dict[str, Any]


@dataclass
class Sink:
    """The origins and the problems of settings, collected while they are read."""

    origins: dict[str, str] = field(default_factory=dict)  # setting -> "command line" | the file's name
    problems: list[Problem] = field(default_factory=list)


def parse(
    model: type[T], settings: Mapping[str, Any], compat: type[BaseModel], table: Mapping[str, Compat]
) -> tuple[T, list[Problem]]:
    """Return a `model` made of flat settings, and the warnings and notes about them.

    `table` says what becomes of sd-scripts' names, which are the fields of `compat`.
    Raises ConfigError that lists every unknown name and every wrong value.
    """
    values = {name: as_in_file(value) for name, value in flatten(settings).items() if value is not None}
    fields = flag_fields(model) | compat.model_fields
    sink = Sink()
    sink.problems += key_problems(values, fields, "")
    values = coerced({name: value for name, value in values.items() if name in fields}, fields, "", sink)
    sink.origins = dict.fromkeys(values, "")
    made = validated(model, replace_compat(values, table, sink), sink)
    problems = [in_python(problem, fields) for problem in sink.problems]
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    return made, problems


def as_in_file(value: Any) -> Any:
    """Return a Python value as a config file would hold it, with paths as texts and tuples as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [as_in_file(item) for item in value] if isinstance(value, (list, tuple)) else value


def flatten(table: Mapping[str, Any]) -> Values:
    """Return the keys of all sections in one table, since section names have no meaning. The last equal key wins."""
    flat: Values = {}
    for key, value in table.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def key_problems(table: Values, known: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Yield an error for each unknown key, and one warning for all keys of sd-scripts' other trainers or of its GUI."""
    others = ((OTHER_TRAINERS, "settings of sd-scripts' other trainers"), (GUI, "keys of the kohya_ss GUI"))
    for names, whose in others:
        found = sorted(key for key in table if key not in known and key in names)
        if found:
            yield Problem("warning", f"{', '.join(found)}: {whose}, which have no effect here", where)
    for key in table:
        if key not in known and key not in OTHER_TRAINERS | GUI:
            yield Problem("error", f"`{key}` is not known", where, meaning_of(key, known) or nearest(key, tuple(known)))


def coerced(values: Values, fields: Mapping[str, FieldInfo], where: str, sink: Sink) -> Values:
    """Return the values in the types of their settings. True or false for a setting that is no switch is a problem."""
    known = {name: coerce(value, fields[name].annotation) for name, value in values.items()}
    for name in [name for name, value in known.items() if isinstance(value, bool) and not is_switch(fields[name])]:
        what = f"`{str(known.pop(name)).lower()}` is not {expected(fields[name].annotation)}"
        sink.problems.append(Problem("error", what, place(where, name)))
    return known


def place(origin: str, name: str) -> str:
    """Return where a setting is written: its name, after the file or command line that it was read from."""
    return f"{origin}, `{name}`" if origin else name


def replace_compat(values: Values, table: Mapping[str, Compat], sink: Sink) -> Values:
    """Return the values without sd-scripts' flags that are not settings here, each of which is handled by the table.

    A renamed flag sets its setting; one without effect gets a note; a refused one is an error.
    """
    kept = dict(values)
    for name, compat in table.items():
        value = kept.pop(name, None)
        flag = f"--{name}"
        if value == "" and compat.kind == "renamed":
            sink.problems.append(Problem("error", "is empty", flag, "Set it, or leave it out"))
        if value in (None, False, (), [], ""):
            continue
        if compat.kind == "refused":
            sink.problems.append(Problem("error", compat.reason, flag))
        elif compat.form == "count" and not (isinstance(value, int) and value >= 0):
            sink.problems.append(Problem("error", f"`{value}` is not a whole number from 0 up", flag))
        elif compat.kind == "no effect":
            sink.problems.append(Problem("note", f"has no effect here: {compat.reason}", flag))
        else:
            if compat.setting is None:
                raise ValueError(f"the flag --{name} is renamed to no setting in config/sdscripts.py")
            wanted = value if compat.value is None else compat.value
            other = kept.get(compat.setting)
            if other and other != wanted:
                sink.problems.append(Problem("error", f"contradicts --{compat.setting}={other}", flag))
            elif compat.is_reported:
                sink.problems.append(Problem("note", compat.reason, flag))
            kept[compat.setting] = wanted
            sink.origins[compat.setting] = sink.origins[name]
    return kept


def as_tree(model: type[BaseModel], values: Values) -> dict[str, Values]:
    """Return flat settings under the sections of `model`."""
    tree: dict[str, Values] = {}
    for section, name, _ in fields_of(model):
        if name in values:
            tree.setdefault(section, {})[name] = values[name]
    return tree


def validated(model: type[T], values: Values, sink: Sink) -> T:
    """Return the settings without the values that a setting cannot have, each of which becomes a problem."""
    try:
        return model.model_validate(as_tree(model, values))
    except ValidationError as error:
        wrong = {str(item["loc"][1]): item for item in error.errors()}
    for name, item in wrong.items():
        if isinstance(error := item.get("ctx", {}).get("error"), UnreadableValue):
            sink.problems.append(Problem("error", str(error), f"--{name}", error.fix))
            continue
        what = item["msg"].replace("a valid tuple", "a list")
        where = place(sink.origins[name], name)
        sink.problems.append(Problem("error", f"{what} (found {item['input']!r})", where))
    return model.model_validate(as_tree(model, {n: value for n, value in values.items() if n not in wrong}))
