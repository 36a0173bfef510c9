"""Does every word reach the model? What is trained on is looked at, not what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, Any

from neonym.data.captions import Moment, fill_template, final_caption, shows, uses_captions
from neonym.errors import Problem, counted, some
from neonym.seeds import dice
from neonym.text.emphasis import parse_weights
from neonym.text.words import clean
from neonym.types import CaptionRules, ImageRecord, Size

if TYPE_CHECKING:
    from neonym.models.tokenizers.word_tokenizer import WordTokenizer
    from neonym.preflight.prepare import Prepared

ENOUGH_HELD_OUT = 4  # pictures to judge a word by
SPARE = 2  # ids: a mark and the comma behind it are not always one token
FIRST, WARM = Moment(), Moment(step=10**12)  # WARM: no tag waits any more
ALMOST_ONE = 1 - 1e-9  # a tag that draws this number is only dropped if all are


def shown_caption(record: ImageRecord, at: Moment) -> str:
    """One draw, to be looked at."""
    return final_caption(record.caption, record.rules, dice(0, "caption"), at)


@lru_cache(maxsize=256)
def undropped(rules: CaptionRules) -> CaptionRules:
    return replace(rules, dropout=0.0, drop_every_n_epochs=0)


class Still(Random):
    """Nothing moves, nothing is dropped, and of every choice it is the first."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def shuffle(self, x: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - Python 3.10 had another argument
        pass

    def random(self) -> float:
        return ALMOST_ONE


class Choosy(Still):
    """Of every {a|b} the part with the word, or the one without, if there is one."""

    def __init__(self, word: str, wants_it: bool):
        super().__init__(0)
        self.word, self.wants_it = word, wants_it

    def choice(self, seq: Any) -> Any:
        return next((part for part in seq if shows(part, self.word) == self.wants_it), seq[0])


