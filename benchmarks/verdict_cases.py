"""The runs that calibrate the verdict: what they learn, how, and what is wrong with some of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.recovery import INIT, Subject, load_subjects
from tools.builtin_model.images import COLOURS, article, compose, phrase, place

STYLES = ("3d render", "flat drawing", "sticker")
EXAMPLES = Path(__file__).parent.parent / "examples"
UNSEEN = {"nutkin": ("3d render", "vegetable"), "waddlo": ("sticker", "animal"), "spinehog": ("flat drawing", "animal")}
RATES = (1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 2e-2, 1e-1)
SHOWN = 8  # images of a subject

Shown = tuple[Image.Image, Callable[[str], str]]  # an image, and its caption for a word


@dataclass(frozen=True)
class Group:
    """A group of runs of the same length.

    Their learning rate is constant, so a word that is saved on the way equals that of a shorter run. The first group is an
    exception: it has the default schedule.
    """

    steps: int
    every: int  # steps between saved words
    batch: int
    judged: tuple[int, ...]  # the steps whose words are judged


GROUPS = {
    "E": Group(100, 25, 4, (25, 50, 100)),  # the defaults
    "A": Group(256, 4, 1, (4, 16, 64, 256)),  # rates
    "B": Group(1600, 100, 1, (400, 800, 1600)),  # long
    "C": Group(200, 50, 1, (50, 200)),  # vectors
    "D": Group(200, 50, 1, (50, 200)),  # odd data and init words
    "O": Group(1600, 100, 1, (200, 800, 1600)),  # made to drown the rest of a prompt
}


@dataclass(frozen=True)
class Case:
    """A training run."""

    group: str
    target: str  # known:INDEX, unseen:NAME or style:NAME
    rate: float | None  # None: the default
    vectors: int = 1
    init: str | None = None
    odd: str = ""  # what is wrong with the data

    @property
    def kind(self) -> str:
        """The kind of target: known, unseen or style."""
        return self.target.partition(":")[0]

    @property
    def name(self) -> str:
        """The index or name of the target."""
        return self.target.partition(":")[2]


def cases() -> list[Case]:
    """Return all cases in a fixed order, since a case is identified by its index."""
    found = [Case("E", f"known:{i}", None) for i in range(24)]
    styles = ("unseen:nutkin", "unseen:waddlo", "unseen:spinehog", "style:sticker", "style:notoish", "style:3d render")
    found += [Case("E", target, None, 2) for target in styles]
    swept = (
        "known:0",
        "known:4",
        "known:9",
        "known:14",
        "unseen:nutkin",
        "unseen:spinehog",
        "style:sticker",
        "style:notoish",
    )
    found += [Case("A", target, rate) for target in swept for rate in RATES]
    for target in ("known:2", "unseen:waddlo"):
        found += [Case("B", target, 1e-6, 4, "cute"), *(Case("B", target, rate) for rate in RATES[2:])]
    found += [
        Case("B", target, rate, vectors, odd="one colour")
        for target in ("known:5", "unseen:nutkin")
        for rate, vectors in ((2e-2, 8), (1e-1, 1))
    ]
    found += [
        Case("C", target, rate, vectors)
        for target in ("known:7", "unseen:spinehog")
        for vectors in (2, 4, 8)
        for rate in (1e-4, 1e-3, 2e-2, 1e-1)
    ]
    found += [
        Case("D", target, rate, 2 if odd == "one colour" else 1, odd=odd)
        for target in ("known:10", "known:11", "unseen:waddlo")
        for odd in ("wrong captions", "nothing in common", "mask", "one colour")
        for rate in (1e-3, 2e-2)
    ]
    starts = ("banana", "cute", "zq", "red", "volcano", "of")
    found += [Case("D", f"known:{12 + k % 4}", rate, 1, w) for k, w in enumerate(starts) for rate in (1e-3, 2e-2)]
    drowning = ("known:5", "known:13", "known:1", "unseen:nutkin")
    found += [Case("O", t, rate, v, odd="only the word") for t in drowning for v, rate in ((8, 2e-2), (16, 1e-1))]
    return found


@lru_cache
def subjects() -> list[Subject]:
    """Return the subjects that the model knows."""
    return load_subjects(24)


def start_of(case: Case) -> str:
    """Return the init word of a case."""
    usual = {"known": INIT, "unseen": UNSEEN.get(case.name, ("", ""))[1], "style": "drawing"}[case.kind]
    return case.init or ("sticker" if case.name == "notoish" else usual)


def true_name(case: Case) -> str | None:
    """Return the model's name for the target, or None if the model does not know it."""
    if case.kind == "known":
        return subjects()[int(case.name)].name
    return case.name if case.name in STYLES else None


