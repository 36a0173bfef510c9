"""Name the vectors of each text encoder in files, as the records of the model families say."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from neonym.models.family import EncoderSpec, Family
from neonym.models.registry import families
from neonym.types import Embedding

PLAIN = "emb_params"  # the key of a word for the only encoder of a model, which every program reads


def family_of(embedding: Embedding) -> Family | None:
    """Return the family that a word was made for, by its metadata or else its widths; None if its encoders fit none."""
    own, widths = embedding.metadata.get("neonym.family"), widths_of(embedding)
    possible = [family for family in families() if family.allows(widths)]
    return min(possible, key=lambda family: (family.name != own, not family.fits(widths)), default=None)


def widths_of(embedding: Embedding) -> dict[str, int]:
    """Return the width of a word's vectors for each encoder."""
    return {name: rows.shape[1] for name, rows in embedding.vectors.items()}


def file_tensors(embedding: Embedding) -> dict[str, Tensor]:
    """Return a word's vectors [n,W] on the CPU under the keys that programs read, in the order of the encoders."""
    family = family_of(embedding)
    keys = (
        {spec.name: spec.file_key for spec in family.encoders if spec.name in embedding.vectors}
        if family
        else {name: name for name in embedding.vectors}
    )
    return {key: embedding.vectors[name].detach().cpu().contiguous() for name, key in keys.items()}


def keys_of(spec: EncoderSpec) -> tuple[str, ...]:
    """Return every key that programs write for an encoder."""
    return (spec.file_key, *spec.aliases)


def known_keys() -> set[str]:
    """Return every key that some program writes for an encoder of some family."""
    return {key for family in families() for spec in family.encoders for key in keys_of(spec)}


def encoder_keys(names: Collection[str], own: str | None = None) -> dict[str, str]:
    """Return the key of each encoder among the names in a file, for the family that has most of them.

    Where several fit equally, the family that the file names (`own`) comes first, then one whose encoders are all there.
    """
    found: list[tuple[tuple[int, bool, bool], dict[str, str]]] = []
    for family in families():
        some = {spec.name: [key for key in keys_of(spec) if key in names] for spec in family.encoders}
        keys = {name: own_keys[0] for name, own_keys in some.items() if own_keys}
        found.append(((len(keys), family.name == own, family.allows(keys)), keys))
    return max(found, key=lambda ranked: ranked[0])[1]


def encoders_by_width(widths: Mapping[str, int]) -> dict[str, str]:
    """Return the key of each encoder for tensors of these widths ({key: W}) that together fit one family, if they do."""
    by_width = {width: key for key, width in widths.items()}
    for family in families():
        if len(family.encoders) == len(widths) and {spec.width for spec in family.encoders} == by_width.keys():
            return {spec.name: by_width[spec.width] for spec in family.encoders if spec.width is not None}
    return {}


def encoder_of_width(width: int) -> str | None:
    """Return the encoder whose vectors alone have this width; None if a model's first encoder may have it."""
    specs = [
        (place, spec) for family in families() for place, spec in enumerate(family.encoders) if spec.width == width
    ]
    return specs[0][1].name if specs and all(place for place, _ in specs) else None
