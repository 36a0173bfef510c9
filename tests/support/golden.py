"""sd-scripts' own results, and what agrees with them."""

import json
import re

from support import GOLDEN, ROOT


def golden(name: str, part: str = "cases") -> list[dict]:
    """Return the cases of a file. There are some: no test passes because its list is empty."""
    cases = json.loads((GOLDEN / name).read_text())[part]
    assert cases, f"{name} has no {part}"
    return cases


def reasons(letter: str) -> dict[str, str]:
    """The cases of one file that the table in docs/datasets.md lists, with the reasons."""
    page = (ROOT / "docs" / "datasets.md").read_text()
    found = dict(re.findall(rf"^\| {letter} \| (.+?) \| (.+) \|$", page, re.MULTILINE))
    assert found, f"the table has no rows of {letter}"  # only files with differences are asked for
    return found


def differences(letter: str) -> set[str]:
    """The names alone."""
    return set(reasons(letter))


def judge(letter: str, outcomes: dict[str, bool]) -> None:
    """Every case must agree, but for those listed; and of those none may. (More of the same kind may be listed.)"""
    listed = differences(letter)
    assert outcomes, "no case was looked at"
    wrong = sorted(name for name, agrees in outcomes.items() if not agrees and name not in listed)
    assert not wrong, f"not as sd-scripts, and not listed: {wrong}"
    stale = sorted(name for name in listed if outcomes.get(name))
    assert not stale, f"listed as different, but the same: {stale}"


NOT_OURS = {"debug_dataset", "prior_loss_weight", "kind"}  # flags, not values of a data set
EMPTY = (None, "", {}, 0, 0.0, False)


def same_values(found: list[tuple[str, dict]], expected: list[dict]) -> bool:
    """Whether every value that sd-scripts resolved is ours (kind, settings); where both mean "none", they need not be alike."""
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
