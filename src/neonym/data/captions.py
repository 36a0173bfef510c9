"""Turn a caption into the text that is trained on, with all random choices drawn from one generator.

The order is that of sd-scripts (its `process_caption`): dropout, one line, wildcards, tags, separators; templates come
last. The new word is never lost: a dropped caption keeps it, and so does every selection of tags.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from neonym.text.words import clean, whole_word
from neonym.types import CaptionRules

OPEN, CLOSE = "\ue000", "\ue001"  # placeholders for doubled braces while wildcards are replaced
WILDCARD = re.compile(r"\{([^}]+)\}")


@dataclass(frozen=True)
class Moment:
    """The time at which a caption is used, on which dropout by epochs and token warm-up depend."""

    epoch: int = 1  # from 1
    step: int = 0  # from 0
    steps: int = 1  # length of the training


def final_caption(caption: str, rules: CaptionRules, random: Random, at: Moment | None = None) -> str:
    """Return the text of one draw. Random choices are drawn from `random` in a fixed order."""
    at = at or Moment()
    if is_dropped(rules, random, at):
        whole = " ".join(filter(None, (rules.prefix, caption, rules.suffix)))
        text = rules.word if contains_word(whole, rules.word) else ""
    else:
        text = written_out(caption, rules, random)
        if by_tags(rules):
            text = by_tag(text, rules, random, at)
        if rules.secondary_separator:
            text = text.replace(rules.secondary_separator, rules.separator)
    if rules.templates:
        return fill_template(random.choice(rules.templates), rules.word, text)
    return text


def is_dropped(rules: CaptionRules, random: Random, at: Moment) -> bool:
    """Return whether the caption is dropped, by chance or because of the epoch."""
    if rules.dropout > 0 and random.random() < rules.dropout:
        return True
    return rules.drop_every_n_epochs > 0 and at.epoch % rules.drop_every_n_epochs == 0


def written_out(caption: str, rules: CaptionRules, random: Random) -> str:
    """Return one line of the caption with prefix and suffix, and with one option chosen for each {a|b|c}."""
    lines = caption.split("\n")
    text = random.choice(lines) if rules.wildcards and len(lines) > 1 else lines[0]
    if rules.prefix:
        text = f"{rules.prefix} {text}"
    if rules.suffix:
        text = f"{text} {rules.suffix}"
    if not rules.wildcards:
        return text
    text = text.replace("{{", OPEN).replace("}}", CLOSE)
    text = WILDCARD.sub(lambda match: random.choice(match.group(1).split("|")), text)
    return text.replace(OPEN, "{").replace(CLOSE, "}")


def by_tags(rules: CaptionRules) -> bool:
    """Return whether captions are split into tags; otherwise their spacing is unchanged."""
    return rules.shuffle or rules.warmup_steps > 0 or rules.tag_dropout > 0 or bool(rules.keep_separator)


def by_tag(text: str, rules: CaptionRules, random: Random, at: Moment) -> str:
    """Return a text with fixed first (and last) tags, and with the others warmed up, shuffled and dropped."""
    first, loose, last = divided(text, rules)
    if loose is None:
        return text
    wanted = warmed_up(len(loose), rules, at)
    loose = [tag for i, tag in enumerate(loose) if i < wanted or contains_word(tag, rules.word)]
    if rules.shuffle:
        random.shuffle(loose)
    if rules.tag_dropout > 0:
        drawn = [random.random() >= rules.tag_dropout for _ in loose]
        loose = [tag for tag, kept in zip(loose, drawn, strict=True) if kept or contains_word(tag, rules.word)]
    joint = ", " if rules.separator == "," else rules.separator
    return joint.join([*first, *loose, *last])


def divided(text: str, rules: CaptionRules) -> tuple[list[str], list[str] | None, list[str]]:
    """Return the fixed tags in front, the movable tags, and the fixed tags at the end.

    The movable tags are None if the text is not split into tags.
    """
    if rules.keep_separator and rules.keep_separator in text:
        parts = [split_tags(part, rules) for part in text.split(rules.keep_separator, 2)]
        return parts[0], parts[1], parts[2] if len(parts) == 3 else []
    if not (rules.shuffle or rules.warmup_steps > 0 or rules.tag_dropout > 0):
        return [], None, []
    tags, kept = split_tags(text, rules), max(rules.keep_tokens, 0)
    return tags[:kept], tags[kept:], []


def split_tags(text: str, rules: CaptionRules) -> list[str]:
    """Return the stripped tags of a text, without empty ones. A group with emphasis is one tag.

    An empty separator splits nothing.
    """
    parts = [text]
    if rules.separator and rules.separator in text:
        parts = outside_brackets(text, rules.separator) if rules.weighted else text.split(rules.separator)
    return [tag.strip() for tag in parts if tag.strip()]


def outside_brackets(text: str, separator: str) -> list[str]:
    """Split a text at the separators that are not in brackets."""
    if "(" not in text and "[" not in text:
        return text.split(separator)
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        if depth == 0 and text.startswith(separator, i):
            parts.append(text[start:i])
            i = start = i + len(separator)
            continue
        depth = max(0, depth + (text[i] in "([") - (text[i] in ")]"))
        i += 2 if text[i] == "\\" else 1
    return [*parts, text[start:]]


def warmed_up(tags: int, rules: CaptionRules, at: Moment) -> int:
    """Return how many of the movable tags are used at this step."""
    steps = rules.warmup_steps if rules.warmup_steps >= 1 else math.floor(rules.warmup_steps * at.steps)
    if not steps or at.step >= steps:
        return tags
    return math.floor(at.step * ((tags - rules.warmup_min) / steps)) + rules.warmup_min  # rounded as in sd-scripts


@lru_cache(maxsize=4096)
def contains_word(text: str, word: str) -> bool:
    """Return whether the text contains the word, as a whole word and in any case."""
    return bool(word) and whole_word((clean(word),)).search(clean(text)) is not None


def uses_captions(rules: CaptionRules) -> bool:
    """Return whether captions become part of the text that is trained on; templates may replace them."""
    return not rules.templates or any("[filewords]" in template for template in rules.templates)


def fill_template(template: str, word: str, caption: str) -> str:
    """Return a template with the word in place of `{}` and `[name]`, and the caption in place of `[filewords]`."""
    return template.replace("[filewords]", caption).replace("[name]", word).replace("{}", word)


OBJECT_TEMPLATES = (
    *(f"a {kind} of a {{}}" for kind in ("photo", "rendering", "cropped photo", "close-up photo", "rendition", "good photo")),
    *(f"the {kind} of a {{}}" for kind in ("photo",)),
    *(f"a {kind} of the {{}}" for kind in (
        "cropped photo", "dark photo", "bright photo", "photo", "good photo", "close-up photo", "rendition")),
    *(f"a photo of a {looks} {{}}" for looks in ("clean", "dirty", "nice", "cool", "small")),
    *(f"a photo of the {looks} {{}}" for looks in ("cool", "clean", "nice", "small", "weird", "large")),
    "a photo of my {}", "a photo of one {}",
)  # fmt: skip
STYLE_TEMPLATES = tuple(
    f"{kind} in the style of {{}}" for kind in (
        "a painting", "a rendering", "a cropped painting", "the painting", "a clean painting", "a dirty painting",
        "a dark painting", "a picture", "a cool painting", "a close-up painting", "a bright painting", "a cropped painting",
        "a good painting", "a close-up painting", "a rendition", "a nice painting", "a small painting", "a weird painting",
        "a large painting",
    )
)  # fmt: skip


def template_lines(text: str) -> Sequence[str]:
    """Return the lines of a template file that are not blank."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())
