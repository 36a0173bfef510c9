"""sd-scripts' own results, and helpers that compare ours with them."""

import json
import re

from support import GOLDEN, ROOT


def golden(name: str, part: str = "cases") -> list[dict]:
    """Return the cases of a file, at least one, so that no test passes because its list is empty."""
    cases = json.loads((GOLDEN / name).read_text())[part]
    assert cases, f"{name} has no {part}"
    return cases


def reasons(letter: str) -> dict[str, str]:
    """Return the cases that docs/datasets.md lists as different, with the reasons."""
    page = (ROOT / "docs" / "datasets.md").read_text()
    found = dict(re.findall(rf"^\| {letter} \| (.+?) \| (.+) \|$", page, re.MULTILINE))
    assert found, f"the table has no rows of {letter}"  # called only for files with differences
    return found


def differences(letter: str) -> set[str]:
    """Return the names of the cases that docs/datasets.md lists as different."""
    return set(reasons(letter))


def judge(letter: str, outcomes: dict[str, bool]) -> None:
    """Verify that exactly the cases that are not listed agree. Listed cases without an outcome are allowed."""
    listed = differences(letter)
    assert outcomes, "no case was compared"
    wrong = sorted(name for name, agrees in outcomes.items() if not agrees and name not in listed)
    assert not wrong, f"different from sd-scripts, but not listed: {wrong}"
    stale = sorted(name for name in listed if outcomes.get(name))
    assert not stale, f"listed as different, but the same: {stale}"


NOT_OURS = {"debug_dataset", "prior_loss_weight", "kind"}  # flags, not values of a dataset
EMPTY = (None, "", {}, 0, 0.0, False)


def same_values(found: list[tuple[str, dict]], expected: list[dict]) -> bool:
    """Return whether our values (kind, settings) equal those of sd-scripts; all forms of "none" are equal."""
    if len(found) != len(expected):
        return False
    for (kind, ours), theirs in zip(found, expected, strict=True):
        for mine, values in [(ours, theirs["dataset"]), *zip(ours["subsets"], theirs["subsets"], strict=True)]:
            for key in values.keys() & mine.keys() - NOT_OURS:
                none = mine[key] in EMPTY and values[key] in EMPTY
                if mine[key] != values[key] and not none and (key, values[key]) != ("caption_extension", ".caption"):
                    return False
        if kind != theirs["kind"]:
            return False
    return True
