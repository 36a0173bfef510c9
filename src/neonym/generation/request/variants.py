"""Parse dynamic prompts and choose their variants.

`{a|b}` stands for one of its options, `{2$$a|b|c}` for two, `{1-2$$ and $$a|b|c}` for one or two joined by " and ", and
`{e$$a|b}` makes one prompt from each option. Groups can be nested. A backslash makes a brace or a bar literal.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

JOINER = ", "
DEEPEST = 50
HEAD = re.compile(
    r"(?:(?P<every>[eE])\$\$)?"
    r"(?:(?=-?\d)(?P<low>\d{0,9})(?P<dash>-?)(?P<high>\d{0,9})\$\$)?"
    r"(?:(?P<joiner>[^|{}]+?)\$\$)?"
)
SIGNS = re.compile(r"\\[{}|]|[{}|]")


@dataclass(frozen=True)
class Group:
    """The options between two braces, and how many of them are chosen."""

    options: tuple[Parts, ...]
    low: int = 1
    high: int = 1
    joiner: str = JOINER
    every: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """The least and the largest number of options to choose."""
        low, high = sorted((min(self.low, len(self.options)), min(self.high, len(self.options))))
        return low, high


Parts: TypeAlias = "tuple[str | Group, ...]"


@dataclass
class OpenGroup:
    """A group whose closing brace has not been read yet."""

    text: str  # the text to restore if it never comes
    group: Group
    options: list[list[str | Group]]


def parse_variants(text: str) -> Parts:
    """Return the text and the groups of a prompt. An unmatched brace is a plain character.

    Raises ValueError for groups that are nested too deeply.
    """
    stack = [OpenGroup("", Group(()), [[]])]
    last = 0
    while match := SIGNS.search(text, last):
        sign, now = match.group(), stack[-1].options[-1]
        now.append(text[last : match.start()])
        last = match.end()
        if sign == "{":
            head, group = group_at(text, last)
            if len(stack) > DEEPEST:
                raise ValueError(f"more than {DEEPEST} nested braces")
            stack.append(OpenGroup(sign + head, group, [[]]))
            last += len(head)
        elif sign == "}" and len(stack) > 1:
            closed = stack.pop()
            empty = closed.options == [[""]]
            group = replace(closed.group, options=tuple(map(tuple, closed.options)))
            stack[-1].options[-1].append(closed.text + "}" if empty else group)
        elif sign == "|" and len(stack) > 1:
            stack[-1].options.append([])
        else:
            now.append(sign.removeprefix("\\"))
    stack[-1].options[-1].append(text[last:])
    while len(stack) > 1:
        unclosed = stack.pop()
        bars: list[str | Group] = [unclosed.text, *unclosed.options[0]]
        for option in unclosed.options[1:]:
            bars += ["|", *option]
        stack[-1].options[-1] += bars
    return tuple(part for part in stack[0].options[0] if part != "")


def group_at(text: str, start: int) -> tuple[str, Group]:
    """Return the head of a group, which begins at `start` and may be empty, and the group without its options.

    `2$$` takes two, `1-2$$` one or two, `-2$$` up to two, `2-$$` at least two.
    """
    head = HEAD.match(text, start)
    if head is None:
        return "", Group(())
    low, high = head["low"], head["high"]
    least = int(low or 1)
    most = int(high or 1 << 30) if head["dash"] else least
    joiner = JOINER if head["joiner"] is None else head["joiner"]
    return head.group(), Group((), least, most, joiner, every=head["every"] is not None)


def is_enumerated(parts: Parts) -> bool:
    """Return whether a prompt has an `e$$` group, whose options are enumerated."""
    groups = [part for part in parts if isinstance(part, Group)]
    return any(group.every or any(is_enumerated(option) for option in group.options) for group in groups)


def count_variants(parts: Parts) -> int:
    """Return how many prompts `enumerate_variants` yields."""
    return math.prod(count_group(part) for part in parts if isinstance(part, Group))


def count_group(group: Group) -> int:
    """Return how many texts `enumerate_group` yields."""
    within = math.prod(count_variants(option) for option in group.options)
    low, high = group.counts
    return within * (sum(math.comb(len(group.options), n) for n in range(low, high + 1)) if group.every else 1)


def enumerate_variants(parts: Parts) -> Iterator[Parts]:
    """Yield a prompt for each combination of the `e$$` groups, the first group slowest. Other groups remain."""
    choices = [[part] if isinstance(part, str) else list(enumerate_group(part)) for part in parts]
    for chosen in itertools.product(*choices):
        yield tuple(piece for part in chosen for piece in (part if isinstance(part, tuple) else (part,)))


def enumerate_group(group: Group) -> Iterator[Parts]:
    """Yield each text of an `e$$` group. Any other group remains, with the groups inside it enumerated."""
    low, high = group.counts
    for options in itertools.product(*(list(enumerate_variants(option)) for option in group.options)):
        if not group.every:
            yield (replace(group, options=options),)
            continue
        for count in range(low, high + 1):
            for chosen in itertools.combinations(options, count):
                yield join_options(chosen, group.joiner)


def join_options(options: tuple[Parts, ...], joiner: str) -> Parts:
    """Return several options as one text, with `joiner` between them."""
    parts: list[str | Group] = []
    for i, option in enumerate(options):
        parts += [joiner, *option] if i else option
    return tuple(parts)


def pick_text(parts: Parts, chance: random.Random) -> str:
    """Return the text of a prompt, with random options of every group, none of which is repeated."""
    return "".join(part if isinstance(part, str) else pick_from_group(part, chance) for part in parts)


def pick_from_group(group: Group, chance: random.Random) -> str:
    """Return the text of a group, with random options."""
    chosen = chance.sample(group.options, chance.randint(*group.counts))
    return group.joiner.join(pick_text(option, chance) for option in chosen)
