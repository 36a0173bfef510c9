"""Remarks about images that can be used all the same: kept with their sizes, and reported once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from neonym.errors import Problem, counted, some

ANIMATED, MENDED, HUGE, PROFILE, WARNED = "animated", "mended", "huge", "profile", "warned"


class Remark(NamedTuple):
    """A remark about an image: its kind, and the detail that is special to this image."""

    kind: str
    detail: str = ""


class Telling(NamedTuple):
    """The wording of a kind of remark, which follows the number of images."""

    severity: Literal["warning", "note"]
    what: str
    fix: str = ""
    about_masks: bool = True


TELLINGS = {
    ANIMATED: Telling("note", "with several frames, of which the first is used"),
    MENDED: Telling("note", "damaged beside the pixels, or with too long a text, and used: the pixels are whole"),
    HUGE: Telling("warning", "so large that reading takes much time and memory", "Make them smaller"),
    PROFILE: Telling(
        "warning",
        "with a colour profile that cannot be used: the colours are taken as sRGB",
        "Save them as sRGB",
        False,
    ),
    WARNED: Telling("warning", "that the image library warns of, used all the same", "Save them anew"),
}


def remark_problems(remarks: Iterable[tuple[Path, Remark]], masks: Iterable[Path], where: str) -> Iterator[Problem]:
    """Yield one problem for each kind of remark, with the number of images, three names and the first detail."""
    masks, by_kind = set(masks), dict[str, dict[Path, str]]()
    for path, (kind, detail) in remarks:
        if kind in TELLINGS and (path not in masks or TELLINGS[kind].about_masks):
            by_kind.setdefault(kind, {}).setdefault(path, detail)
    for kind in sorted(by_kind):
        found, telling = by_kind[kind], TELLINGS[kind]
        detail = next(iter(found.values()))
        named = some([path.name for path in found]) + (f": {detail}" if detail else "")
        what = f"{counted(len(found), 'image')} {telling.what} ({named})"
        yield Problem(telling.severity, what, where, telling.fix)
