"""What is noticed of images that can be used all the same: kept with their sizes, and told once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from neonym.errors import Problem, in_one_line

ANIMATED, MENDED, HUGE, PROFILE, WARNED = "animated", "mended", "huge", "profile", "warned"


class Remark(NamedTuple):
    """A kind of remark, and what is special about this image."""

    kind: str
    detail: str = ""


class Telling(NamedTuple):
    severity: str
    what: str  # {} is the number of images, and `images` behind it
    fix: str
    about_masks: bool = True


TELLINGS = {
    ANIMATED: Telling("note", "of {} with several frames the first is used", ""),
    MENDED: Telling(
        "note",
        "{} are damaged beside their pixels, or carry a text that is too long; the pixels are whole, and are used",
        "Save them anew to be rid of this",
    ),
    HUGE: Telling("warning", "{} are so large that reading them takes gigabytes of memory", "Make them smaller"),
    PROFILE: Telling(
        "warning",
        "the colour profiles of {} cannot be used, so their colours are taken as sRGB",
        "Save them as sRGB",
        about_masks=False,
    ),
    WARNED: Telling("warning", "the image library warns of {}, which are used", "Are they whole? Save them anew"),
}


def remark_problems(remarks: Iterable[tuple[Path, Remark]], masks: Iterable[Path], where: str) -> Iterator[Problem]:
    """Yield one problem for each kind of remark, with the number of images, three names and the first detail."""
    masks, by_kind = set(masks), dict[str, dict[Path, str]]()
    for path, (kind, detail) in remarks:
        if kind in TELLINGS and (path not in masks or TELLINGS[kind].about_masks):
            by_kind.setdefault(kind, {}).setdefault(path, detail)
    for kind in sorted(by_kind):
        found, (severity, what, fix, _) = by_kind[kind], TELLINGS[kind]
        names = [in_one_line(path.name) for path in found]
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        detail = next(iter(found.values()))
        count = f"{len(names)} image{'s' if len(names) > 1 else ''}"
        text = f"{what.format(count)} ({listed}{f': {detail}' if detail else ''})"
        yield Problem(severity, text, where, fix)  # pyright: ignore