class Unkind(Choosy):
    """Every tag is there, those with the word behind all others: what is cut off first."""

    def shuffle(self, x: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        x.sort(key=lambda tag: shows(tag, self.word))


class Kind(Choosy):
    """The word comes first, and what may be dropped is."""

    def shuffle(self, x: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        x.sort(key=lambda tag: not shows(tag, self.word))

    def random(self) -> float:
        return 0.0


STILL = Still()


def plain_caption(record: ImageRecord) -> str:
    """As it is stored, in its order and not dropped."""
    return final_caption(record.caption, undropped(record.rules), STILL, FIRST)


def possible_captions(record: ImageRecord, fits: bool) -> set[str]:
    """Some of the texts that a picture can be trained with: one, if its word can neither be missing nor be cut off.

    Shuffling, warm-up and dropout never lose the word, but they can move it behind the end of a caption that is too long.
    """
    found, rules, plain = {plain_caption(record)}, record.rules, undropped(record.rules)
    if not fits:
        found.add(final_caption(record.caption, plain, Unkind(rules.word, True), WARM))
        found.add(final_caption(record.caption, plain, Kind(rules.word, True), FIRST))
    if rules.wildcards:
        ways = [Choosy(rules.word, wanted) for wanted in (True, False)]
        found |= {final_caption(line, plain, way, FIRST) for line in record.caption.split("\n") for way in ways}
    if rules.templates and not (fits and always_named(rules)):
        found |= {plain_caption(replace(record, rules=replace(rules, templates=(t,)))) for t in rules.templates}
    return found


@lru_cache(maxsize=256)
def always_named(rules: CaptionRules) -> bool:
    """Whether each template has the word in itself."""
    return all(shows(fill_template(template, rules.word, ""), rules.word) for template in rules.templates)


def fullest(record: ImageRecord) -> list[str]:
    """No caption of the picture has more in it than one of these has."""
    rules = record.rules
    text = " ".join(filter(None, (rules.prefix, record.caption, rules.suffix)))
    return [fill_template(template, rules.word, text) for template in rules.templates] or [text]


def surely_fits(record: ImageRecord, tokenizers: dict[str, WordTokenizer]) -> bool:
    """Whether nothing of its captions is ever cut off."""
    texts = fullest(record)
    return all(tokenizer.surely_fits(text, SPARE) for tokenizer in tokenizers.values() for text in texts)


def lost_word(record: ImageRecord, token: str, tokenizers: dict[str, WordTokenizer], fits: bool) -> str | None:
    """What becomes of its word in its captions: "missing" or "cut off" (in all), "not always there", "at times cut off"; else None.

    `fits`: as `surely_fits` says.
    """
    word, cut, texts = clean(token), list[bool](), possible_captions(record, fits)
    for tokenizer in tokenizers.values():
        with_it = [text for text in texts if word in tokenizer.words_in(text)]
        if len(with_it) < len(texts):
            return "not always there" if with_it else "missing"
        cut += [not fits and any(i >= tokenizer.vocab for i in tokenizer.cut_off(text)) for text in texts]
    if not any(cut):
        return None
    return "cut off" if all(cut) else "at times cut off"


def token_problems(ready: Prepared) -> list[Problem]:
    """An error if a word never reaches the model, a warning for the pictures where it does not."""
    problems = wrong_weights(ready)
    if problems:
        return problems
    for index, token in enumerate(ready.tokens):
        own = [r for r in ready.records if r.concept == index and not r.is_reg]
        if own:
            problems += concept_problems(ready, token, own)
        else:
            problems.append(Problem("error", "there are no pictures of it", f"`{token}`", "Check the folders"))
        problems += regularisation_problems(ready, index, token)
        held_out = [r for r in ready.held_out if r.concept == index]
        problems += concept_problems(ready, token, held_out, " of held-out pictures") if held_out else ()
        if 0 < len(held_out) < ENOUGH_HELD_OUT:
            what = f"only {len(held_out)} pictures are held out: too few to judge by, so the training pictures are used"
            problems.append(Problem("warning", what, "validation_split", f"Hold out {ENOUGH_HELD_OUT} or none"))
    return [*problems, *further_problems(ready), *picture_problems(ready)]


def further_problems(ready: Prepared) -> Iterator[Problem]:
    """One warning for captions of which only the first line is used."""
    cut = [r for r in (*ready.records, *ready.held_out) if r.further and uses_captions(r.rules)]
    if not cut:
        return
    parts = [
        f"{counted(len(cut), 'caption')} with lines after the first, which are not used ({some([r.path.name for r in cut])})"
    ]
    if late := [r.path.name for r in cut if has_word_late(r)]:
        parts.append(f"in {len(late)} of them the word stands on a later line only ({some(late)})")
    if blank := [r.path.name for r in cut if not r.caption.split("\n")[0].strip()]:
        parts.append(f"in {len(blank)} of them the first line is blank, so that nothing is used ({some(blank)})")
    fix = "Write each caption in one line, or use enable_wildcard, which draws one of the lines each time"
    yield Problem("warning", "; ".join(parts), "captions", fix)


def has_word_late(record: ImageRecord) -> bool:
    """Whether its word stands only on lines of the stored caption that are not used."""
    return shows(record.further, record.rules.word) and not shows(plain_caption(record), record.rules.word)


def wrong_weights(ready: Prepared) -> list[Problem]:
    """Captions whose weights cannot be read."""
    problems = []
    for record in [*ready.records, *ready.held_out] if ready.run.dataset.weighted_captions else ():
        try:
            for text in (plain_caption(record), *record.caption.split("\n"), *possible_captions(record, True)):
                parse_weights(text)
        except ValueError as error:
            fix = "Write (text:1.3), or a backslash before a bracket that is meant as such"
            problems.append(Problem("error", f"{error} in its caption", str(record.path), fix))
    return problems


def concept_problems(ready: Prepared, token: str, own: list[ImageRecord], which: str = "") -> Iterator[Problem]:
    """Captions of one word's pictures, or of `which` of them.

    If the word is in none, a run is stopped, unless the pictures are held out and too few to be used.
    """
    serious = "warning" if which and len(own) < ENOUGH_HELD_OUT else "error"
    tight = {id(r) for r in own if not surely_fits(r, ready.tokenizers)}
    lost = [(r, how) for r in own if (how := lost_word(r, token, ready.tokenizers, id(r) not in tight))]
    ready.lost += lost
    missing = [r.path.name for r, how in lost if how == "missing"]
    at_times = [r.path.name for r, how in lost if how == "not always there"]
    cut = [r.path.name for r, how in lost if how == "cut off"]
    shuffled = [r.path.name for r, how in lost if how == "at times cut off"]
    fix = f"Write `{token}` in the caption files, or set class_tokens to a text with it"
    late = sum(how == "missing" and has_word_late(r) for r, how in lost)
    later = f"; in {late} of them it stands on a later line, which is not used" if late else ""
    if late:
        fix = "Write each caption in one line, or use enable_wildcard, which draws one of the lines each time"
    if len(missing) == len(own):
        done = "judged" if which else "learned"
        what = f"none of the {len(own)} captions{which} contains the word, so nothing would be {done} ({some(missing)}){later}"
        yield Problem(serious, what, f"`{token}`", fix)
    elif missing:
        what = f"{len(missing)} of {len(own)} captions{which} do not contain the word ({some(missing)}){later}"
        yield Problem("warning", what, f"`{token}`", fix)
    if at_times:
        what = f"{len(at_times)} of {len(own)} captions{which} can be drawn without the word ({some(at_times)})"
        parts = "every part of {...|...} and every line, or outside of them"
        if own[0].rules.templates:
            parts = "every sentence of the template file"
        yield Problem("warning", what, f"`{token}`", f"Write it into {parts}")
    if cut:
        what = f"the word is cut off at the end of {len(cut)} captions{which} ({some(cut)})"
        fix = "Put the word first, or use a larger --max_token_length"
        yield Problem(serious if len(cut) == len(own) else "warning", what, f"`{token}`", fix)
    if shuffled:
        what = f"the word can come to stand where {len(shuffled)} captions{which} are cut off ({some(shuffled)})"
        fix = "Put it first, with keep_tokens=1, or use a larger --max_token_length"
        yield Problem("warning", what, f"`{token}`", fix)
    long = [
        r.path.name for r in own
        if id(r) in tight and any(t.cut_off(plain_caption(r)) for t in ready.tokenizers.values())
    ]  # fmt: skip
    if long:
        room = ready.run.model.max_token_length
        what = f"the ends of {len(long)} captions{which} are cut off: they have more than {room} tokens ({some(long)})"
        yield Problem("warning", what, "captions", "Shorten them, or use --max_token_length=150 or 225")


def regularisation_problems(ready: Prepared, concept: int, token: str) -> Iterator[Problem]:
    """Regularisation pictures show what the word does not mean."""
    own = [r for r in ready.records if r.concept == concept and r.is_reg]
    named = [
        r.path.name for r in own
        if any(clean(token) in t.words_in(s) for t in ready.tokenizers.values() for s in possible_captions(r, True))
    ]  # fmt: skip
    if named:
        what = f"{len(named)} of {len(own)} captions of regularisation pictures contain the word ({some(named)})"
        fix = "Leave it out of their caption files, class_tokens, prefix and suffix"
        yield Problem("warning", what, f"`{token}`", fix)


def picture_problems(ready: Prepared) -> Iterator[Problem]:
    """Settings of pictures that mean nothing, or that the model is not made for."""
    sizes = Counter[Size](r.fit.bucket for r in ready.records)
    source, data = ready.source, ready.run.dataset
    if source is not None and sizes and max(map(max, sizes)) > 2 * source.native_size:
        what = f"pictures are trained at up to {max(sizes)}, the model is made for {source.native_size}"
        yield Problem("warning", what, "resolution", "Leave resolution out to use the model's own size")
    folders = [folder for dataset in ready.datasets for folder in dataset.folders]
    if data.masked_loss and not any(folder.masks or folder.pictures.alpha_mask for folder in folders):
        fix = "Name masks with conditioning_data_dir in the data-set file, or use --alpha_mask"
        yield Problem("warning", "has no effect: no picture has a mask", "--masked_loss", fix)
    buckets = any(d.buckets.enabled for d in ready.datasets)
    if buckets and any(r.pictures.face_crop for r in ready.records):
        yield Problem(
            "warning", "is meant for training without buckets", "face_crop_aug_range", "Leave one of them out"
        )
    for dataset in ready.config.datasets if ready.config else ():
        if dataset.network_multiplier != 1 or any(s.custom_attributes for s in dataset.subsets):
            what = "network_multiplier and custom_attributes belong to other trainers and mean nothing here"
            yield Problem("note", what, "data set")
            break
