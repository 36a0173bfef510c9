"""Name the vectors of each text encoder in files, as the records of the model families say."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from neonym.models.family import EncoderSpec, Family
from neonym.models.registry import families, family_named
from neonym.types import Embedding

PLAIN = "emb_params"  # the key of a word for the only encoder of a model, which every program reads


def stated_family(metadata: Mapping[str, str]) -> Family | None:
    """Return the family that the metadata of a file names: Neonym's own, or else the architecture of modelspec."""
    own = family_named(metadata.get("neonym.family", ""))
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0].lower()
    named = (family for family in families() if architecture in (*family.architectures.values(), family.name))
    return own or next(named, None)


def family_of(embedding: Embedding) -> Family | None:
    """Return the family that a word was made for, by its metadata or else its widths; None if its encoders fit none."""
    own, widths = stated_family(embedding.metadata), widths_of(embedding)
    if own is not None and own.allows(widths):
        return own
    possible = [family for family in families() if family.allows(widths)]
    return min(possible, key=lambda f: (not f.fits(widths), is_partial(f, widths)), default=None)


def is_partial(family: Family, encoders: Collection[str]) -> bool:
    """Return whether a word for these encoders lacks some of the family's."""
    return len(encoders) < len(family.encoders)


def widths_of(embedding: Embedding) -> dict[str, int]:
    """Return the width of a word's vectors for each encoder."""
    return {name: rows.shape[1] for name, rows in embedding.vectors.items()}


def file_tensors(embedding: Embedding, twins: bool = False) -> dict[str, Tensor]:
    """Return a word's vectors [n,W] on the CPU under the keys that programs read, in the order of the encoders.

    With `twins`, they are there under every key that some program needs.
    """
    family, found = family_of(embedding), {}
    specs = family.encoders if family else tuple(EncoderSpec(name, "", name) for name in embedding.vectors)
    for spec in specs:
        if (rows := embedding.vectors.get(spec.name)) is not None:
            found[spec.file_key] = own = rows.detach().cpu().contiguous()
            # safetensors refuses two tensors with the same memory
            found |= {key: own.clone() for key in (spec.twin_keys if twins else ())}
    return found


def known_keys() -> set[str]:
    """Return every key that some program writes for an encoder of some family."""
    return {key for family in families() for spec in family.encoders for key in spec.keys}


def encoder_keys(names: Collection[str], own: Family | None = None) -> dict[str, str]:
    """Return the key of each encoder among the names in a file, for the family that has most of them.

    Where several have equally many, `own` comes first, and then one with no other encoders.
    """
    found = []
    for family in families():
        keys = {spec.name: [key for key in spec.keys if key in names] for spec in family.encoders}
        some = {name: of_encoder[0] for name, of_encoder in keys.items() if of_encoder}
        found.append((len(some), family is own, family.allows(some), not is_partial(family, some), some))
    return max(found, key=lambda row: row[:4])[4]


def encoders_by_width(widths: Mapping[str, int]) -> dict[str, str]:
    """Return the key of each encoder for tensors of these widths ({key: W}) that together fit one family, if they do."""
    by_width = {width: key for key, width in widths.items()}
    for family in families():
        if len(family.encoders) == len(widths) and {spec.width for spec in family.encoders} == by_width.keys():
            return {spec.name: by_width[spec.width] for spec in family.encoders if spec.width is not None}
    return {}


def encoders_of(name: str, width: int) -> list[tuple[Family, EncoderSpec]]:
    """Return the encoders, each with its family, that a tensor alone in a file can be for.

    They have its name as a key and its width. If there are none, they have its width, and else its name. Families
    without other encoders come first.
    """
    pairs = [(family, spec) for family in families() for spec in family.encoders]
    wide = [pair for pair in pairs if pair[1].width == width]
    named = [pair for pair in wide if name in pair[1].keys]
    found = named or wide or [pair for pair in pairs if name in pair[1].keys]
    return sorted(found, key=lambda pair: len(pair[0].encoders) > 1)
