"""Values that users write as text, each parsed once: rates, steps, sizes, ranges, colours, `name=value` arguments."""

import ast
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args, get_origin

from PIL import ImageColor
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "adafactor",
    "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay", "piecewise_constant",
)  # fmt: skip
SAME_SCHEDULE = {
    "linear_with_warmup": "linear",
    "cosine_with_warmup": "cosine",
    "cosine_warmup_with_min_lr": "cosine_with_min_lr",
}


class UnreadableValue(ValueError):
    """A text that cannot be parsed. `fix` tells how to write the value."""

    def __init__(self, what: str, fix: str):
        super().__init__(what)
        self.fix = fix


class ParsedValue:
    """The base class of values that users write as text.

    Files record a value as it was `written`, so that reading and writing them changes nothing.
    """

    label: ClassVar[str]  # the type of the setting in docs/settings.md
    expected: ClassVar[str]  # what messages call the value, with its article
    metavar: ClassVar[str]  # what --help calls the value
    example: ClassVar[str]  # how to write the value: the fix for one that cannot be read
    takes_several: ClassVar[bool] = False  # whether the flag takes several words
    written: Any

    @classmethod
    def parse(cls, value: Any) -> "ParsedValue":
        """Return the value of a text, or of a number or list from a file. Raises ValueError."""
        raise NotImplementedError

    @classmethod
    def read(cls, value: Any) -> "ParsedValue":
        """Return `value`, parsed unless it is parsed already. Raises UnreadableValue."""
        try:
            return value if isinstance(value, cls) else cls.parse(value)
        except ValueError as error:
            raise UnreadableValue(str(error), cls.example) from error

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        as_it_was = core_schema.plain_serializer_function_ser_schema(as_written)
        return core_schema.no_info_plain_validator_function(cls.read, serialization=as_it_was)

    def __str__(self) -> str:
        return str(self.written)


def as_written(value: Any) -> Any:
    """Return a setting's value as files record it: a parsed value as the user wrote it, any other unchanged."""
    return value.written if isinstance(value, ParsedValue) else value


def as_flag_text(value: Any) -> str:
    """Return a value from a file as it would be written on the command line: a list with commas between its items."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@dataclass(frozen=True)
class Rate(ParsedValue):
    """A learning rate: one number, or stages as AUTOMATIC1111 writes them, "0.005:100, 1e-3:1000, 5e-4"."""

    label = "number or stages"
    metavar = "RATE"
    expected = "a learning rate"
    example = 'Write a number, or stages such as "0.005:100, 1e-3:1000, 5e-4"'
    written: float | str
    stages: tuple[tuple[float, float], ...]  # (rate, the step before which it holds)

    @classmethod
    def parse(cls, value: Any) -> "Rate":
        """Return the rate of a number or a text. Raises ValueError.

        The limits of a single number are not checked here, but with those of all settings (`rules.range_problems`).
        """
        text = as_flag_text(value)
        with suppress(ValueError):
            return cls.constant(float(text))
        stages = []
        for part in text.split(","):
            rate, _, until = part.partition(":")
            try:
                stages.append((float(rate), float(until) if until.strip() else float("inf")))
            except ValueError as error:
                raise ValueError(f"`{part.strip()}` is not a learning rate") from error
        ends = [until for _, until in stages]
        if not all(0 < rate < float("inf") for rate, _ in stages) or ends != sorted(set(ends)):
            raise ValueError("rates must be positive, and the steps at which they end must increase")
        return cls(text, tuple(stages))

    @classmethod
    def constant(cls, rate: float) -> "Rate":
        """Return the rate that is the same at every step."""
        return cls(rate, ((rate, float("inf")),))

    @property
    def is_staged(self) -> bool:
        """Whether the rate was written as stages, which are a schedule of their own."""
        return isinstance(self.written, str)

    @property
    def first(self) -> float:
        """The rate of the first step."""
        return self.at(0)

    def at(self, step: int) -> float:
        """Return the rate at `step`, counted from 0. The last stage lasts to the end."""
        return next((rate for rate, until in self.stages if step < until), self.stages[-1][0])


@dataclass(frozen=True)
class Steps(ParsedValue):
    """A number of steps, "100", or a share of all steps, "0.1" or "10%"."""

    label = "steps or share"
    metavar = "STEPS"
    expected = "a number of steps or a share"
    example = 'Write 100, 0.1 or "10%"'
    written: str
    number: float
    is_share: bool

    @classmethod
    def parse(cls, value: Any) -> "Steps":
        """Return the number or share of steps that a number or a text stands for. Raises ValueError."""
        text = as_flag_text(value)
        plain = text.strip()
        in_percent = plain.endswith("%")
        try:
            number = float(plain.removesuffix("%")) / (100 if in_percent else 1)
        except ValueError:
            number = -1.0
        whole = number < 1 or number % 1 == 0
        if not 0 <= number < float("inf") or not (number <= 1 if in_percent else whole):
            raise ValueError(f"`{plain}` is neither a whole number of steps nor a share of them")
        return cls(text, number, in_percent or number < 1)

    def of(self, total: int) -> int:
        """Return the number of steps in a training of `total` steps. A share is rounded down."""
        return int(self.number * total + 1e-9) if self.is_share else int(self.number)


@dataclass(frozen=True)
class Resolution(ParsedValue):
    """The size of training images, "512" or "512,768" (width, height)."""

    label = "size"
    metavar = "SIZE"
    expected = "a size"
    example = 'Write "512" or "512,768"'
    written: str
    size: tuple[int, int]

    @classmethod
    def parse(cls, value: Any) -> "Resolution":
        """Return the size that a number, a pair or a text stands for. Raises ValueError."""
        text = as_flag_text(value)
        parts = text.split(",")
        if len(parts) > 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
            raise ValueError(f"`{text}` is not a size")
        return cls(text, (int(parts[0]), int(parts[-1])))


@dataclass(frozen=True)
class Range(ParsedValue):
    """A pair of numbers, such as "0.5,2"."""

    label = "two numbers"
    metavar = "LOW,HIGH"
    expected = "a pair of numbers: low,high"
    example = 'Write "0.5,2"'
    written: str
    low: float
    high: float

    @classmethod
    def parse(cls, value: Any) -> "Range":
        """Return the two numbers of a pair or a text. Raises ValueError."""
        text = as_flag_text(value)
        low, _, high = text.partition(",")
        try:
            return cls(text, float(low), float(high))
        except ValueError as error:
            raise ValueError(f"`{text}` is not two numbers") from error


@dataclass(frozen=True)
class Colour(ParsedValue):
    """A colour, written as a name or as #rrggbb."""

    label = "colour"
    metavar = "COLOUR"
    expected = "a colour"
    example = 'Write "white" or "#ffffff"'
    written: str
    rgb: tuple[int, int, int]

    @classmethod
    def parse(cls, value: Any) -> "Colour":
        """Return the colour that a text names. Raises ValueError."""
        text = as_flag_text(value)
        try:
            red, green, blue, *_ = ImageColor.getrgb(text)
        except ValueError as error:
            raise ValueError(f"`{text}` is not a colour") from error
        return cls(text, (red, green, blue))