def learned_from(case: Case) -> list[Shown]:
    """Return the images that a case learns from, with their captions."""
    if case.odd == "nothing in common":
        return list(nothing_in_common(case))
    if case.kind == "style":
        return styled(case.name, 0)
    return [captioned(case, *row) for row in shown(case, 0)]


def measured_on(case: Case) -> list[Shown]:
    """Return other images of the target, with true captions; for unseen targets, the same images."""
    if case.kind == "style":
        return styled(case.name, 1)
    return [captioned(replace(case, odd=""), *row) for row in shown(case, 1)]


def shown(case: Case, part: int) -> Iterator[tuple[Image.Image, str, str, int]]:
    """Yield the image, style, background colour and number of each image of a case."""
    if case.kind == "unseen":
        for i in range(SHOWN):
            image = Image.open(EXAMPLES / case.name / f"{i + 1}.png").convert("RGB")
            yield image, UNSEEN[case.name][0], colour_name(image.getpixel((0, 0))), i
        return
    subject = subjects()[int(case.name)]
    rng = np.random.default_rng(100 + int(case.name))
    for current in range(part + 1):
        colours = [str(c) for c in rng.permutation(list(COLOURS))[:SHOWN]]
        if current == 0 and case.odd in ("one colour", "only the word"):
            colours = ["pink"] * SHOWN
        images = [compose(subject.drawing, colour, place(rng)) for colour in colours]
    for i, (image, colour) in enumerate(zip(images, colours, strict=True)):
        yield image, subject.style, colour, i


def colour_name(pixel: tuple[int, ...]) -> str:
    """Return the name of the colour nearest to a pixel."""
    return min(COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True)))


def captioned(case: Case, image: Image.Image, style: str, colour: str, i: int) -> Shown:
    """Return the image with its caption, which is wrong in some cases."""
    names = list(COLOURS)
    if case.odd == "wrong captions":
        style = STYLES[(STYLES.index(style) + 1) % 3]
        colour = names[(names.index(colour) + 5) % 12]
    if case.odd == "only the word":
        return image, lambda word: word
    if case.odd == "one colour":
        return image, lambda word: f"{article(style)} of {article(word)}"
    return image, lambda word: phrase(article(word), style, colour, i)


def nothing_in_common(case: Case) -> Iterator[Shown]:
    """Yield images of eight subjects for one word."""
    first = 2 * (int(case.name) if case.kind == "known" else 3) % 16
    for i in range(SHOWN):
        rng = np.random.default_rng(900 + i)
        colour = str(rng.permutation(list(COLOURS))[0])
        image = compose(subjects()[first + i].drawing, colour, place(rng))
        yield image, lambda word, colour=colour: f"{article(word)} on {article(colour)} background"


def styled(name: str, part: int) -> list[Shown]:
    """Return images of subjects that the model knows, in one style."""
    if name == "notoish":
        return [
            (Image.open(EXAMPLES / name / f"{i}.png").convert("RGB"), lambda word, text=text: text.replace(name, word))
            for i in range(1, 21)
            for text in [(EXAMPLES / name / f"{i}.txt").read_text().strip()]
        ]
    own, rng = [s for s in subjects() if s.style == name], np.random.default_rng(7)
    for _ in range(part + 1):
        rows = []
        for i, subject in enumerate(own):
            colour = str(rng.permutation(list(COLOURS))[0])
            image = compose(subject.drawing, colour, place(rng))
            rows.append((image, lambda word, s=subject, c=colour, i=i: phrase(article(s.name), word, c, i)))
    return rows


def write_case_data(case: Case, word: str, folder: Path) -> Sequence[str]:
    """Write the images and captions of a case, and return the lines of its concept and subset in a dataset file."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (image, caption) in enumerate(learned_from(case)):
        if case.odd == "mask":
            image = image.copy()
            middle = Image.new("L", image.size, 0)
            middle.paste(255, (20, 20, 108, 108))
            image.putalpha(middle)
        image.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption(word))
    rate = [] if case.rate is None else [f"learning_rate = {case.rate}"]
    names = [
        "[[concepts]]",
        f'token_string = "{word}"',
        f'init_word = "{start_of(case)}"',
        f"num_vectors_per_token = {case.vectors}",
    ]
    subset = ["[[datasets.subsets]]", f'concept = "{word}"', f'image_dir = "{folder}"']
    return "\n".join(names + rate), "\n".join([*subset, *["alpha_mask = true"] * (case.odd == "mask")])
