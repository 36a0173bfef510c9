"""The families that Neonym knows, each once. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

from neonym.models.families.sdxl import SDXL
from neonym.models.families.stable_diffusion import SD1, SD2
from neonym.models.family import CheckpointLayout, Family

ORDINALS = ("first", "second", "third", "fourth")
_families: dict[str, Family] = {family.name: family for family in (SD1, SD2, SDXL)}


def families() -> tuple[Family, ...]:
    """Return all families, in the order in which a model's configs are shown to them."""
    return tuple(_families.values())


def family_named(name: str) -> Family | None:
    """Return the family of this name, None if there is none: a file may be of a later version's."""
    return _families.get(name)


def register(family: Family) -> None:
    """Make a family known to this process. Raises ValueError if another one has its name."""
    if _families.setdefault(family.name, family) is not family:
        raise ValueError(f"there is a family {family.name} already")


def forget(family: Family) -> None:
    """Make a family unknown again."""
    del _families[family.name]


def supported() -> str:
    """Return the labels of all families as one phrase."""
    *labels, last = [family.label for family in families()]
    return f"{', '.join(labels)} and {last}"


def made_for(encoder: str, widths: Mapping[str, int]) -> str | None:
    """Return whose encoder vectors are for, by the widths of all vectors of a word ({encoder: W}); None if nobody's."""
    width = widths[encoder]
    for family in sorted(families(), key=lambda family: not family.fits(widths)):  # one that fits all vectors first
        own = [
            spec for spec in family.encoders if spec.width == width and (family.fits(widths) <= (spec.name == encoder))
        ]
        if own:
            which = ORDINALS[family.encoders.index(own[0])]
            return f"{family.label} (its {which} encoder)" if len(family.encoders) > 1 else family.label
    return None


def checkpoint_layouts() -> tuple[CheckpointLayout, ...]:
    """Return the layouts of checkpoint files, each once."""
    return tuple(dict.fromkeys(family.checkpoint for family in families() if family.checkpoint is not None))