@dataclass(frozen=True)
class Arguments(ParsedValue):
    """Arguments of an optimizer or a schedule: `name=value` items, each value a Python literal, as in sd-scripts."""

    label = "list of name=value"
    metavar = "NAME=VALUE"
    expected = "texts"
    example = 'Write name=value, the value as in Python: "betas=(0.9, 0.99)" "decouple=True"'
    takes_several = True
    written: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def parse(cls, value: Any) -> "Arguments":
        """Return the arguments of a list of `name=value`. Raises ValueError that names every item it cannot read."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(f"a list of name=value is expected (found {value!r})")
        items, values, bad = tuple(map(str, value)), {}, []
        for item in items:
            name, _, text = item.partition("=")
            try:
                values[name.strip()] = ast.literal_eval(text.strip())
            except (ValueError, SyntaxError):
                bad.append(f"`{item}`")
            bad += [f"`{item}`"] * (not name.strip().isidentifier())
        if bad:
            raise ValueError(f"{', '.join(dict.fromkeys(bad))} cannot be read")
        return cls(items, values)


class RatesByEncoder(Arguments):
    """Learning rates of text encoders: `name=rate` items."""

    label = "list of name=rate"
    metavar = "NAME=RATE"
    example = 'Write name=rate: "text_encoder=0.002" "text_encoder_2=0.1"'


def coerce(value: Any, kind: Any) -> Any:
    """Return a value from a file in the type of its setting, `kind`, as far as it can be converted.

    A text with a number, or with true or false, is converted if the setting is not a text; a list of numbers becomes a
    text with commas if the setting is a text. Any other value is returned unchanged.
    """
    kinds = set(leaves(kind))
    if isinstance(value, str) and not kinds & {str, tuple}:
        return from_text(value, kinds)
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    return as_flag_text(value) if value and numbers and str in kinds and tuple not in kinds else value


def leaves(kind: Any) -> Iterator[Any]:
    """Yield the plain types that a setting's type consists of: also `tuple` for a list, and the types of choices."""
    if get_origin(kind) is Literal:
        yield from map(type, get_args(kind))
    elif get_origin(kind) is None:
        yield kind
    else:
        yield from (tuple,) if get_origin(kind) is tuple else ()
        for part in get_args(kind):
            yield from leaves(part)


def from_text(text: str, kinds: Container[Any] = (bool, int, float)) -> Any:
    """Return the number or the boolean in a text if it is of one of the `kinds`, or else the text."""
    plain = text.strip().lower()
    if bool in kinds and plain in ("true", "false"):
        return plain == "true"
    for kind in (int, float) if int in kinds or float in kinds else ():
        with suppress(ValueError):
            return kind(plain)
    return text


def parsed_kind(kind: Any) -> type[ParsedValue] | None:
    """Return the `ParsedValue` class in a setting's type; None if there is none."""
    return next((leaf for leaf in leaves(kind) if isinstance(leaf, type) and issubclass(leaf, ParsedValue)), None)


def schedule_name(name: str) -> str:
    """Return the listed name of a schedule: in lower case, and without the rate of sd-scripts' `adafactor:RATE`."""
    name = name.lower().partition(":")[0]
    return SAME_SCHEDULE.get(name, name)
