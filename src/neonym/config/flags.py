"""The words of a command line: sd-scripts' spelling, abbreviations, and everything that is wrong with them at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from neonym.config.other_trainers import meaning_of
from neonym.config.schema import fields_of
from neonym.config.values import ParsedValue, UnreadableValue, as_written, leaves, parsed_kind
from neonym.errors import Problem, nearest

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry

T = TypeVar("T", bound=BaseModel)


@dataclass
class Line(Generic[T]):
    """What a command line says: its values, the words that they were read from, and what is wrong with the other words."""

    flags: T
    argv: list[str]
    problems: list[Problem]


def parse_flags(model: type[T], argv: list[str], prog: str, description: str) -> T:
    """Read sd-scripts-style flags into a settings tree. A wrong flag ends the program with exit code 2."""
    import tyro

    options = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    words = spelled_out(argv, flag_fields(model))
    return tyro.cli(
        model, args=words, prog=prog, description=description, config=options, use_underscores=True,
        registry=parsed_values(),
    )  # fmt: skip


def parsed_values() -> ConstructorRegistry:
    """Return the rules by which the words of a flag become a parsed value."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[ParsedValue | None] | None:
        kind = parsed_kind(info.type)  # of `Rate | None`, too
        if kind is None:
            return None

        def parse(words: list[str]) -> ParsedValue | None:
            if words == ["None"] and type(None) in leaves(info.type):
                return None
            return kind.parse(words if kind.takes_several else words[0])

        return PrimitiveConstructorSpec(
            nargs="*" if kind.takes_several else 1,
            metavar=f"[{kind.metavar} [{kind.metavar} ...]]" if kind.takes_several else kind.metavar,
            instance_from_str=parse,
            is_instance=lambda value: value is None or isinstance(value, kind),
            str_from_instance=lambda value: list(as_written(value)) if kind.takes_several else [str(value)],
        )

    return registry


def read_line(model: type[T], argv: list[str], prog: str, description: str) -> Line[T]:
    """The same for a command without positional arguments, but every wrong flag becomes a problem."""
    fields = flag_fields(model)
    words = spelled_out(argv, fields)
    if {"-h", "--help"} & set(words):
        return Line(parse_flags(model, words, prog, description), words, [])
    said = StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            return Line(parse_flags(model, words, prog, description), words, [])
    except SystemExit:
        right, problems = [], []
        for group in groups(words):
            problem = group_problem(group, fields)
            right += [] if problem else group
            problems += [problem] if problem else []
        if not problems:
            sys.stderr.write(said.getvalue())
            raise
    return Line(parse_flags(model, right, prog, description), right, problems)


def flag_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields behind the flags of a command, its own and those of its sections."""
    own = {name: f for name, f in model.model_fields.items() if not _is_section(f.annotation)}
    named = {_shown_name(name, f): f for name, f in own.items()}
    return named | {name: field for _, name, field in fields_of(model)}


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown_name(name: str, field: FieldInfo) -> str:
    return next((shown for part in field.metadata if (shown := getattr(part, "name", None))), name)


def flag_name(word: str) -> str:
    """ "--learning-rate=1" -> "learning_rate"; the empty string for a value."""
    return word.partition("=")[0][2:].replace("-", "_") if word.startswith("--") else ""


def flags_in(argv: list[str], model: type[BaseModel]) -> set[str]:
    """The names of the flags that a command line of this command gives."""
    return {name for word in spelled_out(argv, flag_fields(model)) if (name := flag_name(word))}


def repeated(argv: list[str]) -> list[Problem]:
    """A warning for each flag that a command line gives twice."""
    names = [name for word in argv if (name := flag_name(word))]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    return [Problem("warning", "is there twice: only the last one counts", f"--{name}") for name in twice]


def candidates(name: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    """The flags that an abbreviation may stand for."""
    return [known for known in fields if known.startswith(name)]


def spelled_out(argv: list[str], fields: Mapping[str, FieldInfo]) -> list[str]:
    """Abbreviations that can mean one flag only, as sd-scripts takes them, become that flag."""
    words = []
    for word in argv:
        name, mark, value = flag_name(word), *word.partition("=")[1:]
        found = candidates(name, fields) if name and name not in fields else []
        words.append(f"--{found[0]}{mark}{value}" if len(found) == 1 else word)
    return words


def groups(words: list[str]) -> Iterator[list[str]]:
    """Each flag with its values; what stands before the first flag is a group too."""
    group: list[str] = []
    for word in words:
        if flag_name(word) and group:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def group_problem(group: list[str], fields: Mapping[str, FieldInfo]) -> Problem | None:
    """What is wrong with one flag and its values, if anything is."""
    name = flag_name(group[0])
    if not name:
        return Problem("error", "belongs to no flag", " ".join(group), "Text with blanks in it needs quotes")
    flag = f"--{name}"
    if name not in fields:
        return unknown_flag(name, fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a flag may have the name of a method of pydantic: --json
        one = create_model("One", **{name: (fields[name].annotation, fields[name])})  # pyright: ignore
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            parse_flags(one, group, "", "")
    except SystemExit:
        kind = fields[name].annotation
        return unreadable_value(group, kind) or Problem("error", value_problem(group, kind), flag)
    return None


def unreadable_value(group: list[str], kind: Any) -> Problem | None:
    """Return what is wrong with the one word of a flag whose value is parsed; None if that is not what is wrong."""
    _, mark, value = group[0].partition("=")
    words, parsed = [value, *group[1:]] if mark else group[1:], parsed_kind(kind)
    if parsed is None or not (len(words) == 1 or parsed.takes_several):
        return None
    try:
        parsed.read(words if parsed.takes_several else words[0])
    except UnreadableValue as error:
        return Problem("error", str(error), f"--{flag_name(group[0])}", error.fix)
    return None


def unknown_flag(name: str, fields: Mapping[str, FieldInfo]) -> Problem:
    """What is said of a flag that a command does not have: what it means in other programs, else what is spelled like it."""
    flag, meaning, found = f"--{name}", meaning_of(name.lower(), fields), candidates(name, fields)
    if meaning or not found:
        return Problem("error", "is not known", flag, meaning or nearest(flag, [f"--{known}" for known in fields]))
    return Problem("error", "is no whole name", flag, f"It could be {', '.join(f'--{f}' for f in found)}")


def is_switch(field: FieldInfo) -> bool:
    """Whether true and false are its values."""
    return field.annotation is bool


def value_problem(group: list[str], kind: Any) -> str:
    """What is said of values that a flag does not take."""
    _, mark, value = group[0].partition("=")
    values = [value, *group[1:]] if mark else group[1:]
    if kind is bool:
        return f"is switched on by its name alone: `{' '.join(values)}` means nothing"
    if not values:
        return f"needs a value: {expected(kind)}"
    if expected(kind).endswith("s"):
        return f"`{' '.join(values)}` is not {expected(kind)}"
    if len(values) > 1:
        return f"takes one value, and `{' '.join(values[1:])}` belongs to no flag (text with blanks in it needs quotes)"
    return f"`{values[0]}` is not {expected(kind)}"


def expected(kind: Any) -> str:
    """For people."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(expected(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        one, *others = get_args(kind)
        return f"{'' if others == [...] else 'two '}{expected(one).split()[-1]}s"
    parsed = parsed_kind(kind)
    return parsed.expected if parsed else {int: "a whole number", float: "a number"}.get(kind, "a text")
