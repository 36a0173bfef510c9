"""Problems of captions, above all: does every word reach the model?

The texts that can be trained on are checked, not the files that they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from neonym.data.captions import contains_word, uses_captions
from neonym.errors import Problem, counted, some
from neonym.preflight.plan import ENOUGH_HELD_OUT
from neonym.preflight.possible_captions import (
    Fate,
    Tokenizers,
    fate_of_word,
    plain_caption,
    possible_captions,
    surely_fits,
)
from neonym.text.emphasis import parse_emphasis
from neonym.text.words import clean
from neonym.types import ImageRecord

Lost = tuple[ImageRecord, Fate]  # an image whose captions lose its word, and how
ONE_LINE = "Write each caption on one line, or use enable_wildcard, which chooses one of the lines each time"


def caption_problems(
    tokens: Sequence[str],
    records: Sequence[ImageRecord],
    held_out: Sequence[ImageRecord],
    tokenizers: Tokenizers,
) -> tuple[list[Problem], list[Lost]]:
    """Return what is wrong with the captions of all words, and the images whose captions lose their word.

    A word that never reaches the model is an error; one that is sometimes missing is a warning.
    """
    problems = list(unreadable_emphasis([*records, *held_out]))
    if problems:
        return problems, []
    lost: list[Lost] = []
    for index, token in enumerate(tokens):
        groups = [
            CaptionGroup.of(token, [r for r in records if r.concept == index and not r.is_reg], tokenizers),
            CaptionGroup.of(token, [r for r in held_out if r.concept == index], tokenizers, " of held-out images"),
        ]
        if not groups[0].records:
            problems.append(Problem("error", "has no images", f"`{token}`", "Check the folders"))
        own, apart = (caption_group_problems(group) if group.records else [] for group in groups)
        regularisation = [r for r in records if r.concept == index and r.is_reg]
        problems += [*own, *regularisation_problems(token, regularisation, tokenizers), *apart]
        if 0 < (count := len(groups[1].records)) < ENOUGH_HELD_OUT:
            held = counted(count, "image")
            what = f"only {held} held out, too few to judge the word, so training images are used instead"
            problems.append(
                Problem("warning", what, "validation_split", f"Hold out at least {ENOUGH_HELD_OUT}, or none")
            )
        lost += [each for group in groups for each in group.lost]
    return [*problems, *later_lines([*records, *held_out])], lost


def unreadable_emphasis(records: Iterable[ImageRecord]) -> Iterator[Problem]:
    """Yield an error for each caption whose emphasis cannot be read."""
    for record in records:
        if not record.rules.weighted:
            continue
        try:
            for text in (plain_caption(record), *record.caption.split("\n"), *possible_captions(record, True)):
                parse_emphasis(text)
        except ValueError as error:
            fix = "Write (text:1.3), or put a backslash before each bracket that is not emphasis"
            yield Problem("error", f"{error} in its caption", str(record.path), fix)


@dataclass(frozen=True)
class CaptionGroup:
    """The training images or the held-out images of one word, with what becomes of the word in their captions."""

    token: str
    records: list[ImageRecord]
    tight: list[ImageRecord]  # images with captions that may be cut off
    lost: list[Lost]
    tokenizers: Tokenizers
    which: str  # what messages call the images; empty for training images

    @classmethod
    def of(cls, token: str, records: list[ImageRecord], tokenizers: Tokenizers, which: str = "") -> CaptionGroup:
        """Return the group of these images, for each of which the captions that lose the word are found."""
        tight, lost = list[ImageRecord](), list[Lost]()
        for record in records:
            fits = surely_fits(record, tokenizers)
            fate = fate_of_word(record, token, tokenizers, fits)
            if not fits:
                tight.append(record)
            if fate:
                lost.append((record, fate))
        return cls(token, records, tight, lost, tokenizers, which)

    @property
    def severity(self) -> Literal["error", "warning"]:
        """The severity of a word that is in no caption. Held-out images that are too few are not used anyway."""
        return "warning" if self.which and len(self.records) < ENOUGH_HELD_OUT else "error"

    def names(self, fate: Fate) -> list[str]:
        """Return the names of the images whose word has this fate."""
        return [record.path.name for record, found in self.lost if found == fate]


def caption_group_problems(group: CaptionGroup) -> list[Problem]:
    """Return what is wrong with the captions of a group of images."""
    return [
        *missing_words(group),
        *sometimes_without_word(group),
        *words_cut_off(group),
        *captions_cut_off(group),
    ]


def missing_words(group: CaptionGroup) -> Iterator[Problem]:
    """Yield an error if no caption contains the word, a warning if some do not."""
    names, count, where = group.names("missing"), len(group.records), f"`{group.token}`"
    if not names:
        return
    fix, later = f"Write {where} in the caption files, or set class_tokens to a text that contains it", ""
    if late := sum(fate == "missing" and has_word_late(record) for record, fate in group.lost):
        fix, later = ONE_LINE, f"; in {late} of them, it is only on a later line, which is not used"
    if len(names) < count:
        what = f"{len(names)} of {count} captions{group.which} do not contain the word ({some(names)}){later}"
        yield Problem("warning", what, where, fix)
        return
    done = "judged" if group.which else "learned"
    captions = f"{count} captions{group.which}"
    what = f"none of the {captions} contains the word, so nothing would be {done} ({some(names)}){later}"
    yield Problem(group.severity, what, where, fix)


def sometimes_without_word(group: CaptionGroup) -> Iterator[Problem]:
    """Yield a warning if some of the texts that a caption can become do not contain the word."""
    if names := group.names("not always there"):
        what = (
            f"{len(names)} of {len(group.records)} captions{group.which} can be used without the word ({some(names)})"
        )
        parts = "every part of {...|...} and every line, or outside of the braces"
        if group.records[0].rules.templates:
            parts = "every sentence of the template file"
        yield Problem("warning", what, f"`{group.token}`", f"Write it in {parts}")


def words_cut_off(group: CaptionGroup) -> Iterator[Problem]:
    """Yield an error if the word is cut off in all captions, or a warning if it is, or can be, in some of them."""
    if names := group.names("cut off"):
        what = f"the word is cut off at the end of {len(names)} captions{group.which} ({some(names)})"
        fix = "Put the word first" + longer(group, "a larger --max_token_length")
        severity = group.severity if len(names) == len(group.records) else "warning"
        yield Problem(severity, what, f"`{group.token}`", fix)
    if names := group.names("at times cut off"):
        what = f"shuffling can move the word to where {len(names)} captions{group.which} are cut off ({some(names)})"
        fix = "Put it first and set keep_tokens=1" + longer(group, "a larger --max_token_length")
        yield Problem("warning", what, f"`{group.token}`", fix)


def captions_cut_off(group: CaptionGroup) -> Iterator[Problem]:
    """Yield a warning if captions are so long that their ends are cut off, or are by some text encoders."""
    cut = {
        name: [record.path.name for record in group.tight if tokenizer.cut_off(plain_caption(record))]
        for name, tokenizer in group.tokenizers.items()
    }
    by = [name for name, long in cut.items() if long]
    if by:
        long, room = max(cut.values(), key=len), min(group.tokenizers[name].room for name in by)
        captions = f"{len(long)} captions{group.which}"
        where = f" for {' and '.join(by)}" if len(by) < len(cut) else ""
        what = f"the ends of {captions} are cut off{where}: they have more than {room} tokens ({some(long)})"
        yield Problem("warning", what, "captions", "Shorten them" + longer(group, "--max_token_length=150 or 225"))


def longer(group: CaptionGroup, setting: str) -> str:
    """Return the advice to use a setting for longer captions, or nothing if the text encoders read no more."""
    return f", or use {setting}" if any(own.most_chunks > 1 for own in group.tokenizers.values()) else ""


def regularisation_problems(token: str, records: Sequence[ImageRecord], tokenizers: Tokenizers) -> Iterator[Problem]:
    """Yield a warning if captions of regularisation images contain the word, which these images do not show."""
    named = [
        record.path.name for record in records for texts in [possible_captions(record, True)]
        if any(clean(token) in tokenizer.words_in(text) for tokenizer in tokenizers.values() for text in texts)
    ]  # fmt: skip
    if named:
        what = f"{len(named)} of {len(records)} captions of regularisation images contain the word ({some(named)})"
        fix = "Leave it out of their caption files, class_tokens, prefix and suffix"
        yield Problem("warning", what, f"`{token}`", fix)


def later_lines(records: Iterable[ImageRecord]) -> Iterator[Problem]:
    """Yield one warning for all captions of several lines, of which only the first is used."""
    cut = [record for record in records if record.unused_lines and uses_captions(record.rules)]
    if not cut:
        return
    names = some([record.path.name for record in cut])
    parts = [f"{counted(len(cut), 'caption')} with more than one line, of which only the first is used ({names})"]
    if late := [record.path.name for record in cut if has_word_late(record)]:
        parts.append(f"in {len(late)} of them, the word is only on a later line ({some(late)})")
    if blank := [record.path.name for record in cut if not record.caption.split("\n")[0].strip()]:
        parts.append(f"in {len(blank)} of them, the first line is blank, so no text is used ({some(blank)})")
    yield Problem("warning", "; ".join(parts), "captions", ONE_LINE)


def has_word_late(record: ImageRecord) -> bool:
    """Return whether the word is only on lines of the caption that are not used."""
    return contains_word(record.unused_lines, record.rules.word) and not contains_word(
        plain_caption(record), record.rules.word
    )
