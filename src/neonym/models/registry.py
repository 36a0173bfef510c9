"""Register the supported families. This module does not need torch."""

from __future__ import annotations

from collections.abc import Mapping

from neonym.models.families.anima import ANIMA
from neonym.models.families.chroma import CHROMA
from neonym.models.families.flux import FLUX1
from neonym.models.families.flux2 import FLUX2_DEV, FLUX2_KLEIN_4B, FLUX2_KLEIN_9B
from neonym.models.families.sd3 import SD3
from neonym.models.families.sdxl import SDXL
from neonym.models.families.stable_diffusion import SD1, SD2
from neonym.models.families.z_image import Z_IMAGE
from neonym.models.family import CheckpointLayout, Family

ORDINALS = ("first", "second", "third", "fourth")
FAMILIES = (SD1, SD2, SDXL, SD3, FLUX1, CHROMA, Z_IMAGE, FLUX2_KLEIN_4B, FLUX2_KLEIN_9B, FLUX2_DEV, ANIMA)
_families: dict[str, Family] = {family.name: family for family in FAMILIES}


def families() -> tuple[Family, ...]:
    """Return all families, in the order in which they are asked to recognise a model."""
    return tuple(_families.values())


def family_named(name: str) -> Family | None:
    """Return the family of this name, or None: a file may come from a newer version."""
    return _families.get(name)


def family_of_file(signature: str | None, variant: str | None) -> Family | None:
    """Return the family of a transformer in a file, by its signature; None if it is not supported.

    A variant that shapes do not tell, as in a tiny model, is that of the first family with the signature.
    """
    for family in families():
        files = family.files
        if (
            files is not None
            and files.family == signature
            and (not files.variants or variant in (None, *files.variants))
        ):
            return family
    return None


def register(family: Family) -> None:
    """Register a family in this process. Raises ValueError if another family has its name."""
    if _families.setdefault(family.name, family) is not family:
        raise ValueError(f"there is already a family named {family.name}")


def unregister(family: Family) -> None:
    """Remove a family from the registry."""
    del _families[family.name]


def supported() -> str:
    """Return the labels of all families as a phrase: "A, B and C"."""
    *labels, last = [family.label for family in families()]
    return f"{', '.join(labels)} and {last}"


def made_for(encoder: str, widths: Mapping[str, int], own: Family | None = None) -> str | None:
    """Return the family that a word's vectors for `encoder` fit, or None. `widths` maps all its encoders to their W.

    `own` is the family that its file names.
    """
    width = widths[encoder]
    # Families that fit all vectors first, and of them those without other encoders
    for family in sorted(families(), key=lambda f: (f is not own, not f.fits(widths), len(f.encoders) > len(widths))):
        # A family that fits all of them has an encoder of this name; in any other, an encoder of the width will do
        found = [
            spec
            for spec in family.encoders
            if spec.width == width and (spec.name == encoder or not family.fits(widths))
        ]
        if found:
            which = ORDINALS[family.encoders.index(found[0])]
            return f"{family.label} (its {which} encoder)" if len(family.encoders) > 1 else family.label
    return None


def checkpoint_layouts() -> tuple[CheckpointLayout, ...]:
    """Return all distinct layouts of checkpoint files."""
    return tuple(dict.fromkeys(family.checkpoint for family in families() if family.checkpoint is not None))
