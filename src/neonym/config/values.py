"""Texts that stand for values: sizes, counts or shares, staged learning rates, `name=value` arguments, schedule names."""

import ast
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "adafactor",
    "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay", "piecewise_constant",
)  # fmt: skip
SAME_SCHEDULE = {
    "linear_with_warmup": "linear",
    "cosine_with_warmup": "cosine",
    "cosine_warmup_with_min_lr": "cosine_with_min_lr",
}


def as_meant(value: Any, kind: Any) -> Any:
    """The value of a file as its setting is meant: a text that holds a number, or true or false, is that where it is meant;
    numbers in a list are a text where one is meant. Anything else stays as it is.
    """
    kinds = set(leaves(kind))
    if isinstance(value, str) and not kinds & {str, tuple}:
        return from_text(value, kinds)
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    return ",".join(map(str, value)) if value and numbers and str in kinds and tuple not in kinds else value


def leaves(kind: Any) -> Iterator[Any]:
    """The plain types that a setting's type is made of; of a list `tuple` too, of choices their types."""
    if get_origin(kind) is Literal:
        yield from map(type, get_args(kind))
    elif get_origin(kind) is None:
        yield kind
    else:
        yield from (tuple,) if get_origin(kind) is tuple else ()
        for part in get_args(kind):
            yield from leaves(part)


def from_text(text: str, kinds: Container[Any] = (bool, int, float)) -> Any:
    """The one number, or true or false, that a text holds, if one of these `kinds` is meant; else the text."""
    plain = text.strip().lower()
    if bool in kinds and plain in ("true", "false"):
        return plain == "true"
    for kind in (int, float) if int in kinds or float in kinds else ():
        with suppress(ValueError):
            return kind(plain)
    return text


def parse_resolution(text: str) -> tuple[int, int] | None:
    """ "512" or "512,768" -> (width, height); None if it is neither."""
    parts = text.split(",")
    if len(parts) > 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        return None
    return int(parts[0]), int(parts[-1])


def parse_range(text: str) -> tuple[float, float]:
    """ "0.5,2" -> (0.5, 2.0). Raises ValueError."""
    low, _, high = text.partition(",")
    return float(low), float(high)


def parse_count(text: str, total: int) -> int:
    """Steps from "100", or from a share of `total`, "0.1" or "10%", rounded down. Raises ValueError."""
    text = text.strip()
    share = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if share else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf") or (number > 1 and share) or (number >= 1 and not share and number % 1):
        raise ValueError(f"`{text}` is neither a whole number of steps nor a share of them")
    return int(number * total + 1e-9) if number < 1 or share else int(number)


def parse_stages(text: str) -> list[tuple[float, float]]:
    """AUTOMATIC1111's "0.005:100, 1e-3:1000, 5e-4" -> [(rate, step before which it holds)]. Raises ValueError."""
    found = []
    for part in text.split(","):
        rate, _, until = part.partition(":")
        found.append((float(rate), float(until) if until.strip() else float("inf")))
    ends = [until for _, until in found]
    if not all(0 < rate < float("inf") for rate, _ in found) or ends != sorted(set(ends)):
        raise ValueError("rates must be positive, and the steps where they end must rise")
    return found


def parse_arguments(items: Sequence[str]) -> dict[str, Any]:
    """`name=value` items, each value a Python literal (sd-scripts' rule). Raises ValueError naming every bad one."""
    values, bad = {}, []
    for item in items:
        name, _, text = item.partition("=")
        try:
            values[name.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            bad.append(f"`{item}`")
        bad += [f"`{item}`"] * (not name.strip().isidentifier())
    if bad:
        raise ValueError(f"{', '.join(dict.fromkeys(bad))} cannot be read")
    return values


def schedule_name(name: str) -> str:
    """The name as listed, whatever its case; sd-scripts' `adafactor:RATE` without the rate."""
    name = name.lower().partition(":")[0]
    return SAME_SCHEDULE.get(name, name)
