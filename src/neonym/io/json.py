"""Handle unusual text: names that are not valid Unicode, and JSON with duplicate keys."""

import json
import math
from collections import Counter
from typing import Any


def is_text(name: str) -> bool:
    """Return whether a name can be encoded, which a lone surrogate cannot.

    JSON can contain lone surrogates, and Python uses them for the bytes of file names that are not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_escaped_surrogates(name: str) -> str:
    """Return a name with its lone surrogates escaped, so that it can be encoded."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def read_json(text: str) -> tuple[Any, list[str]]:
    """Return the value of a JSON text, and the keys that occur twice in an object (the last one counts).

    Raises ValueError if it is not JSON, RecursionError if it is nested too deeply.
    """
    twice: list[str] = []

    def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return table

    return json.loads(text, object_pairs_hook=whole), list(dict.fromkeys(twice))


def as_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON. Numbers that are not finite become null, because JSON has no `NaN`."""

    def finite(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: finite(inner) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [finite(inner) for inner in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


def null_as_nan(value: Any) -> Any:
    """Return a value that `as_json` wrote with NaN in place of null, which stands for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: null_as_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [null_as_nan(inner) for inner in value]
    return math.nan if value is None else value
