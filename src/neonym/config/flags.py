"""Command lines in sd-scripts' spelling, with abbreviated flags. All mistakes in one are reported at once."""

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
class CommandLine(Generic[T]):
    """A parsed command line: its values, the words that they were read from, and the problems of all other words."""

    flags: T
    argv: list[str]
    problems: list[Problem]


def parse_flags(model: type[T], argv: list[str], prog: str, description: str) -> T:
    """Return the settings tree that a command line in sd-scripts' spelling stands for.

    A wrong flag ends the program with exit code 2, and `--help` with 0.
    """
    import tyro

    options = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    words = expand_abbreviations(argv, flag_fields(model))
    return tyro.cli(
        model, args=words, prog=prog, description=description, config=options, use_underscores=True,
        registry=parsed_value_rules(),
    )  # fmt: skip


def parsed_value_rules() -> ConstructorRegistry:
    """Return tyro's rules for flags whose value is a `ParsedValue`."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[ParsedValue | None] | None:
        kind = parsed_kind(info.type)  # also that of `Rate | None`
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


def read_command_line(model: type[T], argv: list[str], prog: str, description: str) -> CommandLine[T]:
    """Return a command line without positional arguments, in which every wrong flag becomes a problem."""
    fields = flag_fields(model)
    words = expand_abbreviations(argv, fields)
    if {"-h", "--help"} & set(words):
        return CommandLine(parse_flags(model, words, prog, description), words, [])
    output = StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            return CommandLine(parse_flags(model, words, prog, description), words, [])
    except SystemExit:
        right, problems = [], []
        for flag_words in split_flags(words):
            problem = flag_problem(flag_words, fields)
            right += [] if problem else flag_words
            problems += [problem] if problem else []
        if not problems:
            sys.stderr.write(output.getvalue())
            raise
    return CommandLine(parse_flags(model, right, prog, description), right, problems)


def flag_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a command's flags by flag name: its own fields and those of its sections."""
    own = {name: f for name, f in model.model_fields.items() if not _is_section(f.annotation)}
    named = {_flag_name_of(name, f): f for name, f in own.items()}
    return named | {name: field for _, name, field in fields_of(model)}


def _is_section(kind: Any) -> bool:
    """Return whether a field's type is a section of settings."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _flag_name_of(name: str, field: FieldInfo) -> str:
    """Return the name of a field's flag: the one that an annotation of the field gives, or else the field's own."""
    return next((given for part in field.metadata if (given := getattr(part, "name", None))), name)


def flag_name(word: str) -> str:
    """Return the name in a flag, such as `learning_rate` for `--learning-rate=1`; an empty string for a value."""
    return word.partition("=")[0][2:].replace("-", "_") if word.startswith("--") else ""


def flags_in(argv: list[str], model: type[BaseModel]) -> set[str]:
    """Return the names of the flags that are given on a command line."""
    return {name for word in expand_abbreviations(argv, flag_fields(model)) if (name := flag_name(word))}


def repeated_flags(argv: list[str]) -> list[Problem]:
    """Return a warning for each flag that is set more than once on a command line."""
    names = [name for word in argv if (name := flag_name(word))]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    return [Problem("warning", "is set more than once: only the last one counts", f"--{name}") for name in twice]


def candidates(name: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    """Return the flags that an abbreviation can stand for."""
    return [known for known in fields if known.startswith(name)]


def expand_abbreviations(argv: list[str], fields: Mapping[str, FieldInfo]) -> list[str]:
    """Return a command line with each abbreviation that fits exactly one flag replaced by that flag."""
    words = []
    for word in argv:
        name, mark, value = flag_name(word), *word.partition("=")[1:]
        found = candidates(name, fields) if name and name not in fields else []
        words.append(f"--{found[0]}{mark}{value}" if len(found) == 1 else word)
    return words


def split_flags(words: list[str]) -> Iterator[list[str]]:
    """Yield each flag with its values; first the words before the first flag, if there are any."""
    flag_words: list[str] = []
    for word in words:
        if flag_name(word) and flag_words:
            yield flag_words
            flag_words = []
        flag_words.append(word)
    if flag_words:
        yield flag_words


def flag_problem(flag_words: list[str], fields: Mapping[str, FieldInfo]) -> Problem | None:
    """Return what is wrong with one flag and its values; None if nothing is."""
    name = flag_name(flag_words[0])
    if not name:
        return Problem("error", "does not belong to a flag", " ".join(flag_words), "Put text with spaces in quotes")
    flag = f"--{name}"
    if name not in fields:
        return unknown_flag(name, fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a flag may be named like a method of pydantic, such as --json
        one = create_model("One", **{name: (fields[name].annotation, fields[name])})  # pyright: ignore
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            parse_flags(one, flag_words, "", "")
    except SystemExit:
        kind = fields[name].annotation
        return unreadable_value(flag_words, kind) or Problem("error", value_problem(flag_words, kind), flag)
    return None


def unreadable_value(flag_words: list[str], kind: Any) -> Problem | None:
    """Return why the value of a flag cannot be parsed; None if the mistake is another one."""
    _, mark, value = flag_words[0].partition("=")
    words, parsed = [value, *flag_words[1:]] if mark else flag_words[1:], parsed_kind(kind)
    if parsed is None or not (len(words) == 1 or parsed.takes_several):
        return None
    try:
        parsed.read(words if parsed.takes_several else words[0])
    except UnreadableValue as error:
        return Problem("error", str(error), f"--{flag_name(flag_words[0])}", error.fix)
    return None


def unknown_flag(name: str, fields: Mapping[str, FieldInfo]) -> Problem:
    """Return the problem of an unknown flag, with its meaning in other programs or the most similar known flag."""
    flag, meaning, found = f"--{name}", meaning_of(name.lower(), fields), candidates(name, fields)
    if meaning or not found:
        return Problem("error", "is not known", flag, meaning or nearest(flag, [f"--{known}" for known in fields]))
    return Problem(
        "error", "is an abbreviation of several flags", flag, f"It could be {', '.join(f'--{f}' for f in found)}"
    )


def is_switch(field: FieldInfo) -> bool:
    """Return whether the values of a setting are true and false."""
    return field.annotation is bool


def value_problem(flag_words: list[str], kind: Any) -> str:
    """Return what is wrong with values that a flag does not accept."""
    _, mark, value = flag_words[0].partition("=")
    values = [value, *flag_words[1:]] if mark else flag_words[1:]
    if kind is bool:
        return f"takes no value, but `{' '.join(values)}` is given: its name alone switches it on"
    if not values:
        return f"needs a value: {expected(kind)}"
    if expected(kind).endswith("s"):
        return f"`{' '.join(values)}` is not {expected(kind)}"
    if len(values) > 1:
        return (
            f"takes one value, and `{' '.join(values[1:])}` does not belong to a flag (put text with spaces in quotes)"
        )
    return f"`{values[0]}` is not {expected(kind)}"


def expected(kind: Any) -> str:
    """Return what a value of a type is called in messages, such as `a whole number`."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(expected(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        one, *others = get_args(kind)
        return f"{'' if others == [...] else 'two '}{expected(one).split()[-1]}s"
    parsed = parsed_kind(kind)
    return parsed.expected if parsed else {int: "a whole number", float: "a number"}.get(kind, "a text")
