"""Report remarks about usable images, such as animation or repaired damage, once per kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from neonym.errors import Problem, counted, some

ANIMATED, REPAIRED, HUGE, PROFILE, WARNED = "animated", "mended", "huge", "profile", "warned"


class Remark(NamedTuple):
    """A remark about an image: its kind, and a detail of this image."""

    kind: str
    detail: str = ""


class Wording(NamedTuple):
    """The wording of a kind of remark, which follows the number of images."""

    severity: Literal["warning", "note"]
    what: str
    fix: str = ""
    about_masks: bool = True


WORDINGS = {
    ANIMATED: Wording("note", "with several frames: only the first frame is used"),
    REPAIRED: Wording(
        "note", "with damage outside the pixels or too long a text: used, because the pixels are complete"
    ),
    HUGE: Wording("warning", "so large that reading them takes much time and memory", "Make them smaller"),
    PROFILE: Wording(
        "warning",
        "with a colour profile that cannot be used: the colours are taken as sRGB",
        "Save them as sRGB",
        False,
    ),
    WARNED: Wording("warning", "used despite a warning of the image library", "Save them again"),
}


def remark_problems(remarks: Iterable[tuple[Path, Remark]], masks: Iterable[Path], where: str) -> Iterator[Problem]:
    """Yield one problem for each kind of remark, with the number of images, three names and the first detail."""
    masks, by_kind = set(masks), dict[str, dict[Path, str]]()
    for path, (kind, detail) in remarks:
        if kind in WORDINGS and (path not in masks or WORDINGS[kind].about_masks):
            by_kind.setdefault(kind, {}).setdefault(path, detail)
    for kind in sorted(by_kind):
        found, wording = by_kind[kind], WORDINGS[kind]
        detail = next(iter(found.values()))
        named = some([path.name for path in found]) + (f": {detail}" if detail else "")
        what = f"{counted(len(found), 'image')} {wording.what} ({named})"
        yield Problem(wording.severity, what, where, wording.fix)
