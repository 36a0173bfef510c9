"""The headers of real files, as names, shapes and types in tests/golden/o_family_headers.json."""

import json
import re

from neonym.models.loading.header import Header
from support import GOLDEN

RANGE = re.compile(r"\{(\d+)-(\d+)\}")


def header_cases() -> dict[str, dict]:
    """Return the entries of the file by the names of the files that they describe."""
    cases = json.loads((GOLDEN / "o_family_headers.json").read_text())["files"]
    assert cases, "no headers"
    return cases


def expanded(name: str) -> list[str]:
    """Return the names that a name with ranges like {0-18} stands for."""
    match = RANGE.search(name)
    if match is None:
        return [name]
    numbers = range(int(match[1]), int(match[2]) + 1)
    return [more for i in numbers for more in expanded(f"{name[: match.start()]}{i}{name[match.end() :]}")]


def header_of(case: dict) -> Header:
    """Return the header of an entry. GGUF files store sizes with the fastest first; readers reverse them."""
    gguf = case["container"] == "gguf"
    found = {
        own: (kind, tuple(reversed(shape)) if gguf else tuple(shape))
        for name, (kind, shape) in case["tensors"].items()
        for own in expanded(name)
    }
    assert len(found) == case["count"]
    shapes, kinds = {n: shape for n, (_, shape) in found.items()}, {n: kind for n, (kind, _) in found.items()}
    return Header(shapes, case["metadata"] or {}, kinds, case["container"])
