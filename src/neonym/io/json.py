"""What comes in as text and is not what it seems: names that are no text, JSON that says a thing twice."""

import json
import math
from collections import Counter
from typing import Any


def is_text(name: str) -> bool:
    """False for half a surrogate pair: JSON can hold one, and it stands for the bytes of a file name that is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(name: str) -> str:
    """Return a name that can be written: such halves become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def read_json(text: str) -> tuple[Any, list[str]]:
    """-> what it says, and the keys that an object has twice, of which the last one counts. Raises ValueError, RecursionError."""
    twice: list[str] = []

    def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return table

    return json.loads(text, object_pairs_hook=whole), list(dict.fromkeys(twice))


def as_json(value: Any, indent: int | None = None) -> str:
    """Return JSON in which a number that is not finite is null: `NaN` is no JSON."""

    def finite(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: finite(inner) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [finite(inner) for inner in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False, indent=indent)
